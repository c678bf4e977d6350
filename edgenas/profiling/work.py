"""The work of a profile: what is known of each unit, what is still to be timed, the table of it."""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgenas.basics.errors import EdgenasError
from edgenas.clock import board
from edgenas.clock.board import Settings, quantile
from edgenas.clock.events import Event
from edgenas.clock.measure import Measurement, WrongAnswerError, slower_moments
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Timing
from edgenas.profiling.journal import Journal, Record, differences, now
from edgenas.profiling.levels import at_usual_level, run_levels
from edgenas.profiling.units import (
    FEWER,
    MORE,
    Method,
    Unit,
    digest,
)
from edgenas.runtime.registry import for_clock
from edgenas.space.arch import Arch
from edgenas.space.plan import Layer
from edgenas.space.space import Space

WORDS: Mapping[Method, str] = {
    "alone": "each layer alone as one fused ONNX graph, and whole networks likewise",
    "copies": f"each layer as (T({MORE}) - T({FEWER})) / {MORE - FEWER} where T(n) is the time of "
    "n copies of it side by side in one ONNX graph, as many readers behind them whatever n is, each"
    " run coming after other memory of the size of a network was read; and each layer alone, and "
    "whole networks",
    "networks": "whole networks, from which layer costs are learned",
}
_ALIKE = (
    "; random weights, several visits, medians of runs at the machine's full speed, told by a "
    "canary, median of these; operators one after the other, all graph optimisations; runs {}"
)
_AS_USERS, _ON_GPU = "called as users call them", "from GPU memory to GPU memory"


_KEPT = "; kept in float: "


def words(method: Method, *, space: Space, target: Target) -> str:
    """How layers and networks are timed on a target, as tables tell it."""
    told = WORDS[method] + _ALIKE.format(_ON_GPU if target.runtime in board.ON_GPU else _AS_USERS)
    kept = space.kept_in_float if target.precision == "int8" else ()
    return told + (_KEPT + ", ".join(kept) if kept else "")


def kept_in_float(table: LatencyTable) -> str:
    """The parts that were in float when a table was measured in int8, or nothing."""
    return table.method.partition(_KEPT)[2]


def method_of(table: LatencyTable) -> Method:
    """How the layers of a measured table were timed.

    Raises:
        EdgenasError: in none of the ways that are known here.
    """
    told = table.method.partition(_KEPT)[0]
    for method, how in WORDS.items():
        if told.startswith(how + _ALIKE.partition("{")[0]):
            return method
    raise EdgenasError(
        f"the table of {table.target} was made by a method that this edgenas does not know: "
        f"{table.method!r}",
        hint="profile the target again",
    )


# Networks of mbv3-cifar profiled anew came out 1.3 to 1.8% off on average, single layers up to 17%,
# though the gated runs of one visit agree within 1%. The cause was not looked for; visits far apart
# in time, each with a load of its own, average over it.
VISITS = 3
# Visits at bad moments are made up for, but not for ever: some machines stay slow.
_EXTRA, _NOISY = 1, 2
_MAKING = 0.5  # of a limited time, at most this part goes into making graphs
# Beside what tables must agree on: a change of these amid a run makes its numbers incomparable.
_STEADY = ("governor", "max_frequency")

Tell = Callable[[int, int, str, str], None]


class Clock(Protocol):
    """Where units are timed. The module `edgenas.clock.measure` is the one of this machine."""

    def measure(
        self,
        units: Iterable[tuple[str, bytes | Path]],
        *,
        runtime: str,
        settings: Settings,
        batch: int,
        watch: Callable[[Event], None],
        evict: Callable[[str], int] = lambda name: 0,
    ) -> Generator[Measurement]:
        """See `edgenas.clock.measure.measure`."""
        ...

    def environment(self, runtime: str, *, threads: int) -> dict[str, Any]:
        """See `edgenas.clock.measure.environment`."""
        ...


