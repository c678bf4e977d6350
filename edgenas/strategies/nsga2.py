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
from typing import Protocol

import numpy as np

from edgenas.space.genes import Codes, Rules, rules
from edgenas.strategies.dominance import Indices, Matrix, measure_crowding, sort_into_fronts
from edgenas.strategies.feasible import first_population
from edgenas.strategies.problem import Costs, Ledger, Problem

_SUITORS = 10  # winners of tournaments, of which the nearest becomes the second parent
_TAKEN = 26  # of 256 genes, that a child has from the second parent
_TRIES = 10  # matings of one generation, while too few children are new and keep the limits
_STALE = 10  # generations in a row that brought nothing new


class Select(Protocol):
    """Who lives on."""

    def __call__(self, costs: Matrix, *, most: int) -> Indices:
        """Costs, shape (n, objectives), to at most so many places, the best first."""
        ...


def nsga2(
    problem: Problem,
    costs: Costs,
    *,
    population: int,
    ends: Sequence[Codes] = (),
    select: Select | None = None,
) -> tuple[Codes, Matrix]:
    """Search until the evaluations are spent or nothing new can be found.

    Args:
        problem: its space, limits, evaluations and seed; what it maximises is not asked for.
        costs: canonical rows to what is minimised, shape (n, genes) -> (n, objectives).
        population: networks that survive a generation, and children in it.
        ends: rows to start with besides chance, shape (1, genes) each, such as exact optima of
            single objectives.
        select: who lives on, as ``select_survivors``, which is also the default.

    Returns:
        Every row scored, shape (n, genes), and its costs, shape (n, objectives).

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng, genes = np.random.default_rng(problem.seed), rules(problem.space)
    select = select or select_survivors
    ledger = Ledger(problem.kept, problem.evaluations)
    rows = ledger.fresh(first_population(problem, rng, size=population, ends=ends), most=population)
    values = costs(rows)
    ledger.scored += len(rows)
    scored, all_values = [rows], [values]
    stale = 0
    rows, values = _best(rows, values, most=population, select=select)
    while ledger.left > 0 and stale < _STALE and len(rows):
        count = min(population, ledger.left)
        children = _children(genes, ledger, rows, values, rng=rng, count=count)
        stale = 0 if len(children) else stale + 1
        if not len(children):
            continue
        scores = costs(children)
        ledger.scored += len(children)
        scored.append(children)
        all_values.append(scores)
        rows, values = np.concatenate([rows, children]), np.concatenate([values, scores])
        rows, values = _best(rows, values, most=population, select=select)
    return np.concatenate(scored), np.concatenate(all_values)


def select_survivors(costs: Matrix, *, most: int) -> Indices:
    """The places of those that live on, the best first: by rank, then the least crowded.

    Args:
        costs: finite, shape (n, objectives).
        most: how many.
    """
    order, rank = sort_into_fronts(costs, enough=most)
    if len(rank) > most:
        whole = int(np.searchsorted(rank, int(rank[most - 1]), side="right"))  # ranks that live on
        order, rank = order[:whole], rank[:whole]
    best = np.lexsort((-measure_crowding(costs.take(order, 0), rank), rank))
    return order[best[:most]]


def _best(rows: Codes, costs: Matrix, *, most: int, select: Select) -> tuple[Codes, Matrix]:
    """The survivors and their costs; what has no finite costs does not live on."""
    if not np.isfinite(costs).all():
        finite = np.isfinite(costs).all(1)
        rows, costs = rows[finite], costs[finite]
    order = select(costs, most=most)
    return rows.take(order, 0), costs.take(order, 0)


def _children(
    genes: Rules,
    ledger: Ledger,
    rows: Codes,
    costs: Matrix,
    *,
    rng: np.random.Generator,
    count: int,
) -> Codes:
    """New rows that keep the limits, as many as asked for where so many are found."""
    parts, made = list[Codes](), 0
    matings = count + 3 * count // 8  # a quarter of the children, about, is not new
    for _ in range(_TRIES):
        # The best come first: the winner of a binary tournament is the lower of two places.
        chance = rng.random((1 + _SUITORS, matings), dtype=np.float32)
        lower = 1 - np.sqrt(1 - chance)  # of two numbers from 0 to 1
        winners: Indices = (len(rows) * lower).astype(np.intp)
        one, suitors = winners[0], winners[1:]
        other = _nearest(costs, one, suitors)
        children = _mated(genes, rows[one], rows[other], rng=rng)
        parts.append(ledger.fresh(children, most=count))
        count -= len(parts[-1])
        made += matings
        if not count:
            break
        share = sum(map(len, parts)) / made  # of those made that were new and kept the limits
        matings = min(made, 1 + int(1.2 * count / max(share, 0.1)))
    return np.concatenate(parts)


def _nearest(costs: Matrix, one: Indices, suitors: Indices) -> Indices:
    """The suitor of each with the most similar costs, ranges taken as equal, but not itself.

    Args:
        costs: of all, shape (n, objectives).
        one: places, shape (k,).
        suitors: places, shape (s, k).
    """
    apart = np.zeros(suitors.shape)
    for values in costs.T:
        scaled = values / (np.ptp(values) or 1.0)
        apart += (scaled.take(suitors) - scaled.take(one)) ** 2
    apart[suitors == one] = np.inf
    return suitors[apart.argmin(0), np.arange(len(one))]


def _mated(genes: Rules, one: Codes, other: Codes, *, rng: np.random.Generator) -> Codes:
    """Uniform crossover, then one gene changed; blocks that appear are drawn anew."""
    chance = rng.bit_generator.random_raw(-(-one.size // 8)).view(np.uint8)
    chance = chance[: one.size].reshape(one.shape)
    taken = (chance < _TAKEN) & (other != 0) | (one == 0)
    children = one + taken.view(np.uint8) * (other - one)  # codes go round at 256, there and back
    n, count = len(one), len(genes.choices)
    if count:
        changed: Indices = rng.integers(count, size=n)
        at: Indices = np.arange(0, n * count, count) + changed
        codes, choices = children.ravel()[at], genes.choices[changed]
        # As many steps further, and round: any other code, or any at all where there was none.
        steps = (rng.random(n) * (choices - (codes != 0))).astype(np.intp)
        children.ravel()[at] = 1 + (codes + steps) % choices
    return genes.complete(children, rng=rng)
