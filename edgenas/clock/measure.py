"""Measuring on this machine: the clock of `edgenas.clock.board` in a process of its own.

A separate process, because threads and allocators of the caller (torch above all) disturb what is
timed, and because a remote board is served by the same stream of JSON lines.
"""

import base64
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import machine_lock
from edgenas.clock import board
from edgenas.clock.board import Settings
from edgenas.clock.events import Event, EventError, plain, read_event
from edgenas.clock.spool import Span, Spool
from edgenas.clock.streams import Tail

DEFAULT = Settings()

# For a whole network: long enough to see the machine's slow moments too, for p50 and p95.
NETWORK = Settings(min_seconds=5.0)


class ClockStoppedError(EdgenasError):
    """The process that times ended before its work did."""


class WrongAnswerError(EdgenasError):
    """The clock says what no clock says: nothing that it said in this run can be relied on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the clock found out about one unit. Times in seconds, of one run.

    Args:
        name: of the unit.
        median: at full speed of the machine (behind the gate).
        p10: 10th percentile, likewise.
        p90: 90th percentile, likewise.
        n: gated runs.
        half_width: of the 95% interval of the median, as a part of it; None: too few runs.
        wall_p50: median of all runs, whatever the machine did meanwhile.
        wall_p95: 95th percentile of all runs.
        wall_n: all runs.
        flag: empty, ``wide``, ``few`` or ``noisy``; see `edgenas.clock.board.summary`.
        canary: typical seconds of the canary when this was measured: the speed of the machine.
        samples: gated runs, in order.
        wall_samples: all runs, in order.
    """

    name: str
    median: float
    p10: float
    p90: float
    n: int
    half_width: float | None
    wall_p50: float
    wall_p95: float
    wall_n: int
    flag: str
    canary: float
    samples: tuple[float, ...] = ()
    wall_samples: tuple[float, ...] = ()

    @property
    def noisy(self) -> bool:
        """Whether the median rests on too few runs at full speed to be relied on."""
        return self.flag in ("few", "noisy")

    def judgement(self) -> str:
        """Whether to trust the median; if not: why probably, and what to try. One line."""
        if not self.flag:
            assert self.half_width is not None
            return f"stable: median known to {self.half_width:.1%} (n={self.n})"
        share = self.n / self.wall_n
        if self.flag == "noisy":
            found = f"only {self.n} of {self.wall_n} runs met the machine at full speed"
        elif self.flag == "few":
            found = f"only {self.n} runs met the machine at full speed"
        else:
            found = f"the median is known to {self.half_width:.1%} only (n={self.n})"
        if share < 0.5:
            why = "other work or a power limit slows the machine; end other programs, let it cool"
        elif self.p90 > 1.3 * self.p10:
            why = (
                "runs differ at full speed too: memory is contended or threads wait for each other"
            )
        else:
            why = "the time ran out; allow more of it"
        return f"unstable: {found}; {why}, and measure again"


def statistic(*, n: int, wall_n: int, flag: str) -> str:
    """What the number of a unit is, in words: it is no median where nothing met full speed.

    Args:
        n: runs at the machine's full speed.
        wall_n: all runs.
        flag: of the measurement; see `edgenas.clock.board.summary`.
    """
    if flag != "noisy":
        return f"median, n={n}"
    met = f"only {n} of them" if n else "none of them"
    return f"5th percentile of {wall_n} runs: {met} met the machine at full speed"


def slower_moments(measurements: Iterable[Measurement], *, gate: float = 1.08) -> list[str]:
    """The names measured while the machine's full speed was lower than at its best.

    Full speed itself can change within hours (heat, power limits, another virtual host). Such
    results do not compare with the others: measure them again.
    """
    every = list(measurements)
    best = min((m.canary for m in every), default=0.0)
    return [m.name for m in every if m.canary > gate * best]


def environment(runtime: str, *, threads: int = 1) -> dict[str, Any]:
    """What numbers measured here depend on; None for what this machine does not tell."""
    return board.environment(runtime, threads=threads)


