"""How fast the machine was in each run of the clock.

Runs of the clock are minutes apart, and all are at full speed by their canaries. Still they differ
by a percent or two, for all units by the same factor; on machines with neighbours and for large
networks by five and more. Units that were visited in several runs show this factor, so it can be
removed.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from edgenas.clock.measure import Measurement

_ROUNDS = 10
_ENOUGH = 8  # visits that a run needs before its level counts


def estimate_run_levels(visits: Sequence[tuple[str, int, float]]) -> dict[int, float]:
    """Estimate how many times longer than usual the units took in each run.

    The logarithm of a visit's time is modelled as a number of its unit plus a number of its run.
    Both are estimated in turns: a unit's from the median of its visits, a run's from the mean of
    the middle half of its visits (median polish: Tukey, "Exploratory Data Analysis", 1977, chapter
    11).

    Args:
        visits: unit, run and seconds of each.

    Returns:
        A factor for each run. It is 1 for a usual run, and for a run that shares too few units with
        others.
    """
    runs_of: dict[str, set[int]] = {}
    for unit, run, _ in visits:
        runs_of.setdefault(unit, set()).add(run)
    linked = [(u, r, math.log(seconds)) for u, r, seconds in visits if len(runs_of[u]) > 1]
    levels = dict.fromkeys((run for _, run, _ in visits), 0.0)
    for _ in range(_ROUNDS):
        times: dict[str, list[float]] = {}
        for unit, run, log in linked:
            times.setdefault(unit, []).append(log - levels[run])
        usual = {unit: statistics.median(logs) for unit, logs in times.items()}
        off: dict[int, list[float]] = {}
        for unit, run, log in linked:
            off.setdefault(run, []).append(log - usual[unit])
        levels |= {run: _middle(some) for run, some in off.items() if len(some) >= _ENOUGH}
    centre = statistics.median(levels[run] for _, run, _ in visits) if visits else 0.0
    return {run: math.exp(level - centre) if level else 1.0 for run, level in levels.items()}


def _middle(values: list[float]) -> float:
    """The mean of the middle half."""
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def scale_to_usual(measurement: Measurement, level: float) -> Measurement:
    """Scale the measurement of a run to a usual run. The times that users see stay unscaled."""
    return replace(
        measurement,
        median=measurement.median / level,
        p10=measurement.p10 / level,
        p90=measurement.p90 / level,
        samples=tuple(seconds / level for seconds in measurement.samples),
    )
