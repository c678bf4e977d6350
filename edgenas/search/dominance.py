"""Which vectors of costs dominate which: ranks, crowding, and the front. All costs are minimised.

One vector dominates another where it is nowhere above it and somewhere below it.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]
Vector = NDArray[np.float64]
Bits = NDArray[np.uint64]
_ROWS = 512  # compared at once where a front is looked for
_PEELED = 16  # fronts of two costs that are taken off one by one


def ranks(costs: Matrix, *, enough: int | None = None) -> Indices:
    """The rank of each vector: 0 for the front, 1 for the front of the rest, and so on.

    Two costs take O(n log n) (Jensen 2003, "Reducing the run-time complexity of multiobjective
    EAs", section III); more are compared by sets of bits, O(n^2 / 64) a front (Moreno, Rodriguez,
    Nebro, Lozano 2021, "Merge nondominated sorting algorithm for many-objective optimization",
    section III).

    Args:
        costs: shape (n, objectives).
        enough: once so many vectors are ranked, all others share the next rank.

    Returns:
        Shape (n,).
    """
    enough = len(costs) if enough is None else enough
    if costs.shape[1] == 2:
        return _ranks_of_two(costs, enough=enough)
    dominated = _dominated(costs)
    result, left, rank = np.zeros(len(costs), np.intp), np.arange(len(costs)), 0
    while len(left) and len(costs) - len(left) < enough:
        union = np.bitwise_or.reduce(dominated[left], axis=0)
        beaten = np.unpackbits(union.astype("<u8").view(np.uint8), bitorder="little")[left] > 0
        left, rank = left[beaten], rank + 1
        result[left] = rank
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
    orders = [np.lexsort((values, rank)) for values in costs.T]
    # Whatever they are ordered by within a rank, the ranks lie at the same places.
    among = rank[orders[0]]
    ends = np.flatnonzero(among[1:] != among[:-1])
    first, last = np.concatenate([[0], ends + 1]), np.concatenate([ends, [len(among) - 1]])
    sizes = last - first + 1
    for values, order in zip(costs.T, orders, strict=True):
        ordered = values[order]
        spans = ordered[last] - ordered[first]
        gaps = np.zeros(len(order))
        gaps[1:-1] = ordered[2:] - ordered[:-2]
        gaps /= np.repeat(np.where(spans > 0, spans, 1.0), sizes)
        gaps[first] = gaps[last] = np.inf
        total[order] += gaps
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


def _dominated(costs: Matrix) -> Bits:
    """Whom each vector dominates: bit j of row i, shape (n, words)."""
    n = len(costs)
    own: Bits = np.zeros((n, -(-n // 64)), np.uint64)
    own[np.arange(n), np.arange(n) // 64] = np.uint64(1) << np.arange(n, dtype=np.uint64) % 64
    nowhere_above: Bits = ~np.zeros_like(own)
    somewhere_below: Bits = np.zeros_like(own)
    behind: Bits = np.zeros((n + 1, own.shape[1]), np.uint64)
    for values in costs.T:
        order = values.argsort()
        ordered = values[order]
        # Row k: all from place k of the order on.
        behind[:n] = np.bitwise_or.accumulate(own[order[::-1]], axis=0)[::-1]
        nowhere_above &= behind[np.searchsorted(ordered, values)]
        somewhere_below |= behind[np.searchsorted(ordered, values, side="right")]
    return np.bitwise_and(nowhere_above, somewhere_below)


def _ranks_of_two(costs: Matrix, *, enough: int) -> Indices:
    first, second = costs.T
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    # Equals share their rank: only the first of them is looked at.
    new = np.ones(len(order), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    second = second[new]
    found, left = np.zeros(len(second), np.intp), np.arange(len(second))
    rank = 0
    while len(left) and len(second) - len(left) < enough and rank < _PEELED:
        # In this order, the front is all that is below everything before it.
        values = second[left]
        front = np.ones(len(left), bool)
        front[1:] = values[1:] < np.minimum.accumulate(values)[:-1]
        left, rank = left[~front], rank + 1
        found[left] = rank
    if len(second) - len(left) < enough:
        found[left] += _sorted_in(second[left])
    result = np.empty(len(order), np.intp)
    result[order] = found[np.cumsum(new) - 1]
    return result


def _sorted_in(second: Vector) -> Indices:
    """Ranks of vectors by their second costs, in the order of their first."""
    # Per rank its least second cost so far; the next rank's is never below it.
    least, found = list[float](), list[int]()
    for value in second.tolist():
        at = bisect_right(least, value)
        least[at : at + 1] = [value]
        found.append(at)
    return np.array(found, np.intp)
