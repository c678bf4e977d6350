"""What a search over trainings is asked for, and the account of what it has spent."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgenas.accuracy.encoding import Encoding
from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.feasible import first_population
from edgenas.strategies.history import SearchHistory
from edgenas.strategies.neighbours import hash_rows
from edgenas.strategies.problem import Ledger, Problem

Train = Callable[[Codes, int], Vector]
_DRAWN = 256  # networks at once, of which those are taken that keep the limits
_EMPTY = 20  # draws in a row without a new network


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trainings:
    """A search over trainings, as strategies see it.

    Args:
        space: of the rows.
        train: rows and epochs to scores, shape (n, genes) -> (n,). Each length is a training of
            its own, with its own schedule, so that each costs all its epochs.
        rungs: the lengths of training, in epochs, ascending. The last one decides.
        limits: that must be kept.
        budget: epochs in all.
        seed: of all chance.
        history: where every score is kept, and found again; None: nowhere.
        encodings: of the rows, for strategies that model scores; None: those of the space.
        candidates: the only networks that are trained, the most promising first, shape (n, genes);
            None: any of the space. They keep the limits already; strategies that propose networks
            of their own cannot be held to them.

    Raises:
        EdgenasError: the rungs do not ascend, or the budget is below a full training.
    """

    space: Space
    train: Train
    rungs: tuple[int, ...]
    limits: tuple[Limit, ...] = ()
    budget: float
    seed: int
    history: SearchHistory | None = None
    encodings: tuple[Encoding, ...] | None = None
    candidates: Codes | None = None

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in itertools.pairwise(self.rungs))
        if not self.rungs or self.rungs[0] < 1 or not ascending:
            raise EdgenasError(
                f"rungs must be epochs that ascend from 1 or more, found {self.rungs}",
                hint="for example (10, 30, 90)",
            )
        if self.budget < self.rungs[-1]:
            raise EdgenasError(
                f"budget must be at least {self.rungs[-1]} epochs, the longest training, found "
                f"{self.budget:g}"
            )

    @property
    def problem(self) -> Problem:
        """The space, the limits and the seed, as for searches without trainings."""
        return Problem(
            space=self.space,
            maximize=lambda rows: self.train(rows, self.rungs[-1]),
            limits=self.limits,
            evaluations=2**53,
            seed=self.seed,
        )


@dataclass(slots=True)
class Rung:
    """The networks that were trained for the same time, with their scores, in order."""

    rows: Codes
    scores: Vector = field(default_factory=lambda: np.empty(0))

    def add(self, rows: Codes, scores: Vector) -> None:
        """Enter more of them."""
        self.rows = np.concatenate([self.rows, rows])
        self.scores = np.concatenate([self.scores, scores])

    def scores_of(self, rows: Codes) -> Vector:
        """Their scores; NaN of those that are not here."""
        places = {name: i for i, name in enumerate(hash_rows(self.rows).tolist())}
        known = [places.get(name, -1) for name in hash_rows(rows).tolist()]
        return np.append(self.scores, np.nan)[known]

    def without(self, other: "Rung") -> NDArray[np.intp]:
        """Places of those that another rung does not have, the best first."""
        order = np.argsort(-self.scores, kind="stable")
        known = np.isin(hash_rows(self.rows[order]), hash_rows(other.rows))
        return order[~known]


class Expenses:
    """Every training so far: its network, its length, its score, and the epochs that are left."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.rng = np.random.default_rng(trainings.seed)
        self.spent = 0.0
        empty = np.empty((0, len(trainings.space.genes)), np.uint8)
        self.rungs = [Rung(empty) for _ in trainings.rungs]
        problem = trainings.problem
        self._ledger = Ledger(problem.kept, problem.evaluations)
        # Refuses limits that no network keeps; the draws below would only be empty.
        self._first = first_population(problem, np.random.default_rng(trainings.seed), size=2)
        self.steps = 0

    @property
    def left(self) -> float:
        """Epochs that are left."""
        return self.trainings.budget - self.spent

    def affordable(self, rung: int) -> int:
        """How many trainings of a rung the rest pays for.

        Until a network had a full training, what one costs is kept back.
        """
        lengths = self.trainings.rungs
        rung %= len(lengths)
        back = lengths[-1] if rung + 1 < len(lengths) and not len(self.last.scores) else 0
        return max(0, int((self.left - back) / lengths[rung] + 1e-9))

    def draw(self, count: int) -> Codes:
        """New networks that keep the limits, every choice of a gene equally likely.

        Where there are candidates, the first of those that were not drawn yet.
        """
        if self.trainings.candidates is not None:
            return self.fresh(self.trainings.candidates, most=count)
        parts, empty = [self._first[:0]], 0
        while count > 0 and empty < _EMPTY:
            rows = self.trainings.space.sample(max(_DRAWN, count), rng=self.rng, by="gene")
            parts.append(self.fresh(rows, most=count))
            count -= len(parts[-1])
            empty = 0 if len(parts[-1]) else empty + 1
        if not sum(map(len, parts)):
            parts.append(self.fresh(self._first, most=count))
        return np.concatenate(parts)

    def fresh(self, rows: Codes, *, most: int) -> Codes:
        """As ``Ledger.fresh``."""
        return self._ledger.fresh(rows, most=most)

    def score(self, rows: Codes, rung: int) -> Vector:
        """Train networks for as long as a rung says, and enter them."""
        epochs = self.trainings.rungs[rung]
        assert len(rows) <= self.affordable(rung)
        if not len(rows):
            return np.empty(0)
        history = self.trainings.history
        if history is None:
            scores = np.asarray(self.trainings.train(rows, epochs), float)
        else:
            scores = history.scores(
                rows, phase=f"epochs-{epochs}", maximize=lambda r: self.trainings.train(r, epochs)
            )
        scores = np.where(np.isnan(scores), -np.inf, scores)
        self.spent += epochs * len(rows)
        self.rungs[rung].add(rows, scores)
        self.steps += 1
        return scores

    @property
    def last(self) -> Rung:
        """The networks that were trained for the longest time."""
        return self.rungs[-1]
