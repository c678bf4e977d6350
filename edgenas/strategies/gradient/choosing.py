"""From limits to what gradient search holds to, and from what it learnt to a few networks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgenas.space.cost import Tables
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.gradient.tilt import Ceiling
from edgenas.strategies.least import find_least
from edgenas.strategies.neighbours import drop_repeats, list_neighbours
from edgenas.strategies.problem import Score
from edgenas.strategies.result import Candidate
from edgenas.strategies.run import search

FINALISTS = 8  # networks of which images decide
_EVALUATIONS = 20_000
_SAMPLES = 4096
_DEAREST = 1e6  # price of a limit
_HALVINGS = 12
_NEAR = 64  # networks around the best


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
    if not isinstance(preference, Tables) or max(map(len, preference.columns), default=0) <= 2:
        return result.top
    # A node of DARTS chooses three genes at once, and searches climb by two: they can miss the
    # best, which the tables themselves give.
    near = _list_near(space, preference, limits)
    values = {limit.constraint.name: limit.of(near).tolist() for limit in limits}
    every = {candidate.arch: candidate for candidate in result.top}
    for i, (arch, score) in enumerate(zip(space.decode(near), preference(near), strict=True)):
        mine = {name: of_all[i] for name, of_all in values.items()}
        every.setdefault(arch, Candidate(arch=arch, score=float(score), values=mine))
    return tuple(sorted(every.values(), key=lambda c: -c.score)[:count])


def _list_near(space: Space, preference: Tables, limits: Sequence[Limit]) -> Codes:
    """The best row by a preference less a price times the limits' tables, and its neighbours.

    The price is the lowest of those tried at which the row keeps all limits (Everett 1963,
    "Generalized Lagrange multiplier method"). All rows keep the limits; there may be none.
    """

    def best(price: float) -> Codes:
        tables = [(preference, -1.0)]
        tables += [(t.tables, price / t.constraint.limit) for t in limits if t.tables is not None]
        places = [
            (columns, factor * values)
            for table, factor in tables
            if table.reduce == "sum" and factor
            for columns, values in zip(table.columns, table.values, strict=True)
        ]
        columns, values = zip(*places, strict=True)
        return find_least(space, Tables(columns, values, "sum"))

    def keeps(rows: Codes) -> NDArray[np.bool_]:
        kept = np.ones(len(rows), bool)
        for limit in limits:
            kept &= limit.of(rows) <= limit.constraint.limit
        return kept

    low, high = 0.0, 0.0
    while not keeps(best(high))[0] and high < _DEAREST:
        low, high = high, max(2 * high, 1.0)
    for _ in range(_HALVINGS if high else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if keeps(best(middle))[0] else (middle, high)
    best_row = best(high)
    rows = np.concatenate([best_row, list_neighbours(space, best_row)])
    rows = rows[np.argsort(-preference(rows), kind="stable")]
    return drop_repeats(rows[keeps(rows)])[:_NEAR]