def measurement(event: Event) -> Measurement:
    """A ``result`` event of the clock, as `edgenas.events.read_event` gives it, as a value."""
    assert event["event"] == "result"
    same = ("median", "p10", "p90", "n", "half_width", "wall_p50", "wall_p95", "wall_n")
    return Measurement(
        name=event["id"],
        **{name: event[name] for name in same},
        flag=event["flag"],
        canary=event["canary"],
        samples=tuple(ns * 1e-9 for ns in event["samples"]),
        wall_samples=tuple(ns * 1e-9 for ns in event["wall_samples"]),
    )


def order(
    units: Iterable[tuple[str, bytes | Path | Span]],
    *,
    runtime: str,
    settings: Settings,
    batch: int,
    evict: Callable[[str], int] = lambda name: 0,
    baseline: Event | None = None,
) -> str:
    """The work that `edgenas.clock.board` reads on stdin.

    Args:
        units: name and ONNX file of each; a path must be readable where the clock runs, and a
            span by a child of this process that inherits its handle; bytes travel inside the order.
        runtime: a runtime that the clock can load.
        settings: of the clock.
        batch: what free dimensions of the inputs become.
        evict: bytes of other memory to read before each run of a unit, by its name.
        baseline: a ``baseline`` event of a moment ago, which saves taking it anew.

    Raises:
        EdgenasError: the clock does not know the runtime.
    """
    if runtime not in board.LOADERS:
        raise unknown_name("runtime", runtime, names=board.LOADERS, listing="edgenas list runtimes")
    work: list[dict[str, Any]] = []
    for name, onnx in units:
        if isinstance(onnx, Path):
            source: dict[str, Any] = {"path": str(onnx)}
        elif isinstance(onnx, Span):
            source = {"handle": onnx.handle, "offset": onnx.offset, "bytes": onnx.size}
        else:
            source = {"data": base64.b64encode(onnx).decode()}
        work.append({"id": name, "batch": batch, "evict": evict(name), **source})
    assert len({unit["id"] for unit in work}) == len(work), "each unit needs a name of its own"
    given = {"schema": board.SCHEMA, "runtime": runtime, "settings": asdict(settings)}
    if baseline is not None:
        given["baseline"] = {f.name: baseline[f.name] for f in fields(board.Baseline)}
    return json.dumps({**given, "units": work})


def read_events(lines: Iterable[bytes], *, watch: Callable[[Event], None]) -> Iterator[Measurement]:
    """The measurements in a clock's stream, as they come; all other events go to ``watch``.

    Returns when the stream says ``end``; otherwise the clock died.

    Raises:
        EdgenasError: the runtime refused a unit.
        WrongAnswerError: a line is no event.
        ClockStoppedError: the stream stops before its end.
    """
    for line in lines:
        if not line.endswith(b"\n"):  # the last line of a process that was killed
            break
        try:
            event = read_event(line)
        except EventError as error:
            raise WrongAnswerError(f"the clock answers with what is no event: {error}") from None
        if event["event"] == "result":
            yield measurement(event)
            continue
        if event["event"] == "error":
            raise EdgenasError(f"the runtime refuses {plain(event['id'])}: {event['message']}")
        watch(event)
        if event["event"] == "end":
            return
    raise ClockStoppedError(
        "the clock stopped before the end of its work",
        hint="run the same command again: it goes on with what is missing",
    )


