"""Pareto search: dominance against brute force, true fronts of small spaces, limits, seeds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from strategies import seeds
from test_predict import random_mlp
from test_search import limit
from test_table import fake_seconds

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import compile_tables, macs_table, params_table, peak_table
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space, tiny
from edgenas.space.space import Space
from edgenas.strategies.dominance import find_front, measure_crowding, sort_into_fronts
from edgenas.strategies.least import find_least
from edgenas.strategies.neighbours import list_all
from edgenas.strategies.nsga2 import select_survivors
from edgenas.strategies.pareto import Front, Objective, pareto


def dominated(costs: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The readable oracle: which costs some vector dominates, shape (n,)."""
    return np.array([any((b <= c).all() and (b < c).any() for b in by) for c in costs], bool)


def ranks(costs: np.ndarray, *, enough: int | None = None) -> np.ndarray:
    """The rank of each vector."""
    order, rank = sort_into_fronts(costs, enough=enough)
    assert sorted(order) == list(range(len(costs)))
    found = np.empty(len(costs), int)
    found[order] = rank
    return found


costs_of = st.integers(2, 4).flatmap(
    lambda m: st.integers(1, 40).flatmap(
        # Few values: many ties, many duplicates.
        lambda n: arrays(np.float64, (n, m), elements=st.integers(0, 6).map(float))
    )
)


@settings(max_examples=150)
@given(costs_of)
def test_ranks_equal_those_of_pymoo_and_of_peeling(costs: np.ndarray):
    found, left, rank = ranks(costs), np.arange(len(costs)), 0
    while len(left):
        front = left[~dominated(costs[left], costs[left])]
        assert (found[front] == rank).all()
        left, rank = np.setdiff1d(left, front), rank + 1
    for rank, front in enumerate(NonDominatedSorting().do(costs)):
        assert sorted(front) == np.flatnonzero(found == rank).tolist()


@settings(max_examples=40)
@given(st.integers(1, 120), st.integers(0, 3), seeds)
def test_many_small_fronts_are_ranked_as_pymoo_ranks_them(n: int, wide: int, seed: int):
    rng = np.random.default_rng(seed)
    costs = rng.permutation(np.arange(n)[:, None] + rng.integers(0, wide + 1, size=(n, 2)))
    found = ranks(costs.astype(float))
    for rank, front in enumerate(NonDominatedSorting().do(costs.astype(float))):
        assert sorted(front) == np.flatnonzero(found == rank).tolist()
    assert found.max() == rank


@settings(max_examples=80)
@given(costs_of, st.integers(1, 40))
def test_enough_ranks_are_enough(costs: np.ndarray, enough: int):
    whole, part = ranks(costs), ranks(costs, enough=enough)
    told = part < part.max()
    assert (whole[told] == part[told]).all()
    assert (part == part.max()).sum() + told.sum() == len(costs)
    assert len(set(select_survivors(costs, most=enough))) == min(enough, len(costs))


@settings(max_examples=150)
@given(costs_of)
def test_the_front_holds_each_undominated_vector_once(costs: np.ndarray):
    found = find_front(costs)
    wanted = {tuple(c) for c in costs[~dominated(costs, costs)]}
    assert {tuple(c) for c in costs[found]} == wanted
    assert len(found) == len(wanted)
    assert found.tolist() == sorted(found)


def test_a_large_front_is_found_in_pieces():
    costs = np.random.default_rng(0).random((3000, 3))
    costs = np.concatenate([costs, costs[:500]])
    rank = ranks(costs)
    found = find_front(costs)
    assert len(found) < 1000
    assert {tuple(c) for c in costs[found]} == {tuple(c) for c in costs[rank == 0]}


@settings(max_examples=150)
@given(costs_of)
def test_fronts_come_one_after_the_other_each_in_order(costs: np.ndarray):
    order, rank = sort_into_fronts(costs)
    listed = [(int(r), *c) for r, c in zip(rank, costs[order].tolist(), strict=True)]
    assert listed == sorted(listed)


