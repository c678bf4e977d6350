"""One interface to all searches over trainings."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.space.arch import Arch
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.fidelity.bohb import bohb
from edgenas.strategies.fidelity.halving import DRAWING
from edgenas.strategies.fidelity.problem import Expenses, Train, Trainings
from edgenas.strategies.fidelity.surrogate import improve_by_trainings
from edgenas.strategies.history import open_history

FIDELITY_STRATEGIES: Mapping[str, Callable[[Trainings], Expenses]] = {
    **DRAWING,
    "bohb": bohb,
    "gaussian": improve_by_trainings,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityResult:
    """The outcome of a search over trainings.

    Args:
        best: the network with the highest score of a full training.
        score: of it.
        trained: how many networks were trained for each length, by epochs.
        spent: epochs in all.
        seconds: the search took; the only part that differs between two runs of one seed.
        strategy: its name.
        seed: of all chance in it.
    """

    best: Arch
    score: float
    trained: dict[int, int]
    spent: float
    seconds: float
    strategy: str
    seed: int


def search_trainings(
    space: Space,
    *,
    train: Train,
    rungs: Sequence[int],
    budget: float,
    subject_to: Sequence[Limit] = (),
    strategy: str = "gaussian",
    seed: int = 0,
    history: Path | None = None,
) -> FidelityResult:
    """The best network of a space, by trainings of several lengths.

    Args:
        space: to search.
        train: canonical rows and epochs to scores, shape (n, genes) -> (n,), for example
            `edgenas.strategies.fidelity.training.TrainedAlone`.
        rungs: the lengths of training, in epochs, ascending. The last one decides.
        budget: epochs in all.
        subject_to: limits that the network keeps.
        strategy: a name of ``FIDELITY_STRATEGIES``.
        seed: of all chance: the same seed gives the same result.
        history: a CSV file of every training. A search that was killed goes on from it.

    Raises:
        EdgenasError: an unknown strategy; rungs or a budget that are none; no network keeps the
            limits; a history of another search; or no full training gave a number.
    """
    if strategy not in FIDELITY_STRATEGIES:
        listing = "docs/concepts/search.md"
        raise unknown_name("strategy", strategy, names=FIDELITY_STRATEGIES, listing=listing)
    started, limits, written = time.perf_counter(), tuple(subject_to), None
    Trainings(space=space, train=train, rungs=tuple(rungs), budget=budget, seed=seed)
    if history is not None:
        search = {"strategy": strategy, "rungs": list(rungs), "budget": budget, "seed": seed}
        written = open_history(history, space=space, limits=limits, search=search)
    trainings = Trainings(
        space=space,
        train=train,
        rungs=tuple(rungs),
        limits=limits,
        budget=budget,
        seed=seed,
        history=written,
    )
    expenses = FIDELITY_STRATEGIES[strategy](trainings)
    last = expenses.last
    if not len(last.scores) or last.scores.max() == -float("inf"):
        raise EdgenasError(
            "no network has the score of a full training",
            hint="the trainings gave no numbers: look at one of them alone",
        )
    place = int(last.scores.argmax())
    (best,) = space.decode(last.rows[place : place + 1])
    return FidelityResult(
        best=best,
        score=float(last.scores[place]),
        trained={
            epochs: len(rung.rows)
            for epochs, rung in zip(trainings.rungs, expenses.rungs, strict=True)
        },
        spent=expenses.spent,
        seconds=time.perf_counter() - started,
        strategy=strategy,
        seed=seed,
    )
