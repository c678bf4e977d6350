"""The choice of the network: searched for under predictions, corrected by measurements.

Where the device is at hand, the prediction only proposes. What was measured replaces what was
predicted, its ratio corrects the predictions of all others, and the search is repeated until its
winner is a network that was measured within the budget. That one is measured afresh: the fastest
of many noisy measurements is not what a user will see.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import milliseconds
from edgenas.clock.measure import DEFAULT, NETWORK, Measurement
from edgenas.delivery.building import Built, Job, build, timed
from edgenas.delivery.latency import Latency
from edgenas.delivery.strategies import best_of, most_accurate, ranked
from edgenas.space.arch import Arch
from edgenas.space.cost import (
    Vector,
    macs_table,
    params_table,
    peak_table,
    weights_table,
)
from edgenas.space.space import Codes, Space
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.run import search

ATTEMPTS = 6  # searches and measurements before giving up
# Another clock, another day: what is within 99% of the budget here stays within it there, give or
# take the one or two percent by which fresh measurements of one network differ.
AIM = 0.99
ENOUGH = 0.96  # of the budget used: below it, a corrected search may find a better network

# While choosing; the number that is reported comes from a longer, fresh measurement.
QUICK = replace(DEFAULT, baseline_seconds=3.0, min_samples=100, max_samples=400, visit_seconds=2.0)

BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}

Seconds = Callable[[Codes], Vector]

_WITHIN = "within the latency budget"


def check_reachable(
    space: Space, constraints: list[Constraint], *, precision: str, batch: int
) -> None:
    """Refuse budgets of counted things that no network keeps, before anything slow is done.

    Raises:
        EdgenasError: what is least reachable, and which constraint binds.
    """
    limits = [
        Limit(constraint=c, values=counted(space, c, precision=precision, batch=batch))
        for c in constraints
        if c.metric in ("macs", "params", "memory")
    ]
    search(space, maximize=macs_table(space), subject_to=limits, evaluations=1)


def choose(job: Job) -> Built:
    """The most accurate network that keeps every budget, built and, where possible, measured.

    A budget of latency that does not bind is told in the job's notes.

    Raises:
        EdgenasError: no network keeps the budgets, by prediction or when measured.
    """
    latency, budget = job.latency, job.budget
    # Only what will not be measured has to keep its budget with a margin for the prediction.
    bound = (
        latency.predictor.predict if latency.reachable else latency.upper(job.request.confidence)
    )
    job.tell("searching", 0, 1, "")
    limits = _limits(job, own=bound)
    search(job.space, maximize=job.predictor, subject_to=limits, evaluations=1)  # says what binds
    free = most_accurate(job, _limits(job, own=None), name="without the latency budget")
    best = free
    if job.request.learns:
        best = best_of(job, _limits(job, own=None if budget is None else bound), name=_WITHIN)
    elif budget is not None and bound(job.space.encode([free]))[0] > budget:
        best = most_accurate(job, limits, name=_WITHIN)
    job.tell("searching", 1, 1, str(best))
    if not latency.reachable:
        built = build(job, best)
    elif budget is None:
        job.tell("measuring", 0, 1, str(best))
        built = afresh(job, build(job, best))
    else:
        built = _within(job, budget=budget, first=best, free=free)
    if budget is not None and built.arch == free:
        _say_unbound(job, built, budget=budget)
    return built


def _within(job: Job, *, budget: float, first: Arch, free: Arch) -> Built:
    """Build and measure; while the budget is missed or left unused, correct and search again."""
    tried, fresh = job.tried, set[Arch]()
    arch = first
    for attempt in range(ATTEMPTS):
        job.tell("measuring", attempt, ATTEMPTS, str(arch))
        if arch not in tried:
            quickly(job, build(job, arch))
        used = _held(job, tried[arch]) / budget
        if not (ENOUGH <= used <= AIM or (used <= AIM and arch == free)):
            arch = _next(job, budget=budget)
            if arch not in tried:
                continue
        if arch in fresh:
            break
        # Nothing better is expected: the number that is reported comes from fresh runs.
        afresh(job, tried[arch])
        fresh.add(arch)
        if _held(job, tried[arch]) <= AIM * budget:
            job.tell("measuring", ATTEMPTS, ATTEMPTS, str(arch))
            return tried[arch]
    fitting = [built for built in tried.values() if _held(job, built) <= budget]
    for built in sorted(fitting, key=lambda b: -job.accuracy(b.arch)):
        final = built if built.arch in fresh else afresh(job, built)
        if _held(job, final) <= budget:
            return final
    closest = min(_held(job, built) for built in tried.values())
    raise EdgenasError(
        f"no network measured within {milliseconds(budget)} on {job.latency.target}: the closest "
        f"of {len(tried)} took {milliseconds(closest)}",
        hint="allow a little more, or end other work on this machine and run it again",
    )


def _next(job: Job, *, budget: float) -> Arch:
    """The best network under predictions that what was measured has corrected."""
    try:
        name = f"corrected by {len(job.tried)} measured"
        return best_of(job, _limits(job, own=_corrected(job)), name=name)
    except EdgenasError:
        fitting = [arch for arch, built in job.tried.items() if _held(job, built) <= budget]
        if not fitting:
            raise
        return max(fitting, key=job.accuracy)


def _corrected(job: Job) -> Seconds:
    """Predictions that what was measured has corrected, with a little to spare."""
    tried = job.tried
    ratios = [_held(job, built) / built.predicted for built in tried.values()]
    # Off by a common factor near this budget: that of the latest networks.
    factor = float(np.mean(ratios[-2:]))
    rows = job.space.encode(list(tried))
    known = [_held(job, built) for built in tried.values()]

    def corrected(candidates: Codes) -> Vector:
        seconds = job.latency.predictor.predict(candidates) * factor
        for row, measured in zip(rows, known, strict=True):
            seconds[(candidates == row).all(axis=1)] = measured
        return seconds / AIM

    return corrected


def candidates(job: Job, first: Built, *, count: int) -> list[Built]:
    """The chosen network and the next best that keep every budget, measured where possible.

    Args:
        job: whose.
        first: what ``choose`` gave.
        count: how many at most.
    """
    latency, budget = job.latency, job.budget
    if budget is None:
        own = None
    elif latency.reachable:
        own = _corrected(job)
    else:
        own = latency.upper(job.request.confidence)
    # More than are wanted: some may turn out too slow.
    archs = ranked(job, _limits(job, own=own), name="the best ones", count=2 * count)
    found = [first]
    for arch in archs:
        if len(found) == count:
            break
        if arch == first.arch:
            continue
        job.tell("measuring", len(found), count, str(arch))
        built = job.tried.get(arch) or build(job, arch)
        if budget is not None and latency.reachable:
            built = built if built.measured else quickly(job, built)
            if _held(job, built) > AIM * budget:
                continue
        found.append(built)
    return found


def keeps(job: Job, built: Built) -> bool:
    """Whether a network that was measured keeps the latency budget, if there is one."""
    return job.budget is None or _held(job, built) <= job.budget


def _held(job: Job, built: Built) -> float:
    assert isinstance(built.measured, Measurement)
    return job.held(built.measured)


def quickly(job: Job, built: Built) -> Built:
    """Timed as long as a choice needs."""
    found = job.tried[built.arch] = timed(job, built, settings=QUICK)
    job.trail.timed(built.arch, measured=_held(job, found), fresh=False)
    return found


def afresh(job: Job, built: Built) -> Built:
    """Timed as long as a number needs that is reported."""
    found = job.tried[built.arch] = timed(job, built, settings=NETWORK)
    job.trail.timed(built.arch, measured=_held(job, found), fresh=True)
    return found


def _limits(job: Job, *, own: Seconds | None) -> list[Limit]:
    """The constraints as functions of rows.

    Args:
        job: whose.
        own: what latency on the device is held to; None: its budgets are left out.
    """
    target, confidence = job.latency.target, job.request.confidence
    limits: list[Limit] = []
    if own is not None:
        guide = job.latency.predictor.tables()
        tightest = job.request.budgets()[:1]
        limits += [Limit(constraint=c, values=own, guide=guide) for c in tightest]
    for constraint in job.request.constraints:
        if constraint.metric in ("macs", "params", "memory"):
            values = counted(job.space, constraint, precision=target.precision, batch=target.batch)
            limits.append(Limit(constraint=constraint, values=values))
        elif constraint.metric == "energy" or constraint.target:
            values = bound_of(latency_for(job, constraint), constraint, confidence=confidence)
            guide = latency_for(job, constraint).predictor.tables()
            limits.append(Limit(constraint=constraint, values=values, guide=guide))
    return limits


def latency_for(job: Job, constraint: Constraint) -> Latency:
    """The latency that a constraint is about: of the device, or of the one that it names."""
    return job.others[constraint.target] if constraint.target else job.latency


def bound_of(latency: Latency, constraint: Constraint, *, confidence: float) -> Seconds:
    """The upper bound of a predicted latency, or of the energy of such a run."""
    upper = latency.upper(confidence)
    if constraint.metric == "latency":
        return upper
    watts = latency.watts()
    return lambda rows: upper(rows) * watts


def counted(space: Space, constraint: Constraint, *, precision: str, batch: int) -> Seconds:
    """Rows to the MACs, parameters or bytes that a constraint is about."""
    if constraint.metric == "macs":
        return macs_table(space)
    if constraint.metric == "params":
        return params_table(space)
    width = BYTES[precision]
    return lambda rows: (weights_table(space)(rows) + peak_table(space)(rows) * batch) * width


def _say_unbound(job: Job, built: Built, *, budget: float) -> None:
    if built.measured is not None:
        needs = _held(job, built)
        words = f"takes {milliseconds(needs)}"
    else:
        needs = float(job.latency.upper(job.request.confidence)(job.space.encode([built.arch]))[0])
        words = f"takes at most {milliseconds(needs)}"
    others = " that keeps the other budgets" if len(job.request.constraints) > 1 else ""
    job.notes.append(
        f"the latency budget of {milliseconds(budget)} does not bind: the most accurate network of "
        f"space {job.space.name}{others} {words}; {job.latency.device.name} could take one about "
        f"{budget / needs:.1f} times as slow: use a larger space or a tighter budget"
    )