@settings(max_examples=60)
@given(st.integers(2, 4), st.integers(1, 60), seeds)
def test_crowding_equals_pymoo(objectives: int, n: int, seed: int):
    costs = np.random.default_rng(seed).random((n, objectives))
    order, rank = sort_into_fronts(costs)
    costs = costs[order]
    found = measure_crowding(costs, rank)
    for r in range(rank[-1] + 1):
        if (rank == r).sum() < 3:  # pymoo calls the only one of a front crowded
            assert np.isinf(found[rank == r]).all()
            continue
        theirs = calc_crowding_distance(costs[rank == r]) * objectives  # pymoo gives the mean
        np.testing.assert_allclose(found[rank == r], theirs)


# The search


def objectives_of(space: Space, *, seed: int = 0) -> list[Objective]:
    latency = compile_tables(space, fake_seconds)
    return [
        Objective(name="accuracy", values=random_mlp(space, seed=seed), goal="max"),
        Objective(name="latency", values=latency),
        Objective(name="latency@other", values=lambda rows: 2 - latency(rows), guide=None),
        Objective(name="params", values=params_table(space)),
        Objective(name="memory", values=peak_table(space)),
    ]


def matrix(front: Front) -> np.ndarray:
    """What was minimised, shape (points, objectives)."""
    signs = [1 if goal == "min" else -1 for goal in front.goals.values()]
    return np.array([[p.values[name] for name in front.goals] for p in front.points]) * signs


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_exact_front_of_a_small_space_is_that_of_brute_force(count: int):
    space = tiny()
    objectives = objectives_of(space)[:count]
    macs = macs_table(space)
    rows = list_all(space)
    at = float(np.median(macs(rows)))
    found = pareto(space, objectives=objectives, subject_to=[limit("macs", macs, at)])
    assert found.exact
    rows = rows[macs(rows) <= at]
    assert found.evaluations == len(rows)
    signs = [-1 if o.goal == "max" else 1 for o in objectives]
    costs = np.stack([s * o.values(rows) for s, o in zip(signs, objectives, strict=True)], 1)
    front = costs[ranks(costs) == 0]
    assert {tuple(c) for c in matrix(found)} == {tuple(c) for c in front}
    assert matrix(found)[:, 0].tolist() == sorted(matrix(found)[:, 0])
    for point in found.points:
        row = space.encode([point.arch])
        assert point.values["macs"] == macs(row)[0] <= at
        for objective in objectives:
            assert point.values[objective.name] == pytest.approx(objective.values(row)[0])


@settings(max_examples=15)
@given(
    seed=seeds,
    tight=st.floats(0, 1),
    second=st.floats(0, 1),
    count=st.integers(2, 5),
    evaluations=st.sampled_from((1, 10, 300, 1500)),
)
def test_limits_are_never_broken_and_fronts_repeat(
    seed: int, tight: float, second: float, count: int, evaluations: int
):
    space = tiny()
    latency, macs = compile_tables(space, fake_seconds), macs_table(space)
    rows = list_all(space)
    at = float(np.quantile(latency(rows), tight, method="lower"))
    left = macs(rows[latency(rows) <= at])
    limits = [
        limit("latency", latency, at),
        limit("macs", macs, float(np.quantile(left, second, method="lower"))),
    ]
    asked: list[Codes] = []
    objectives = objectives_of(space, seed=seed)[:count]

    def watched(rows: Codes) -> np.ndarray:
        asked.append(rows)
        return objectives[0].values(rows)

    first = replace(objectives[0], values=watched)

    def run() -> Front:
        return pareto(
            space,
            objectives=[first, *objectives[1:]],
            subject_to=limits,
            seed=seed,
            population=20,
            evaluations=evaluations,
        )

    found = run()
    scored = np.concatenate(asked)
    assert len(scored) == found.evaluations <= evaluations
    assert len({bytes(row) for row in scored}) == len(scored)
    for one in limits:
        assert (np.asarray(one.values(scored)) <= one.constraint.limit).all()
    assert not dominated(matrix(found), matrix(found)).any()
    assert replace(run(), seconds=0.0) == replace(found, seconds=0.0)