class Work:
    """What is known of each unit so far.

    Args:
        units: by name.
        journal: what was timed before, and will be.
        environment: the machine.
        visits: good measurements that a unit is to have.
        gate: canaries up to this multiple of the fastest are of the same speed.
        tell: called after each visit, see ``profile``.
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
        tell: Tell,
        say: Callable[[str], None],
    ) -> None:
        self._units, self._journal, self._environment = units, journal, dict(environment)
        self._visits, self._gate, self._tell, self._say = visits, gate, tell, say
        self._found: dict[str, list[Record]] = {name: [] for name in units}
        self._chosen = set(units)
        self._making: list[float] = []
        graphs: dict[str, str] = {}
        for record in journal.usable(environment):
            name = record.unit
            if name in units:
                graphs.setdefault(name, digest(units[name].build()))
                if graphs[name] == record.graph:
                    self._found[name].append(record)

    def among(self, names: Iterable[str], *, visits: int) -> None:
        """Look at some units only from now on, and see them so often."""
        self._chosen, self._visits = set(names), visits

    def state(self) -> str:
        """How far it came, in words."""
        return "{} of {} visits to {} units are done and kept".format(
            *self._done(), len(self._chosen)
        )

    @property
    def making(self) -> float:
        """Seconds that it takes to make a graph for the clock, as it was so far."""
        return statistics.median(self._making) if self._making else 0.0

    def _done(self) -> tuple[int, int]:
        done = sum(min(len(self._found[name]), self._visits) for name in self._chosen)
        return done, self._visits * len(self._chosen)

    def waiting(self) -> list[Unit]:
        """The units that lack a visit, those with the fewest; none: all have what they need."""
        good = self._good()
        lacking = [
            name
            for name, records in self._found.items()
            if name in self._chosen
            and len(good[name]) < self._visits
            and len(records) < self._visits + _EXTRA
            and sum(record.measurement.noisy for record in records) < _NOISY
        ]
        fewest = min((len(self._found[name]) for name in lacking), default=0)
        return [self._units[name] for name in lacking if len(self._found[name]) == fewest]

    def measure(
        self, waiting: list[Unit], *, target: Target, settings: Settings, clock: Clock
    ) -> None:
        """Visit units once, each into the journal as soon as it is known.

        Raises:
            EdgenasError: the machine changed meanwhile, and these visits do not count.
            WrongAnswerError: the clock cannot be relied on, and these visits do not count.
        """
        run, begun = self._journal.next_run, False
        graphs: dict[str, str] = {}
        began = time.monotonic()

        def built() -> Iterator[tuple[str, bytes | Path]]:
            for unit in waiting:
                start = time.monotonic()
                if settings.seconds and start - began > _MAKING * settings.seconds:
                    return  # some runtimes take long to make graphs; the others come next time
                graph = unit.build()
                graphs[unit.name] = digest(graph)
                made = for_clock(target.runtime, graph, batch=target.batch)
                self._making.append(time.monotonic() - start)
                yield unit.name, made

        self._progress("", "looking for the machine's full speed")
        stream = clock.measure(
            built(),
            runtime=target.runtime,
            settings=replace(settings, seed=settings.seed + run),
            batch=target.batch,
            evict=lambda name: self._units[name].evict,
            watch=self._watch,
        )
        try:
            with contextlib.closing(stream):
                for found in stream:
                    if not begun:  # of a clock that says nothing of use nothing is kept
                        begun = self._journal.begin(self._environment) == run
                    record = Record(
                        unit=found.name,
                        graph=graphs[found.name],
                        run=run,
                        at=now(),
                        measurement=found,
                    )
                    self._journal.add(record)
                    self._found[found.name].append(record)
                    self._progress(found.name, found.judgement() if found.noisy else "")
            if begun:
                self._check_steady(run, target=target, clock=clock)
        except WrongAnswerError as error:
            if begun:
                self._journal.withdraw(run, because=error.message)
            raise

    def _check_steady(self, run: int, *, target: Target, clock: Clock) -> None:
        before = self._environment
        after = clock.environment(target.runtime, threads=target.threads)
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
            self._progress("", f"{event['quiet']:.0%} of the time at full speed")
        elif event["event"] == "progress":
            self._progress("", "")
        elif event["event"] == "end":
            names = ("temperature", "frequency", "gpu_frequency", "load", "throttled")
            self._environment["after"] = {name: event.get(name) for name in names}

    def _progress(self, name: str, note: str) -> None:
        self._tell(*self._done(), name, note)

    def _good(self) -> dict[str, list[Record]]:
        """The measurements that are sound and were made at the machine's full speed."""
        every = [r.measurement for records in self._found.values() for r in records]
        fastest = min((m.canary for m in every), default=0.0)
        return {
            name: [
                record
                for record in records
                if not record.measurement.noisy
                and record.measurement.canary <= self._gate * fastest
            ]
            for name, records in self._found.items()
        }

    def measurements(self) -> dict[str, list[Measurement]]:
        """What each unit's timing rests on: its good measurements, or else the least bad one.

        Those of runs in which everything took longer than usual, or less, are brought to what is
        usual; the journal keeps them as they were.
        """
        good, used = self._good(), dict[str, list[Record]]()
        for name, records in self._found.items():
            if good[name]:
                used[name] = good[name][-self._visits :]
            elif records:
                used[name] = [min(reversed(records), key=_doubt)]
        levels = self._levels(good)
        return {
            name: [at_usual_level(r.measurement, levels[self._kind(name), r.run]) for r in records]
            for name, records in used.items()
        }

    def _kind(self, name: str) -> bool:
        """Whether a unit is a network. Networks and layers do not get slower alike."""
        return isinstance(self._units[name].of, Arch)

    def _levels(self, good: Mapping[str, list[Record]]) -> Mapping[tuple[bool, int], float]:
        """The level of each kind in each run; 1 where nothing is known."""
        found = defaultdict[tuple[bool, int], float](lambda: 1.0)
        for kind in (False, True):
            visits = [
                (name, record.run, record.measurement.median)
                for name, records in good.items()
                for record in records
                if self._kind(name) == kind
            ]
            found.update({(kind, run): level for run, level in run_levels(visits).items()})
        return found

    def timings(self) -> dict[str, Timing]:
        """What is known of each unit that was timed, by name."""
        return {name: timing(found) for name, found in self.measurements().items()}

    def table(self, space: Space, *, target: Target, method: Method) -> LatencyTable:
        """The table of what is known.

        Args:
            space: of the networks.
            target: what was timed.
            method: how layers were.

        Raises:
            EdgenasError: nothing is.
        """
        timings = self.timings()
        if not timings:
            raise EdgenasError(
                "no unit was timed in the time given", hint="give more of it: --time 60s"
            )
        alone: dict[Layer, Timing] = {}
        pairs: dict[Layer, dict[int, Timing]] = {}
        networks: list[MeasuredNetwork] = []
        for name, made in timings.items():
            unit = self._units[name]
            if isinstance(unit.of, Arch):
                networks.append(
                    MeasuredNetwork(
                        space=space.filed_as, classes=space.classes, arch=unit.of, timing=made
                    )
                )
            elif unit.copies:
                pairs.setdefault(unit.of, {})[unit.copies] = made
            else:
                alone[unit.of] = made
        layers = {
            layer: replace(
                difference(pair[MORE], pair[FEWER]),
                alone=alone[layer].seconds if layer in alone else None,
            )
            for layer, pair in pairs.items()
            if len(pair) == 2
        }
        return LatencyTable(
            target=target,
            provenance="measured",
            runtime_version=self._environment["runtime_version"],
            environment=self._environment | {"canary": self._canary()},
            method=words(method, space=space, target=target),
            date=max(record.at for records in self._found.values() for record in records)[:10],
            layers=layers if method == "copies" else alone,
            networks=tuple(networks),
        )

    def _canary(self) -> float:
        """Typical seconds of the canary: the speed of the machine that the table is of."""
        return statistics.median(m.canary for found in self.measurements().values() for m in found)

    def report(self) -> None:
        """Say what stayed doubtful."""
        used = self.measurements()
        found = [m for every in used.values() for m in every]
        noisy = [m for m in found if m.noisy]
        if noisy:
            self._say(
                f"{len(noisy)} of {len(used)} units stayed noisy, first {noisy[0].name}: "
                f"{noisy[0].judgement()}"
            )
        if slow := set(slower_moments(found, gate=self._gate)):
            self._say(f"{len(slow)} of {len(used)} units were timed at a slower speed only")


