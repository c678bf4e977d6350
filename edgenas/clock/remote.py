"""A board as a clock: what is missing is sent, until nothing is missing."""

import math
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock import link, measure
from edgenas.clock.attempts import attempt_until_done
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.events import Event, plain
from edgenas.clock.link import ClockSession
from edgenas.clock.measure import DEFAULT, Measurement
from edgenas.clock.order import TimedRuntime, make_order, require_part
from edgenas.clock.spool import Span, Spool, bytes_of, size_of
from edgenas.clock.ssh import Place

# What a board may take where nobody limits the time, in seconds: to tell what it is (it loads the
# runtime), and for each visit to a unit (some runtimes build an engine first).
_TELLING, _VISITING = 300.0, 300.0
_SLOWEST_LINK = 4096.0  # bytes a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A clock across the network; see `edgenas.profiling.Clock`.

    Args:
        place: where it runs.
        say: called with lines that a person should read.
        pauses: seconds before each attempt to make a dropped link anew; counted from the latest
            measurement that came through.
        part: bytes of graphs that are sent at once.
        silence: seconds without a word after which the board is given up.
        seconds: that all may take from now on, beside one such silence; None: as long as it takes,
            within generous limits.
        began: the moment from which they count, by the monotonic clock.
    """

    place: Place
    say: Callable[[str], None] = lambda line: None
    pauses: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
    part: int = 16 << 20
    silence: float = link.SILENCE
    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)

    def environment(self, runtime: TimedRuntime, *, threads: int = 1) -> dict[str, Any]:
        """The board as it is now; see `edgenas.clock.board.machine`.

        Raises:
            EdgenasError: it cannot be reached, or the runtime is not there.
        """
        order = make_order([], runtime=runtime, settings=TimingSettings(threads=threads), batch=1)
        left = math.inf if self.seconds is None else self.seconds - time.monotonic() + self.began
        limit = min(_TELLING, max(0.0, left)) + self.silence
        with link.session(
            self.place, part=require_part(runtime), say=self.say, silence=self.silence
        ) as session:
            session.send(order)
            events = list(session.events(units=0, seconds=limit, waits=self.seconds is None))
            if [event["event"] for event in events] != ["environment"]:
                raise session.nonsense("it was asked what it is, and tells something else")
            (found,) = events
            if found["runtime"] != runtime.name:
                raise session.nonsense(f"it was asked for {runtime.name}")
        if found.get("runtime_version") is None:
            why = found.get("runtime_missing", "it does not tell its version")
            raise EdgenasError(
                f"{runtime.name} cannot be used by {self.place.python} on {self.place.address}: "
                f"{why}",
                hint=f"install it there ({self.place.python} -m pip install numpy {runtime.name}), "
                "or name a Python that has it: --python '~/venv/bin/python'",
            )
        del found["event"]
        return found

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
        """Time ONNX graphs on the board, in random order; see `edgenas.clock.measure.measure`.

        Raises:
            EdgenasError: the runtime refuses a graph, or the board cannot be reached.
            ClockStoppedError: the link drops again and again, or the clock died on the board.
        """
        with Spool() as spool:
            stored = list(spool.keep(units))
            random.Random(settings.seed).shuffle(stored)
            job = _Job(
                dict(stored),
                runtime=runtime,
                settings=settings,
                batch=batch,
                evict=evict,
                watch=watch,
            )

            def attempt(failures: int) -> Iterator[Measurement]:
                del failures  # each session tells anew what the board is
                with link.session(
                    self.place, part=require_part(runtime), say=self.say, silence=self.silence
                ) as session:
                    yield from job.on(session, part=self.part, silence=self.silence)

            where = self.place.address
            yield from attempt_until_done(
                job, attempt, where=where, pauses=self.pauses, say=self.say
            )
            watch(job.end())


class _Job:
    """The units of one call of `Board.measure`, whatever sessions it takes."""

    def __init__(
        self,
        missing: dict[str, Path | Span],
        *,
        runtime: TimedRuntime,
        settings: TimingSettings,
        batch: int,
        evict: Callable[[str], int],
        watch: Callable[[Event], None],
    ) -> None:
        self.missing, self.begun = missing, False
        self._total, self._started = len(missing), time.monotonic()
        self._runtime, self._settings, self._batch = runtime, settings, batch
        self._evict = evict
        self._watch, self._unvisited = watch, list[str]()
        self._end: Event = {"event": "end", "readings": 0, "passes": 0}

    def left(self) -> float:
        """Seconds that are left of the time given; infinite: nobody limits it."""
        given = self._settings.seconds
        return given - (time.monotonic() - self._started) if given else math.inf

    def late(self) -> bool:
        """Whether the time given is over; what is missing is then told as not visited."""
        if self.left() > 0:
            return False
        self._unvisited += self.missing
        self.missing = {}
        return True

    def on(self, session: ClockSession, *, part: int, silence: float) -> Iterator[Measurement]:
        """Send what is missing, part by part, and tell what comes back."""
        baseline: Event | None = None
        self.begun = True
        while self.missing and not self.late():
            settings, timed = self._settings, bool(self._settings.seconds)
            sent = self._part(part)
            order = make_order(
                [(name, bytes_of(self.missing[name])) for name in sent],
                runtime=self._runtime,
                settings=replace(settings, seconds=self.left()) if timed else settings,
                batch=self._batch,
                evict=self._evict,
                baseline=baseline,
            )
            session.send(order)
            seconds = silence + (self.left() if timed else _patience(sent, order, settings))
            for event in session.events(units=len(sent), seconds=seconds, waits=not timed):
                if event["event"] == "result":
                    yield self._measurement(event, sent=sent, session=session)
                elif event["event"] == "error":
                    name = plain(event["id"])
                    raise EdgenasError(f"the runtime refuses {name}: {plain(event['message'])}")
                elif event["event"] == "end":
                    self._ended(event, sent=sent)
                elif event["event"] == "progress":
                    done = {"finished": self._total - len(self.missing), "total": self._total}
                    self._watch({**event, **done})
                else:
                    if event["event"] == "baseline":
                        baseline = event
                    self._watch(event)
            if any(name in self.missing for name in sent):
                raise session.nonsense("it ends before all units have a result")

    def _part(self, part: int) -> list[str]:
        names, size = list[str](), 0
        for name, path in self.missing.items():
            size += size_of(path)
            if names and size > part:
                break
            names.append(name)
        return names

    def _measurement(self, event: Event, *, sent: list[str], session: ClockSession) -> Measurement:
        found = measure.measurement(event)
        if found.name not in sent or found.name not in self.missing:
            raise session.nonsense("a result of a unit that was not sent, or that has one")
        del self.missing[found.name]
        return found

    def _ended(self, event: Event, *, sent: list[str]) -> None:
        for name in event.pop("unvisited"):
            if name in sent and self.missing.pop(name, None):
                self._unvisited.append(name)
        for name in ("readings", "passes"):
            self._end[name] += event.pop(name)
        self._end = {**event, **self._end}

    def end(self) -> Event:
        """The ``end`` of all sessions together; the state of the board is the latest."""
        seconds = time.monotonic() - self._started
        return {**self._end, "unvisited": self._unvisited, "seconds": seconds}


def _patience(sent: list[str], order: str, settings: TimingSettings) -> float:
    """Seconds that an order takes at most where nobody limits the time: generous, but an end."""
    visits = len(sent) * settings.rounds
    usual = max(settings.visit_seconds, settings.min_seconds / settings.rounds)
    return settings.baseline_seconds + visits * (usual + _VISITING) + len(order) / _SLOWEST_LINK
