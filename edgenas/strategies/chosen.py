"""Networks that a search chooses by a predictor: what the predictor is to be judged on as well.

A search takes what a predictor rates highest, and that is what it overrates. The error on networks
that were drawn at random says nothing of that.
"""

import numpy as np

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.space.cost import macs_table
from edgenas.space.space import Codes
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.run import search

_EVALUATIONS = 5000  # of each search: a predictor scores so many in a moment


def chosen_networks(predictor: AccuracyPredictor, *, count: int, seed: int) -> Codes:
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
    ends = macs(space.encode([space.smallest(), space.largest()]))
    limits = np.geomspace(*ends, num=count + 1)[1:]
    found = [
        search(
            space,
            maximize=predictor,
            subject_to=[Limit(constraint=Constraint("macs", limit, f"{limit:.0f}"), values=macs)],
            evaluations=_EVALUATIONS,
            seed=seed,
        ).best.arch
        for limit in map(float, limits)
    ]
    fitted = () if predictor.rows is None else map(tuple, predictor.rows.tolist())
    seen, rows = set(fitted), list[list[int]]()
    for row in space.encode(found).tolist():
        if tuple(row) not in seen:
            seen.add(tuple(row))
            rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(space.genes))