def _doubt(record: Record) -> tuple[bool, float]:
    return record.measurement.noisy, record.measurement.canary


def timing(found: list[Measurement]) -> Timing:
    """The timing of one unit from its visits: the median of their medians, all their runs."""
    samples = [seconds for m in found for seconds in m.samples]
    wall = [seconds for m in found for seconds in m.wall_samples]
    noisy = any(m.noisy for m in found)
    return Timing(
        median=statistics.median(m.median for m in found),
        p10=quantile(wall if noisy else samples, 0.1),
        p90=quantile(wall if noisy else samples, 0.9),
        n=sum(m.n for m in found),
        wall_p50=quantile(wall, 0.5),
        wall_p95=quantile(wall, 0.95),
        noisy=noisy,
    )


def difference(more: Timing, fewer: Timing) -> Timing:
    """The timing of one layer from those of more and of fewer copies of it.

    Its spread is that of more copies, as a part of their median. A layer that takes no time beside
    its neighbours, or whose times are noise, gets its share of the larger graph, and is ``noisy``.
    """
    seconds = (more.seconds - fewer.seconds) / (MORE - FEWER)
    sound = seconds > 0
    seconds = seconds if sound else more.seconds / MORE
    share = seconds / more.seconds

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * share

    return Timing(
        median=seconds,
        p10=scaled(more.p10),
        p90=scaled(more.p90),
        n=min(more.n, fewer.n),
        wall_p50=scaled(more.wall_p50),
        wall_p95=scaled(more.wall_p95),
        noisy=more.noisy or fewer.noisy or not sound,
    )
