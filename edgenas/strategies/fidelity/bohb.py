"""BOHB as optuna offers it: its Parzen estimator proposes, its Hyperband pruner ends trainings.

Falkner, Klein, Hutter 2018, arXiv 1807.01774. Limits are kept as in `edgenas.strategies.bayes`.
"""

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from edgenas.space.genes import Codes
from edgenas.strategies.bayes import propose_row
from edgenas.strategies.feasible import move_towards
from edgenas.strategies.fidelity.halving import spend_rest
from edgenas.strategies.fidelity.problem import Expenses, Trainings

if TYPE_CHECKING:
    import optuna

_MOVED = 64  # ways to move a proposal
_STALE = 20  # proposals in a row without a new network nearby
_WORST = -1e9  # of a network without a score, which optuna must be told a number for


def bohb(trainings: Trainings) -> Expenses:
    """Search until the epochs are spent or nothing new is proposed.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    expenses, lengths, space = Expenses(trainings), trainings.rungs, trainings.space
    ratios = [longer / shorter for shorter, longer in itertools.pairwise(lengths)]
    study = optuna.create_study(
        study_name="bohb",  # the pruner draws its brackets from it
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=int(expenses.rng.integers(2**31))),
        pruner=optuna.pruners.HyperbandPruner(
            min_resource=lengths[0],
            max_resource=lengths[-1],
            reduction_factor=max(2, math.floor(min(ratios, default=2.0))),
        ),
    )
    goal, stale = expenses.draw(1), 0
    while expenses.affordable(0) and stale < _STALE and len(goal):
        trial = study.ask()
        row = propose_row(space, trial)
        moved = move_towards(space, np.repeat(row, _MOVED, 0), goal, rng=expenses.rng)
        fresh = expenses.fresh(np.concatenate([row, moved]), most=1)
        stale = 0 if len(fresh) else stale + 1
        if not len(fresh) or (fresh != row).any():
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if not len(fresh):
            continue
        if (fresh != row).any():
            codes = zip(space.genes, fresh[0].tolist(), strict=True)
            study.enqueue_trial({gene.name: code for gene, code in codes if code})
            trial = study.ask()
            assert (propose_row(space, trial) == fresh).all()
        _train(study, trial, fresh, expenses)
        if len(expenses.last.scores):
            best = int(expenses.last.scores.argmax())
            goal = expenses.last.rows[best : best + 1]
    return spend_rest(expenses)


def _train(study: "optuna.Study", trial: "optuna.Trial", row: Codes, expenses: Expenses) -> None:
    """Train a network for as long as the pruner lets it, and tell the estimator what came out."""
    from optuna.trial import TrialState

    value = _WORST
    for rung, epochs in enumerate(expenses.trainings.rungs):
        if not expenses.affordable(rung):
            break
        value = max(float(expenses.score(row, rung)[0]), _WORST)
        trial.report(value, step=epochs)
        if rung + 1 < len(expenses.rungs) and trial.should_prune():
            break
    else:
        study.tell(trial, value)
        return
    study.tell(trial, state=TrialState.PRUNED)
