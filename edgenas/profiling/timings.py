"""From the visits of the clock to a latency table: visits -> timings -> layers and networks."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgenas.clock.board.statistics import quantile
from edgenas.clock.measure import Measurement
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Timing
from edgenas.profiling.method import FEWER, MORE, describe_method
from edgenas.profiling.slopes import solve_slopes
from edgenas.profiling.units import Unit
from edgenas.runtime.contract import Method
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.space import Space


def combine_visits(visits: Sequence[Measurement]) -> Timing:
    """The timing of one unit: the median of its visits' medians, and all runs of its visits."""
    samples = [seconds for visit in visits for seconds in visit.samples]
    wall = [seconds for visit in visits for seconds in visit.wall_samples]
    noisy = any(visit.noisy for visit in visits)
    return Timing(
        median=statistics.median(visit.median for visit in visits),
        p10=quantile(wall if noisy else samples, 0.1),
        p90=quantile(wall if noisy else samples, 0.9),
        n=sum(visit.n for visit in visits),
        wall_p50=quantile(wall, 0.5),
        wall_p95=quantile(wall, 0.95),
        noisy=noisy,
    )


def subtract_copies(more: Timing, fewer: Timing) -> Timing:
    """The timing of one layer, from those of more and of fewer copies of it.

    Its spread is that of more copies, as a part of their median. A layer that takes no time beside
    its neighbours, or whose times are noise, gets its share of the larger graph, and is ``noisy``.
    """
    seconds = (more.seconds - fewer.seconds) / (MORE - FEWER)
    sound = seconds > 0
    seconds = seconds if sound else more.seconds / MORE
    share = seconds / more.seconds

    def scale(value: float | None) -> float | None:
        return None if value is None else value * share

    return Timing(
        median=seconds,
        p10=scale(more.p10),
        p90=scale(more.p90),
        n=min(more.n, fewer.n),
        wall_p50=scale(more.wall_p50),
        wall_p95=scale(more.wall_p95),
        noisy=more.noisy or fewer.noisy or not sound,
    )


def build_table(
    timings: Sequence[tuple[Unit, Timing]],
    space: Space,
    *,
    target: Target,
    method: Method,
    environment: Mapping[str, Any],
    date: str,
) -> LatencyTable:
    """The latency table of timed units.

    Args:
        timings: of the units.
        space: of the networks.
        target: what was timed.
        method: how layers were timed.
        environment: the machine, with the version of the runtime.
        date: of the latest visit.
    """
    layers = _layers_of(timings, space, method=method)
    if method == "slopes" and not layers:  # there was no time for them
        method = "networks"
    networks = tuple(
        MeasuredNetwork(space=space.filed_as, classes=space.classes, arch=unit.of, timing=timing)
        for unit, timing in timings
        if isinstance(unit.of, Arch)
    )
    return LatencyTable(
        target=target,
        provenance="measured",
        runtime_version=environment["runtime_version"],
        environment=environment,
        method=describe_method(method, space=space, target=target),
        date=date,
        layers=layers,
        networks=networks,
    )


def _layers_of(
    timings: Sequence[tuple[Unit, Timing]], space: Space, *, method: Method
) -> Mapping[Layer, Timing]:
    if method == "slopes":
        return solve_slopes(timings, space)
    alone = {u.of: t for u, t in timings if isinstance(u.of, Layer) and not u.copies}
    return _subtract_all(timings, alone=alone) if method == "copies" else alone


def _subtract_all(
    timings: Sequence[tuple[Unit, Timing]], *, alone: Mapping[Layer, Timing]
) -> dict[Layer, Timing]:
    """The layers of which both numbers of copies were timed."""
    pairs: dict[Layer, dict[int, Timing]] = {}
    for unit, timing in timings:
        if isinstance(unit.of, Layer) and unit.copies:
            pairs.setdefault(unit.of, {})[unit.copies] = timing
    return {
        layer: replace(
            subtract_copies(pair[MORE], pair[FEWER]),
            alone=alone[layer].seconds if layer in alone else None,
        )
        for layer, pair in pairs.items()
        if len(pair) == 2
    }
