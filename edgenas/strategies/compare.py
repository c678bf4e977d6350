"""Strategies side by side: the same problem, the same evaluations, several seeds.

Random search is the baseline: it is often hard to beat (Li and Talwalkar 2019, arXiv 1902.07638).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.problem import Score
from edgenas.strategies.run import search

BASELINE = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyComparison:
    """What one strategy reached.

    Args:
        strategy: its name.
        scores: the best score of each seed.
        seconds: the mean time of a search.
        evaluations: the mean number of networks scored.
        wins: seeds whose score is above that of random search with the same seed.
    """

    strategy: str
    scores: tuple[float, ...]
    seconds: float
    evaluations: float
    wins: int

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(np.mean(self.scores))

    @property
    def spread(self) -> float:
        """The sample standard deviation of the scores; 0 for a single seed."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else 0.0


def compare_strategies(
    space: Space,
    *,
    maximize: Score,
    subject_to: Sequence[Limit] = (),
    strategies: Sequence[str],
    evaluations: int,
    seeds: int,
) -> tuple[StrategyComparison, ...]:
    """Run strategies and random search over the same seeds.

    Args:
        space: to search.
        maximize: as for ``search``.
        subject_to: as for ``search``.
        strategies: their names; random search is added.
        evaluations: networks that each search may score.
        seeds: 0, 1, ... so many.

    Raises:
        EdgenasError: as ``search``; or no seeds.
    """
    if seeds < 1:
        raise EdgenasError(f"seeds must be at least 1, found {seeds}")
    names = list(dict.fromkeys([*strategies, BASELINE]))
    found = {
        name: [
            search(
                space,
                maximize=maximize,
                subject_to=subject_to,
                strategy=name,
                seed=seed,
                evaluations=evaluations,
            )
            for seed in range(seeds)
        ]
        for name in names
    }
    base = [result.best.score for result in found[BASELINE]]
    return tuple(
        StrategyComparison(
            strategy=name,
            scores=tuple(result.best.score for result in results),
            seconds=float(np.mean([result.seconds for result in results])),
            evaluations=float(np.mean([result.evaluations for result in results])),
            wins=sum(r.best.score > b for r, b in zip(results, base, strict=True)),
        )
        for name, results in found.items()
    )
