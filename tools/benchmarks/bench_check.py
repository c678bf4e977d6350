"""Does `edgenas check` find a slowdown of 10%, and stay quiet without one? On this machine.

    python -m tools.benchmarks.bench_check [--clean 20] [--slowed 20] [--space mbv3-cifar]

The machine is profiled where it has not been yet. Then the check runs as a user runs it; and with
every run of every graph really made to take longer: a spin after it, of 10% of the time the run
took, inside what the clock times.
"""

import argparse
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import machine_lock, write_json
from edgenas.clock import measure
from edgenas.clock.board.part import import_part
from edgenas.clock.board.runs import evict_caches_before
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.timing import time_units
from edgenas.clock.measure import Event, Measurement
from edgenas.clock.order import TimedRuntime
from edgenas.latency.device import load
from edgenas.profiling.check import check
from edgenas.profiling.drift import DriftCheck
from edgenas.profiling.method import read_method
from edgenas.profiling.run import profile
from edgenas.profiling.tables import table_for
from edgenas.profiling.work import Clock
from edgenas.space.presets import load_space


class Slowed:
    """The clock of this machine, in this process, with runs that take longer by a factor."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def environment(self, runtime: TimedRuntime, *, threads: int) -> dict[str, Any]:
        """See `edgenas.profiling.work.Clock`."""
        return measure.environment(runtime, threads=threads)

    def measure(
        self,
        units: Iterable[tuple[str, bytes | Path]],
        *,
        runtime: TimedRuntime,
        settings: TimingSettings,
        batch: int,
        watch: Callable[[Event], None],
        evict: Callable[[str], int] = lambda name: 0,
    ) -> Generator[Measurement]:
        """See `edgenas.profiling.work.Clock`."""
        graphs = [(n, g if isinstance(g, bytes) else g.read_bytes()) for n, g in units]
        loaders = [
            (
                name,
                self._loader(
                    graph, runtime=runtime, settings=settings, batch=batch, evict=evict(name)
                ),
            )
            for name, graph in graphs
        ]
        with machine_lock():
            for event in time_units(loaders, settings=settings):
                if event["event"] == "result":
                    yield measure.measurement(event)
                elif event["event"] == "error":
                    raise EdgenasError(event["message"])
                else:
                    watch(event)

    def _loader(
        self,
        graph: bytes,
        *,
        runtime: TimedRuntime,
        settings: TimingSettings,
        batch: int,
        evict: int,
    ) -> Callable[[], Callable[[], Any]]:
        def slowed() -> Callable[[], Any]:
            run = import_part(runtime.part).load(graph, threads=settings.threads, batch=batch)
            clock, factor = time.perf_counter_ns, self._factor

            def both() -> None:
                start = clock()
                run()
                end = start + (clock() - start) * factor
                while clock() < end:
                    pass

            return evict_caches_before(both, size=evict) if evict else both

        return slowed


def told(kind: str, number: int, found: DriftCheck, *, seconds: float) -> None:
    """One line a check."""
    groups = "; ".join(map(str, found.groups))
    verdict = "DRIFT" if found.drifted else "quiet"
    alone = f"; alone {', '.join(found.alone)}" if found.alone else ""
    print(f"{kind:7} {number:3} {verdict}  {seconds:5.1f} s  {groups}{alone}", flush=True)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="The drift check on this machine.")
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--slowed", type=int, default=20)
    parser.add_argument("--factor", type=float, default=1.1)
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    target, space = load("host").target(), load_space(arguments.space)
    try:
        read_method(table_for(space, target=target))
    except EdgenasError as missing:
        print(f"profiling first: {missing.message}", flush=True)
        profile(space, target=target, say=print)
    rows: list[dict[str, Any]] = []
    clocks: dict[str, Clock] = {"clean": measure, "slowed": Slowed(arguments.factor)}
    for kind, clock in clocks.items():
        count = getattr(arguments, kind)
        for number in range(count):
            start = time.monotonic()
            found = check(target, clock=clock, space=space, tolerance=arguments.tolerance)
            told(kind, number, found, seconds=time.monotonic() - start)
            rows.append({"kind": kind, **found.to_json()})
    for kind, words in (("clean", "quiet without a change"), ("slowed", "found when slowed")):
        own = [row for row in rows if row["kind"] == kind]
        right = sum(row["drifted"] == (kind == "slowed") for row in own)
        print(f"{words}: {right} of {len(own)}")
    if arguments.out:
        write_json(arguments.out, {"schema": "edgenas.bench-check/1", "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
