"""``trtexec`` as a clock: each unit is built into an engine and timed on the GPU.

A build takes from seconds to minutes, and one engine built twice differs by some percent, because
the builder chooses kernels by timing them. The timing cache of the builder makes later builds
quicker; it is kept on this side, because boards forget what lies in their memory.
"""

import contextlib
import math
import random
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import machine_lock
from edgenas.clock.attempts import attempt_until_done
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.statistics import Samples, summarize
from edgenas.clock.events import Event
from edgenas.clock.measure import DEFAULT, Measurement
from edgenas.clock.order import TimedRuntime
from edgenas.clock.spool import Span, Spool, bytes_of
from edgenas.clock.ssh import Place
from edgenas.clock.state import BoardState
from edgenas.clock.state_reading import read_state
from edgenas.clock.trtexec.options import TensorrtVersion, timing_options
from edgenas.clock.trtexec.results import (
    EngineError,
    EngineTimes,
    RanOutError,
    read_times,
    version_of,
)
from edgenas.clock.trtexec.session import Answer, Order, TrtexecSession, open_session

RUNS = 500  # of an engine: the ticks of a GPU's clock, about a microsecond, average out
_LONGEST = 2  # seconds: the time stamps of the tool lose precision afterwards
_BUILD = 3600.0  # seconds that a build may take
_ATTEMPTS = 2  # of a build that the memory or the time ended
_CYCLES = 1e6  # of the GPU: the canary

Fit = Callable[[bytes, TensorrtVersion], bytes]


def cache_key(environment: Mapping[str, Any]) -> str:
    """What a timing cache belongs to: the version of TensorRT, the GPU, the board and its mode."""
    names = ("runtime_version", "gpu", "board", "power_mode")
    return " ".join(str(environment[name]) for name in names)


