"""How fast the machine was in each run of the clock.

Runs of the clock, minutes apart and all at full speed by their canaries, differ by a percent or
two for all units alike, on machines with neighbours and for large networks by five and more. Units
that were visited in several runs tell by how much, so it can be taken out.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from edgenas.clock.measure import Measurement

_ROUNDS = 10
_ENOUGH = 8  # visits from which on the level of a run is believed


def run_levels(visits: Sequence[tuple[str, int, float]]) -> dict[int, float]:
    """How many times longer than usual things took in each run.

    The logarithm of a visit's time is taken for the sum of its unit's and its run's; both are
    found in turns, from medians over visits and from means of the middle half of a run's (median
    polish: Tukey, "Exploratory Data Analysis", 1977, chapter 11).

    Args:
        visits: unit, run and seconds of each.

    Returns:
        By run: a factor, 1 for a usual run and for one that too few of the others' units were in.
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


def at_usual_level(found: Measurement, level: float) -> Measurement:
    """A measurement as a usual run would have made it; what users live with stays as it was."""
    return replace(
        found,
        median=found.median / level,
        p10=found.p10 / level,
        p90=found.p90 / level,
        samples=tuple(seconds / level for seconds in found.samples),
    )
