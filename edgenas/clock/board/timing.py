"""Timing units in random order behind a canary, round after round.

Processors of shared machines and of warm boards run at several speeds and change between them
within a second. So small batches of runs stand between two canaries. A canary is a fixed piece of
work on the same core. A batch counts only when both canaries ran at the processor's full speed, the
baseline. The runs that do not count are stored too, because a user lives with them.

Everything is bounded: a machine that never reaches its baseline again ends in a flagged result.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import UnitError
from edgenas.clock.board.processors import choose_processors, pin, spin_on
from edgenas.clock.board.runs import count_nanoseconds
from edgenas.clock.board.statistics import (
    Baseline,
    Samples,
    find_baseline,
    half_width,
    summarize,
    worst_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from edgenas.clock.board.settings import TimingSettings

_FASTER_READINGS = 20
_RARE = 0.1  # part of the batches that count, below which the baseline is doubted


@dataclass
class _UnitRecord:
    """The runs of one unit so far."""

    name: str
    load: Callable[[], Callable[[], Any]]
    gated: Samples = field(default_factory=Samples)
    wall: Samples = field(default_factory=Samples)
    spent: float = 0.0
    visits: int = 0

    def is_done(self, settings: TimingSettings, *, spent: float) -> bool:
        """Whether the unit needs no more runs, after so many more seconds of this visit."""
        n = len(self.gated.values)
        if n < settings.min_samples or self.spent + spent < settings.min_seconds:
            return False
        if n >= settings.max_samples:
            return True
        return half_width(self.gated.values, confidence=settings.confidence) <= settings.tolerance


class _Gate:
    """The canary and its baseline, which is measured again when it is stale."""

    def __init__(
        self,
        read: Callable[[], Sequence[float]],
        *,
        settings: TimingSettings,
        now: Callable[[], int],
        baseline: Baseline | None,
    ) -> None:
        self._read, self._settings, self._now = read, settings, now
        self._faster = self._counted = self._batches = self.readings = self.passes = 0
        self.baseline = baseline or self._measure()
        self._since = now()

    def _measure(self) -> Baseline:
        readings: list[Sequence[float]] = []
        end = self._now() + self._settings.baseline_seconds * 1e9
        while len(readings) < 10 or self._now() < end:
            readings.append(self._read())
        return find_baseline(readings, gate=self._settings.gate)

    def event(self) -> dict[str, Any]:
        """The baseline as an event."""
        return {"event": "baseline", **asdict(self.baseline)}

    def is_open(self) -> bool:
        """Run the canary once: does the processor run at full speed?"""
        gate = self._settings.gate
        ratio = worst_ratio(self._read(), self.baseline.seconds)
        # Much faster than full speed is another speed too. A little faster is the canary's noise.
        faster, slower = ratio < 1 / gate**2, ratio > gate
        self._faster = self._faster + 1 if faster else 0
        self.readings += 1
        self.passes += not (faster or slower)
        return not (faster or slower)

    def count_batch(self, *, counts: bool) -> None:
        """Take note of a batch, and of whether it counts."""
        if self._is_over() and not self._is_rare():
            self._since, self._counted, self._batches = self._now(), 0, 0
        self._counted += counts
        self._batches += 1

    def _is_over(self) -> bool:
        return (self._now() - self._since) * 1e-9 > self._settings.stale_seconds

    def _is_rare(self) -> bool:
        return self._counted < _RARE * self._batches

    def is_stale(self) -> bool:
        """Whether hardly any batch counts any more, or the processor became faster for good."""
        return (self._is_over() and self._is_rare()) or self._faster >= _FASTER_READINGS

    def renew(self) -> bool:
        """Measure the baseline again.

        Returns:
            Whether it moved. Gated samples from before then must not mix with new ones.
        """
        old, new = self.baseline, self._measure()
        self._since, self._counted, self._batches, self._faster = self._now(), 0, 0, 0
        moved = max(worst_ratio(new.seconds, old.seconds), worst_ratio(old.seconds, new.seconds))
        if moved <= self._settings.gate:
            return False
        self.baseline = new
        return True


def _visit_unit(
    record: _UnitRecord,
    *,
    settings: TimingSettings,
    gate: _Gate,
    now: Callable[[], int],
    deadline: float,
) -> None:
    """Time one unit until it is done or its turn ends; time at least one batch."""
    run = record.load()
    start = now()
    quickest = math.inf
    # Two warm-up runs at least, five if they are short: first runs allocate and pack weights.
    for i in range(5):
        if i >= 2 and now() - start > 5e7:
            break
        before = now()
        run()
        quickest = min(quickest, max(now() - before, 1))
    size = int(min(max(settings.batch_seconds * 1e9 / quickest, 1), settings.batch_runs))
    turn = max(settings.visit_seconds, settings.min_seconds / settings.rounds) * 1e9
    end = min(start + max(turn, settings.visit_runs * quickest), deadline)
    was_open = gate.is_open()
    while True:
        batch: list[int] = []
        for _ in range(size):
            batch.append(count_nanoseconds(run, now=now))
        is_open = gate.is_open()
        # Runs behind a closed gate count for the distribution that users live with; running only
        # while it is open would make that one look better than it is.
        record.wall.extend(batch)
        if was_open and is_open:
            record.gated.extend(batch)
        gate.count_batch(counts=was_open and is_open)
        was_open = is_open
        spent = (now() - start) * 1e-9
        if now() >= end or gate.is_stale() or record.is_done(settings, spent=spent):
            break
    record.spent += spent
    record.visits += 1


class _Timing:
    """The work of one call of `time_units`."""

    def __init__(
        self,
        *,
        settings: TimingSettings,
        read: Callable[[tuple[int, ...]], Sequence[float]],
        now: Callable[[], int],
        baseline: Baseline | None,
    ) -> None:
        self._settings, self._now = settings, now
        self._processors = processors = choose_processors(settings.threads)
        self.started = now()
        self._deadline = self.started + settings.seconds * 1e9 if settings.seconds else math.inf
        with pin(processors), _without_gc():
            self.gate = _Gate(
                lambda: read(processors), settings=settings, now=now, baseline=baseline
            )
        self._reported, self._finished = now(), 0

    def run_round(
        self, number: int, *, waiting: list[_UnitRecord], total: int
    ) -> Generator[dict[str, Any], None, list[_UnitRecord]]:
        """Visit each waiting unit once, in random order.

        Returns:
            The units that are not finished.
        """
        random.Random(f"{self._settings.seed}/{number}").shuffle(waiting)
        unfinished: list[_UnitRecord] = []
        for record in waiting:
            if self._now() >= self._deadline:
                unfinished.append(record)
                continue
            baseline = self.gate.baseline
            try:
                moved = self._visit(record)
            except UnitError as error:
                self._finished += 1
                yield {"event": "error", "id": record.name, "message": str(error)}
                continue
            # A unit that is done leaves before a moved baseline makes its samples incomparable.
            if record.is_done(self._settings, spent=0.0):
                self._finished += 1
                yield _describe_result(record, settings=self._settings, baseline=baseline)
            else:
                unfinished.append(record)
            if moved:
                yield self.gate.event()
                for other in waiting:
                    other.gated = Samples()
            if self._now() - self._reported > 1e9:
                self._reported = self._now()
                progress = {"round": number, "finished": self._finished, "total": total}
                yield {"event": "progress", **progress}
        return unfinished

    def _visit(self, record: _UnitRecord) -> bool:
        """Time one unit for its turn. Returns whether the baseline moved."""
        settings, gate = self._settings, self.gate
        with pin(self._processors), _without_gc():
            _visit_unit(
                record, settings=settings, gate=gate, now=self._now, deadline=self._deadline
            )
            return gate.is_stale() and gate.renew()


def time_units(
    units: Sequence[tuple[str, Callable[[], Callable[[], Any]]]],
    *,
    settings: TimingSettings,
    read: Callable[[tuple[int, ...]], Sequence[float]] = spin_on,
    now: Callable[[], int] = time.perf_counter_ns,
    baseline: Baseline | None = None,
) -> Iterator[dict[str, Any]]:
    """Time units in random order, round after round, and yield each result as soon as it is there.

    Args:
        units: name and loader of each. The loader returns the callable to time. It is called once a
            visit, so that only one unit is in memory. A run that returns a whole number tells its
            own nanoseconds, for example by the clock of a GPU.
        settings: how carefully to time.
        read: the canary: seconds on each of the processors.
        now: a monotonic clock in nanoseconds.
        baseline: the baseline of a moment ago; None: it is measured first.

    Yields:
        Events: ``baseline`` (first, and whenever it moved), ``progress`` (about once a second),
        ``result`` or ``error`` once for each unit, ``end``. All times in seconds, samples in ns.
    """
    timing = _Timing(settings=settings, read=read, now=now, baseline=baseline)
    yield timing.gate.event()
    waiting = [_UnitRecord(name=name, load=load) for name, load in units]
    for number in range(settings.rounds):
        waiting = yield from timing.run_round(number, waiting=waiting, total=len(units))
    for record in waiting:
        if record.visits:
            yield _describe_result(record, settings=settings, baseline=timing.gate.baseline)
    yield {
        "event": "end",
        "unvisited": [record.name for record in waiting if not record.visits],
        "seconds": (now() - timing.started) * 1e-9,
        "readings": timing.gate.readings,
        "passes": timing.gate.passes,
    }


def _describe_result(
    record: _UnitRecord, *, settings: TimingSettings, baseline: Baseline
) -> dict[str, Any]:
    gated, wall = record.gated.values, record.wall.values
    return {
        "event": "result",
        "id": record.name,
        **summarize(gated, wall, settings=settings),
        "canary": sum(baseline.seconds) / len(baseline.seconds),
        "visits": record.visits,
        "samples": gated,
        "wall_samples": wall,
    }


@contextlib.contextmanager
def _without_gc() -> Generator[None, None, None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
