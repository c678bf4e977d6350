"""A budget of energy is kept by what the delivered network itself draws, where that can be metered.

    Prepared -> choose_metered -> Chosen -> meter_delivered -> Chosen

The prediction only proposes, as it does for latency. The network that was chosen runs on the device
while its power is read. While it draws too much, the predictions are corrected by that ratio, and
the search is repeated.
"""

from dataclasses import replace

from edgenas.basics.errors import EdgenasError
from edgenas.clock.energy import MeasuredEnergy
from edgenas.delivery.choosing import Chosen, choose
from edgenas.delivery.preparing import Prepared
from edgenas.profiling.energy import meter_network
from edgenas.profiling.work import Clock
from edgenas.strategies.constraint import Constraint

ATTEMPTS = 4  # searches and meterings before giving up


def choose_metered(prepared: Prepared) -> Chosen:
    """The network of ``choose``, and where energy is a budget of the device, one that keeps it.

    Raises:
        EdgenasError: as ``choose``, or no network that was metered keeps the budget.
    """
    budget, clock = _find_budget(prepared), prepared.latency.clock
    if budget is None or clock is None:
        return choose(prepared)
    drawn: list[float] = []
    while len(drawn) < ATTEMPTS:
        try:
            chosen = choose(prepared)
        except EdgenasError:
            if not drawn:
                raise
            break  # what was metered leaves no network within the budget
        energy = _meter(prepared, chosen, clock=clock, attempt=len(drawn))
        if energy.joules <= budget.limit:
            return replace(chosen, built=replace(chosen.built, energy=energy))
        drawn.append(energy.joules)
        prepared = _correct(prepared, chosen, joules=energy.joules)
    raise _broken(prepared, budget, joules=min(drawn))


def meter_delivered(prepared: Prepared, chosen: Chosen) -> Chosen:
    """The network that ships with its energy, where energy is a budget of the device.

    Args:
        prepared: what is asked for.
        chosen: the network; one that was metered already is not metered again.

    Raises:
        EdgenasError: it draws too much, or it cannot be metered.
    """
    budget, clock = _find_budget(prepared), prepared.latency.clock
    if budget is None or clock is None or chosen.built.energy is not None:
        return chosen
    energy = _meter(prepared, chosen, clock=clock, attempt=0)
    if energy.joules > budget.limit:
        raise _broken(prepared, budget, joules=energy.joules)
    return replace(chosen, built=replace(chosen.built, energy=energy))


def _meter(prepared: Prepared, chosen: Chosen, *, clock: Clock, attempt: int) -> MeasuredEnergy:
    built = chosen.built
    prepared.progress("metering energy", attempt, ATTEMPTS, str(built.arch))
    energy = meter_network(built.onnx, built.arch, target=prepared.latency.target, clock=clock)
    prepared.progress("metering energy", ATTEMPTS, ATTEMPTS, str(built.arch))
    return energy


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
