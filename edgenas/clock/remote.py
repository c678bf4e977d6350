"""A board as a clock: what is missing is sent, until nothing is missing."""

import random
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock import link, measure
from edgenas.clock.board import Settings
from edgenas.clock.link import LinkError, Place, Session, plain
from edgenas.clock.measure import DEFAULT, ClockStoppedError, Event, Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A clock across the network; see `edgenas.profiling.Clock`.

    Args:
        place: where it runs.
        say: called with lines that a person should read.
        pauses: seconds before each attempt to make a dropped link anew; counted from the latest
            measurement that came through.
        part: bytes of graphs that are sent at once.
    """

    place: Place
    say: Callable[[str], None] = lambda line: None
    pauses: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
    part: int = 16 << 20

    def environment(self, runtime: str, *, threads: int = 1) -> dict[str, Any]:
        """The board as it is now; see `edgenas.clock.board.environment`.

        Raises:
            EdgenasError: it cannot be reached, or the runtime is not there.
        """
        order = measure.order([], runtime=runtime, settings=Settings(threads=threads), batch=1)
        with link.session(self.place, say=self.say) as session:
            session.send(order)
            events = list(session.events())
            if [event["event"] for event in events] != ["environment"]:
                raise session.nonsense()
        (found,) = events
        if found.get("runtime_version") is None:
            why = found.get("runtime_missing", "it does not tell its version")
            raise EdgenasError(
                f"{runtime} cannot be used by {self.place.python} on {self.place.address}: "
                f"{plain(str(why))}",
                hint=f"install it there ({self.place.python} -m pip install numpy {runtime}), or "
                "name a Python that has it: --python '~/venv/bin/python'",
            )
        del found["event"]
        return found

    def measure(
        self,
        units: Iterable[tuple[str, bytes | Path]],
        *,
        runtime: str,
        settings: Settings = DEFAULT,
        batch: int = 1,
        evict: Callable[[str], int] = lambda name: 0,
        watch: Callable[[Event], None] = lambda event: None,
    ) -> Generator[Measurement]:
        """Time ONNX graphs on the board, in random order; see `edgenas.clock.measure.measure`.

        Raises:
            EdgenasError: the runtime refuses a graph, or the board cannot be reached.
            ClockStoppedError: the link drops again and again, or the clock died on the board.
        """
        with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
            stored = list(measure.on_disk(units, folder=Path(folder)))
            random.Random(settings.seed).shuffle(stored)
            job = _Job(
                dict(stored),
                runtime=runtime,
                settings=settings,
                batch=batch,
                evict=evict,
                watch=watch,
            )
            failures = 0
            while job.missing:
                before = len(job.missing)
                try:
                    with link.session(self.place, say=self.say) as session:
                        yield from job.on(session, part=self.part)
                except LinkError as error:
                    if not job.begun:
                        raise
                    failures = 0 if len(job.missing) < before else failures
                    if failures == len(self.pauses):
                        raise ClockStoppedError(
                            f"gave up on {self.place.address} after {failures + 1} attempts: "
                            f"{error.message}",
                            hint="run the same command again: it goes on with what is missing",
                        ) from None
                    pause = self.pauses[failures]
                    failures += 1
                    self.say(
                        f"{error.message}; {len(job.missing)} of {len(stored)} units are missing, "
                        f"trying again in {pause:g} s"
                    )
                    time.sleep(pause)
            watch(job.end())


class _Job:
    """The units of one call of `Board.measure`, whatever sessions it takes."""

    def __init__(
        self,
        missing: dict[str, Path],
        *,
        runtime: str,
        settings: Settings,
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

    def on(self, session: Session, *, part: int) -> Iterator[Measurement]:
        """Send what is missing, part by part, and tell what comes back."""
        baseline: Event | None = None
        self.begun = True
        while self.missing:
            settings = self._settings
            if settings.seconds:
                left = settings.seconds - (time.monotonic() - self._started)
                if left <= 0:
                    self._unvisited += self.missing
                    self.missing = {}
                    return
                settings = replace(settings, seconds=left)
            sent = self._part(part)
            graphs = [(name, self.missing[name].read_bytes()) for name in sent]
            order = measure.order(
                graphs,
                runtime=self._runtime,
                settings=settings,
                batch=self._batch,
                evict=self._evict,
                baseline=baseline,
            )
            del graphs
            session.send(order)
            for event in session.events():
                if event["event"] == "result":
                    yield self._measurement(event, sent=sent, session=session)
                elif event["event"] == "error":
                    words = plain(str(event.get("message")))
                    raise EdgenasError(f"the runtime refuses {event.get('id')}: {words}")
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
                raise session.nonsense()

    def _part(self, part: int) -> list[str]:
        names, size = list[str](), 0
        for name, path in self.missing.items():
            size += path.stat().st_size
            if names and size > part:
                break
            names.append(name)
        return names

    def _measurement(self, event: Event, *, sent: list[str], session: Session) -> Measurement:
        try:
            found = measure.measurement(event)
        except (KeyError, TypeError, ValueError):
            raise session.nonsense() from None
        if found.name not in sent or found.name not in self.missing:
            raise session.nonsense()
        del self.missing[found.name]
        return found

    def _ended(self, event: Event, *, sent: list[str]) -> None:
        for name in event.get("unvisited", ()):
            if name in sent and self.missing.pop(name, None):
                self._unvisited.append(name)
        for name in ("readings", "passes"):
            self._end[name] += event.pop(name, 0)
        self._end = {**event, **self._end}

    def end(self) -> Event:
        """The ``end`` of all sessions together; the state of the board is the latest."""
        seconds = time.monotonic() - self._started
        return {**self._end, "unvisited": self._unvisited, "seconds": seconds}
