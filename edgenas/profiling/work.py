"""The work of a profile: which units were visited, which still wait, and the table of them."""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.events import Event
from edgenas.clock.measure import Measurement, WrongAnswerError, slower_moments
from edgenas.clock.order import TimedRuntime
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, Timing
from edgenas.profiling.journal import Journal, UnitRecord, differences, now
from edgenas.profiling.levels import estimate_run_levels, scale_to_usual
from edgenas.profiling.rebuilding import SECTION, RebuildSpread, spread_of, spread_to_json
from edgenas.profiling.timings import build_table, combine_visits
from edgenas.profiling.units import Unit, digest
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import Method
from edgenas.space.arch import Arch
from edgenas.space.space import Space

# Visits at bad moments are repeated, but not for ever: some machines stay slow.
_EXTRA, _NOISY = 1, 2
_BUILDING = 0.5  # of a limited time, at most this part goes into building graphs
# If one of these changes during a run, its numbers do not compare, nor if what tables must agree
# on changes.
_STEADY = ("governor", "max_frequency")

Report = Callable[[int, int, str], None]  # visits done, visits in all, words


class Clock(Protocol):
    """Where units are timed. The module `edgenas.clock.measure` is the one of this machine."""

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
        """See `edgenas.clock.measure.measure`."""
        ...

    def environment(self, runtime: TimedRuntime, *, threads: int) -> dict[str, Any]:
        """See `edgenas.clock.measure.environment`."""
        ...


