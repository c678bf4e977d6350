"""Networks that a search chooses by a predictor, so that its error on them can be measured too.

A search takes what a predictor rates highest, and that is what it overrates. The error on networks
that were drawn at random says nothing of that.
"""

import numpy as np

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.space.cost import macs_table
from edgenas.space.genes import Codes
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.run import search

_EVALUATIONS = 5000  # of each search: a predictor scores so many in a moment


def choose_networks(predictor: AccuracyPredictor, *, count: int, seed: int) -> Codes:
    """What evolution finds by a predictor under budgets of MACs, without what it was fitted to.

    Args:
        predictor: what is maximised.
        count: budgets, evenly spread on a log scale between the smallest and the largest network.
        seed: of the searches.

    Returns:
        Different canonical rows, shape (n, genes), n <= count; none where the predictor was fitted
        to all that a search finds.
    """
    space = predictor.space
    macs = macs_table(space)
    least, most = macs(space.encode([space.smallest(), space.largest()])).tolist()
    limits = [least * (most / least) ** (i / count) for i in range(1, count + 1)]
    limits[-1] = most  # exactly: the largest network keeps it
    results = [
        search(
            space,
            maximize=predictor,
            subject_to=[Limit(constraint=Constraint("macs", limit, f"{limit:.0f}"), values=macs)],
            evaluations=_EVALUATIONS,
            seed=seed,
        ).best.arch
        for limit in limits
    ]
    rows = np.unique(space.encode(results), axis=0)
    fitted = rows[:0] if predictor.rows is None else predictor.rows
    return rows[~(rows[:, None] == fitted[None]).all(2).any(1)]
