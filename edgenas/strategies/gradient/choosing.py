"""From limits to what gradient search holds to, and from what it learnt to a few networks."""

from collections.abc import Sequence

import numpy as np

from edgenas.space.cost import Tables
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.gradient.tilt import Ceiling
from edgenas.strategies.least import find_least
from edgenas.strategies.problem import Score
from edgenas.strategies.result import Candidate
from edgenas.strategies.run import search

FINALISTS = 8  # networks of which images decide
_EVALUATIONS = 20_000
_SAMPLES = 4096


def list_ceilings(space: Space, limits: Sequence[Limit]) -> list[Ceiling]:
    """Ceilings on expectations for every limit that has tables which are sums.

    An upper bound of a predicted latency rises and falls with its guide; the ceiling is the
    guide's highest value that was seen to keep the limit. Limits without such tables (memory) hold
    when the network is chosen, but nothing is learnt about them.

    Args:
        space: of the tables.
        limits: as for ``search``; each can be kept.
    """
    rows = space.sample(_SAMPLES, rng=np.random.default_rng(0), by="gene")
    ceilings = list[Ceiling]()
    for limit in limits:
        tables = limit.tables
        if tables is None or tables.reduce != "sum":
            continue
        highest = limit.constraint.limit
        if not isinstance(limit.values, Tables):
            some = np.concatenate([rows, find_least(space, tables)])
            kept = limit.of(some) <= limit.constraint.limit
            highest = float(tables(some)[kept].max(initial=tables(some).min()))
        ceilings.append(Ceiling(name=limit.constraint.name, tables=tables, limit=highest))
    return ceilings


def find_most_preferred(
    space: Space, preference: Score, *, limits: Sequence[Limit], seed: int, count: int = FINALISTS
) -> tuple[Candidate, ...]:
    """Networks that keep all limits and are nearest to the alternatives worth most, best first.

    What was learnt adds up over choices, and is uncertain: of these few, measure which is best.

    Args:
        space: of the rows.
        preference: as ``Policy.preference`` gives it.
        limits: that the networks keep.
        seed: of the search.
        count: how many at most.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    result = search(
        space,
        maximize=preference,
        subject_to=limits,
        seed=seed,
        evaluations=_EVALUATIONS,
        top=count,
    )
    return result.top
