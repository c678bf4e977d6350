"""Random search: the baseline that every strategy has to beat (arXiv 1902.07638)."""

import numpy as np

from edgenas.strategies.feasible import find_feasible
from edgenas.strategies.problem import Account, Problem

_BATCH = 4096
_EMPTY = 20  # batches in a row without a new network that keeps the limits


def sample(problem: Problem) -> Account:
    """Score networks drawn at random, every choice of a gene equally likely.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    rng = np.random.default_rng(problem.seed)
    account = Account(problem)
    account.score(account.fresh(find_feasible(problem, rng)), phase="sample")
    empty = 0
    while account.left > 0 and empty < _EMPTY:
        # In the order drawn: `fresh` sorts, and the last batch may be cut short.
        rows = problem.space.sample(min(_BATCH, 4 * account.left), rng=rng, by="gene")
        fresh = account.fresh(rows)
        account.score(fresh, phase="sample")
        empty = 0 if len(fresh) else empty + 1
    return account
