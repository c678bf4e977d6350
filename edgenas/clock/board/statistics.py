"""The statistics of repeated runs: quantiles, intervals of medians, speeds of processors."""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.settings import TimingSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_STORED_SAMPLES = 2000
# Full speed: the fastest readings within 15% of each other that are a tenth of all, or more.
_SPEED_BAND, _OFTEN = 1.15, 0.1


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation between order statistics, as numpy's default."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


@functools.lru_cache(maxsize=None)
def median_rank(n: int, confidence: float) -> int | None:
    """The largest k such that the k-th smallest and k-th largest of n enclose the median.

    Distribution-free: the number of samples below the median is Binomial(n, 1/2), so the interval
    of the order statistics k and n-1-k (from zero) misses it with probability 2 P(B <= k).

    Returns:
        k, or None where n is too small for any interval of that confidence.
    """
    missed, rank = 0.0, None
    for k in range((n + 1) // 2):
        missed += 2 * math.comb(n, k) / 2**n
        if missed > 1 - confidence:
            break
        rank = k
    return rank


def half_width(samples: Sequence[float], *, confidence: float) -> float:
    """Half the width of the median's interval as a part of the median; infinite if n is small."""
    rank = median_rank(len(samples), confidence)
    if rank is None:
        return math.inf
    ordered = sorted(samples)
    return (ordered[-1 - rank] - ordered[rank]) / 2 / quantile(ordered, 0.5)


@dataclass(frozen=True)
class Baseline:
    """The canary at full speed.

    Attributes:
        seconds: its typical time on each processor used, see `find_full_speed`.
        p50_ratio: its median over everything as a multiple of that, on the worst processor.
        p95_ratio: the same for the 95th percentile.
        quiet: part of the readings that would pass the gate on all processors.
    """

    seconds: tuple[float, ...]
    p50_ratio: float
    p95_ratio: float
    quiet: float


def find_full_speed(readings: Sequence[float]) -> float:
    """The typical reading of a processor at full speed.

    A shared machine has several speeds, a factor of 1.1 to 1.8 apart, while a canary at one of
    them varies by a tenth. So: the median of the fastest readings that lie close together and are
    no rarity. The very fastest may be a blip of turbo that does not last; a baseline of blips
    would let nothing pass.
    """
    ordered = sorted(readings)
    enough = max(1, int(_OFTEN * len(ordered)))
    for start, fastest in enumerate(ordered):
        end = bisect.bisect_right(ordered, _SPEED_BAND * fastest)
        if end - start >= enough:
            return quantile(ordered[start:end], 0.5)
    return quantile(ordered, 0.5)


def find_baseline(readings: Sequence[Sequence[float]], *, gate: float) -> Baseline:
    """The baseline from readings of shape (readings, processors)."""
    columns = [[row[i] for row in readings] for i in range(len(readings[0]))]
    seconds = tuple(find_full_speed(column) for column in columns)
    passing = sum(worst_ratio(row, seconds) <= gate for row in readings)
    return Baseline(
        seconds=seconds,
        p50_ratio=max(quantile(c, 0.5) / seconds[i] for i, c in enumerate(columns)),
        p95_ratio=max(quantile(c, 0.95) / seconds[i] for i, c in enumerate(columns)),
        quiet=passing / len(readings),
    )


def worst_ratio(reading: Sequence[float], baseline: Sequence[float]) -> float:
    """How many times slower than its baseline the slowest processor is."""
    return max(value / baseline[i] for i, value in enumerate(reading))


class Samples:
    """Nanoseconds of runs, thinned evenly over the time observed once they are many."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._n, self._stride = 0, 1

    def extend(self, batch: Sequence[int]) -> None:
        """Add the runs of a batch."""
        for value in batch:
            if self._n % self._stride == 0:
                self.values.append(value)
            self._n += 1
        if len(self.values) > _STORED_SAMPLES:
            self.values = self.values[::2]
            self._stride *= 2


def summarize(
    gated: Sequence[int], wall: Sequence[int], *, settings: TimingSettings
) -> dict[str, Any]:
    """The statistics of one unit, in seconds, from the nanoseconds of its runs.

    ``flag`` is empty for a sound result. It is ``wide`` when the interval of the median stayed
    above the tolerance, ``few`` when there were too few gated runs, and ``noisy`` when there were
    hardly any. A noisy median is the 5th percentile of all runs; p10 and p90 are of
    all runs too.

    Args:
        gated: runs at the full speed of the machine.
        wall: all runs.
        settings: tolerance, confidence and the fewest runs.
    """
    assert wall
    n, width = len(gated), half_width(gated, confidence=settings.confidence)
    flag = ""
    if math.isinf(width):
        flag = "noisy"
    elif n < settings.min_samples:
        flag = "few"
    elif width > settings.tolerance:
        flag = "wide"
    source = wall if flag == "noisy" else gated
    return {
        "median": quantile(source, 0.05 if flag == "noisy" else 0.5) * 1e-9,
        "p10": quantile(source, 0.1) * 1e-9,
        "p90": quantile(source, 0.9) * 1e-9,
        "n": n,
        "half_width": None if math.isinf(width) else width,
        "wall_p50": quantile(wall, 0.5) * 1e-9,
        "wall_p95": quantile(wall, 0.95) * 1e-9,
        "wall_n": len(wall),
        "flag": flag,
    }
