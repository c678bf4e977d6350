"""Measuring on this machine: the clock of `edgenas.clock.board` in a process of its own.

Threads and allocators of the caller, above all those of torch, would disturb what is timed. The
process runs the same packed text, and answers with the same JSON lines, as the clock on a board.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import machine_lock
from edgenas.clock.board.machine import read_environment
from edgenas.clock.board.part import import_part
from edgenas.clock.board.runs import choose_canary
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.timing import time_units
from edgenas.clock.events import Event, EventError, plain, read_event
from edgenas.clock.order import TimedRuntime, make_order, require_part
from edgenas.clock.pack import BOOT, pack_clock
from edgenas.clock.spool import Spool
from edgenas.clock.streams import Tail

DEFAULT = TimingSettings()

# For a whole network: long enough to see the machine's slow moments too, for p50 and p95.
NETWORK = TimingSettings(min_seconds=5.0)


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
        p10: 10th percentile at full speed.
        p90: 90th percentile at full speed.
        n: gated runs.
        half_width: of the 95% interval of the median, as a part of it; None: too few runs.
        wall_p50: median of all runs, whatever the machine did meanwhile.
        wall_p95: 95th percentile of all runs.
        wall_n: all runs.
        flag: empty, ``wide``, ``few`` or ``noisy``; see `edgenas.clock.board.statistics.summarize`.
            ``doubtful``: what ran was not what should be timed; the note says why.
        canary: typical seconds of the canary when this was measured: the speed of the machine; 0:
            not known.
        samples: gated runs, in order.
        wall_samples: all runs, in order.
        note: what else is known of these runs, in words.
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
    note: str = ""

    @property
    def noisy(self) -> bool:
        """Whether the median cannot be relied on."""
        return self.flag in ("few", "noisy", "doubtful")

    def judgement(self) -> str:
        """Whether to trust the median; if not: why probably, and what to try. One line."""
        if not self.flag:
            assert self.half_width is not None
            return f"stable: median known to {self.half_width:.1%} (n={self.n})"
        if self.flag == "doubtful":
            return f"doubtful: {self.note}"
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
        flag: of the measurement; see `edgenas.clock.board.statistics.summarize`.
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


def environment(runtime: TimedRuntime, *, threads: int = 1) -> dict[str, Any]:
    """What numbers measured here depend on; None for what this machine does not tell.

    Raises:
        EdgenasError: the runtime has no board part.
    """
    part = import_part(require_part(runtime))
    return read_environment(threads=threads, runtime=part.runtime, library=part.library)


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
    runtime: TimedRuntime,
    settings: TimingSettings = DEFAULT,
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
        runtime: a runtime that has a board part.
        settings: threads, patience, seed.
        batch: what free dimensions of the inputs become.
        evict: bytes of other memory to read before each run of a unit, by its name: what caches
            then no longer hold. See `edgenas.profiling.units`.
        watch: called with each event that is no result: ``environment``, ``baseline``,
            ``progress`` (``finished`` of ``total``) and ``end`` (``unvisited`` when time ran out).

    Yields:
        One measurement for each unit that was visited, in the order they finish.

    Raises:
        EdgenasError: the runtime refuses a graph or has no board part.
        ClockStoppedError: the process died, for example because the runtime is not installed.
    """
    started = time.monotonic()
    with Spool() as spool, machine_lock():
        stored = list(spool.keep(units))
        if not stored:
            return
        if settings.seconds:  # waiting for the lock and building graphs is in the time given
            left = settings.seconds - (time.monotonic() - started)
            settings = replace(settings, seconds=max(left, 1e-3))
        text = make_order(stored, runtime=runtime, settings=settings, batch=batch, evict=evict)
        with _worker(text, part=require_part(runtime), spool=spool) as worker:
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
def _worker(text: str, *, part: str, spool: Spool) -> Generator[subprocess.Popen[bytes]]:
    """The clock at work. Its own session: Ctrl-C reaches us, and we end it.

    It ends by itself when its stdin ends, which the end of this process brings about, whatever
    kind of end that is.
    """
    command = [sys.executable, "-P", "-c", BOOT]
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
                worker.stdin.write(f"{json.dumps(pack_clock(part))}\n{text}\n".encode())
                worker.stdin.flush()
            yield worker
        finally:
            worker.kill()  # it has nothing to tidy up


def time_model(
    onnx: bytes | Path,
    *,
    runtime: TimedRuntime,
    settings: TimingSettings = NETWORK,
    batch: int = 1,
) -> Measurement:
    """Time one ONNX graph in this very process: for notebooks and for a quick look.

    Whatever else this process does in its threads is in the number; `measure` avoids that.

    Args:
        onnx: the graph, bytes or path, or what `edgenas.runtime.registry.for_clock` makes of it.
        runtime: a runtime that has a board part.
        settings: threads, patience, seed.
        batch: what free dimensions of the inputs become.

    Raises:
        EdgenasError: the runtime refuses the graph or has no board part.
    """
    part = import_part(require_part(runtime))
    source = onnx if isinstance(onnx, bytes) else str(onnx)

    def load() -> Callable[[], Any]:
        return part.load(
            source, threads=settings.threads, batch=batch, precision=settings.precision
        )

    with machine_lock():
        read = choose_canary(part)
        for event in time_units([("model", load)], settings=settings, read=read):
            if event["event"] == "error":
                raise EdgenasError(f"the runtime refuses the model: {event['message']}")
            if event["event"] == "result":
                return measurement(event)
    raise EdgenasError("the model was not timed: the time allowed was over before its turn")
