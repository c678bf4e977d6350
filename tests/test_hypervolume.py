"""Survival by hypervolume: contributions against inclusion and exclusion, and what is gained."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from strategies import seeds
from test_pareto import dominated, matrix, objectives_of

from edgenas.space.presets import load_space, tiny
from edgenas.strategies.dominance import find_front
from edgenas.strategies.hypervolume import (
    contributions_of_two,
    hypervolume_selection,
    select_by_hypervolume,
    trim,
)
from edgenas.strategies.pareto import Objective, pareto
from tools.benchmarks.lookup import load_cells

FOLDER = Path(__file__).parents[2] / "shared/data/nas_benchmarks"
REFERENCE = 1.1


def volume(costs: np.ndarray) -> float:
    """By inclusion and exclusion over all sets of points: their boxes meet in a box."""
    total = 0.0
    for size in range(1, len(costs) + 1):
        for some in itertools.combinations(costs, size):
            corner = np.max(some, axis=0)
            total -= (-1) ** size * float(np.prod(np.maximum(REFERENCE - corner, 0)))
    return total


def random_front(n: int, *, objectives: int, seed: int) -> np.ndarray:
    """Undominated costs of a range of 1, in the order of the first."""
    rng = np.random.default_rng(seed)
    costs = rng.random((40 * n, objectives)) ** 2
    costs = costs[find_front(costs)][:n]
    costs = (costs - costs.min(0)) / np.where(np.ptp(costs, axis=0) > 0, np.ptp(costs, axis=0), 1)
    return costs[np.lexsort(costs.T[::-1])]


@settings(max_examples=40)
@given(st.integers(1, 8), seeds)
def test_contributions_of_two_are_what_the_volume_loses(n: int, seed: int):
    costs = random_front(n, objectives=2, seed=seed)
    whole = volume(costs)
    lost = [whole - volume(np.delete(costs, i, 0)) for i in range(len(costs))]
    np.testing.assert_allclose(contributions_of_two(costs), lost, atol=1e-12)


@settings(max_examples=40)
@given(st.integers(3, 30), st.integers(2, 30), seeds)
def test_two_costs_are_trimmed_as_greed_trims_them(n: int, most: int, seed: int):
    costs = random_front(n, objectives=2, seed=seed)
    left = list(range(len(costs)))
    measure = HV(ref_point=np.full(2, REFERENCE))
    while len(left) > most:
        # The least of each cost stays: the first and the last.
        losses = {i: -float(measure(costs[[k for k in left if k != i]]) or 0) for i in left[1:-1]}
        if not losses:
            return
        least = min(losses.values())
        near = [i for i, value in losses.items() if value - least < 1e-9]
        if len(near) > 1:  # a tie: any of them may go
            return
        left.remove(near[0])
    found = trim(costs, most=most, rng=np.random.default_rng(0))
    assert sorted(found.tolist()) == left


@settings(max_examples=20)
@given(st.integers(3, 5), st.integers(24, 60), seeds)
def test_many_costs_keep_most_of_the_volume(objectives: int, n: int, seed: int):
    costs = random_front(n, objectives=objectives, seed=seed)
    most = len(costs) // 2
    rng = np.random.default_rng(seed)
    found = trim(costs, most=most, rng=rng)
    assert len(found) == len(set(found.tolist())) == min(most, len(costs))
    assert set(costs.argmin(0)) <= set(found.tolist())
    drawn = np.random.default_rng(1).random((20_000, objectives)) * REFERENCE

    def part(some: np.ndarray) -> float:
        beaten = np.zeros(len(drawn), bool)
        for c in some:
            beaten |= (c <= drawn).all(1)
        return float(beaten.mean())

    others = [rng.permutation(len(costs))[:most] for _ in range(5)]
    # 20,000 points tell a share to 0.35 points (one deviation at a half).
    assert part(costs[found]) >= np.mean([part(costs[o]) for o in others]) - 0.01


@settings(max_examples=60)
@given(st.integers(2, 4), st.integers(1, 60), st.integers(1, 60), seeds)
def test_survivors_are_of_the_best_ranks(objectives: int, n: int, most: int, seed: int):
    costs = np.random.default_rng(seed).integers(0, 8, (n, objectives)).astype(float)
    found = select_by_hypervolume(costs, most=most, rng=np.random.default_rng(0))
    assert len(found) == len(set(found.tolist())) == min(most, n)
    gone = np.setdiff1d(np.arange(n), found)
    if len(gone):
        assert not any(dominated(costs[found], costs[[i]]).any() for i in gone)
    again = hypervolume_selection(0)(costs, most=most)
    assert again.tolist() == found.tolist()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_search_by_hypervolume_repeats_and_comes_near_the_true_front(count: int):
    space = tiny()
    objectives = objectives_of(space)[:count]
    true = pareto(space, objectives=objectives)
    assert true.exact

    def run():
        return pareto(
            space,
            objectives=objectives,
            evaluations=space.size // 2,
            population=40,
            strategy="hypervolume",
        )

    found = run()
    assert replace(run(), seconds=0.0) == replace(found, seconds=0.0)
    assert not dominated(matrix(found), matrix(found)).any()
    low, high = matrix(true).min(0), matrix(true).max(0)
    drawn = np.random.default_rng(0).random((4000, count))

    def part(costs: np.ndarray) -> float:
        scaled = (costs - low) / (high - low)
        return float(np.mean([(scaled <= point).all(1).any() for point in drawn]))

    assert part(matrix(found)) >= 0.97 * part(matrix(true))


def test_all_ends_stay_where_there_is_room_for_none():
    costs = random_front(12, objectives=4, seed=0)
    found = trim(costs, most=1, rng=np.random.default_rng(0))
    assert len(found) == 1
    assert len(trim(random_front(9, objectives=2, seed=1), most=1, rng=np.random.default_rng(0)))


@pytest.mark.skipif(not FOLDER.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize("strategy", [pytest.param("nsga2", marks=pytest.mark.slow), "hypervolume"])
def test_real_accuracies_on_two_devices_give_nearly_the_true_front(strategy):
    cells = load_cells(FOLDER)
    names = ("raspi4", "1080ti_1")
    objectives = [
        Objective(name="accuracy", values=cells.score, goal="max"),
        *(
            Objective(name=f"latency@{n}", values=lambda r, n=n: cells.seconds[n][cells.places(r)])
            for n in names
        ),
    ]
    costs = np.stack([-cells.accuracy, *(cells.seconds[n] for n in names)], 1)
    kept: list[np.ndarray] = []
    for c in costs[np.lexsort(costs.T[::-1])]:  # what comes later beats nothing before it
        if not any((k <= c).all() for k in kept):
            kept.append(c)
    front = np.array(kept)
    found = pareto(
        cells.space, objectives=objectives, evaluations=3000, population=64, strategy=strategy
    )
    assert not found.exact
    low, high = front.min(0), front.max(0)
    measure = HV(ref_point=np.full(3, REFERENCE))
    true, reached = (measure((some - low) / (high - low)) for some in (front, matrix(found)))
    assert true is not None
    assert reached is not None
    assert reached >= 0.985 * true
    exact = pareto(cells.space, objectives=objectives)
    assert exact.exact
    assert {tuple(c) for c in matrix(exact)} == {tuple(c) for c in front}


def test_the_ends_of_tables_stay_on_the_front():
    space = load_space("mbv3-cifar")
    objectives = objectives_of(space)[:2]
    found = pareto(
        space, objectives=objectives, population=20, evaluations=400, strategy="hypervolume"
    )
    plain = pareto(space, objectives=objectives, population=20, evaluations=400)
    assert found.points[-1].values["latency"] == plain.points[-1].values["latency"]
