"""Survival by hypervolume: what a front would lose without a network decides who lives on.

The hypervolume of a front is the part of a box that its networks dominate (Zitzler and Thiele 1998,
"Multiobjective optimization using evolutionary algorithms"). As in SMS-EMOA, a rank that does not
fit whole loses, one by one, the network that adds least to it (Beume, Naujoks, Emmerich 2007,
European J. Operational Research 181, section 3). With two costs these contributions are exact. With
more they are estimated on random points of the box, as HypE does (Bader and Zitzler 2011,
Evolutionary Computation 19, section 3): a point that k networks dominate counts for each of them
by the chance that the others go too.
"""

import numpy as np
from numpy.typing import NDArray

from edgenas.strategies.dominance import Indices, Matrix, Vector, sort_into_fronts
from edgenas.strategies.nsga2 import Select

_MARGIN = 1.1  # the reference point, in ranges of the front: its ends add something too
_POINTS = 8192  # of the box
_SHARED = 4  # networks that may share a point that still counts


def hypervolume_selection(seed: int) -> Select:
    """Make the selection of a search: costs to the places of those that live on, the best first.

    Args:
        seed: of the points on which contributions to more than two costs are estimated.
    """
    rng = np.random.default_rng(seed)

    def select(costs: Matrix, *, most: int) -> Indices:
        return select_by_hypervolume(costs, most=most, rng=rng)

    return select


def select_by_hypervolume(costs: Matrix, *, most: int, rng: np.random.Generator) -> Indices:
    """The places of those that live on: by rank, then by what they add to the hypervolume.

    Args:
        costs: finite, shape (n, objectives).
        most: how many.
        rng: draws the points of estimates.
    """
    order, rank = sort_into_fronts(costs, enough=most)
    kept: list[Indices] = []
    room = min(most, len(order))
    for start, end in _runs(rank):
        if not room:
            break
        # Ranks are in the order of the first cost, then the second.
        places = order[start:end]
        kept.append(places[trim(costs[places], most=room, rng=rng)])
        room -= len(kept[-1])
    return np.concatenate(kept) if kept else order


def trim(costs: Matrix, *, most: int, rng: np.random.Generator) -> Indices:
    """The places of a front without those that add least, one after the other; the largest first.

    The least of each cost is never taken away.

    Args:
        costs: undominated, in the order of the first cost, shape (n, objectives).
        most: how many are left.
        rng: draws the points of estimates.
    """
    low, ranges = costs.min(0), np.ptp(costs, axis=0)
    scaled = (costs - low) / np.where(ranges > 0, ranges, 1.0)
    ends = np.unique(scaled.argmin(0))
    if costs.shape[1] == 2:
        return _trim_two(scaled, most=most, ends=ends)
    return _trim_many(scaled, most=most, ends=ends, rng=rng)


def contributions_of_two(costs: Matrix) -> Vector:
    """The area that each point of a front alone dominates, below ``_MARGIN`` in both costs.

    Args:
        costs: undominated, of a range of 1, the first cost ascending, shape (n, 2).
    """
    right = np.append(costs[1:, 0], _MARGIN)
    above = np.concatenate([[_MARGIN], costs[:-1, 1]])
    return (right - costs[:, 0]) * (above - costs[:, 1])


def _trim_two(costs: Matrix, *, most: int, ends: Indices) -> Indices:
    left = np.arange(len(costs))
    adds = contributions_of_two(costs)
    adds[ends] = np.inf
    while len(left) > most:
        at = int(adds.argmin())
        left, adds = np.delete(left, at), np.delete(adds, at)
        # Only the two neighbours have gained.
        near = np.arange(max(0, at - 2), min(len(left), at + 2))
        gained = contributions_of_two(costs[left[near]])
        for place in (at - 1, at):
            if 0 < place < len(left) - 1 and left[place] not in ends:
                adds[place] = gained[place - near[0]]
    return left[np.argsort(-adds, kind="stable")]


def _trim_many(costs: Matrix, *, most: int, ends: Indices, rng: np.random.Generator) -> Indices:
    points = rng.random((_POINTS, costs.shape[1]), dtype=np.float32) * _MARGIN
    dominates = np.ones((len(costs), _POINTS), bool)
    for own, there in zip(costs.T.astype(np.float32), points.T, strict=True):
        dominates &= own[:, None] <= there[None]
    shared = dominates.sum(0)
    weights = _weights(len(costs), len(costs) - most)
    # A touch of chance decides between those that no point tells apart.
    adds = dominates.astype(np.float32) @ weights[np.minimum(shared, _SHARED + 1)]
    adds += 1e-3 * weights[_SHARED] * rng.random(len(costs), dtype=np.float32)
    adds[ends] = np.inf
    gone = np.zeros(len(costs), bool)
    for _ in range(len(costs) - most):
        at = int(np.where(gone, np.inf, adds).argmin())
        if not np.isfinite(adds[at]):  # more ends than room: the first of them stay
            at = int(ends[~gone[ends]][-1])
        gone[at] = True
        hit = np.flatnonzero(dominates[at])
        before = shared[hit]
        shared[hit] = before - 1
        hit, before = hit[before <= _SHARED + 1], before[before <= _SHARED + 1]
        adds += dominates[:, hit].astype(np.float32) @ (weights[before - 1] - weights[before])
    left = np.flatnonzero(~gone)
    return left[np.argsort(-adds[left], kind="stable")]


def _weights(count: int, leave: int) -> NDArray[np.float32]:
    """What a point adds to each of k networks that dominate it, k from 0; many add nothing.

    The chance that the k - 1 others are among those that leave, shared by k (HypE, equation 7).
    """
    weights = np.zeros(_SHARED + 2, np.float32)
    chance = 1.0
    for k in range(1, _SHARED + 1):
        weights[k] = chance / k
        chance *= max(leave - k, 0.5) / max(count - k, 1)
    return weights


def _runs(rank: Indices) -> list[tuple[int, int]]:
    """Where each rank starts and ends, of ranks in their order."""
    starts = np.flatnonzero(np.diff(rank, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(rank)], strict=True))
