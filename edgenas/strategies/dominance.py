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


def sort_into_fronts(costs: Matrix, *, enough: int | None = None) -> tuple[Indices, Indices]:
    """All vectors, front by front: those that none dominates, then the front of the rest ...

    Two costs take O(n log n) (Jensen 2003, "Reducing the run-time complexity of multiobjective
    EAs", section III); more are compared by sets of bits, O(n^2 / 64) a front (Moreno, Rodriguez,
    Nebro, Lozano 2021, "Merge nondominated sorting algorithm for many-objective optimization",
    section III).

    Args:
        costs: shape (n, objectives).
        enough: once so many vectors are in fronts, all others share the next rank.

    Returns:
        The places of the vectors, shape (n,): by rank, within a rank by the first cost, then the
        second ...; and their ranks, in that order, shape (n,): 0 for the first front, 1, 2 ...
    """
    enough = len(costs) if enough is None else enough
    order = _ascending(costs)
    ordered = costs.take(order, 0)
    rank = (_ranks_of_two if costs.shape[1] == 2 else _ranks_of_many)(ordered, enough=enough)
    # Small numbers are counted, not compared.
    by_rank = rank.astype(np.min_scalar_type(len(rank))).argsort(kind="stable")
    return order[by_rank], rank[by_rank]


def measure_crowding(costs: Matrix, rank: Indices) -> Vector:
    """The crowding distance of each vector within its rank (Deb et al. 2002, section III-B).

    The sum over objectives of the gap between its two neighbours, as a part of the rank's range;
    infinite at the ends.

    Args:
        costs: shape (n, objectives), in the order that ``sort_into_fronts`` gives.
        rank: of each vector, shape (n,), in that order.

    Returns:
        Shape (n,).
    """
    total = np.zeros(len(costs))
    if not len(costs):
        return total
    ends = np.flatnonzero(rank[1:] != rank[:-1])
    first, last = np.concatenate([[0], ends + 1]), np.concatenate([ends, [len(rank) - 1]])
    sizes = last - first + 1
    for values in costs.T:
        # Of two costs, the second of a front descends where the first ascends.
        order = slice(None) if costs.shape[1] == 2 else np.lexsort((values, rank))
        ordered = values[order]
        spans = abs(ordered[last] - ordered[first])
        gaps = np.full(len(costs), np.inf)
        gaps[1:-1] = abs(ordered[2:] - ordered[:-2])
        gaps[first] = gaps[last] = np.inf
        total[order] += gaps / np.repeat(np.where(spans > 0, spans, 1.0), sizes)
    return total


def find_front(costs: Matrix) -> Indices:
    """The places of the vectors that none dominates, ascending; of equal ones the first only.

    Args:
        costs: shape (n, objectives).
    """
    order = _ascending(costs)
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


def _ascending(costs: Matrix) -> Indices:
    """The places of vectors, by their first costs, then their second ..."""
    if costs.shape[1] != 2:
        return np.lexsort(costs.T[::-1])
    # Complex numbers are ordered just so, and sorted once instead of twice.
    return np.ascontiguousarray(costs).view(np.complex128)[:, 0].argsort(kind="stable")


def _ranks_of_two(ordered: Matrix, *, enough: int) -> Indices:
    """The ranks of vectors that ascend."""
    first, second = ordered.T
    # Equals share their rank: only the first of them is looked at.
    new = np.ones(len(ordered), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    values = second[new]
    found, left = np.zeros(len(values), np.intp), np.arange(len(values))
    rank = 0
    while len(left) and len(found) - len(left) < enough and rank < _PEELED:
        # In this order, the front is all that is below everything before it.
        beaten = values[1:] >= np.minimum.accumulate(values)[:-1]
        left, values, rank = left[1:][beaten], values[1:][beaten], rank + 1
        found[left] = rank
    if len(found) - len(left) < enough:
        found[left] += _sorted_in(values)
    return found[np.cumsum(new) - 1]


def _ranks_of_many(costs: Matrix, *, enough: int) -> Indices:
    """The ranks of vectors in any order."""
    dominated = _dominated(costs)
    result, left, rank = np.zeros(len(costs), np.intp), np.arange(len(costs)), 0
    while len(left) and len(costs) - len(left) < enough:
        union = np.bitwise_or.reduce(dominated[left], axis=0)
        beaten = np.unpackbits(union.astype("<u8").view(np.uint8), bitorder="little")[left] > 0
        left, rank = left[beaten], rank + 1
        result[left] = rank
    return result


def _sorted_in(second: Vector) -> Indices:
    """Ranks of vectors by their second costs, in the order of their first."""
    # Per rank its least second cost so far; the next rank's is never below it.
    least, ranks = list[float](), list[int]()
    for value in second.tolist():
        at = bisect_right(least, value)
        least[at : at + 1] = [value]
        ranks.append(at)
    return np.array(ranks, np.intp)
