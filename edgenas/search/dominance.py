"""Which vectors of costs dominate which: ranks, crowding, and the front. All costs are minimised.

One vector dominates another where it is nowhere above it and somewhere below it.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]
_ROWS = 512  # compared with all others at once


def ranks(costs: Matrix, *, enough: int | None = None) -> Indices:
    """The rank of each vector: 0 for the front, 1 for the front of the rest, and so on.

    Two costs take O(n log n) (Jensen 2003, "Reducing the run-time complexity of multiobjective
    EAs", section III); more take the fast non-dominated sort of NSGA-II (Deb et al. 2002, section
    III-A), as matrices.

    Args:
        costs: shape (n, objectives).
        enough: once so many vectors are ranked, all others share the next rank.

    Returns:
        Shape (n,).
    """
    if costs.shape[1] == 2:
        return _ranks_of_two(costs)
    dominates = np.empty((len(costs), len(costs)), bool)
    for start in range(0, len(costs), _ROWS):
        dominates[start : start + _ROWS] = _dominates(costs[start : start + _ROWS], costs)
    above = dominates.sum(0)
    result = np.full(len(costs), -1)
    rank, done = 0, 0
    while done < (len(costs) if enough is None else min(enough, len(costs))):
        front = np.flatnonzero(above == 0)
        result[front] = rank
        above -= dominates[front].sum(0)
        above[front] = -1
        rank, done = rank + 1, done + len(front)
    result[result < 0] = rank
    return result


def crowding(costs: Matrix, rank: Indices) -> NDArray[np.float64]:
    """The crowding distance of each vector within its rank (Deb et al. 2002, section III-B).

    The sum over objectives of the gap between its two neighbours, as a part of the rank's range;
    infinite at the ends.

    Args:
        costs: shape (n, objectives).
        rank: of each vector, shape (n,).

    Returns:
        Shape (n,).
    """
    total = np.zeros(len(costs))
    if not len(costs):
        return total
    for values in costs.T:
        order = np.lexsort((values, rank))
        ordered, among = values[order], rank[order]
        ends = np.flatnonzero(among[1:] != among[:-1])
        first = np.concatenate([[0], ends + 1])
        last = np.concatenate([ends, [len(order) - 1]])
        spans = ordered[last] - ordered[first]
        span = np.repeat(spans, last - first + 1)
        gap = np.zeros(len(order))
        gap[1:-1] = ordered[2:] - ordered[:-2]
        gap /= np.where(span > 0, span, 1.0)
        gap[first] = gap[last] = np.inf
        total[order] += gap
    return total


def front_of(costs: Matrix) -> Indices:
    """The places of the vectors that none dominates, ascending; of equal ones the first only.

    Args:
        costs: shape (n, objectives).
    """
    order = np.lexsort(costs.T[::-1])  # by the first objective, then the second ...
    ordered = costs[order]
    if costs.shape[1] == 2:
        before = np.minimum.accumulate(np.concatenate([[np.inf], ordered[:-1, 1]]))
        return np.sort(order[ordered[:, 1] < before])
    kept: Matrix = ordered[:0]
    places = list[Indices]()
    for start in range(0, len(order), _ROWS):
        # What comes later in this order dominates nothing that came before.
        part, at = ordered[start : start + _ROWS], order[start : start + _ROWS]
        for others in (kept, part):
            beaten = _dominates(others, part).any(0)
            part, at = part[~beaten], at[~beaten]
        repeated = np.zeros(len(part), bool)
        repeated[1:] = (part[1:] == part[:-1]).all(1)
        if len(kept):
            repeated |= (part[:, None] == kept[None]).all(2).any(1)
        kept = np.concatenate([kept, part[~repeated]])
        places.append(at[~repeated])
    return np.sort(np.concatenate(places)) if places else order


def _dominates(one: Matrix, other: Matrix) -> NDArray[np.bool_]:
    """Whether vector i of one dominates vector j of the other, shape (n, m)."""
    nowhere_above = np.ones((len(one), len(other)), bool)
    somewhere_below = np.zeros((len(one), len(other)), bool)
    for a, b in zip(one.T, other.T, strict=True):
        nowhere_above &= a[:, None] <= b[None]
        somewhere_below |= a[:, None] < b[None]
    return nowhere_above & somewhere_below


def _ranks_of_two(costs: Matrix) -> Indices:
    first, second = costs.T
    order = np.lexsort((second, first))
    result = np.empty(len(costs), np.intp)
    # Per rank its least second cost so far; the next rank's is never below it.
    least = list[float]()
    previous, at = (np.nan, np.nan), -1
    for place, pair in zip(order.tolist(), costs[order].tolist(), strict=True):
        a, b = pair
        if (a, b) != previous:  # equals share their rank
            at = bisect_right(least, b)
            least[at : at + 1] = [b]
            previous = (a, b)
        result[place] = at
    return result
