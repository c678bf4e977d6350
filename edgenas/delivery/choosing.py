"""The choice of the network: searched for under predictions, corrected by measurements.

    Prepared -> choose -> Chosen

Where the device is at hand, the prediction only proposes. What was measured replaces what was
predicted, its ratio corrects the predictions of all others, and the search is repeated until its
winner is a network that was measured within the budget. That one is measured afresh: the fastest
of many noisy measurements is not what a user will see.
"""

from dataclasses import dataclass, replace

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import milliseconds
from edgenas.bundle.quantisation import Quantisation
from edgenas.bundle.record import Retraining
from edgenas.bundle.trace import Attempt
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import DEFAULT, NETWORK
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.delivery.building import (
    REPEATS,
    BuiltNetwork,
    build,
    time_builds,
    time_on_device,
)
from edgenas.delivery.limits import Seconds, limits_for
from edgenas.delivery.log import NOTHING_SEEN, SearchLog
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.ranking import (
    Learnt,
    best_without_budget,
    learn_from_images,
    rank_by_prediction,
    rank_networks,
)
from edgenas.model.network import Network
from edgenas.profiling.rebuilding import BUILDS
from edgenas.profiling.work import Clock
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.run import search

ATTEMPTS = 6  # searches and measurements before giving up
# Another clock, another day: what is within 99% of the budget here stays within it there, give or
# take the one or two percent by which fresh measurements of one network differ.
AIM = 0.99
ENOUGH = 0.96  # of the budget used: below it, a corrected search may find a better network

# While choosing. The number that is reported comes from a longer, fresh measurement.
BRIEF = replace(DEFAULT, baseline_seconds=3.0, min_samples=100, max_samples=400, visit_seconds=2.0)

