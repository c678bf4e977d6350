"""From what was measured or estimated to a latency predictor."""

from collections.abc import Mapping

from numpy.typing import ArrayLike

from edgenas.basics.errors import EdgenasError
from edgenas.latency.device import Target
from edgenas.latency.learned import learn_costs
from edgenas.latency.line import add_bound, identity_line
from edgenas.latency.predictor import (
    EstimatedPredictor,
    LearnedPredictor,
    LinePredictor,
    Measurements,
    Networks,
    SumPredictor,
    divide_measurements,
)
from edgenas.latency.source import EstimatedSource, LatencySource
from edgenas.latency.table import LatencyTable, Statistic
from edgenas.space.cost import Tables
from edgenas.space.space import Space


def learn_predictor(
    space: Space,
    networks: Networks,
    seconds: ArrayLike,
    *,
    spared: Measurements | None = None,
    priors: Mapping[str, Tables] | None = None,
    target: Target | None = None,
) -> LearnedPredictor:
    """Learn a latency predictor from measured networks alone.

    Args:
        space: of the networks.
        networks: n of them.
        seconds: measured, shape (n,), above zero.
        spared: further networks and their seconds, see ``SumPredictor.fit``.
        priors: latencies of other devices, see `edgenas.latency.learned.learn_costs`.
        target: what the latencies belong to.

    Raises:
        EdgenasError: there is nothing to fit to, or some times are not above zero.
    """
    rows, times, others = divide_measurements(space, networks, seconds, spared=spared)
    costs = learn_costs(space, rows, seconds=times, priors=priors)
    line = identity_line(costs.left_out, times)
    if len(others[0]):
        line = add_bound(line, costs.sums(others[0]), others[1])
    base = SumPredictor(space=space, sums=costs.sums, target=target, provenance="measured")
    return LearnedPredictor(base=base, sums=costs.sums, line=line, rates=costs.rates)


def build_predictor(
    space: Space, source: LatencySource, *, statistic: Statistic = "typical"
) -> SumPredictor | LinePredictor:
    """The predictor of a table or a device model; a table's own measured networks give a line.

    Args:
        space: of the networks; a predictor serves narrower ones too, see ``on``.
        source: times of layers, measured, published or estimated.
        statistic: of the measured networks: the typical time, or ``wall_p50`` or ``wall_p95``, what
            a user lives with while the machine does other things as well.

    Raises:
        EdgenasError: layers of the space are missing in the table, or no network of it was
            measured with this statistic.
    """
    predictor = sum_layers(space, source)
    networks = (
        source.network_sums(space, statistic=statistic) if isinstance(source, LatencyTable) else []
    )
    if networks:
        return predictor.fit(
            [network.arch for network, _, _ in networks], [s for _, _, s in networks]
        )
    if statistic != "typical":
        raise EdgenasError(
            f"{statistic} needs measured networks of space {space.name}, the latencies of "
            f"{source.target} have none",
            hint=f"edgenas profile --device {source.target.device} --space {space.name}",
        )
    return predictor


def sum_layers(space: Space, source: LatencySource) -> SumPredictor:
    """The predictor that adds up the layers of a table or a device model.

    Raises:
        EdgenasError: layers of the space are missing in the table.
    """
    sums, target, provenance = source.compile(space), source.target, source.provenance
    if isinstance(source, EstimatedSource):
        return EstimatedPredictor(
            space=space, sums=sums, target=target, provenance=provenance, source=source
        )
    alone = source.compile_alone(space) if isinstance(source, LatencyTable) else None
    return SumPredictor(space=space, sums=sums, target=target, provenance=provenance, alone=alone)
