"""Gaussian processes, one for each length of training, each told what the shorter one believes.

What a short training says about a long one is not known beforehand. So the belief of the shorter
rung is one more feature of the longer one's process, whose length is learnt like all others
(nonlinear autoregression, Perdikaris et al. 2017, Proc. R. Soc. A 473). As in successive halving
every rung gets the same part of the budget.
"""

import numpy as np

from edgenas.accuracy.encoding import Encoding, Matrix, encodings_of
from edgenas.accuracy.process import fit_lengths, fit_process, measure_distances, normal_scores
from edgenas.space.genes import Codes
from edgenas.strategies.fidelity.halving import spend_rest
from edgenas.strategies.fidelity.problem import Expenses, Rung, Trainings
from edgenas.strategies.problem import Problem
from edgenas.strategies.surrogate import improve

_LEADERS = 5  # of a shorter rung, which start the next
_LEARNT = 200  # networks of a rung that lengths are learnt from


def improve_by_trainings(trainings: Trainings) -> Expenses:
    """Short trainings of chance, then at every longer rung the largest expected improvement.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    expenses, lengths = Expenses(trainings), trainings.rungs
    encodings = trainings.encodings or encodings_of(trainings.space)
    part = trainings.budget / len(lengths)
    for rung, epochs in enumerate(lengths):
        if rung == 0 and len(lengths) > 1:
            count = min(int(part / epochs), expenses.affordable(0))
            expenses.score(expenses.draw(count), 0)
            continue
        start = None
        if rung and len(expenses.rungs[rung - 1].scores) >= _LEADERS:
            shorter = expenses.rungs[rung - 1]
            encodings = (*encodings, encode_belief(encodings, shorter))
            start = shorter.rows[np.argsort(-shorter.scores, kind="stable")[:_LEADERS]]
        count = expenses.affordable(rung)
        count = count if rung + 1 == len(lengths) else min(int(part / epochs), count)
        if count:
            _improve(expenses, rung, encodings, start=start, count=count)
    return spend_rest(expenses)


def _improve(
    expenses: Expenses,
    rung: int,
    encodings: tuple[Encoding, ...],
    *,
    start: Codes | None,
    count: int,
) -> None:
    trainings = expenses.trainings
    problem = Problem(
        space=trainings.space,
        maximize=lambda rows: expenses.score(rows, rung),
        limits=trainings.limits,
        evaluations=count,
        seed=trainings.seed,
        encodings=encodings,
    )
    improve(problem, start=start)


def encode_belief(encodings: tuple[Encoding, ...], rung: Rung) -> Encoding:
    """What a process over encodings believes of networks, after the scores of a rung.

    Its lengths are learnt from the first networks alone, which are draws as good as all.
    """
    targets = normal_scores(rung.scores)
    apart = measure_distances(encodings, rung.rows, rung.rows)
    lengths = fit_lengths(apart[:, :_LEARNT, :_LEARNT], targets[:_LEARNT])
    process = fit_process(apart, targets, lengths=lengths)

    def of(rows: Codes) -> Matrix:
        mean, _ = process.believe(process.narrow(measure_distances(encodings, rows, rung.rows)))
        return mean[:, None]

    return Encoding(name="belief", of=of)