def measure(
    units: Iterable[tuple[str, bytes | Path]],
    *,
    runtime: str = "onnxruntime",
    settings: Settings = DEFAULT,
    batch: int = 1,
    evict: Callable[[str], int] = lambda name: 0,
    watch: Callable[[Event], None] = lambda event: None,
) -> Generator[Measurement]:
    """Time ONNX graphs on this machine, in a process of its own, in random order.

    Training that runs on this machine pauses meanwhile (`edgenas.basics.files.machine_lock`), as
    does
    any other measurement. Every measurement is told as soon as it is known: keep it, and a killed
    run loses nothing; measure the units that are missing next time.

    Args:
        units: name and ONNX graph (bytes or path) of each; for a runtime that reads none, what
            `edgenas.runtime.registry.for_clock` makes of it. A generator is consumed before the
            clock starts, one graph in memory at a time.
        runtime: a runtime that the clock can load.
        settings: threads, patience, seed.
        batch: what free dimensions of the inputs become.
        evict: bytes of other memory to read before each run of a unit, by its name: what caches
            then no longer hold. See `edgenas.profiling.units`.
        watch: called with each event that is no result: ``environment``, ``baseline``,
            ``progress`` (``finished`` of ``total``) and ``end`` (``unvisited`` when time ran out).

    Yields:
        One measurement for each unit that was visited, in the order they finish.

    Raises:
        EdgenasError: the runtime refuses a graph or is unknown.
        ClockStoppedError: the process died, for example because the runtime is not installed.
    """
    started = time.monotonic()
    with Spool() as spool, machine_lock():
        stored = list(spool.keep(units))
        if settings.seconds:  # waiting for the lock and building graphs is in the time given
            left = settings.seconds - (time.monotonic() - started)
            settings = replace(settings, seconds=max(left, 1e-3))
        text = order(stored, runtime=runtime, settings=settings, batch=batch, evict=evict)
        with _worker(text, spool=spool) as worker:
            assert worker.stdout is not None
            assert worker.stderr is not None
            said = Tail(worker.stderr)
            try:
                yield from read_events(worker.stdout, watch=watch)
            except ClockStoppedError as error:
                code, last = worker.wait(), said.text().splitlines() or ["it said nothing"]
                raise ClockStoppedError(
                    f"the clock stopped with code {code}: {plain(last[-1])}", hint=error.hint
                ) from None


@contextlib.contextmanager
def _worker(text: str, *, spool: Spool) -> Generator[subprocess.Popen[bytes]]:
    """The clock at work. Its own session: Ctrl-C reaches us, and we end it.

    It ends by itself when its stdin ends, which the end of this process brings about, whatever
    kind of end that is.
    """
    # -P: the modules of this package must not be found as top-level modules.
    command = [sys.executable, "-P", str(Path(board.__file__)), "attended"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[spool.handle],
    ) as worker:
        assert worker.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.write(text.encode() + b"\n")
                worker.stdin.flush()
            yield worker
        finally:
            worker.kill()  # it has nothing to tidy up


def time_model(
    onnx: bytes | Path,
    *,
    runtime: str = "onnxruntime",
    settings: Settings = NETWORK,
    batch: int = 1,
) -> Measurement:
    """Time one ONNX graph in this very process: for notebooks and for a quick look.

    Whatever else this process does in its threads is in the number; `measure` avoids that.

    Args:
        onnx: the graph, bytes or path, or what `edgenas.runtime.registry.for_clock` makes of it.
        runtime: a runtime that the clock can load.
        settings: threads, patience, seed.
        batch: what free dimensions of the inputs become.

    Raises:
        EdgenasError: the runtime refuses the graph or is unknown.
    """
    if runtime not in board.LOADERS:
        raise unknown_name("runtime", runtime, names=board.LOADERS, listing="edgenas list runtimes")
    source = onnx if isinstance(onnx, bytes) else str(onnx)

    def load() -> Callable[[], Any]:
        return board.LOADERS[runtime](
            source, threads=settings.threads, batch=batch, precision=settings.precision
        )

    with machine_lock():
        read = board.canary_of(runtime)
        for event in board.time_units([("model", load)], settings=settings, read=read):
            if event["event"] == "error":
                raise EdgenasError(f"the runtime refuses the model: {event['message']}")
            if event["event"] == "result":
                return measurement(event)
    raise EdgenasError("the model was not timed: the time allowed was over before its turn")
