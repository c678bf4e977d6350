"""Profiling: time what a space is made of on one target, and write its latency table."""

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgenas import board, measure, runtimes
from edgenas.arch import Arch
from edgenas.board import Settings
from edgenas.device import Target
from edgenas.errors import EdgenasError, unknown
from edgenas.measure import DEFAULT, Event, Measurement, slower_moments
from edgenas.plan import Layer
from edgenas.profiling.journal import Journal, Record, differences, now, open_journal
from edgenas.profiling.networks import CALIBRATION, FURTHER
from edgenas.profiling.units import Unit, digest, units_of
from edgenas.space import Space
from edgenas.table import (
    LatencyTable,
    MeasuredNetwork,
    Timing,
    load_table,
    merge,
    mismatches,
    save_table,
    table_path,
)

METHOD = (
    "each layer alone as one fused ONNX graph with random weights, and whole networks likewise; "
    "medians of runs at the machine's full speed, told by a canary; "
    "operators one after the other, all graph optimisations"
)

# What was timed at a slow moment is timed once more, and no more: some machines stay slow.
_ATTEMPTS = 2
# Beside what tables must agree on: a change of these amid a run makes its numbers incomparable.
_STEADY = ("governor", "max_frequency")

Tell = Callable[[int, int, str, str], None]


class Clock(Protocol):
    """Where units are timed. The module `edgenas.measure` is the one of this machine."""

    def measure(
        self,
        units: Iterable[tuple[str, bytes | Path]],
        *,
        runtime: str,
        settings: Settings,
        batch: int,
        watch: Callable[[Event], None],
    ) -> Generator[Measurement]:
        """See `edgenas.measure.measure`."""
        ...

    def environment(self, runtime: str, *, threads: int) -> dict[str, Any]:
        """See `edgenas.measure.environment`."""
        ...


def profile(
    space: Space,
    *,
    target: Target,
    networks: int = CALIBRATION,
    further: int = FURTHER,
    seed: int = 0,
    time_budget: float | None = None,
    settings: Settings = DEFAULT,
    fresh: bool = False,
    tell: Tell = lambda done, total, name, note: None,
    say: Callable[[str], None] = lambda line: None,
    clock: Clock = measure,
) -> LatencyTable:
    """Time the layers of a space and some networks of it; write and return the latency table.

    Every finished unit is in the journal (`edgenas.profiling.journal`) at once, and what is there
    is not timed again: after any interruption the same call goes on, as ``say`` says on Ctrl-C.
    Units timed while the machine was slower than at its best, or too noisy, are timed once more.

    The table goes to ``table_path(target)`` in the user's cache, merged with one that is there;
    one of another machine or runtime version is kept beside it under another name.

    Args:
        space: whose layers.
        target: what they are timed on; its device is a name only, see ``clock``.
        networks: whole networks spread over the space, for the line from sums to networks.
        further: random networks for the bound; see ``predictor_for``.
        seed: of the order and of the random networks.
        time_budget: seconds after which no more units are timed; None: until all are.
        settings: of the clock; threads and seed are those given here.
        fresh: time everything, whatever was timed before.
        tell: called after each unit: units done, units in all, the unit's name, a note on it.
        say: called with lines that a person should read.
        clock: where units are timed.

    Raises:
        EdgenasError: an argument is wrong, the runtime is unknown or not there, the disk is full,
            or the machine changed meanwhile. What was timed before stays in the journal.
        ClockStoppedError: the process that times died.
    """
    started = time.monotonic()
    settings = replace(settings, threads=target.threads, seed=seed)
    environment = environment_of(target, clock=clock)
    _check(target, networks=networks, further=further, time_budget=time_budget, settings=settings)
    units = units_of(space, batch=target.batch, networks=networks, further=further, seed=seed)
    older = load_table(table_path(target)) if table_path(target).exists() else None
    waiting_for_other = f"waiting for another edgenas that profiles {target}"
    with open_journal(target, waiting=lambda: say(waiting_for_other)) as journal:
        if fresh:
            journal.withdraw_all(because="measured anew")
        elif changed := journal.outdated(environment):
            say(f"starting anew: measured before on another machine ({'; '.join(changed)})")
        work = _Work(
            units, journal=journal, environment=environment, gate=settings.gate, tell=tell, say=say
        )
        try:
            while waiting := work.waiting():
                if time_budget is not None:
                    left = time_budget - (time.monotonic() - started)
                    if left <= settings.baseline_seconds:
                        say(f"time is over; to go on, run the same command again: {work.state()}")
                        break
                    settings = replace(settings, seconds=left)
                work.measure(waiting, target=target, settings=settings, clock=clock)
        except KeyboardInterrupt:
            say(f"{work.state()}; to resume, run the same command again")
            raise
        newer = work.table(space, target=target)
        table = _merged(older, newer, say=say)
        save_table(table, table_path(target))
    work.report()
    return table


