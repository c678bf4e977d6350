"""Many objectives at once: the networks of a space that no other beats in all of them."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.dominance import find_front
from edgenas.strategies.feasible import find_feasible
from edgenas.strategies.history import SearchHistory, open_history
from edgenas.strategies.hypervolume import hypervolume_selection
from edgenas.strategies.least import find_least
from edgenas.strategies.neighbours import list_all
from edgenas.strategies.nsga2 import nsga2, select_survivors
from edgenas.strategies.problem import Costs, Problem

POPULATION = 256
EVALUATIONS = 50_000
ParetoStrategy = Literal["nsga2", "hypervolume"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objective:
    """One thing to be had as much or as little of as possible.

    Args:
        name: ``accuracy``, ``latency``, ``latency@rpi4``, ``params`` ...; each once in a search.
        values: canonical rows, shape (n, genes), to values, shape (n,): compiled tables, a
            predictor, or any function.
        goal: ``max`` or ``min``.
        guide: as in ``Limit``: compiled tables that rise and fall with ``values``; with them the
            search starts at the exact optimum of a minimised objective. Needless where ``values``
            are tables themselves.
    """

    name: str
    values: Callable[[Codes], Vector]
    goal: Literal["max", "min"] = "min"
    guide: Tables | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One network of a front.

    Args:
        arch: the network.
        values: of the objectives and of the limited metrics, by name, in the units of their
            functions (seconds, bytes, fractions of 1).
    """

    arch: Arch
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {"arch": self.arch.to_json(), "values": self.values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The outcome of a search with many objectives.

    Args:
        points: every scored network that no other scored one dominates, the best in the first
            objective first; of networks equal in all objectives only one.
        goals: ``max`` or ``min`` by the name of the objective, in the order asked for.
        exact: whether the whole space was scored, so that this is its true front.
        evaluations: networks scored.
        seconds: the search took; the only part that differs between two runs of one seed.
        seed: of all chance in it.
    """

    points: tuple[Point, ...]
    goals: dict[str, Literal["max", "min"]]
    exact: bool
    evaluations: int
    seconds: float
    seed: int


def pareto(
    space: Space,
    *,
    objectives: Sequence[Objective],
    subject_to: Sequence[Limit] = (),
    seed: int = 0,
    population: int = POPULATION,
    evaluations: int = EVALUATIONS,
    history: Path | None = None,
    strategy: ParetoStrategy = "nsga2",
) -> Front:
    """The front of a space, by an evolution; exactly, where the whole space may be scored.

    Args:
        space: to search.
        objectives: at least two.
        subject_to: limits that every network of the front keeps.
        seed: of all chance: the same seed gives the same front.
        population: networks kept from generation to generation; the front may hold more of them,
            as it comes from all that were scored.
        evaluations: how many networks are scored at most.
        history: a CSV file of every network scored. Where an interrupted search left one, what is
            in it is not scored again, and the front is that of an uninterrupted search.
        strategy: who lives on from generation to generation: ``nsga2`` by rank and crowding,
            ``hypervolume`` by what a network adds to the volume that the front dominates.

    Raises:
        EdgenasError: no network keeps the limits, with the least reachable and what is in the way;
            the objectives, the population or the evaluations are none to search with; or a history
            of another search.
    """
    _check(objectives, population=population, evaluations=evaluations)
    started = time.perf_counter()
    limits = tuple(subject_to)
    goals: dict[str, Literal["max", "min"]] = {o.name: o.goal for o in objectives}
    search = {"strategy": strategy, "objectives": goals, "population": population}
    search |= {"seed": seed, "evaluations": evaluations}
    written = None
    if history is not None:
        written = open_history(
            history, space=space, limits=limits, search=search, found=list(goals)
        )
    exact = space.size <= evaluations
    costs = _costs(objectives, history=written, phase="every" if exact else "sample")
    problem = Problem(
        space=space,
        maximize=lambda rows: -costs(rows)[:, 0],
        limits=limits,
        evaluations=evaluations,
        seed=seed,
    )
    if exact:
        rows, values = _score_every(problem, costs)
    else:
        ends = [find_least(space, t) for o in objectives if (t := _tables(o)) is not None]
        select = select_survivors if strategy == "nsga2" else hypervolume_selection(seed)
        rows, values = nsga2(problem, costs, population=population, ends=ends, select=select)
    scored = len(rows)
    known = np.isfinite(values).all(1)
    rows, values = rows[known], values[known]
    if not len(rows):
        raise EdgenasError(
            "no network has a value in every objective: they gave no numbers",
            hint="fit the predictors again",
        )
    places = find_front(values)
    places = places[np.lexsort(values[places].T[::-1])]
    columns = {limit.constraint.name: limit.of(rows[places]) for limit in limits}
    columns |= dict(zip(goals, (values[places] * _signs(objectives)).T, strict=True))
    return Front(
        points=_points(space, rows[places], columns),
        goals=goals,
        exact=exact,
        evaluations=scored,
        seconds=time.perf_counter() - started,
        seed=seed,
    )


def _score_every(problem: Problem, costs: Callable[[Codes], Vector]) -> tuple[Codes, Vector]:
    """All networks of a space that keep the limits, and their costs.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    rows = list_all(problem.space)
    rows = rows[problem.kept(rows)]
    if not len(rows):
        find_feasible(problem, np.random.default_rng(problem.seed))  # says what is in the way
    return rows, costs(rows)


def _check(objectives: Sequence[Objective], *, population: int, evaluations: int) -> None:
    names = [o.name for o in objectives]
    if len(names) < 2:
        raise EdgenasError(
            f"objectives must be at least two, found {len(names)}",
            hint="for a single one: search",
        )
    if len(set(names)) < len(names):
        raise EdgenasError(f"objectives must have different names, found {', '.join(names)}")
    if population < 4:
        raise EdgenasError(f"population must be at least 4, found {population}")
    if evaluations < 1:
        raise EdgenasError(f"evaluations must be at least 1, found {evaluations}")


def _signs(objectives: Sequence[Objective]) -> NDArray[np.float64]:
    return np.array([1.0 if o.goal == "min" else -1.0 for o in objectives])


def _costs(objectives: Sequence[Objective], *, history: SearchHistory | None, phase: str) -> Costs:
    """Rows to what is minimised, shape (n, objectives); what is not a number is infinite.

    Args:
        objectives: of the search.
        history: where every value is kept, and found again; None: nowhere.
        phase: of the first rows asked for; the others are of ``evolve``.
    """
    signs, phases = _signs(objectives), itertools.chain([phase], itertools.repeat("evolve"))

    def values(rows: Codes) -> NDArray[np.float64]:
        return np.stack([np.asarray(o.values(rows), float) for o in objectives], 1)

    def costs(rows: Codes) -> NDArray[np.float64]:
        if history is None:
            values_of = values(rows)
        else:
            values_of = history.values(rows, phase=next(phases), score=values)
        return np.where(np.isnan(values_of), np.inf, signs * values_of)

    return costs


def _tables(objective: Objective) -> Tables | None:
    if objective.goal == "max":
        return None
    return objective.values if isinstance(objective.values, Tables) else objective.guide


def _points(space: Space, rows: Codes, columns: dict[str, Vector]) -> tuple[Point, ...]:
    listed = {name: values.tolist() for name, values in columns.items()}
    return tuple(
        Point(arch=arch, values={name: values[i] for name, values in listed.items()})
        for i, arch in enumerate(space.decode(rows))
    )
