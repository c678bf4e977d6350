"""Networks that keep all limits, or the proof or the report that there are none."""

from collections.abc import Sequence

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.least import find_least
from edgenas.strategies.neighbours import drop_repeats, list_neighbours
from edgenas.strategies.problem import Problem

_TRIES = 12
_CROWD = 2048


def find_feasible(problem: Problem, rng: np.random.Generator) -> Codes:
    """One row that keeps all limits, shape (1, genes).

    Raises:
        EdgenasError: a limit is below what the space can reach, or no network was found that keeps
            all of them together. Names the limit, what is least reachable, and what to allow.
    """
    space, limits = problem.space, problem.limits
    starts = [least_row(space, limit, rng=rng) for limit in limits]
    for limit, row in zip(limits, starts, strict=True):
        _reachable(space, limit, row)
    crowd = space.sample(_CROWD, rng=rng, by="gene")
    rows = np.concatenate([space.encode([space.smallest()]), *starts, crowd])
    if len(limits) < 2:
        return starts[0] if starts else rows[:1]
    excess = problem.excess(rows)
    for _ in range(_TRIES):
        best = int(excess.argmin())
        if excess[best] == 0:
            return rows[best : best + 1]
        descended, value = _descend(problem, rows[best : best + 1], float(excess[best]))
        if value == 0:
            return descended
        order = excess.argsort(kind="stable")[: _CROWD // 8]
        parents = np.concatenate([descended, *starts, rows[order]])
        one, other = (parents[rng.integers(len(parents), size=_CROWD)] for _ in range(2))
        children = space.mutate(space.crossover(one, other, rng=rng), rng=rng, probability=0.05)
        rows = drop_repeats(np.concatenate([parents, children]))
        excess = problem.excess(rows)
    raise _none_found(problem, rows[int(excess.argmin())][None])


def least_row(space: Space, limit: Limit, *, rng: np.random.Generator) -> Codes:
    """The row with the least value of a limit: exact with tables, else the best descent's end."""
    if limit.tables is not None:
        return find_least(space, limit.tables)
    crowd = space.sample(_CROWD // 8, rng=rng, by="gene")
    rows = np.concatenate([space.encode([space.smallest()]), crowd])
    values = limit.of(rows)
    row = rows[int(values.argmin())][None]
    value = float(values.min())
    while True:
        near = list_neighbours(space, row)
        if not len(near):
            return row
        values = limit.of(near)
        if not values.min() < value:
            return row
        row, value = near[int(values.argmin())][None], float(values.min())


def first_population(
    problem: Problem, rng: np.random.Generator, *, size: int, ends: Sequence[Codes] = ()
) -> Codes:
    """Different rows that keep all limits: the given ones, the corners of the space, and samples.

    Half of the samples are drawn by gene, half by arch; where there are limits, more are drawn
    towards a network that keeps them.

    Returns:
        Canonical rows, shape (at most size, genes).

    Raises:
        EdgenasError: no network keeps all limits.
    """
    space = problem.space
    start = find_feasible(problem, rng)
    corners = space.encode([space.smallest(), space.largest()])
    samples = np.concatenate([space.sample(size, rng=rng, by=by) for by in ("gene", "arch")])
    samples = rng.permutation(samples)
    if problem.limits:
        drawn = [move_towards(space, samples, start, rng=rng) for _ in range(2)]
        samples = np.concatenate([samples, *drawn])
    rows = drop_repeats(np.concatenate([*ends, start, corners, samples]))
    return rows[problem.kept(rows)][:size]


def move_towards(space: Space, rows: Codes, goal: Codes, *, rng: np.random.Generator) -> Codes:
    """Rows with a random part of their genes, another part in each row, taken from the goal."""
    take = rng.random(rows.shape) < rng.random((len(rows), 1))
    take = (take & (goal != 0)) | (rows == 0)
    return space.canonical(np.where(take, goal, rows))


def _descend(problem: Problem, row: Codes, value: float) -> tuple[Codes, float]:
    """The end of the steepest descent of the excess by one and two genes."""
    while value > 0:
        near = list_neighbours(problem.space, row)
        values: Vector = problem.excess(near)
        if not len(near) or not values.min() < value:
            break
        row, value = near[int(values.argmin())][None], float(values.min())
    return row, value


def _reachable(space: Space, limit: Limit, row: Codes) -> None:
    value = float(limit.of(row)[0])
    if value <= limit.constraint.limit:
        return
    constraint = limit.constraint
    reach = constraint.quantity(value)
    exactly = "the least reachable is" if limit.tables is not None else "the least found is"
    raise EdgenasError(
        f"no network of space {space.name} keeps {constraint}: {exactly} {reach}",
        hint=f"allow at least {constraint.name}<={reach}, or use another space or device",
    )


def _none_found(problem: Problem, row: Codes) -> EdgenasError:
    """The error that says which limits the closest network breaks."""
    values = [float(limit.of(row)[0]) for limit in problem.limits]
    pairs = list(zip(problem.limits, values, strict=True))
    broken = [(limit.constraint, v) for limit, v in pairs if not v <= limit.constraint.limit]
    all_of = " and ".join(str(limit.constraint) for limit in problem.limits)
    closest = ", ".join(f"{c.name} {c.quantity(v)}" for c, v in broken)
    allow = " ".join(f"{c.name}<={c.quantity(v)}" for c, v in broken)
    return EdgenasError(
        f"no network of space {problem.space.name} was found that keeps {all_of} together, though "
        f"each alone can be kept; the closest has {closest}",
        hint=f"in the way: {', '.join(c.name for c, _ in broken)}; allow {allow}",
    )
