"""Evolution with exhaustive neighbourhoods.

Evolution as in once-for-all (arXiv 1908.09791, section 3.4 and its released search code): the best
of a population are mutated and crossed, and children that break a limit are dropped before they
are scored. What is different: whole generations are matrices, no network is scored twice, and when
a population stops improving, the best networks climb to where no change of one or two genes
improves them; then it starts again from perturbed climbers until all evaluations are spent.
"""

from typing import Literal

import numpy as np

from edgenas.space.cost import Vector
from edgenas.space.genes import Codes, layout
from edgenas.space.space import Space
from edgenas.strategies.feasible import find_feasible, move_towards
from edgenas.strategies.neighbours import list_neighbours
from edgenas.strategies.problem import Account, Problem

_POPULATION = 256
_CHILDREN = 1024
_STALE = 4  # generations without a better best
_CLIMBERS = 2
_SHARED = 0.1  # part of the population that the resolutions share evenly
_MUTATION = 0.1  # probability of a gene to be drawn anew, as in once-for-all
_KICK = 0.15  # probability of a gene to be drawn anew at a new start


def evolve(problem: Problem) -> Account:
    """Search until the evaluations are spent or nothing new can be found.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng = np.random.default_rng(problem.seed)
    account = Account(problem)
    start = find_feasible(problem, rng)
    elite: Codes = start[:0]
    while account.left > 0:
        rows, scores = _crowd(account, rng, start=start, elite=elite)
        if not len(rows):
            break
        rows, scores = _generations(account, rng, rows=rows, scores=scores)
        tops = [
            _climb(account, rows[i : i + 1], float(scores[i])) for i in _apart(problem.space, rows)
        ]
        elite = np.concatenate([elite, *tops])
    return account


def _crowd(
    account: Account, rng: np.random.Generator, *, start: Codes, elite: Codes
) -> tuple[Codes, Vector]:
    """A first population, not yet scored rows, with their scores.

    At the start: samples, and samples drawn towards a network that keeps the limits. Later:
    children of the networks climbed to.
    """
    space, size = account.problem.space, _small(account, _CHILDREN)
    if len(elite):
        parents = elite[rng.integers(len(elite), size=(2, 4 * size))]
        crossed = space.crossover(parents[0], parents[1], rng=rng)
        rows = space.mutate(crossed, rng=rng, probability=_KICK)
        rows = account.fresh(rows, most=size, rng=rng)
    else:
        samples = np.concatenate(
            [space.sample(2 * size, rng=rng, by="gene"), space.sample(2 * size, rng=rng, by="arch")]
        )
        drawn = [move_towards(space, samples, start, rng=rng) for _ in range(2)]
        first = account.fresh(start)
        rows = account.fresh(np.concatenate([samples, *drawn]), most=size - 1, rng=rng)
        rows = np.concatenate([first, rows])[: account.left]
    return rows, account.score(rows, phase="sample")


def _generations(
    account: Account, rng: np.random.Generator, *, rows: Codes, scores: Vector
) -> tuple[Codes, Vector]:
    """Mutation and crossover until the best stops improving; the last population, best first."""
    space = account.problem.space
    population, children = _small(account, _POPULATION), _small(account, _CHILDREN)
    rows, scores = _best(space, rows, scores, count=population)
    # Enough is kept for climbing.
    stale, spare = 0, account.left // 3
    while account.left > spare and stale < _STALE and len(rows):
        best = scores[0]
        parent, first, second = (
            rows[rng.integers(len(rows), size=children)] for _ in ("mutated", "one", "other")
        )
        mutated = space.mutate(parent, rng=rng, probability=_MUTATION)
        crossed = space.crossover(first, second, rng=rng)
        fresh = account.fresh(np.concatenate([mutated, crossed]), most=children, rng=rng)
        new_scores = account.score(fresh, phase="evolve")
        rows, scores = np.concatenate([rows, fresh]), np.concatenate([scores, new_scores])
        rows, scores = _best(space, rows, scores, count=population)
        stale = 0 if scores[0] > best else stale + 1
    return rows, scores


def _climb(account: Account, row: Codes, score: float) -> Codes:
    """The end of the steepest ascent: by one gene as far as that goes, then by one and two."""
    genes: Literal[1, 2] = 1
    while account.left > 0:
        near = account.fresh(list_neighbours(account.problem.space, row, genes=genes))
        scores = account.score(near, phase="climb")
        if len(near) and scores.max() > score:
            row, score, genes = near[int(scores.argmax())][None], float(scores.max()), 1
        elif genes == 2:
            break
        else:
            genes = 2
    return row


def _best(space: Space, rows: Codes, scores: Vector, *, count: int) -> tuple[Codes, Vector]:
    """The best rows, best first; a few places are kept for the best of each resolution."""
    order = np.argsort(-scores, kind="stable")
    column = layout(space).resolution
    if column is not None:
        codes = rows[order, column]
        share = int(count * _SHARED / len(space.resolutions))
        kept = [np.flatnonzero(codes == 1 + i)[:share] for i in range(len(space.resolutions))]
        places = np.concatenate([*kept, np.arange(len(order))])
        _, first = np.unique(places, return_index=True)
        order = order[np.sort(places[np.sort(first)][:count])]
    order = order[:count]
    return rows[order], scores[order]


def _apart(space: Space, rows: Codes) -> list[int]:
    """Where to climb from: the best network of each of the best resolutions.

    No change of one or two genes leads from a good network of one resolution to one of another.
    """
    column = layout(space).resolution
    if column is None:
        return [0]
    _, first = np.unique(rows[:, column], return_index=True)
    return np.sort(first)[:_CLIMBERS].tolist()


def _small(account: Account, count: int) -> int:
    """A part of the count where few evaluations are allowed in all: a dozen generations fit."""
    return max(4, min(count, account.problem.evaluations // 12))
