"""Local search (White, Nolen, Savani 2021, arXiv 2005.02960): climb, and start again elsewhere."""

import numpy as np

from edgenas.strategies.feasible import find_feasible
from edgenas.strategies.neighbours import list_neighbours
from edgenas.strategies.problem import Account, Problem

_STARTS = 50  # in a row without a new network
_DRAWN = 64


def climb(problem: Problem) -> Account:
    """Climb from networks drawn at random to where no change of one gene improves them.

    The first neighbour that is better is taken, in an order of chance, as long as there is one.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng = np.random.default_rng(problem.seed)
    account, space, empty = Account(problem), problem.space, 0
    row = account.fresh(find_feasible(problem, rng))
    while account.left > 0 and empty < _STARTS:
        drawn = space.sample(_DRAWN, rng=rng, by="gene")
        row = account.fresh(drawn, most=1) if account.scored or not len(row) else row
        empty = 0 if len(row) else empty + 1
        if not len(row):
            continue
        score = float(account.score(row, phase="start")[0])
        better = True
        while better and account.left > 0:
            better = False
            for other in rng.permutation(list_neighbours(space, row, genes=1)):
                near = account.fresh(other[None])
                if not len(near):
                    continue
                other_score = float(account.score(near, phase="climb")[0])
                if other_score > score:
                    row, score, better = near, other_score, True
                    break
                if account.left == 0:
                    break
    return account