def environment_of(target: Target, *, clock: Clock = measure) -> dict[str, Any]:
    """The machine that a target is timed on, and its runtime.

    Raises:
        EdgenasError: the runtime is unknown or not there.
    """
    runtime = runtimes.get(target.runtime)
    if target.runtime not in board.LOADERS:
        raise unknown(
            "runtime", target.runtime, known=board.LOADERS, listing="edgenas list runtimes"
        )
    why_not = runtime.available() if clock is measure else None
    environment = clock.environment(target.runtime, threads=target.threads)
    if environment.get("runtime_version") is None:
        raise EdgenasError(
            f"runtime {target.runtime} is not available on {target.device}"
            + (f": {why_not}" if why_not else ""),
            hint="see what is there with: edgenas list runtimes",
        )
    return environment


def _check(
    target: Target,
    *,
    networks: int,
    further: int,
    time_budget: float | None,
    settings: Settings,
) -> None:
    if target.precision != "fp32":
        raise EdgenasError(
            f"precision must be fp32 to be profiled on {target.runtime}, found {target.precision}"
        )
    for name, value in (("networks", networks), ("further", further)):
        if value < 0:
            raise EdgenasError(f"{name} must not be negative, found {value}")
    least = settings.baseline_seconds
    if time_budget is not None and time_budget <= least:
        raise EdgenasError(
            f"time_budget must be above {least:g} s, which the canary alone takes, "
            f"found {time_budget:g} s"
        )