class Work:
    """The visits to each unit so far, and what follows from them.

    Args:
        units: by name.
        journal: of the visits before; new visits go there too.
        environment: the machine.
        visits: how many good measurements each unit needs.
        gate: canaries up to this multiple of the fastest are of the same speed.
        report: called after each visit with the visits done, the visits in all, and a few words on
            the unit, or others.
        say: called with lines that a person should read.
    """

    def __init__(
        self,
        units: Mapping[str, Unit],
        *,
        journal: Journal,
        environment: Mapping[str, Any],
        visits: int,
        gate: float,
        report: Report,
        say: Callable[[str], None],
    ) -> None:
        self._units, self._journal, self._environment = units, journal, dict(environment)
        self._visits, self._gate, self._report, self._say = visits, gate, report, say
        self._records: dict[str, list[UnitRecord]] = {name: [] for name in units}
        self._selected, self._part = set(units), ""
        self._build_seconds: list[float] = []
        self._engine_seconds: list[float] = []
        self._tell_build: Callable[[float], None] = lambda seconds: None
        graphs: dict[str, str] = {}
        for record in journal.usable(environment):
            name = record.unit
            if name in units:
                graphs.setdefault(name, digest(units[name].build()))
                if graphs[name] == record.graph:
                    self._records[name].append(record)

    def select(self, names: Iterable[str], *, visits: int, part: str = "") -> None:
        """From now on visit these units only, each until it has so many good visits.

        Args:
            names: of the units.
            visits: that each of them needs.
            part: what they are of all that is to do, for people who watch; empty: all of it.
        """
        self._selected, self._visits, self._part = set(names), visits, part

    def tell_builds(self, tell: Callable[[float], None]) -> None:
        """From now on call ``tell`` with the seconds of each engine that is built and timed."""
        self._tell_build = tell

    def state(self) -> str:
        """How many visits are done, in words."""
        return "{} of {} visits to {} units are done and kept".format(
            *self._done(), len(self._selected)
        )

    @property
    def build_seconds(self) -> float:
        """The median of the seconds that it took so far to build a graph for the clock."""
        return statistics.median(self._build_seconds) if self._build_seconds else 0.0

    @property
    def engine_seconds(self) -> float:
        """The median of the seconds that it took so far to build an engine and to time it."""
        return statistics.median(self._engine_seconds) if self._engine_seconds else 0.0

    def _done(self) -> tuple[int, int]:
        done = sum(min(len(self._records[name]), self._visits) for name in self._selected)
        return done, self._visits * len(self._selected)

    def waiting(self) -> list[Unit]:
        """The units with the fewest visits that still need one; empty where no unit needs one."""
        good = self._good()
        lacking = [
            name
            for name, records in self._records.items()
            if name in self._selected
            and len(good[name]) < self._visits
            and len(records) < self._visits + _EXTRA
            and sum(record.measurement.noisy for record in records) < _NOISY
        ]
        fewest = min((len(self._records[name]) for name in lacking), default=0)
        return [self._units[name] for name in lacking if len(self._records[name]) == fewest]

    def measure(
        self, waiting: list[Unit], *, target: Target, settings: TimingSettings, clock: Clock
    ) -> bool:
        """Visit units once. Each measurement goes into the journal at once.

        Returns:
            Whether any was visited.

        Raises:
            EdgenasError: the machine changed meanwhile, so these visits do not count.
            WrongAnswerError: the clock cannot be relied on, so these visits do not count.
        """
        run, started = self._journal.next_run, False
        graphs: dict[str, str] = {}
        began = time.monotonic()
        version = str(self._environment.get("runtime_version") or "")

        def build_graphs() -> Iterator[tuple[str, bytes | Path]]:
            for unit in waiting:
                start = time.monotonic()
                if settings.seconds and start - began > _BUILDING * settings.seconds:
                    return  # some runtimes build graphs slowly; other units come next time
                graph = unit.build()
                graphs[unit.name] = digest(graph)
                loadable = runtimes.convert_for_clock(
                    target.runtime, graph, batch=target.batch, version=version
                )
                self._build_seconds.append(time.monotonic() - start)
                yield unit.name, loadable

        self._report_visit("", "looking for the machine's full speed")
        stream = clock.measure(
            build_graphs(),
            runtime=runtimes.get(target.runtime),
            settings=replace(settings, seed=settings.seed + run),
            batch=target.batch,
            evict=lambda name: self._units[name].evict,
            watch=self._watch,
        )
        built, last = runtimes.is_built_by_tool(target.runtime), time.monotonic()
        try:
            with contextlib.closing(stream):
                for measurement in stream:
                    if built:
                        self._engine_seconds.append(time.monotonic() - last)
                        self._tell_build(self._engine_seconds[-1])
                    last = time.monotonic()
                    if not started:  # a clock that gives no measurement leaves no run behind
                        started = self._journal.begin(self._environment) == run
                    record = UnitRecord(
                        unit=measurement.name,
                        graph=graphs[measurement.name],
                        run=run,
                        at=now(),
                        measurement=measurement,
                    )
                    self._journal.add(record)
                    self._records[measurement.name].append(record)
                    note = measurement.judgement() if measurement.noisy else ""
                    self._report_visit(measurement.name, note)
            if started:
                self._check_steady(run, target=target, clock=clock)
        except WrongAnswerError as error:
            if started:
                self._journal.withdraw(run, because=error.message)
            raise
        return started

    def _check_steady(self, run: int, *, target: Target, clock: Clock) -> None:
        before = self._environment
        after = clock.environment(runtimes.get(target.runtime), threads=target.threads)
        changed = differences(before, after)
        changed += [
            f"{name}: {before.get(name)!r} and {after.get(name)!r}"
            for name in _STEADY
            if before.get(name) != after.get(name)
        ]
        if changed:
            self._journal.withdraw(run, because="; ".join(changed))
            raise EdgenasError(
                f"the machine changed while it was timed: {'; '.join(changed)}",
                hint="hold it steady and run the same command again; this round does not count",
            )

    def _watch(self, event: Event) -> None:
        if event["event"] == "baseline":
            self._report_visit("", f"{event['quiet']:.0%} of the time at full speed")
        elif event["event"] == "progress":
            self._report_visit("", "")
        elif event["event"] == "end":
            names = ("temperature", "frequency", "gpu_frequency", "load", "throttled")
            self._environment["after"] = {name: event.get(name) for name in names}

    def _report_visit(self, name: str, note: str) -> None:
        words = (self._part, self._units[name].words if name else "", note)
        self._report(*self._done(), ": ".join(filter(None, words)))

    def _good(self) -> dict[str, list[UnitRecord]]:
        """The measurements that are sound and ran at the machine's full speed."""
        every = [r.measurement for records in self._records.values() for r in records]
        fastest = min((m.canary for m in every), default=0.0)
        return {
            name: [
                record
                for record in records
                if not record.measurement.noisy
                and record.measurement.canary <= self._gate * fastest
            ]
            for name, records in self._records.items()
        }

    def measurements(self) -> dict[str, list[Measurement]]:
        """The measurements behind each unit's timing: the good ones, or else the least bad one.

        In some runs everything takes longer than usual, or less long. Their measurements are scaled
        to the usual level here; the journal holds them unscaled.
        """
        good, used = self._good(), dict[str, list[UnitRecord]]()
        for name, records in self._records.items():
            if good[name]:
                used[name] = good[name][-self._visits :]
            elif records:
                used[name] = [min(reversed(records), key=_doubt)]
        levels = self._levels(good)
        return {
            name: [
                scale_to_usual(r.measurement, levels[self._is_network(name)][r.run])
                for r in records
            ]
            for name, records in used.items()
        }

    def _is_network(self, name: str) -> bool:
        """Whether a unit is a network: networks and layers do not slow down by the same factor."""
        return isinstance(self._units[name].of, Arch)

    def _levels(self, good: Mapping[str, list[UnitRecord]]) -> Mapping[bool, Mapping[int, float]]:
        """For layers (False) and networks (True): the level of each run, 1 where it is unknown."""
        levels = {is_network: defaultdict[int, float](lambda: 1.0) for is_network in (False, True)}
        for is_network, by_run in levels.items():
            visits = [
                (name, record.run, record.measurement.median)
                for name, records in good.items()
                for record in records
                if self._is_network(name) == is_network
            ]
            by_run.update(estimate_run_levels(visits))
        return levels

    def timings(self) -> dict[str, Timing]:
        """The timing of each unit that was visited, by name."""
        return {name: combine_visits(visits) for name, visits in self.measurements().items()}

    def table(self, space: Space, *, target: Target, method: Method) -> LatencyTable:
        """The table of all units that were visited.

        Args:
            space: of the networks.
            target: what was timed.
            method: how layers were timed.

        Raises:
            EdgenasError: no unit was visited.
        """
        timings = self.timings()
        if not timings:
            raise EdgenasError(
                "no unit was timed in the time given", hint="give more of it: --time 60s"
            )
        environment = self._environment | {"canary": self._canary()}
        if (spread := self.spread()) is not None and runtimes.is_built_by_tool(target.runtime):
            environment[SECTION] = spread_to_json(spread)
        return build_table(
            [(self._units[name], timing) for name, timing in timings.items()],
            space,
            target=target,
            method=method,
            environment=environment,
            date=max(record.at for records in self._records.values() for record in records)[:10],
        )

    def spread(self) -> RebuildSpread | None:
        """How much visits to one unit differ, each of which built an engine; None: not known."""
        good = self._good().values()
        return spread_of([[r.measurement.median for r in records] for records in good])

    def _canary(self) -> float:
        """Typical seconds of the canary: the speed of the machine that the table is of."""
        return statistics.median(m.canary for every in self.measurements().values() for m in every)

    def say_doubts(self) -> None:
        """Say which units stayed doubtful."""
        used = self.measurements()
        every = [m for visits in used.values() for m in visits]
        noisy = [m for m in every if m.noisy]
        if noisy:
            self._say(
                f"{len(noisy)} of {len(used)} units stayed noisy, first {noisy[0].name}: "
                f"{noisy[0].judgement()}"
            )
        if slow := set(slower_moments(every, gate=self._gate)):
            self._say(f"{len(slow)} of {len(used)} units were timed at a slower speed only")


def _doubt(record: UnitRecord) -> tuple[bool, float]:
    return record.measurement.noisy, record.measurement.canary