_WITHIN, _WITHOUT = "within the latency budget", "without the latency budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The network of a specialisation, and how it was found.

    Args:
        built: the network.
        learnt: what the strategy has learnt; its weights are those that networks inherit.
        timed: the networks that were timed on the device, each with its latest measurement.
        log: what was searched for, seen and measured.
        notes: what a reader of the result should know.
        retraining: how the network came by weights of its own; None where it inherits them.
        quantisation: how its weights learnt for integers; None where they did not.
    """

    built: BuiltNetwork
    learnt: Learnt
    timed: tuple[BuiltNetwork, ...]
    log: SearchLog
    notes: tuple[str, ...] = ()
    retraining: Retraining | None = None
    quantisation: Quantisation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBench:
    """A device at hand, and what was measured on it.

    Args:
        prepared: the target.
        clock: where networks are timed.
        timed: networks with their latest measurement, in the order of their first one.
        log: of the measurements.
    """

    prepared: Prepared
    clock: Clock
    timed: tuple[BuiltNetwork, ...] = ()
    log: SearchLog = NOTHING_SEEN

    @property
    def clock_builds(self) -> TrtexecClock | None:
        """The clock, where it builds an engine of each network."""
        return self.clock if isinstance(self.clock, TrtexecClock) else None

    def find(self, arch: Arch) -> BuiltNetwork | None:
        """The latest measurement of a network; None where it was not measured."""
        return next((built for built in self.timed if built.arch == arch), None)

    def seconds(self, built: BuiltNetwork) -> float:
        """The measured number that the budget is held to."""
        return built.seconds(self.prepared.request.percentile)

    def measure_briefly(self, built: BuiltNetwork) -> "tuple[DeviceBench, BuiltNetwork]":
        """Measure a network as long as a choice needs."""
        return self._measure(built, settings=BRIEF, builds=1)

    def measure_final(self, built: BuiltNetwork) -> "tuple[DeviceBench, BuiltNetwork]":
        """Measure a network as long as a number needs that is reported."""
        return self._measure(built, settings=NETWORK, builds=BUILDS)

    def _measure(
        self, built: BuiltNetwork, *, settings: TimingSettings, builds: int
    ) -> "tuple[DeviceBench, BuiltNetwork]":
        """The bench with one more measurement, and the network with it."""
        prepared = self.prepared
        patience = REPEATS - sum(one.repeats for one in self.timed)
        if self.clock_builds is not None:
            built = time_builds(prepared, built, clock=self.clock_builds, builds=builds)
        else:
            built = time_on_device(
                prepared, built, clock=self.clock, settings=settings, patience=patience
            )
        attempt = Attempt(
            arch_id=built.arch.id,
            accuracy=prepared.predict_accuracy(built.arch),
            predicted=prepared.predict_seconds(built.arch),
            measured=self.seconds(built),
            fresh=builds > 1,
        )
        latest = {one.arch: one for one in self.timed} | {built.arch: built}
        bench = replace(self, timed=tuple(latest.values()), log=self.log.add_attempt(attempt))
        return bench, built

    def correct(self) -> Seconds:
        """Predictions that what was measured has corrected, with a little to spare."""
        prepared = self.prepared
        ratios = [self.seconds(built) / built.predicted for built in self.timed]
        # Off by a common factor near this budget: that of the latest networks.
        factor = float(np.mean(ratios[-2:]))
        rows = prepared.space.encode([built.arch for built in self.timed])
        measured = [self.seconds(built) for built in self.timed]

        def corrected(candidates: Codes) -> Vector:
            seconds = prepared.latency.predictor.predict(candidates) * factor
            for row, value in zip(rows, measured, strict=True):
                seconds[(candidates == row).all(axis=1)] = value
            return seconds / AIM

        return corrected


def choose(prepared: Prepared) -> Chosen:
    """The most accurate network that keeps every budget, built and, where possible, measured.

    Raises:
        EdgenasError: no network keeps the budgets, by prediction or when measured.
    """
    latency, budget, clock = prepared.latency, prepared.budget, prepared.latency.clock
    # Only what will not be measured has to keep its budget with a margin for the prediction.
    aim = latency.upper if clock is None else latency.to_aim_at
    bound = aim(prepared.request.confidence)
    prepared.progress("searching", 0, 1, "")
    first = _search_first(prepared, bound)
    prepared.progress("searching", 1, 1, str(first.best))
    chosen = Chosen(
        built=build(prepared, first.best, network=inherit_from(first.learnt, first.best)),
        learnt=first.learnt,
        timed=(),
        log=first.log,
        notes=first.learnt.notes,
    )
    if clock is not None:
        chosen = _choose_by_measuring(prepared, clock, first=first, chosen=chosen)
    if budget is not None and chosen.built.arch == first.free:
        note = _describe_unbound(prepared, chosen.built, budget=budget)
        chosen = replace(chosen, notes=(*chosen.notes, note))
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """What the first searches gave.

    Args:
        best: the network within all budgets.
        free: the most accurate network without the latency budgets; None where these decide.
        learnt: what the strategy has learnt.
        log: of the searches.
    """

    best: Arch
    free: Arch | None
    learnt: Learnt
    log: SearchLog


def _search_first(prepared: Prepared, bound: Seconds) -> _First:
    """The first search, and whether the latency budget decides anything.

    Args:
        prepared: what is searched.
        bound: what latency on the device is held to.
    """
    budget = prepared.budget
    limits = limits_for(prepared, own=None if budget is None else bound)
    if prepared.request.learns:
        # Learning is slow: a budget that no network keeps is refused before it.
        search(prepared.space, maximize=prepared.predictor, subject_to=limits, evaluations=1)
        learnt = learn_from_images(prepared, limits)
        ranking = rank_networks(prepared, learnt, limits, name=_WITHIN)
        best, log = ranking.archs[0], ranking.log
        without = best_without_budget(prepared, best)
        if without is None:
            return _First(best=best, free=None, learnt=learnt, log=log)
        return _First(best=best, free=without.archs[0], learnt=learnt, log=log.join(without.log))

    def keeps(arch: Arch) -> bool:
        return budget is None or bound(prepared.space.encode([arch]))[0] <= budget

    learnt, log = Learnt(inherited=prepared.trained), SearchLog()
    if keeps(prepared.space.largest()):  # then the budget may leave the choice as it is
        without = rank_by_prediction(prepared, limits_for(prepared, own=None), name=_WITHOUT)
        free, log = without.archs[0], without.log
        if keeps(free):
            return _First(best=free, free=free, learnt=learnt, log=log)
    within = rank_by_prediction(prepared, limits, name=_WITHIN)
    best, log = within.archs[0], log.join(within.log)
    without = best_without_budget(prepared, best)
    if without is None:
        return _First(best=best, free=None, learnt=learnt, log=log)
    free, log = without.archs[0], log.join(without.log)
    return _First(best=free if keeps(free) else best, free=free, learnt=learnt, log=log)


def _choose_by_measuring(
    prepared: Prepared, clock: Clock, *, first: _First, chosen: Chosen
) -> Chosen:
    """Measure the network of the first search, and search again while it misses its budget."""
    bench, budget = DeviceBench(prepared=prepared, clock=clock), prepared.budget
    if budget is None:
        prepared.progress("measuring", 0, 1, str(first.best))
        bench, built = bench.measure_final(chosen.built)
        log = chosen.log.join(bench.log)
        return replace(chosen, built=built, timed=bench.timed, log=log)
    return _choose_within(bench, budget=budget, first=first, chosen=chosen)


def _choose_within(bench: DeviceBench, *, budget: float, first: _First, chosen: Chosen) -> Chosen:
    """Build and measure. While the budget is missed or left unused, correct and search again."""
    prepared, log = bench.prepared, chosen.log
    arch, fresh = first.best, set[Arch]()

    def finish(bench: DeviceBench, built: BuiltNetwork) -> Chosen:
        prepared.progress("measuring", ATTEMPTS, ATTEMPTS, str(built.arch))
        return replace(chosen, built=built, timed=bench.timed, log=log.join(bench.log))

    for attempt in range(ATTEMPTS):
        prepared.progress("measuring", attempt, ATTEMPTS, str(arch))
        built = bench.find(arch)
        if built is None:
            built = chosen.built
            if arch != chosen.built.arch:
                built = build(prepared, arch, network=inherit_from(first.learnt, arch))
            bench, built = bench.measure_briefly(built)
        used = bench.seconds(built) / budget
        if not (ENOUGH <= used <= AIM or (used <= AIM and arch == first.free)):
            arch, more = _search_again(bench, first.learnt, budget=budget)
            log = log.join(more)
            built = bench.find(arch)
            if built is None:
                continue
        if arch in fresh:
            break
        # Nothing better is expected: the number that is reported comes from fresh runs.
        bench, built = bench.measure_final(built)
        fresh.add(arch)
        if bench.seconds(built) <= AIM * budget:
            return finish(bench, built)
    fitting = [one for one in bench.timed if bench.seconds(one) <= budget]
    for built in sorted(fitting, key=lambda b: -prepared.predict_accuracy(b.arch)):
        final = built
        if built.arch not in fresh:
            bench, final = bench.measure_final(built)
        if bench.seconds(final) <= budget:
            return finish(bench, final)
    closest = min(bench.seconds(one) for one in bench.timed)
    raise EdgenasError(
        f"no network measured within {milliseconds(budget)} on {prepared.latency.target}: the "
        f"closest of {len(bench.timed)} took {milliseconds(closest)}",
        hint="allow a little more, or end other work on this machine and run it again",
    )


def _search_again(bench: DeviceBench, learnt: Learnt, *, budget: float) -> tuple[Arch, SearchLog]:
    """The best network under predictions that what was measured has corrected."""
    prepared = bench.prepared
    try:
        ranking = rank_networks(
            prepared,
            learnt,
            limits_for(prepared, own=bench.correct()),
            name=f"corrected by {len(bench.timed)} measured",
            again=True,
        )
    except EdgenasError:
        fitting = [one.arch for one in bench.timed if bench.seconds(one) <= budget]
        if not fitting:
            raise
        return max(fitting, key=prepared.predict_accuracy), SearchLog()
    return ranking.archs[0], ranking.log


def inherit_from(learnt: Learnt, arch: Arch) -> Network:
    """A copy of a network with the weights that it inherits, not yet calibrated."""
    return learnt.inherited.supernet.extract(arch)


def find_candidates(
    prepared: Prepared, chosen: Chosen, *, count: int
) -> tuple[tuple[BuiltNetwork, ...], DeviceBench | None, SearchLog]:
    """The chosen network and the next best that keep every budget, measured where possible.

    Args:
        prepared: what is searched.
        chosen: what ``choose`` gave.
        count: how many at most.

    Returns:
        The networks; the device with what was measured on it, None where it is out of reach; and
        the log of the search.
    """
    latency, budget, clock = prepared.latency, prepared.budget, prepared.latency.clock
    bench, own = None, None
    if clock is not None:
        bench = DeviceBench(prepared=prepared, clock=clock, timed=chosen.timed)
        own = None if budget is None else bench.correct()
    elif budget is not None:
        own = latency.upper(prepared.request.confidence)
    # More than are wanted: some may turn out too slow.
    limits = limits_for(prepared, own=own)
    ranking = rank_networks(
        prepared, chosen.learnt, limits, name="the best ones", count=2 * count, again=True
    )
    candidates = [chosen.built]
    for arch in ranking.archs:
        if len(candidates) == count:
            break
        if arch == chosen.built.arch:
            continue
        prepared.progress("measuring", len(candidates), count, str(arch))
        built = None if bench is None else bench.find(arch)
        if built is None:
            built = build(prepared, arch, network=inherit_from(chosen.learnt, arch))
            if bench is not None and budget is not None:
                bench, built = bench.measure_briefly(built)
        if bench is not None and budget is not None and bench.seconds(built) > AIM * budget:
            continue
        candidates.append(built)
    return tuple(candidates), bench, ranking.log


def _describe_unbound(prepared: Prepared, built: BuiltNetwork, *, budget: float) -> str:
    """The note that a latency budget decides nothing, with one that does."""
    latency, space, measured = prepared.latency, prepared.space, built.measured is not None
    bound = latency.predictor.predict if measured else latency.upper(prepared.request.confidence)
    own, least = map(float, bound(space.encode([built.arch, space.smallest()])))
    needs = built.seconds(prepared.request.percentile) if measured else own
    # The middle between the smallest network, as slow as this one turned out to be, and this one.
    least *= needs / own
    tighter = float(f"{500 * (least + needs):.2g}")
    advice = f" Try --latency {tighter:g}ms" if least < 1e-3 * tighter < needs else ""
    others = " within the other budgets" if len(prepared.constraints) > 1 else ""
    return (
        f"the budget decides nothing: even the best network{others} keeps it.{advice}; it takes "
        f"{'' if measured else 'at most '}{milliseconds(needs)}, and {latency.device.name} could "
        f"run one about {budget / needs:.1f} times as slow from a larger space than {space.name}"
    )
