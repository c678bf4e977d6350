"""Bayesian optimisation by the tree-structured Parzen estimator (Bergstra et al. 2011) of optuna.

For scores that are expensive, such as the accuracy measured on validation images: a few dozen
evaluations, each chosen by what all those before it showed. Genes are integers, those of absent
blocks take no part. Limits cost nothing: a proposal that breaks one, or that was scored before, is
moved towards the best network until it does not.
"""

from typing import TYPE_CHECKING

import numpy as np

from edgenas.space.genes import Codes, layout
from edgenas.space.space import Space
from edgenas.strategies.feasible import first_population, move_towards
from edgenas.strategies.problem import Account, Problem

if TYPE_CHECKING:
    import optuna

_START = 10  # networks of chance first, as many as optuna draws by default
_MOVED = 256  # ways to move a proposal
_STALE = 10  # proposals in a row without a new network nearby


def bayes(problem: Problem) -> Account:
    """Search until the evaluations are spent or nothing new is proposed.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng(problem.seed)
    account, space = Account(problem), problem.space
    sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), n_startup_trials=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    ranges = {
        gene.name: optuna.distributions.IntDistribution(1, len(gene.values)) for gene in space.genes
    }

    def score(row: Codes, phase: str) -> None:
        value = float(account.score(row, phase=phase)[0])
        codes = {name: int(code) for name, code in zip(ranges, row[0], strict=True) if code}
        study.add_trial(
            optuna.create_trial(
                params=codes,
                distributions={name: ranges[name] for name in codes},
                value=max(value, -1e9),  # infinite where there is no score
            )
        )

    start = account.fresh(first_population(problem, rng, size=_START))
    for place in range(len(start)):
        score(start[place : place + 1], "sample")
    stale = 0
    while account.left > 0 and stale < _STALE and account.best is not None:
        row = propose_row(space, study.ask())
        moved = move_towards(space, np.repeat(row, _MOVED, 0), account.best, rng=rng)
        fresh = account.fresh(np.concatenate([row, moved]), most=1)
        stale = 0 if len(fresh) else stale + 1
        if len(fresh):
            score(fresh, "propose")
    return account


def propose_row(space: Space, trial: "optuna.Trial") -> Codes:
    """The row that a trial proposes, shape (1, genes)."""
    depths, row = layout(space).depths, np.zeros((1, len(space.genes)), np.uint8)
    for column, gene in enumerate(space.genes):
        # The depth of a stage stands before the genes of its blocks.
        if gene.optional:
            stage = space.stages[gene.stage]
            if stage.depths[row[0, depths[gene.stage]] - 1] <= gene.block:
                continue
        row[0, column] = trial.suggest_int(gene.name, 1, len(gene.values))
    return space.canonical(row)
