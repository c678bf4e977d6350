"""Profiling: time what a space is made of on one target, and write its latency table."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress, Say, no_progress, say_nothing
from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.energy import METER, MeterSettings
from edgenas.clock.measure import DEFAULT
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, merge, mismatches
from edgenas.latency.table_file import load_table, save_table, table_path
from edgenas.profiling.energy import add_energies, check_sensor, choose_metered, meter_networks
from edgenas.profiling.environment import check_precision, environment_of
from edgenas.profiling.heat import (
    SECTION,
    carry_heat,
    check_heat,
    heat_to_json,
    measure_heat,
)
from edgenas.profiling.journal import Journal, open_journal
from edgenas.profiling.method import choose_method, unify_words
from edgenas.profiling.minutes import say_how_long
from edgenas.profiling.networks import (
    BUILT_FURTHER,
    BUILT_LINES,
    CALIBRATION,
    FURTHER,
    MOST,
    REBUILT,
    calibration_archs,
    random_archs,
)
from edgenas.profiling.order import TimingOrder
from edgenas.profiling.rebuilding import build_anew
from edgenas.profiling.slopes import slope_units
from edgenas.profiling.units import Unit, network_unit, units_of
from edgenas.profiling.work import Clock, Work
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import Method
from edgenas.runtime.registry import form_of
from edgenas.space.arch import Arch
from edgenas.space.space import Space

# Networks of mbv3-cifar profiled anew came out 1.3 to 1.8% off on average, single layers up to 17%,
# though the gated runs of one visit agree within 1%. The cause was not looked for; visits far apart
# in time, each with a load of its own, average over it.
VISITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """What a profile times, and for how long.

    Args:
        networks: whole networks spread over the space, for the line from sums to networks; None:
            as many as the method needs.
        further: random networks for the bound, see ``edgenas.profiling.tables.predictor_for``;
            None: as many as the runtime needs.
        visits: how often each unit is timed, all other units in between; None: as often as the
            runtime needs.
        rebuilt: how many networks are built into engines several times, without a timing cache.
        method: how layers are timed, see `edgenas.profiling.method`; None: the best one known for
            the target.
        seed: of the order and of the random networks.
        time_budget: seconds after which no more units are timed. The most informative units come
            first then, see `edgenas.profiling.order`. None: all units are timed.
        settings: of the clock; the target gives threads and precision, the plan the seed.
        fresh: whether everything is timed again that was timed before.
        energy: whether the energy of some networks is measured too.
        meter: how long each of them is metered.
        heat: seconds of steady load after which some networks are timed hot; None: that is left
            out. They come on top of the time budget.
    """

    networks: int | None = None
    further: int | None = None
    visits: int | None = None
    rebuilt: int = REBUILT
    method: Method | None = None
    seed: int = 0
    time_budget: float | None = None
    settings: TimingSettings = DEFAULT
    fresh: bool = False
    energy: bool = False
    meter: MeterSettings = METER
    heat: float | None = None

    def check(self, *, built: bool = False) -> None:
        """Refuse numbers that no profile can be made with.

        Args:
            built: whether each unit is an engine that is built. Such a clock has no canary.

        Raises:
            EdgenasError: names the field, the rule and the value found.
        """
        least = 0.0 if built else self.settings.baseline_seconds
        if self.time_budget is not None and self.time_budget <= least:
            why = "" if built else ", which the canary alone takes"
            raise EdgenasError(
                f"time_budget must be above {least:g} s{why}, found {self.time_budget:g} s"
            )
        least_of = {"networks": 0, "further": 0, "visits": 1, "rebuilt": 0}
        for name, smallest in least_of.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise EdgenasError(f"{name} must be at least {smallest}, found {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedProfile:
    """The units of a profile, and how they are timed.

    Args:
        space: whose layers and networks.
        target: what they are timed on.
        method: how layers are timed.
        settings: of the clock.
        visits: how often each unit is timed.
        time_budget: in seconds; None: no limit.
        units: by name.
        lines: the networks for the line, the most informative first.
        fewest: how many of them come before everything else.
        random: the networks for the bound.
        rebuilt: the units that are built anew at the end, to see how builds differ.
    """

    space: Space
    target: Target
    method: Method
    settings: TimingSettings
    visits: int
    time_budget: float | None
    units: Mapping[str, Unit]
    lines: tuple[Arch, ...]
    fewest: int
    random: tuple[Arch, ...]
    rebuilt: tuple[str, ...] = ()

    def metered(self) -> dict[str, Unit]:
        """The networks whose energy is measured where that is asked for."""
        names = {unit.of: name for name, unit in self.units.items()}
        lines = (names[arch] for arch in self.lines)
        return {
            name: self.units[name]
            for name in choose_metered(lines, (names[arch] for arch in self.random))
        }

    def time_left(self, started: float) -> Callable[[], float]:
        """Tells the seconds that are left of the time budget.

        Args:
            started: when it began, by the monotonic clock.
        """
        budget = self.time_budget
        return lambda: math.inf if budget is None else budget - (time.monotonic() - started)

    def iterate_parts(
        self, work: Work, *, left: Callable[[], float]
    ) -> Iterator[tuple[list[str], int, str]]:
        """Yield what to visit next: names of units, the visits that each needs, and a few words."""
        if self.time_budget is None:
            return iter([(list(self.units), self.visits, "")])
        order = TimingOrder(
            self.space,
            units=self.units,
            work=work,
            lines=self.lines,
            further=self.random,
            batch=self.target.batch,
            left=left,
        )
        return order.iterate_parts(fewest=self.fewest, visits=self.visits)


def profile(
    space: Space,
    *,
    target: Target,
    plan: ProfilePlan = ProfilePlan(),
    clock: Clock = measure,
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> LatencyTable:
    """Time the layers of a space and some networks of it; write and return the latency table.

    Every finished unit is in the journal (`edgenas.profiling.journal`) at once, and is not timed
    again. So after any interruption the same call goes on, as ``say`` says on Ctrl-C. Units that
    were timed while the machine was slower than at its best, or too noisy, are timed once more.

    The table goes to ``table_path(target)`` in the user's cache, merged with the table there. A
    table of another machine or runtime version stays beside it under another name.

    Args:
        space: whose layers.
        target: what they are timed on; its device is a name only, see ``clock``.
        plan: what is timed, and for how long.
        clock: where units are timed.
        progress: called after each visit with the step, the visits done, the visits that are
            certain by now, and a few words on the unit. Under a time budget there may be more
            visits later, as the words say.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: an argument is wrong, the runtime is unknown or not installed, the disk
            is full, or the machine changed meanwhile. What was timed before stays in the journal.
        ClockStoppedError: the process that times died.
    """
    started = time.monotonic()
    environment = environment_of(target, clock=clock)
    _check_plan(plan, target=target, clock=clock)
    planned = plan_units(space, target=target, plan=plan)
    if clock is measure:
        check_precision(space, target=target)
    older = load_table(table_path(target)) if table_path(target).exists() else None
    waiting = f"waiting for another edgenas that profiles {target}"
    with open_journal(target, waiting=lambda: say(waiting)) as journal:
        _withdraw_outdated(journal, environment, fresh=plan.fresh, say=say)
        work = Work(
            planned.units,
            journal=journal,
            environment=environment,
            visits=planned.visits,
            gate=plan.settings.gate,
            report=partial(progress, "profiling"),
            say=say,
        )
        if planned.rebuilt:
            say_how_long(work, planned, say=say)
        _visit_units(planned, work, clock=clock, started=started, say=say)
        if planned.rebuilt:
            build_anew(planned, work, clock=clock, started=started, say=say)
        if plan.energy:
            without = meter_networks(
                planned.metered(),
                journal=journal,
                environment=environment,
                target=target,
                clock=clock,
                left=planned.time_left(started),
                report=progress,
                settings=plan.meter,
            )
            if without:
                say(f"time is over; {without} networks have no energy yet: run the command again")
        newer = add_energies(
            work.table(space, target=target, method=planned.method),
            planned.metered(),
            records=journal.usable_energies(environment),
        )
        if plan.heat is not None:
            newer = _add_heat(newer, planned, work, clock=clock, load=plan.heat, progress=progress)
        table = _merge_or_set_aside(older, newer, say=say)
        save_table(table, table_path(target))
    work.say_doubts()
    return table


def plan_units(space: Space, *, target: Target, plan: ProfilePlan) -> PlannedProfile:
    """Decide which units a profile times, and how.

    Raises:
        EdgenasError: the runtime is unknown, or cannot run this precision.
    """
    settings, method = plan.settings, plan.method or choose_method(target)
    built = runtimes.is_built_by_tool(target.runtime)
    if built and plan.method is None and plan.time_budget is not None:
        method = "slopes"  # of layers, where networks leave time for all of them
    networks, further, visits = plan.networks, plan.further, plan.visits
    if networks is None:
        many = BUILT_LINES if built else MOST
        networks = many if method in ("networks", "slopes") else CALIBRATION
    if further is None:
        further = BUILT_FURTHER if built else FURTHER
    random = random_archs(space, further, seed=plan.seed)
    # Without a limit of time, ten networks and a whole table say more than fifty networks do.
    most = networks if plan.time_budget is None or built else max(networks, MOST)
    lines = calibration_archs(space, most)
    form = form_of(target.runtime, target.precision)
    archs = [*lines, *random]
    units = units_of(space, archs, batch=target.batch, method=method, form=form)
    if method == "slopes":
        slopes = slope_units(space, batch=target.batch, form=form)
        units |= {unit.name: unit for unit in slopes}
    if plan.time_budget is not None:
        baseline = min(settings.baseline_seconds, plan.time_budget / 15)
        settings = replace(settings, baseline_seconds=baseline)
    return PlannedProfile(
        space=space,
        target=target,
        method=method,
        settings=replace(
            settings, threads=target.threads, precision=target.precision, seed=plan.seed
        ),
        visits=visits or (1 if built else VISITS),
        time_budget=plan.time_budget,
        units=units,
        lines=tuple(lines),
        fewest=min(networks, CALIBRATION),
        random=tuple(random),
        rebuilt=tuple(
            network_unit(space, arch, batch=target.batch).name
            for arch in (lines[: plan.rebuilt] if built else ())
        ),
    )


def _check_plan(plan: ProfilePlan, *, target: Target, clock: Clock) -> None:
    """Refuse what cannot be measured, before hours of timing."""
    plan.check(built=runtimes.is_built_by_tool(target.runtime))
    if plan.energy:
        check_sensor(clock)
    if plan.heat is not None:
        check_heat(clock, load=plan.heat)


def _withdraw_outdated(
    journal: Journal, environment: Mapping[str, Any], *, fresh: bool, say: Say
) -> None:
    if fresh:
        journal.withdraw_all(because="measured anew")
    elif changed := journal.outdated(environment):
        say(f"starting anew: measured before on another machine ({'; '.join(changed)})")


def _visit_units(
    planned: PlannedProfile, work: Work, *, clock: Clock, started: float, say: Say
) -> None:
    """Visit the units until each has its visits, or the time is over."""
    settings, budget = planned.settings, planned.time_budget
    left = planned.time_left(started)
    try:
        for names, visits, part in planned.iterate_parts(work, left=left):
            work.select(names, visits=visits, part=part)
            while (waiting := work.waiting()) and left() > settings.baseline_seconds:
                seconds = 0.0 if budget is None else left()
                limited = replace(settings, seconds=seconds)
                if not work.measure(waiting, target=planned.target, settings=limited, clock=clock):
                    break  # no unit fits into the time that is left
        if work.waiting():
            say(f"time is over; to go on, run the same command again: {work.state()}")
    except KeyboardInterrupt:
        say(f"{work.state()}; to resume, run the same command again")
        raise


def _add_heat(
    table: LatencyTable,
    planned: PlannedProfile,
    work: Work,
    *,
    clock: Clock,
    load: float,
    progress: Progress,
) -> LatencyTable:
    """The table with the times of some networks on a hot board."""
    heat = measure_heat(
        {name: unit for name, unit in planned.units.items() if isinstance(unit.of, Arch)},
        {name: timing.seconds for name, timing in work.timings().items()},
        load=load,
        target=planned.target,
        clock=check_heat(clock, load=load),
        environment={**table.environment, "runtime_version": table.runtime_version},
        progress=progress,
    )
    return replace(table, environment={**table.environment, SECTION: heat_to_json(heat)})


def _merge_or_set_aside(
    older: LatencyTable | None, newer: LatencyTable, *, say: Say
) -> LatencyTable:
    """Merge both tables. An older table that does not compare stays beside the new one."""
    if older is None:
        return newer
    differ = mismatches(older, newer)
    if unify_words(older.method) != newer.method:  # times of layers that do not add up together
        differ.append("method")
    if not differ:
        return carry_heat(older, merge(older, newer))
    path = table_path(newer.target)
    names = (path.with_name(f"{path.stem}.old{n}.json") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    save_table(older, aside)
    say(f"the table before is kept as {aside}, it differs in {'; '.join(differ)}")
    return newer