def test_the_ends_of_tables_are_on_the_front():
    space = load_space("mbv3-cifar")
    objectives = objectives_of(space)[:2]
    found = pareto(space, objectives=objectives, population=20, evaluations=400)
    assert not found.exact
    latency = compile_tables(space, fake_seconds)
    lowest = latency(find_least(space, latency))[0]
    assert found.points[-1].values["latency"] == lowest
    guided = Objective(name="latency", values=lambda rows: 3 * latency(rows), guide=latency)
    found = pareto(space, objectives=[objectives[0], guided], population=20, evaluations=400)
    assert found.points[-1].values["latency"] == 3 * lowest


@pytest.mark.slow
def test_a_front_beats_random_search_and_comes_near_the_true_one():
    space = load_space("mbv3-cifar").restrict(resolution=(24, 32), kernel=(3, 7), depth=(1, 2))
    objectives = objectives_of(space)[:2]
    rows = list_all(space)
    assert len(rows) > 100_000
    costs = np.stack([-objectives[0].values(rows), objectives[1].values(rows)], 1)
    low, high = costs.min(0), costs.max(0)

    def volume(found: np.ndarray) -> float:
        volume = HV(ref_point=np.ones(2))((found - low) / (high - low))
        assert volume is not None
        return float(volume)

    true = volume(costs[find_front(costs)])
    found = matrix(pareto(space, objectives=objectives, population=64, evaluations=6400))
    chance = costs[np.random.default_rng(0).choice(len(rows), 6400, replace=False)]
    assert volume(chance) < volume(found)
    assert volume(found) >= 0.995 * true


def test_what_is_not_a_number_is_on_no_front():
    space = tiny()
    macs = macs_table(space)

    def half(rows: Codes) -> np.ndarray:
        return np.where(rows[:, 0] == 1, np.nan, macs(rows))

    params = Objective(name="params", values=params_table(space))
    for evaluations in (300, 5000):
        accuracy = Objective(name="accuracy", values=half, goal="max")
        found = pareto(space, objectives=[accuracy, params], population=20, evaluations=evaluations)
        assert {p.arch.resolution for p in found.points} == {16}
    nothing = Objective(name="accuracy", values=lambda rows: np.full(len(rows), np.nan))
    for evaluations in (300, 5000):
        with pytest.raises(EdgenasError, match="no network has a value in every objective"):
            pareto(space, objectives=[nothing, params], evaluations=evaluations)


def test_an_infeasible_budget_says_what_is_least_reachable():
    space = tiny()
    macs = macs_table(space)
    for evaluations in (300, 5000):
        with pytest.raises(EdgenasError, match="no network of space tiny keeps macs<=1: the least"):
            pareto(
                space,
                objectives=objectives_of(space)[:2],
                subject_to=[limit("macs", macs, 1.0)],
                evaluations=evaluations,
            )


def test_what_is_no_pareto_search_is_refused():
    space = tiny()
    one, two = objectives_of(space)[:2]
    with pytest.raises(EdgenasError, match="at least two, found 1\nhint: for a single one: search"):
        pareto(space, objectives=[one])
    with pytest.raises(EdgenasError, match="different names, found latency, latency"):
        pareto(space, objectives=[two, two])
    with pytest.raises(EdgenasError, match="population must be at least 4, found 3"):
        pareto(space, objectives=[one, two], population=3)
    with pytest.raises(EdgenasError, match="evaluations must be at least 1, found 0"):
        pareto(space, objectives=[one, two], evaluations=0)


def test_points_are_written_as_json():
    space = tiny()
    found = pareto(space, objectives=objectives_of(space)[:2])
    point = found.points[0]
    assert point.to_json() == {"arch": point.arch.to_json(), "values": point.values}
    assert set(point.values) == {"accuracy", "latency"} == set(found.goals)
    assert space.contains(point.arch)
