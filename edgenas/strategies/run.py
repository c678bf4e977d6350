"""One interface to all strategies."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.aging import age
from edgenas.strategies.bayes import bayes
from edgenas.strategies.constraint import Limit
from edgenas.strategies.evolution import evolve
from edgenas.strategies.feasible import find_feasible
from edgenas.strategies.history import open_history
from edgenas.strategies.local import climb
from edgenas.strategies.neighbours import list_all
from edgenas.strategies.problem import Account, Problem, Score
from edgenas.strategies.random import sample
from edgenas.strategies.result import Candidate, SearchResult
from edgenas.strategies.surrogate import improve, thompson

STRATEGIES: Mapping[str, Callable[[Problem], Account]] = {
    "evolution": evolve,
    "aging": age,
    "bayes": bayes,
    "random": sample,
    "local": climb,
    "gaussian": improve,
    "thompson": thompson,
}
FRUGAL = ("bayes", "gaussian", "thompson")  # for scores that are expensive
EVALUATIONS = 120_000
EXPENSIVE = 60  # of a frugal strategy


def search(
    space: Space,
    *,
    maximize: Score,
    subject_to: Sequence[Limit] = (),
    strategy: str = "evolution",
    seed: int = 0,
    evaluations: int | None = None,
    history: Path | None = None,
    top: int = 1,
) -> SearchResult:
    """The best network of a space that keeps all limits.

    Args:
        space: to search.
        maximize: canonical rows, shape (n, genes), to scores, shape (n,): an accuracy predictor,
            compiled tables, or any function.
        subject_to: limits that the network keeps.
        strategy: a name of ``STRATEGIES``.
        seed: of all chance: the same seed gives the same result.
        evaluations: how many networks are scored at most; None: 120,000, or 60 with those
            of ``FRUGAL``.
        history: a CSV file of every network scored. Where an interrupted search left one, what is
            in it is not scored again, and the result is that of an uninterrupted search.
        top: how many of the best networks the result names.

    Raises:
        EdgenasError: no network keeps the limits, with the least reachable and what is in the way;
            an unknown strategy; or a history of another search.
    """
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, names=STRATEGIES, listing="edgenas search --help")
    if evaluations is None:
        evaluations = EXPENSIVE if strategy in FRUGAL else EVALUATIONS
    if evaluations < 1:
        raise EdgenasError(f"evaluations must be at least 1, found {evaluations}")
    started = time.perf_counter()
    limits = tuple(subject_to)
    written = None
    if history is not None:
        written = open_history(
            history,
            space=space,
            limits=limits,
            search={"strategy": strategy, "seed": seed, "evaluations": evaluations},
        )
    problem = Problem(
        space=space,
        maximize=maximize,
        limits=limits,
        evaluations=evaluations,
        seed=seed,
        history=written,
        top=top,
    )
    # Where all of a space may be scored, every strategy comes to this.
    account = (enumerate_all if space.size <= evaluations else STRATEGIES[strategy])(problem)
    if account.best is None or account.front is None:
        raise EdgenasError(
            "no network has a score: maximize gave no numbers",
            hint="fit the accuracy predictor again",
        )
    front = _candidates(problem, account.front, account.front_scores)
    best = _candidates(problem, account.best, np.array([account.best_score]))[0]
    best_rows = _candidates(problem, account.top, account.top_scores)
    assert problem.kept(account.best).all()
    return SearchResult(
        best=best,
        front=front,
        top=best_rows,
        history=tuple(account.steps),
        evaluations=account.scored,
        seconds=time.perf_counter() - started,
        strategy=strategy,
        seed=seed,
    )


def enumerate_all(problem: Problem) -> Account:
    """Score every network that keeps all limits.

    Raises:
        EdgenasError: there is none.
    """
    account = Account(problem)
    rows = list_all(problem.space)
    kept = problem.kept(rows)
    if not kept.any():
        find_feasible(problem, np.random.default_rng(problem.seed))
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
