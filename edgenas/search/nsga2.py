"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002, IEEE Trans. Evolutionary Computation 6(2)).

Parents and children compete together; what survives is chosen by non-dominated rank, and by
crowding distance where a rank does not fit whole (section III). Genes are codes, so crossover is
uniform and a mutated gene is drawn anew. Limits cost nothing here: a child that breaks one is
dropped before it is scored, and no network is scored twice.

Parents are alike: of some winners of tournaments, the one nearest to the first parent becomes the
second (Ishibuchi and Shibata 2003, "A similarity-based mating scheme for evolutionary
multiobjective optimization", section 3). Children of a small and a large network are neither, and
the ends of the front would be lost.
"""

from collections.abc import Sequence

import numpy as np

from edgenas.search.dominance import Indices, Matrix, crowding, ranks
from edgenas.search.feasible import first_population
from edgenas.search.problem import Costs, Ledger, Problem
from edgenas.space import Codes, Space

_SUITORS = 10  # winners of tournaments, of which the nearest becomes the second parent
_TAKEN = 0.1  # part of its genes that a child has from the second parent
_TRIES = 10  # matings of one generation, while too few children are new and keep the limits
_STALE = 10  # generations in a row that brought nothing new


def nsga2(
    problem: Problem, costs: Costs, *, population: int, ends: Sequence[Codes] = ()
) -> tuple[Codes, Matrix]:
    """Search until the evaluations are spent or nothing new can be found.

    Args:
        problem: its space, limits, evaluations and seed; what it maximises is not asked for.
        costs: canonical rows to what is minimised, shape (n, genes) -> (n, objectives).
        population: networks that survive a generation, and children in it.
        ends: rows to start with besides chance, shape (1, genes) each, such as exact optima of
            single objectives.

    Returns:
        Every row scored, shape (n, genes), and its costs, shape (n, objectives).

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng = np.random.default_rng(problem.seed)
    ledger = Ledger(problem.kept, problem.evaluations)
    rows = ledger.fresh(first_population(problem, rng, size=population, ends=ends), most=population)
    values = costs(rows)
    ledger.scored += len(rows)
    scored, found = [rows], [values]
    stale = 0
    order = survivors(values, most=population)
    rows, values = rows[order], values[order]
    while ledger.left > 0 and stale < _STALE and len(rows):
        count = min(population, ledger.left)
        children = _children(problem.space, ledger, rows, values, rng=rng, count=count)
        stale = 0 if len(children) else stale + 1
        if not len(children):
            continue
        scores = costs(children)
        ledger.scored += len(children)
        scored.append(children)
        found.append(scores)
        rows, values = np.concatenate([rows, children]), np.concatenate([values, scores])
        order = survivors(values, most=population)
        rows, values = rows[order], values[order]
    return np.concatenate(scored), np.concatenate(found)


def survivors(costs: Matrix, *, most: int) -> Indices:
    """The places of those that live on, the best first: by rank, then the least crowded.

    Args:
        costs: shape (n, objectives); vectors that are not finite do not live on.
        most: how many.
    """
    finite = np.flatnonzero(np.isfinite(costs).all(1))
    rank = ranks(costs[finite], enough=most)
    # Crowding is told of the ranks that live on, whole.
    if len(rank) > most:
        near = np.flatnonzero(rank <= np.partition(rank, most - 1)[most - 1])
        finite, rank = finite[near], rank[near]
    order = np.lexsort((-crowding(costs[finite], rank), rank))
    return finite[order[:most]]


def _children(
    space: Space,
    ledger: Ledger,
    rows: Codes,
    costs: Matrix,
    *,
    rng: np.random.Generator,
    count: int,
) -> Codes:
    """New rows that keep the limits, as many as asked for where so many are found."""
    found, made = list[Codes](), 0
    matings = count + 5 * count // 8  # a third of the children, about, is not new
    for _ in range(_TRIES):
        # The best come first: the winner of a binary tournament is the lower of two places.
        chance = rng.random((matings, 1 + _SUITORS), dtype=np.float32)
        lower = 1 - np.sqrt(1 - chance)  # of two numbers from 0 to 1
        winners = (len(rows) * lower).astype(np.intp)
        other = _nearest(costs, winners[:, 0], winners[:, 1:])
        children = _mated(space, rows[winners[:, 0]], rows[other], rng=rng)
        found.append(ledger.fresh(children, most=count))
        count -= len(found[-1])
        made += matings
        if not count:
            break
        share = sum(map(len, found)) / made  # of those made that were new and kept the limits
        matings = min(made, 1 + int(1.2 * count / max(share, 0.1)))
    return np.concatenate(found)


def _nearest(costs: Matrix, one: Indices, suitors: Indices) -> Indices:
    """The suitor of each with the most similar costs, ranges taken as equal, but not itself.

    Args:
        costs: of all, shape (n, objectives).
        one: places, shape (k,).
        suitors: places, shape (k, s).
    """
    apart = np.where(suitors == one[:, None], np.inf, 0.0)
    for values in costs.T:
        scaled = values / ((values.max() - values.min()) or 1.0)
        apart += (scaled[suitors] - scaled[one][:, None]) ** 2
    return suitors[np.arange(len(one)), apart.argmin(1)]


def _mated(space: Space, one: Codes, other: Codes, *, rng: np.random.Generator) -> Codes:
    """Uniform crossover, then one gene changed; blocks that appear are drawn anew."""
    counts = np.array([len(gene.values) for gene in space.genes])
    chance = np.frombuffer(rng.bytes(one.size), np.uint8).reshape(one.shape)
    taken = (chance < _TAKEN * 256) & (other != 0)
    children = np.where(taken | (one == 0), other, one)
    if len(counts):
        genes = rng.integers(len(counts), size=len(one))
        at = np.arange(len(one)), genes
        codes, choices = children[at], counts[genes]
        # As many steps further, and round: any other code, or any at all where there was none.
        steps = (rng.random(len(one)) * (choices - (codes != 0))).astype(np.intp)
        children[at] = 1 + (codes + steps) % choices
    return space.completed(children, rng=rng)
