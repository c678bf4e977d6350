"""A budget of energy is kept by what the delivered network itself draws, where that can be metered.

    Prepared -> choose_metered -> Chosen -> meter_delivered -> Chosen

The prediction only proposes, as it does for latency. The network that was chosen runs on the device
while its power is read. While it draws too much, the predictions are corrected by that ratio, and
the search is repeated.
"""

from dataclasses import replace

from edgenas.basics.errors import EdgenasError
from edgenas.delivery.choosing import Chosen, choose
from edgenas.delivery.preparing import Prepared
from edgenas.profiling.energy import meter_network
from edgenas.strategies.constraint import Constraint

ATTEMPTS = 4  # searches and meterings before giving up


def choose_metered(prepared: Prepared) -> Chosen:
    """The network of ``choose``, and where energy is a budget of the device, one that keeps it.

    Raises:
        EdgenasError: as ``choose``, or no network that was metered keeps the budget.
    """
    budget = _find_budget(prepared)
    if budget is None:
        return choose(prepared)
    least: float | None = None
    for attempt in range(ATTEMPTS):
        try:
            chosen = choose(prepared)
        except EdgenasError:
            if least is None:
                raise
            break  # what was metered leaves no network within the budget
        metered = meter_delivered(prepared, chosen, attempt=attempt, must=False)
        assert metered.built.energy is not None
        joules = metered.built.energy.joules
        if joules <= budget.limit:
            return metered
        least = joules if least is None else min(least, joules)
        prepared = _correct(prepared, chosen, joules=joules)
    assert least is not None
    raise _broken(prepared, budget, joules=least)


def meter_delivered(
    prepared: Prepared, chosen: Chosen, *, attempt: int = 0, must: bool = True
) -> Chosen:
    """The chosen network with its energy, where energy is a budget of the device.

    Args:
        prepared: what is asked for.
        chosen: the network; one that was metered already is not metered again.
        attempt: how many were metered before.
        must: whether it must keep the budget.

    Raises:
        EdgenasError: it draws too much, or it cannot be metered.
    """
    budget, clock, built = _find_budget(prepared), prepared.latency.clock, chosen.built
    if budget is None or clock is None:
        return chosen
    if built.energy is None:
        prepared.progress("metering energy", attempt, ATTEMPTS, str(built.arch))
        energy = meter_network(built.onnx, built.arch, target=prepared.latency.target, clock=clock)
        prepared.progress("metering energy", ATTEMPTS, ATTEMPTS, str(built.arch))
        built = replace(built, energy=energy)
    assert built.energy is not None
    if must and built.energy.joules > budget.limit:
        raise _broken(prepared, budget, joules=built.energy.joules)
    return replace(chosen, built=built)


def _find_budget(prepared: Prepared) -> Constraint | None:
    """The tightest budget of energy on the device itself, where it can be metered."""
    latency = prepared.latency
    if latency.clock is None or latency.energy is None:
        return None
    own = [c for c in prepared.constraints if c.metric == "energy" and not c.target]
    return min(own, key=lambda c: c.limit, default=None)


def _correct(prepared: Prepared, chosen: Chosen, *, joules: float) -> Prepared:
    """Multiply predicted energies, so that the chosen network has the one that was metered."""
    latency = prepared.latency
    row = prepared.space.encode([chosen.built.arch])
    upper = float(latency.upper_energy(prepared.request.confidence)(row)[0])
    factor = latency.energy_factor * max(joules / upper, 1.001)
    return replace(prepared, latency=replace(latency, energy_factor=factor))


def _broken(prepared: Prepared, budget: Constraint, *, joules: float) -> EdgenasError:
    needed = budget.quantity(joules)
    return EdgenasError(
        f"no network metered within {budget.quantity(budget.limit)} on {prepared.latency.target}: "
        f"the closest drew {needed}",
        hint="allow a little more, or measure energies anew: edgenas profile --energy --fresh",
    )
