"""Engines that are built anew: how much builds of one network differ.

The builder of TensorRT chooses kernels by timing them, so two builds of one network differ by some
percent. A user builds an engine once, and has the times of that build. So some networks are built
several times, without a timing cache, as a user builds them; the spread of their times is told with
the table, and what is promised of a network has room for it.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgenas.basics.progress import Say
from edgenas.clock.board.statistics import quantile
from edgenas.clock.measure import Measurement
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.latency.bound import student_quantile
from edgenas.profiling.networks import BUILDS

if TYPE_CHECKING:
    from edgenas.latency.table import LatencyTable
    from edgenas.profiling.run import PlannedProfile
    from edgenas.profiling.work import Clock, Work

# Where nobody has built a network twice. No public number is known for TensorRT; this one is what
# repeated builds of small networks are assumed to differ by.
UNKNOWN_SPREAD, _UNKNOWN_DEGREES = 0.03, 4
# Two builds of a hundred may be slower than what is promised.
CONFIDENCE = 0.98
SECTION = "rebuilds"  # of a table's environment


@dataclass(frozen=True, slots=True)
class RebuildSpread:
    """By how much the times of builds of one network differ.

    Args:
        deviation: standard deviation, as a ratio.
        degrees: of freedom behind it.
        builds: how many builds it was seen on; 0: it is assumed.
    """

    deviation: float
    degrees: int
    builds: int

    def above(self, builds: int, *, confidence: float = CONFIDENCE) -> float:
        """By which factor a further build may exceed the mean of some.

        The one-sided prediction interval of one more value (Hahn & Meeker, "Statistical Intervals",
        1991, section 4.8), for logarithms of times.

        Args:
            builds: that the mean is of.
            confidence: that it does not exceed it.
        """
        quantile = student_quantile(confidence, self.degrees)
        return math.exp(quantile * self.deviation * math.sqrt(1 + 1 / builds))

    def join(self, seconds: Sequence[float]) -> "RebuildSpread":
        """The spread with further builds, of one network."""
        more = spread_of([seconds])
        if more is None:
            return self
        degrees = self.degrees + more.degrees
        squares = self.deviation**2 * self.degrees + more.deviation**2 * more.degrees
        return RebuildSpread(math.sqrt(squares / degrees), degrees, self.builds + more.builds)

    def __str__(self) -> str:
        if not self.builds:
            return f"builds of one network are assumed to differ by {self.deviation:.1%}"
        return f"builds of one network differ by {self.deviation:.1%} ({self.builds} builds)"


def spread_of(groups: Sequence[Sequence[float]]) -> RebuildSpread | None:
    """The pooled spread of groups of seconds, each of builds of one network; None: none has two."""
    several = [[math.log(seconds) for seconds in group] for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in several)
    if not degrees:
        return None
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in several)
    return RebuildSpread(math.sqrt(squares / degrees), degrees, sum(map(len, several)))


def mean_of_builds(builds: Sequence[Measurement]) -> Measurement:
    """The measurement of a network, from those of several builds of it.

    Its median is the geometric mean of theirs; its other numbers are of all their runs.
    """
    if len(builds) == 1:
        return builds[0]
    samples = [seconds for each in builds for seconds in each.samples]
    wall = [seconds for each in builds for seconds in each.wall_samples]
    worst = max(builds, key=lambda each: each.noisy)
    return replace(
        worst,
        median=math.exp(statistics.fmean(math.log(each.median) for each in builds)),
        p10=quantile(samples, 0.1),
        p90=quantile(samples, 0.9),
        n=len(samples),
        wall_p50=quantile(wall, 0.5),
        wall_p95=quantile(wall, 0.95),
        wall_n=len(wall),
        samples=tuple(samples),
        wall_samples=tuple(wall),
        canary=statistics.median(each.canary for each in builds),
    )


def spread_in(environment: Mapping[str, Any]) -> RebuildSpread:
    """The spread that a table keeps, or the assumed one."""
    kept = environment.get(SECTION)
    if not isinstance(kept, Mapping):
        return RebuildSpread(UNKNOWN_SPREAD, _UNKNOWN_DEGREES, 0)
    return RebuildSpread(float(kept["spread"]), int(kept["degrees"]), int(kept["builds"]))


def spread_to_json(spread: RebuildSpread) -> dict[str, Any]:
    """What a table keeps of it."""
    return {"spread": spread.deviation, "degrees": spread.degrees, "builds": spread.builds}


def spread_of_table(table: "LatencyTable") -> RebuildSpread:
    """The spread of the builds behind a table."""
    return spread_in(table.environment)


def build_anew(
    planned: "PlannedProfile", work: "Work", *, clock: "Clock", started: float, say: Say
) -> None:
    """Build some networks several times without a timing cache, while there is time."""
    if not isinstance(clock, TrtexecClock):
        return
    settings, budget = planned.settings, planned.time_budget
    work.select(planned.rebuilt, visits=BUILDS)
    while waiting := work.waiting():
        left = 0.0 if budget is None else budget - (time.monotonic() - started)
        if budget is not None and left <= settings.baseline_seconds:
            return
        limited = replace(settings, seconds=left)
        fresh = clock.built_afresh()
        if not work.measure(waiting, target=planned.target, settings=limited, clock=fresh):
            return
    spread = work.spread()
    if spread is not None:
        say(str(spread))