class TimingCaches:
    """Where timing caches are kept between sessions. This one forgets them."""

    def read(self, key: str) -> bytes:
        """The cache of a key; empty: there is none."""
        return b""

    def write(self, key: str, data: bytes) -> None:
        """Keep the cache of a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtexecClock:
    """A clock that builds engines; see `edgenas.profiling.work.Clock`.

    Args:
        place: the board; None: this machine.
        fit: brings a graph into one that a version of TensorRT reads.
        caches: where timing caches are kept.
        say: called with lines that a person should read.
        pauses: seconds before each attempt to make a dropped link anew.
        fresh: whether engines are built without a timing cache, as a user builds them.
    """

    place: Place | None
    fit: Fit = lambda graph, version: graph
    caches: TimingCaches = field(default_factory=TimingCaches)
    say: Callable[[str], None] = lambda line: None
    pauses: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
    fresh: bool = False

    @property
    def where(self) -> str:
        """The board, for people."""
        return "this machine" if self.place is None else self.place.address

    def built_afresh(self) -> "TrtexecClock":
        """The same clock without a timing cache."""
        return replace(self, fresh=True)

    def environment(self, runtime: TimedRuntime, *, threads: int = 1) -> dict[str, Any]:
        """The board as it is now, with the version of TensorRT.

        Raises:
            EdgenasError: it cannot be reached, or has no TensorRT.
        """
        return _describe(read_state(self.place), runtime=runtime.name, where=self.where)

    def measure(
        self,
        units: Iterable[tuple[str, bytes | Path]],
        *,
        runtime: TimedRuntime,
        settings: TimingSettings = DEFAULT,
        batch: int = 1,
        evict: Callable[[str], int] = lambda name: 0,
        watch: Callable[[Event], None] = lambda event: None,
    ) -> Generator[Measurement]:
        """Build and time ONNX graphs, in random order; see `edgenas.clock.measure.measure`.

        Raises:
            EdgenasError: the tool refuses a graph, or the board cannot be reached or has changed.
            ClockStoppedError: the link drops again and again.
        """
        del batch, evict  # graphs have the batch, and other memory is read by the network itself
        started = time.monotonic()
        # Here, whatever else times or trains waits, as it does for the clocks of other runtimes.
        alone = machine_lock() if self.place is None else contextlib.nullcontext()
        with Spool() as spool, alone:
            stored = list(spool.keep(units))
            random.Random(settings.seed).shuffle(stored)
            environment = self.environment(runtime)
            watch({"event": "environment", **environment})
            work = _Work(
                self, dict(stored), settings=settings, environment=environment, started=started
            )

            def attempt(failures: int) -> Iterator[Measurement]:
                if failures:
                    work.check_same(self.environment(runtime))
                with open_session(self.place, say=self.say) as session:
                    yield from work.on(session, watch=watch)

            yield from attempt_until_done(
                work, attempt, where=self.where, pauses=self.pauses, say=self.say
            )
            watch(work.end(seconds=time.monotonic() - started))


class _Work:
    """The units of one call of `TrtexecClock.measure`, whatever sessions it takes."""

    def __init__(
        self,
        clock: TrtexecClock,
        missing: dict[str, Path | Span],
        *,
        settings: TimingSettings,
        environment: dict[str, Any],
        started: float,
    ) -> None:
        self.missing, self._total = missing, len(missing)
        self.begun = True  # the board was asked what it is
        self._started = started
        self._clock, self._settings, self._environment = clock, settings, environment
        self._version = TensorrtVersion.parse(environment["runtime_version"])
        self._key = cache_key(environment)
        self._cache = b"" if clock.fresh else clock.caches.read(self._key)
        self._slowest = 0.0
        self._after: dict[str, Any] = {}

    def left(self) -> float:
        """Seconds that are left of the time given; infinite: nobody limits it."""
        given = self._settings.seconds
        return given - (time.monotonic() - self._started) if given else math.inf

    def late(self) -> bool:
        """Whether the time given is over, or would be before one more build is."""
        return self.left() < 0.5 * self._slowest

    def check_same(self, now: dict[str, Any]) -> None:
        """Refuse a board that is another one than before, or runs in another mode.

        Raises:
            EdgenasError: names what has changed.
        """
        names = ("runtime_version", "board", "l4t", "power_mode", "max_frequency", "gpu_clock")
        changed = [
            f"{name} was {self._environment[name]}, is {now[name]}"
            for name in names
            if self._environment[name] != now[name]
        ]
        if changed:
            raise self._changed("; ".join(changed))

    def _changed(self, what: str) -> EdgenasError:
        return EdgenasError(
            f"the board {self._clock.where} changed while it was timed: {what}",
            hint="what was timed before is kept; set the board back, or run the command again to "
            "start anew on it as it is",
        )

    def on(
        self, session: TrtexecSession, *, watch: Callable[[Event], None]
    ) -> Generator[Measurement]:
        """Have the missing units built and timed in a session."""
        for name in list(self.missing):
            if self.late():
                return
            begun = time.monotonic()
            answer, times = self._time(session, name)
            self._slowest = max(self._slowest, time.monotonic() - begun)
            if not self._clock.fresh and answer.cache:
                self._cache = answer.cache
                self._clock.caches.write(self._key, answer.cache)
            del self.missing[name]
            done = {"finished": self._total - len(self.missing), "total": self._total}
            yield self._measurement(name, answer, times)
            watch({"event": "progress", "round": 1, **done})

    def _time(self, session: TrtexecSession, name: str) -> tuple[Answer, EngineTimes]:
        graph = self._clock.fit(bytes_of(self.missing[name]), self._version)
        settings = self._settings
        seconds = min(_LONGEST, round(settings.min_seconds))
        options = timing_options(
            self._version, precision=settings.precision, runs=RUNS, seconds=seconds
        )
        limit = max(30.0, min(_BUILD, 3 * settings.seconds)) if settings.seconds else _BUILD
        for attempt in range(_ATTEMPTS + 1):
            order = Order(model=graph, options=options, cache=self._cache, seconds=limit)
            answer = session.run(order)
            self._check_answer(answer)
            try:
                return answer, read_times(answer, name=name, version=self._version, runs=RUNS)
            except RanOutError as error:
                if attempt == _ATTEMPTS:
                    raise
                self._clock.say(f"{error.message}; once more")
            except EngineError as error:
                if not self._cache or "cache" not in error.message.lower():
                    raise
                self._cache = b""
                self._clock.say(f"{error.message}; once more without the timing cache")
        raise AssertionError

    def _check_answer(self, answer: Answer) -> None:
        version, build = version_of(answer)
        told = f"{version}.{build}" if build else version
        if told and told != self._environment["runtime_version"]:
            before = self._environment["runtime_version"]
            raise self._changed(f"runtime_version was {before}, is {told}")
        if answer.before != answer.after:
            raise self._changed(
                f"GPU clocks and power mode were {answer.before}, are {answer.after}"
            )

    def _measurement(self, name: str, answer: Answer, times: EngineTimes) -> Measurement:
        measurement = as_measurement(name, answer, times, settings=self._settings)
        hertz = _CYCLES / measurement.canary if measurement.canary else None
        self._after = {"temperature": answer.celsius, "gpu_frequency": hertz}
        return measurement

    def end(self, *, seconds: float) -> Event:
        """The ``end`` of all sessions together."""
        state = dict.fromkeys(("temperature", "frequency", "gpu_frequency", "load", "throttled"))
        return {
            "event": "end",
            "unvisited": list(self.missing),
            "seconds": seconds,
            "readings": self._total - len(self.missing),
            "passes": self._total - len(self.missing),
            **state,
            **self._after,
        }


def as_measurement(
    name: str, answer: Answer, times: EngineTimes, *, settings: TimingSettings
) -> Measurement:
    """The times of an engine as a measurement; its canary is a million cycles of the GPU."""
    runs = Samples()
    runs.extend([round(seconds * 1e9) for seconds in times.runs])
    summary = summarize(runs.values, runs.values, settings=settings)
    if times.doubt:
        summary["flag"] = "doubtful"
    hertz = statistics.median(answer.frequencies) if answer.frequencies else 0.0
    samples = tuple(ns * 1e-9 for ns in runs.values)
    return Measurement(
        name=name,
        **summary,
        canary=_CYCLES / hertz if hertz else 0.0,
        samples=samples,
        wall_samples=samples,
        note=times.doubt or ("bound by enqueuing" if times.enqueue_bound else ""),
    )


def _describe(state: BoardState, *, runtime: str, where: str) -> dict[str, Any]:
    """What times depend on, with the names that the environments of all clocks have."""
    if not state.tensorrt:
        why = f": {state.trtexec_fault}" if state.trtexec_fault else ""
        raise EdgenasError(
            f"there is no trtexec on {where} that tells its version{why}",
            hint="on a Jetson: sudo apt install nvidia-jetpack (or libnvinfer-bin); see edgenas "
            "doctor",
        )
    facts, mode, gpu = state.facts(), state.power_mode, state.gpu
    version = f"{state.tensorrt}.{state.tensorrt_build}" if state.tensorrt_build else state.tensorrt
    # Some boards have an nvidia-smi that knows nothing.
    desktop = state.desktop_gpu if state.desktop_gpu and "N/A" not in state.desktop_gpu else ""
    locked = {True: "locked", False: "not locked", None: None}[gpu.locked if gpu else None]
    return {
        "machine": state.kernel.rpartition(" ")[2] or None,
        "board": state.model or None,
        "cpu": state.processor or None,
        "cores": None,
        "processors": [],
        "virtual": None,
        "governor": gpu.governor if gpu else None,
        "max_frequency": gpu.most if gpu else None,
        "gpu": desktop or (f"GPU of {state.model}" if state.model else None),
        "gpu_clock": locked,
        "power_mode": str(mode) if mode else None,
        "l4t": state.l4t or None,
        "jetpack": facts["jetpack"],
        "os": state.os or None,
        "kernel": state.kernel or None,
        "python": None,
        "runtime": runtime,
        "runtime_version": version,
        "trtexec": state.trtexec,
        "temperature": facts["temperature"],
        "frequency": None,
        "gpu_frequency": facts["gpu_frequency"],
        "load": facts["load"],
        "throttled": facts["throttled"],
    }
