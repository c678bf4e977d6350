"""What a search is asked for, and the account of what it has scored."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgenas.accuracy.encoding import Encoding
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.history import SearchHistory
from edgenas.strategies.neighbours import hash_rows
from edgenas.strategies.result import SearchStep

Score = Callable[[Codes], Vector]
Costs = Callable[[Codes], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A search, as strategies see it.

    Args:
        space: of the rows.
        maximize: rows to scores.
        limits: that must be kept.
        evaluations: how many networks may be scored by ``maximize``; limits cost nothing.
        seed: of all chance.
        history: where every score is kept, and found again; None: nowhere.
        top: how many of the best are kept.
        encodings: of the rows, for strategies that model scores; None: those of the space.
    """

    space: Space
    maximize: Score
    limits: tuple[Limit, ...]
    evaluations: int
    seed: int
    history: SearchHistory | None = None
    top: int = 1
    encodings: tuple[Encoding, ...] | None = None

    def excess(self, rows: Codes) -> Vector:
        """By how much the limits are broken, as parts of them, summed; 0: all are kept."""
        total = np.zeros(len(rows))
        for limit in self.limits:
            total += np.maximum(limit.of(rows) / limit.constraint.limit - 1, 0.0)
        return total

    def kept(self, rows: Codes) -> NDArray[np.bool_]:
        """Which rows keep all limits."""
        result = np.ones(len(rows), bool)
        for limit in self.limits:
            result &= limit.of(rows) <= limit.constraint.limit
        return result


@dataclass(slots=True)
class Ledger:
    """Which networks were asked for, and how many more may be scored.

    Args:
        kept: rows to whether they keep all limits.
        evaluations: how many networks may be scored.
    """

    kept: Callable[[Codes], NDArray[np.bool_]]
    evaluations: int
    scored: int = 0
    seen: set[int] = field(default_factory=set[int])

    @property
    def left(self) -> int:
        """Evaluations that are left."""
        return self.evaluations - self.scored

    def fresh(
        self, rows: Codes, *, most: int | None = None, rng: np.random.Generator | None = None
    ) -> Codes:
        """The rows that keep all limits and were never asked for, each once; score them next.

        Args:
            rows: canonical rows, shape (n, genes).
            most: how many of them at most, besides the evaluations that are left.
            rng: draws them where there are more; None: the first ones are taken.
        """
        rows = rows[self.kept(rows)]
        seen, names = self.seen, hash_rows(rows).tolist()
        lines = {name: line for line, name in enumerate(names) if name not in seen}
        most = self.left if most is None else min(most, self.left)
        if len(lines) > most:
            if rng is not None:
                drawn = np.zeros(len(lines), bool)
                drawn[rng.permutation(len(lines))[:most]] = True
                lines = dict(itertools.compress(lines.items(), drawn.tolist()))
            lines = dict(itertools.islice(lines.items(), most))
        seen.update(lines)
        return rows[np.fromiter(lines.values(), np.intp, len(lines))]


class Account:
    """Every network scored so far: their number, the best, the front, and the history.

    ``front`` holds the rows that are not dominated in (score, first limit's value), best first;
    ``top`` the best of all, best first.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ledger = Ledger(problem.kept, problem.evaluations)
        self.front: Codes | None = None
        self.front_scores: Vector = np.empty(0)
        self.top = np.empty((0, len(problem.space.genes)), np.uint8)
        self.top_scores: Vector = np.empty(0)
        self.steps = list[SearchStep]()

    @property
    def best_score(self) -> float:
        """The highest score so far."""
        return float(self.top_scores[0]) if len(self.top) else -np.inf

    @property
    def best(self) -> Codes | None:
        """The network that has it, shape (1, genes); None: none has a score yet."""
        return self.top[:1] if self.best_score > -np.inf else None

    @property
    def left(self) -> int:
        """Evaluations that are left."""
        return self.ledger.left

    @property
    def scored(self) -> int:
        """Networks scored so far."""
        return self.ledger.scored

    def fresh(
        self, rows: Codes, *, most: int | None = None, rng: np.random.Generator | None = None
    ) -> Codes:
        """As ``Ledger.fresh``."""
        return self.ledger.fresh(rows, most=most, rng=rng)

    def score(self, rows: Codes, *, phase: str) -> Vector:
        """Score fresh rows and enter them in the account."""
        assert len(rows) <= self.left
        if not len(rows):
            return np.empty(0)
        problem = self.problem
        if problem.history is None:
            scores = np.asarray(problem.maximize(rows), float)
        else:
            scores = problem.history.scores(rows, phase=phase, maximize=problem.maximize)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        self.ledger.scored += len(rows)
        self._enter(rows, scores)
        self._keep(rows, scores)
        self.steps.append(SearchStep(phase, self.scored, self.best_score))
        return scores

    def _keep(self, rows: Codes, scores: Vector) -> None:
        rows = np.concatenate([self.top, rows])
        scores = np.concatenate([self.top_scores, scores])
        order = np.argsort(-scores, kind="stable")[: self.problem.top]
        self.top, self.top_scores = rows[order], scores[order]

    def _enter(self, rows: Codes, scores: Vector) -> None:
        if self.front is not None:
            rows = np.concatenate([self.front, rows])
            scores = np.concatenate([self.front_scores, scores])
        limits = self.problem.limits
        costs = limits[0].of(rows) if limits else np.zeros(len(rows))
        order = np.lexsort((costs, -scores))
        before = np.minimum.accumulate(np.concatenate([[np.inf], costs[order][:-1]]))
        kept = order[costs[order] < before]
        self.front, self.front_scores = rows[kept], scores[kept]
