"""Budgets as functions of rows: what a search holds networks to."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from edgenas.delivery.latency import TargetLatency
from edgenas.space.cost import Vector, macs_table, params_table, peak_table, weights_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.run import search

if TYPE_CHECKING:
    from edgenas.delivery.preparing import Prepared

BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
COUNTED = ("macs", "params", "memory")

Seconds = Callable[[Codes], Vector]


def check_reachable(
    space: Space, constraints: Iterable[Constraint], *, precision: str, batch: int
) -> None:
    """Refuse budgets of counted things that no network keeps, before anything slow is done.

    Raises:
        EdgenasError: says what is least reachable, and which constraint is in the way.
    """
    limits = [
        Limit(constraint=c, values=count_for(space, c.metric, precision=precision, batch=batch))
        for c in constraints
        if c.metric in COUNTED
    ]
    search(space, maximize=macs_table(space), subject_to=limits, evaluations=1)


def count_for(space: Space, metric: str, *, precision: str, batch: int) -> Seconds:
    """The function from rows to MACs, parameters or bytes: ``macs``, ``params`` or ``memory``."""
    if metric == "macs":
        return macs_table(space)
    if metric == "params":
        return params_table(space)
    width = BYTES[precision]
    return lambda rows: (weights_table(space)(rows) + peak_table(space)(rows) * batch) * width


def bound_for(latency: TargetLatency, constraint: Constraint, *, confidence: float) -> Seconds:
    """The upper bound of a predicted latency, or of the energy of such a run."""
    if constraint.metric == "latency":
        return latency.upper(confidence)
    return latency.upper_energy(confidence)


def limits_for(prepared: "Prepared", *, own: Seconds | None) -> list[Limit]:
    """The constraints as functions of rows.

    Args:
        prepared: whose constraints.
        own: the seconds that latency on the device itself is held to; None leaves its budgets out.
    """
    target, confidence = prepared.latency.target, prepared.request.confidence
    limits: list[Limit] = []
    if own is not None:
        guide = prepared.latency.predictor.tables()
        limits += [Limit(constraint=c, values=own, guide=guide) for c in prepared.budgets[:1]]
    for constraint in prepared.constraints:
        if constraint.metric in COUNTED:
            values = count_for(
                prepared.space, constraint.metric, precision=target.precision, batch=target.batch
            )
            limits.append(Limit(constraint=constraint, values=values))
        elif constraint.metric == "energy" or constraint.target:
            latency = prepared.latency_for(constraint)
            values = bound_for(latency, constraint, confidence=confidence)
            measured = latency.energy if constraint.metric == "energy" else None
            guide = (measured or latency.predictor).tables()
            limits.append(Limit(constraint=constraint, values=values, guide=guide))
    return limits
