"""Successive halving, Hyperband and ASHA: the best of many short trainings get a longer one."""

from collections.abc import Callable, Mapping

import numpy as np

from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.fidelity.curves import FEWEST, extrapolate
from edgenas.strategies.fidelity.problem import Expenses, Trainings


def plan_rungs(networks: int, *, epochs: int) -> tuple[tuple[int, ...], float]:
    """Lengths of training for some candidates, and the epochs in all.

    Each length is a third of the next, as in Hyperband's paper, and there are so many that a third
    of the candidates, again and again, leaves one. All of them can have the shortest.

    Args:
        networks: candidates, at least 1.
        epochs: of the longest training.
    """
    count = 1
    while 3**count <= networks:
        count += 1
    lengths = [max(1, round(epochs / 3**left)) for left in reversed(range(count))]
    rungs = tuple(sorted(set(lengths)))
    part = networks * rungs[0]
    least = sum(length * max(1, part // length) for length in rungs)
    return rungs, float(max(part * len(rungs), least))


def halve(trainings: Trainings) -> Expenses:
    """Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016, arXiv 1502.07943).

    Every rung gets the same part of the budget, so that fewer networks are trained for longer. From
    five lengths on, networks are compared by where their learning curves lead.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    expenses = Expenses(trainings)
    _bracket(expenses, first=0, budget=trainings.budget)
    return spend_rest(expenses)


def hyperband(trainings: Trainings) -> Expenses:
    """Hyperband (Li et al. 2018, arXiv 1603.06560): halving from every rung on.

    Short trainings may mislead, so each bracket starts at another length, the last one with full
    trainings alone. All have the same part of the budget.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    expenses, count = Expenses(trainings), len(trainings.rungs)
    for first in range(count):
        _bracket(expenses, first=first, budget=expenses.left / (count - first))
    return spend_rest(expenses)


def asha(trainings: Trainings) -> Expenses:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934, algorithm 2).

    Whenever a worker is free, the longest training that is earned starts: of a network among the
    best of its rung, one of as many as the next rung costs times more. Where none is, a new network
    starts at the bottom. Here one worker trains, so that the search repeats itself.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    expenses, lengths = Expenses(trainings), trainings.rungs
    while expenses.affordable(0):
        for rung in reversed(range(len(lengths) - 1)):
            below = expenses.rungs[rung]
            best = int(len(below.scores) * lengths[rung] / lengths[rung + 1])
            order = np.argsort(-below.scores, kind="stable")[:best]
            earned = np.intersect1d(below.without(expenses.rungs[rung + 1]), order)
            if len(earned) and expenses.affordable(rung + 1):
                first = earned[np.argmax(below.scores[earned])]
                expenses.score(below.rows[first : first + 1], rung + 1)
                break
        else:
            rows = expenses.draw(1)
            if not len(rows):
                break
            expenses.score(rows, 0)
    return spend_rest(expenses)


def _bracket(expenses: Expenses, *, first: int, budget: float) -> None:
    """Halving from a rung on: all rungs of the bracket get the same part of a budget."""
    lengths = expenses.trainings.rungs
    part = budget / (len(lengths) - first)
    rows = expenses.draw(max(1, min(int(part / lengths[first]), expenses.affordable(first))))
    for rung in range(first, len(lengths)):
        count = max(1, int(part / lengths[rung] + 1e-9))
        rows = rows[: min(count, expenses.affordable(rung))]
        if not len(rows):
            return
        expenses.score(rows, rung)
        rows = rows[np.argsort(-promise(expenses, rows, rung), kind="stable")]


def promise(expenses: Expenses, rows: Codes, rung: int) -> Vector:
    """What networks would reach by a full training: the ends of their learning curves.

    With fewer lengths than a curve needs, it is what they have reached.
    """
    lengths = np.array(expenses.trainings.rungs, float)
    curves = np.stack([expenses.rungs[r].scores_of(rows) for r in range(rung + 1)], 1)
    ends = curves[:, -1].copy()
    known = np.isfinite(curves).all(1) & (rung + 1 >= FEWEST)
    for line in np.flatnonzero(known):
        ends[line] = extrapolate(lengths[: rung + 1], curves[line], at=float(lengths[-1])).mean
    return ends


def spend_rest(expenses: Expenses) -> Expenses:
    """What is left goes into full trainings: of the best that had a shorter one, then of others."""
    top = len(expenses.rungs) - 1
    for below in reversed(expenses.rungs[:-1]):
        places = below.without(expenses.last)[: expenses.affordable(top)]
        expenses.score(below.rows[places], top)
    expenses.score(expenses.draw(expenses.affordable(top)), top)
    return expenses


# These train what is drawn and propose nothing, so they can be given candidates.
DRAWING: Mapping[str, Callable[[Trainings], Expenses]] = {
    "halving": halve,
    "hyperband": hyperband,
    "asha": asha,
}
