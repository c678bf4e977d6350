"""One interface to all strategies."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgenas.cost import Vector
from edgenas.errors import EdgenasError, unknown
from edgenas.search.constraint import Limit
from edgenas.search.evolution import evolve
from edgenas.search.feasible import anchor
from edgenas.search.neighbours import every
from edgenas.search.problem import Account, Problem, Score
from edgenas.search.random import sample
from edgenas.search.result import Candidate, SearchResult
from edgenas.space import Codes, Space

STRATEGIES: Mapping[str, Callable[[Problem], Account]] = {"evolution": evolve, "random": sample}
EVALUATIONS = 120_000


def search(
    space: Space,
    *,
    maximize: Score,
    subject_to: Sequence[Limit] = (),
    strategy: str = "evolution",
    seed: int = 0,
    evaluations: int = EVALUATIONS,
) -> SearchResult:
    """The best network of a space that keeps all limits.

    Args:
        space: to search.
        maximize: canonical rows, shape (n, genes), to scores, shape (n,): an accuracy predictor,
            compiled tables, or any function.
        subject_to: limits that the network keeps.
        strategy: ``evolution`` or ``random``.
        seed: of all chance: the same seed gives the same result.
        evaluations: how many networks are scored at most.

    Raises:
        EdgenasError: no network keeps the limits, with the least reachable and what binds; or an
            unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, known=STRATEGIES, listing="edgenas search --help")
    if evaluations < 1:
        raise EdgenasError(f"evaluations must be at least 1, found {evaluations}")
    started = time.perf_counter()
    problem = Problem(
        space=space,
        maximize=maximize,
        limits=tuple(subject_to),
        evaluations=evaluations,
        seed=seed,
    )
    # Where all of a space may be scored, every strategy comes to this.
    account = (enumerated if space.size <= evaluations else STRATEGIES[strategy])(problem)
    if account.best is None or account.front is None:
        raise EdgenasError(
            "no network has a score: maximize gave no numbers",
            hint="fit the accuracy predictor again",
        )
    front = _candidates(problem, account.front, account.front_scores)
    best = _candidates(problem, account.best, np.array([account.best_score]))[0]
    assert problem.kept(account.best).all()
    return SearchResult(
        best=best,
        front=front,
        history=tuple(account.steps),
        evaluations=account.scored,
        seconds=time.perf_counter() - started,
        strategy=strategy,
        seed=seed,
    )


def enumerated(problem: Problem) -> Account:
    """Score every network that keeps all limits.

    Raises:
        EdgenasError: there is none.
    """
    account = Account(problem)
    rows = every(problem.space)
    kept = problem.kept(rows)
    if not kept.any():
        anchor(problem, np.random.default_rng(problem.seed))
    account.score(rows[kept], phase="every")
    return account


def _candidates(problem: Problem, rows: Codes, scores: Vector) -> tuple[Candidate, ...]:
    columns = {limit.constraint.name: limit.of(rows).tolist() for limit in problem.limits}
    return tuple(
        Candidate(
            arch=arch,
            score=float(scores[i]),
            values={name: values[i] for name, values in columns.items()},
        )
        for i, arch in enumerate(problem.space.decode(rows))
    )