class _Work:
    """What is known of each unit so far."""

    def __init__(
        self,
        units: Mapping[str, Unit],
        *,
        journal: Journal,
        environment: Mapping[str, Any],
        gate: float,
        tell: Tell,
        say: Callable[[str], None],
    ) -> None:
        self._units, self._journal, self._environment = units, journal, dict(environment)
        self._gate, self._tell, self._say = gate, tell, say
        self._found: dict[str, list[Record]] = {}
        graphs: dict[str, str] = {}
        for record in journal.usable(environment):
            name = record.unit
            if name in units:
                graphs.setdefault(name, digest(units[name].build()))
                if graphs[name] == record.graph:
                    self._found.setdefault(name, []).append(record)

    def state(self) -> str:
        """How far it came, in words."""
        return f"{len(self._found)} of {len(self._units)} units are measured and kept"

    def waiting(self) -> list[Unit]:
        """The units to time: those never timed, and those timed once at a bad moment."""
        best = self._best()
        found = [record.measurement for record in best.values()]
        bad = {m.name for m in found if m.noisy} | set(slower_moments(found, gate=self._gate))
        return [
            unit
            for name, unit in self._units.items()
            if name not in best or (name in bad and len(self._found[name]) < _ATTEMPTS)
        ]

    def measure(
        self, waiting: list[Unit], *, target: Target, settings: Settings, clock: Clock
    ) -> None:
        """Time units, each into the journal as soon as it is known."""
        run = self._journal.begin(self._environment)
        graphs: dict[str, str] = {}

        def built() -> Iterator[tuple[str, bytes]]:
            for unit in waiting:
                graph = unit.build()
                graphs[unit.name] = digest(graph)
                yield unit.name, graph

        self._progress("", "looking for the machine's full speed")
        stream = clock.measure(
            built(),
            runtime=target.runtime,
            settings=settings,
            batch=target.batch,
            watch=self._watch,
        )
        with contextlib.closing(stream):
            for found in stream:
                record = Record(
                    unit=found.name,
                    graph=graphs[found.name],
                    run=run,
                    at=now(),
                    measurement=found,
                )
                self._journal.add(record)
                self._found.setdefault(found.name, []).append(record)
                self._progress(found.name, found.judgement() if found.noisy else "")
        self._check_steady(run, target=target, clock=clock)

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
                hint="hold it steady and run the same command again; this run does not count",
            )

    def _watch(self, event: Event) -> None:
        if event["event"] == "baseline":
            ratio = f"{event['quiet']:.0%} of the time at full speed"
            self._progress("", f"the machine is {ratio}")
        elif event["event"] == "progress":
            self._progress("", "")
        elif event["event"] == "end":
            names = ("temperature", "frequency", "load", "throttled")
            self._environment["after"] = {name: event.get(name) for name in names}

    def _progress(self, name: str, note: str) -> None:
        self._tell(len(self._found), len(self._units), name, note)

    def _best(self) -> dict[str, Record]:
        """One record a unit: sound and at full speed if there is such a one, else the latest."""
        every = [r.measurement for records in self._found.values() for r in records]
        fastest = min((m.canary for m in every), default=0.0)

        def rank(record: Record) -> tuple[bool, bool]:
            m = record.measurement
            return m.noisy, m.canary > self._gate * fastest

        return {name: min(reversed(records), key=rank) for name, records in self._found.items()}

    def table(self, space: Space, *, target: Target) -> LatencyTable:
        """The table of what is known.

        Raises:
            EdgenasError: nothing is.
        """
        layers: dict[Layer, Timing] = {}
        networks: list[MeasuredNetwork] = []
        best = self._best()
        if not best:
            raise EdgenasError(
                "no unit was measured in the time given", hint="give more of it: --time 60s"
            )
        for name, record in best.items():
            of, timing = self._units[name].of, _timing(record.measurement)
            if isinstance(of, Arch):
                networks.append(
                    MeasuredNetwork(space=space.name, classes=space.classes, arch=of, timing=timing)
                )
            else:
                layers[of] = timing
        return LatencyTable(
            target=target,
            provenance="measured",
            runtime_version=self._environment["runtime_version"],
            environment=self._environment,
            method=METHOD,
            date=max(record.at for record in best.values())[:10],
            layers=layers,
            networks=tuple(networks),
        )

    def report(self) -> None:
        """Say what stayed doubtful."""
        best = [record.measurement for record in self._best().values()]
        noisy = [m for m in best if m.noisy]
        slow = slower_moments(best, gate=self._gate)
        if noisy:
            self._say(
                f"{len(noisy)} of {len(best)} units stayed noisy, first {noisy[0].name}: "
                f"{noisy[0].judgement()}"
            )
        if slow:
            self._say(f"{len(slow)} of {len(best)} units were timed at a slower speed only")


def _timing(m: Measurement) -> Timing:
    return Timing(
        median=m.median,
        p10=m.p10,
        p90=m.p90,
        n=m.n,
        wall_p50=m.wall_p50,
        wall_p95=m.wall_p95,
        noisy=m.noisy,
    )


def _merged(
    older: LatencyTable | None, newer: LatencyTable, *, say: Callable[[str], None]
) -> LatencyTable:
    """Both in one; an older table that does not compare is kept beside the new one."""
    if older is None:
        return newer
    differ = mismatches(older, newer)
    if not differ:
        return merge(older, newer)
    path = table_path(newer.target)
    names = (path.with_name(f"{path.stem}.old{n}.json") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    save_table(older, aside)
    say(f"the table before is kept as {aside}, it differs in {'; '.join(differ)}")
    return newer
