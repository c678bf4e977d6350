"""Regularised (aging) evolution (Real, Aggarwal, Huang, Le 2019; arXiv 1802.01548, section 3).

The best of a few networks drawn from the population gets a child with one gene changed; the child
joins the population, and the oldest network leaves it, however good it is. The paper ran hundreds
of such cycles side by side; here a batch of them is one matrix. Children that break a limit or
were scored before are dropped.
"""

import numpy as np

from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.feasible import first_population
from edgenas.strategies.problem import Account, Problem

_POPULATION = 100  # and the sample: the settings of the paper, section 3, "Experiment setup"
_SAMPLE = 25
_BATCH = 32
_STALE = 50  # batches in a row that brought nothing new


def age(problem: Problem) -> Account:
    """Search until the evaluations are spent or nothing new can be found.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng = np.random.default_rng(problem.seed)
    account, space = Account(problem), problem.space
    # Where few evaluations are allowed in all, half of them are left for children.
    population = max(2, min(_POPULATION, problem.evaluations // 2))
    batch = max(1, min(_BATCH, population // 3))
    rows = account.fresh(first_population(problem, rng, size=population))
    scores = account.score(rows, phase="sample")
    stale = 0
    while account.left > 0 and stale < _STALE and len(rows):
        drawn = rng.integers(len(rows), size=(batch, _SAMPLE))
        winners = drawn[np.arange(batch), scores[drawn].argmax(1)]
        children = account.fresh(_changed(space, rows[winners], rng=rng), most=batch)
        stale = 0 if len(children) else stale + 1
        rows = np.concatenate([rows, children])[-population:]
        scores = np.concatenate([scores, account.score(children, phase="age")])[-population:]
    return account


def _changed(space: Space, rows: Codes, *, rng: np.random.Generator) -> Codes:
    """One gene of each row changed to another code; appearing blocks are drawn anew."""
    counts = np.array([len(gene.values) for gene in space.genes])
    absent = rows == 0
    gene = np.where(absent | (counts < 2), -1.0, rng.random(rows.shape)).argmax(1)
    chance = rng.random(rows.shape)
    result = np.where(absent, 1 + (chance * counts).astype(np.uint8), rows)
    at = np.arange(len(rows)), gene
    steps = (chance[at] * (counts[gene] - 1)).astype(np.uint8)
    result[at] = 1 + (rows[at] + steps) % counts[gene]
    return space.canonical(result.astype(np.uint8))
