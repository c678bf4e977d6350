"""Evolution with exhaustive neighbourhoods.

Evolution as in once-for-all (arXiv 1908.09791, section 3.4 and its released search code): the best
of a population are mutated and crossed, and children that break a limit are dropped before they
are scored. What is different: whole generations are matrices, no network is scored twice, and when
a population stops improving, the best networks climb to where no change of one or two genes
improves them; then it starts again from perturbed climbers until all evaluations are spent.
"""

import numpy as np

from edgenas.cost import Vector
from edgenas.search.feasible import anchor
from edgenas.search.neighbours import neighbours
from edgenas.search.problem import Account, Problem
from edgenas.space import Codes, Space

KICK = 0.15
_POPULATION = 256
_CHILDREN = 1024
_STALE = 4  # generations without a better best
_CLIMBERS = 2


def evolve(problem: Problem) -> Account:
    """Search until the evaluations are spent or nothing new can be found.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng = np.random.default_rng(problem.seed)
    account = Account(problem)
    start = anchor(problem, rng)
    elite: Codes = start[:0]
    while account.left > 0:
        before = account.scored
        rows, scores = _crowd(account, rng, start=start, elite=elite)
        rows, scores = _generations(account, rng, rows=rows, scores=scores)
        tops = [_climb(account, rows[i : i + 1], float(scores[i])) for i in _apart(rows, _CLIMBERS)]
        elite = np.concatenate([elite, *tops])
        assert account.best is not None
        if account.scored == before:
            break
    return account


def _crowd(
    account: Account, rng: np.random.Generator, *, start: Codes, elite: Codes
) -> tuple[Codes, Vector]:
    """A first population: samples drawn towards a network that keeps the limits."""
    space, size = account.problem.space, _small(account, _CHILDREN)
    samples = np.concatenate([space.sample(2 * size, rng=rng, by=by) for by in ("gene", "arch")])
    drawn = [samples, *(_towards(space, samples, start, rng=rng) for _ in range(2))]
    if len(elite):
        parents = elite[rng.integers(len(elite), size=(2, 4 * size))]
        crossed = space.crossover(*parents, rng=rng)
        drawn = [space.mutate(crossed, rng=rng, probability=KICK)]
    rows = account.fresh(np.concatenate([start, *drawn]))
    rows = rows[np.sort(rng.permutation(len(rows))[:size])]
    if not account.scored and not (rows == start).all(1).any():
        rows = np.concatenate([start, rows[: size - 1]])
    scores = account.score(rows, phase="sample")
    return rows, scores


def _generations(
    account: Account, rng: np.random.Generator, *, rows: Codes, scores: Vector
) -> tuple[Codes, Vector]:
    """Mutation and crossover until the best stops improving; the last population, best first."""
    space = account.problem.space
    population, children = _small(account, _POPULATION), _small(account, _CHILDREN)
    rows, scores = _best(rows, scores, population)
    stale = 0
    while account.left > 0 and stale < _STALE and len(rows):
        best = scores[0]
        first, second = (rows[rng.integers(len(rows), size=2 * children)] for _ in range(2))
        half = children
        mutated = space.mutate(first[:half], rng=rng, probability=0.1)
        crossed = space.crossover(first[half:], second[half:], rng=rng)
        fresh = account.fresh(np.concatenate([mutated, crossed]))
        fresh = fresh[np.sort(rng.permutation(len(fresh))[:children])]
        found = account.score(fresh, phase="evolve")
        rows, scores = _best(
            np.concatenate([rows, fresh]), np.concatenate([scores, found]), population
        )
        stale = 0 if scores[0] > best else stale + 1
    return rows, scores


def _climb(account: Account, row: Codes, score: float) -> Codes:
    """The end of the steepest ascent by one and two genes."""
    while account.left > 0:
        near = account.fresh(neighbours(account.problem.space, row))
        scores = account.score(near, phase="climb")
        if not len(near) or not scores.max() > score:
            break
        row, score = near[int(scores.argmax())][None], float(scores.max())
    return row


def _towards(space: Space, rows: Codes, goal: Codes, *, rng: np.random.Generator) -> Codes:
    """Rows with a random part of their genes, another part in each row, taken from the goal."""
    take = rng.random(rows.shape) < rng.random((len(rows), 1))
    take = (take & (goal != 0)) | (rows == 0)
    return space.canonical(np.where(take, goal, rows))


def _best(rows: Codes, scores: Vector, count: int) -> tuple[Codes, Vector]:
    order = np.argsort(-scores, kind="stable")[:count]
    return rows[order], scores[order]


def _apart(rows: Codes, count: int) -> list[int]:
    """The first row, and further ones that differ from those taken in three genes or more."""
    taken: list[int] = []
    for i in range(len(rows)):
        if all(int((rows[i] != rows[j]).sum()) > 2 for j in taken):
            taken.append(i)
        if len(taken) == count:
            break
    return taken


def _small(account: Account, count: int) -> int:
    """A part of the count where few evaluations are allowed in all: a dozen generations fit."""
    return max(4, min(count, account.problem.evaluations // 12))
