"""Search: constraints as text, exact minima, brute force as the oracle, and what is infeasible."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import rows_of, seeds, spaces
from test_predict import random_mlp
from test_table import fake_seconds

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import (
    Tables,
    compile_tables,
    macs_table,
    params_table,
    peak_table,
)
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space, tiny
from edgenas.space.space import Space
from edgenas.strategies.compare import compare_strategies
from edgenas.strategies.constraint import Constraint, Limit, parse_constraint
from edgenas.strategies.least import find_least
from edgenas.strategies.neighbours import drop_repeats, hash_rows, list_all, list_neighbours
from edgenas.strategies.result import SearchResult
from edgenas.strategies.run import FRUGAL, STRATEGIES, search

# Constraints


@pytest.mark.parametrize(
    ("text", "metric", "limit", "target"),
    [
        ("latency<=20ms", "latency", 0.02, ""),
        ("latency <= 20 ms", "latency", 0.02, ""),
        ("latency@rpi4<=30ms", "latency", 0.03, "rpi4"),
        ("latency@jetson-orin-nano<=0.1s", "latency", 0.1, "jetson-orin-nano"),
        ("params<=4M", "params", 4e6, ""),
        ("macs<300M", "macs", 3e8, ""),
        ("memory<=16MB", "memory", 16e6, ""),
        ("Energy<=50mJ", "energy", 0.05, ""),
    ],
)
def test_constraints_are_read(text: str, metric: str, limit: float, target: str):
    found = parse_constraint(text)
    assert (found.metric, found.limit, found.target) == (metric, pytest.approx(limit), target)
    assert parse_constraint(str(found)) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("latency", "--c must read like latency<=20ms, found 'latency'"),
        ("latency=20ms", "must read like"),
        ("latency>=20ms", "must read like"),
        ("<=20ms", "must read like"),
        ("latencies<=20ms", "unknown metric 'latencies'\nhint: did you mean latency?"),
        ("accuracy<=20", "unknown metric 'accuracy'"),
        ("params@rpi4<=4M", "params is the same on every device, found @rpi4"),
        ("latency<=20", "--c must be in ns, us, ms, s, min, h, found no unit in '20'"),
        ("latency<=20MB", "found the unit 'MB'"),
        ("memory<=16", "--c must be in B, kB"),
        ("macs<=0M", "--c must be above zero"),
        ("latency<=-3ms", "--c must be above zero"),
        ("latency<=fast", "--c must be a number with a unit"),
    ],
)
def test_what_is_no_constraint_is_refused(text: str, told: str):
    with pytest.raises(EdgenasError) as caught:
        parse_constraint(text, name="--c")
    assert told in str(caught.value)


@given(st.sampled_from(("latency", "params", "macs", "memory", "energy")), st.floats(1e-4, 1e8))
def test_a_printed_quantity_is_close_and_never_below(metric: str, value: float):
    printed = parse_constraint(f"{metric}<={Constraint(metric, 1.0, '').quantity(value)}")
    assert value * (1 - 1e-9) <= printed.limit <= value * 1.002 + 1e-6


# All networks, and near ones


@settings(max_examples=30)
@given(space=spaces(most=2))
def test_every_network_once(space: Space):
    assume(space.size <= 5000)
    rows = list_all(space)
    assert len(rows) == space.size
    assert len(set(map(bytes, rows))) == space.size
    assert (space.canonical(rows) == rows).all()


@settings(max_examples=30)
@given(space=spaces(most=2), seed=seeds)
def test_neighbours_differ_in_one_or_two_genes(space: Space, seed: int):
    assume(1 < space.size <= 5000)
    (row,) = rows_of(space, seed=seed, n=1)
    found = list_neighbours(space, row[None])
    assert (space.canonical(found) == found).all()
    assert not (found == row).all(1).any()
    # The oracle: of all networks, those that differ in one or two genes which both have.
    all_rows = list_all(space)
    both = (all_rows != 0) & (row != 0)
    same_shape = ((all_rows != 0) == (row != 0)).all(1)
    near = ((all_rows != row) & both).sum(1)
    wanted = set(map(bytes, all_rows[same_shape & (near >= 1) & (near <= 2)]))
    assert wanted <= set(map(bytes, found))


def test_neighbours_of_a_shallow_network_are_deeper_too():
    space = tiny()
    near = list_neighbours(space, space.encode([space.smallest()]))
    depths = [tuple(len(s.blocks) for s in arch.stages) for arch in space.decode(near)]
    assert {(1, 2, 1), (1, 1, 2), (1, 2, 2)} <= set(depths)
    # An added block comes with other values as well.
    added = {str(a.stages[1].blocks[1]) for a in space.decode(near) if len(a.stages[1].blocks) > 1}
    assert len(added) >= 3


def test_rows_keep_their_order_and_their_keys_are_theirs():
    space = load_space("mbv3-cifar")
    rows = rows_of(space, seed=0, n=5000)
    assert drop_repeats(np.concatenate([rows[:10], rows[:10]])).tolist() == rows[:10].tolist()
    assert len(set(hash_rows(rows).tolist())) == len(set(map(bytes, rows)))


# Exact minima


@settings(max_examples=60)
@given(space=spaces(most=3), reduce=st.sampled_from(("sum", "max")), seed=seeds)
def test_the_least_of_tables_equals_brute_force(space: Space, reduce: Any, seed: int):
    assume(space.size <= 20_000)
    rng = np.random.default_rng(seed)
    values: dict[str, float] = {}

    # Whole numbers: their sums are exact in any order.
    def value(layer: Any) -> float:
        return values.setdefault(str(layer), float(rng.integers(1 << 30)))

    table = compile_tables(space, value, reduce=reduce, constant=2.0)
    row = find_least(space, table)
    assert (space.canonical(row) == row).all()
    assert table(row)[0] == table(list_all(space)).min()


def test_the_least_of_a_large_space_is_its_smallest_network():
    space = load_space("mbv3-cifar")
    smallest = space.encode([space.smallest()])
    assert find_least(space, macs_table(space)).tolist() == smallest.tolist()
    assert peak_table(space)(find_least(space, peak_table(space))) == peak_table(space)(smallest)


# Search against brute force


def limit(name: str, values: Callable[[Codes], Any], at: float, **rest: Any) -> Limit:
    return Limit(constraint=Constraint(name, at, f"{at:g}"), values=values, **rest)


def brute_force(space: Space, score: Callable[[Codes], Any], limits: list[Limit]) -> float:
    rows = list_all(space)
    for one in limits:
        rows = rows[np.asarray(one.values(rows)) <= one.constraint.limit]
    return float(np.max(score(rows)))


@settings(max_examples=12)
@given(
    seed=seeds,
    tight=st.floats(0, 1),
    second=st.floats(0, 1),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    evaluations=st.sampled_from((1, 7, 60, 400, 5000)),
)
def test_constraints_are_never_broken_and_results_repeat(
    seed: int, tight: float, second: float, strategy: str, evaluations: int
):
    assume(strategy not in FRUGAL or evaluations != 400)  # slow by design
    space = tiny()
    latency, macs = compile_tables(space, fake_seconds), macs_table(space)
    rows = list_all(space)
    times = latency(rows)
    at = float(np.quantile(times, tight, method="lower"))
    # The second limit leaves something of what the first leaves.
    left = macs(rows[times <= at])
    limits = [
        limit("latency", latency, at),
        limit("macs", macs, float(np.quantile(left, second, method="lower"))),
    ]
    score = random_mlp(space, seed=seed)

    def run() -> SearchResult:
        return search(
            space,
            maximize=score,
            subject_to=limits,
            strategy=strategy,
            seed=seed,
            evaluations=evaluations,
        )

    found = run()
    best = space.encode([found.best.arch])
    for one in limits:
        assert np.asarray(one.values(best))[0] <= one.constraint.limit
        assert found.best.values[one.constraint.name] == np.asarray(one.values(best))[0]
    assert found.best.score == pytest.approx(float(score(best)[0]), rel=1e-5)
    assert found.evaluations <= evaluations
    assert found.history[-1].evaluations == found.evaluations
    assert [s.best for s in found.history] == sorted(s.best for s in found.history)
    assert replace(run(), seconds=0.0) == replace(found, seconds=0.0)
    if evaluations >= space.size:
        assert found.best.score == pytest.approx(brute_force(space, score, limits), rel=1e-5)


@pytest.mark.parametrize("tight", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_evolution_finds_the_best_of_a_space_it_may_not_enumerate(tight: float, seed: int):
    space = load_space("mbv3-cifar").restrict(resolution=(24, 32), kernel=(3, 7), depth=(1, 2))
    score, latency = random_mlp(space, seed=5), compile_tables(space, fake_seconds)
    rows = list_all(space)
    assert len(rows) > 100_000
    at = float(np.quantile(latency(rows), tight, method="lower"))
    limits = [limit("latency", latency, at)]
    found = search(space, maximize=score, subject_to=limits, seed=seed, evaluations=20_000)
    assert found.best.score == pytest.approx(brute_force(space, score, limits), rel=1e-5)


@pytest.mark.parametrize(
    ("strategy", "evaluations"),
    [("evolution", 4000), ("aging", 4000), ("local", 400), ("bayes", 40), ("gaussian", 30)],
)
def test_every_strategy_beats_random_search(strategy: str, evaluations: int):
    space = load_space("mbv3-cifar")
    score = random_mlp(space, seed=5, hidden=(30, 30))
    macs = macs_table(space)
    limits = [limit("macs", macs, float(np.median(macs(rows_of(space, seed=0, n=500)))))]

    def best(strategy: str) -> float:
        found = [
            search(
                space,
                maximize=score,
                subject_to=limits,
                strategy=strategy,
                seed=seed,
                evaluations=evaluations,
            )
            for seed in range(3)
        ]
        return float(np.mean([one.best.score for one in found]))

    assert best(strategy) > best("random")


def test_the_front_is_not_dominated_and_holds_the_best():
    space = tiny()
    score, latency = random_mlp(space, seed=2), compile_tables(space, fake_seconds)
    at = float(np.median(latency(list_all(space))))
    found = search(space, maximize=score, subject_to=[limit("latency", latency, at)])
    scores = [c.score for c in found.front]
    costs = [c.values["latency"] for c in found.front]
    assert scores == sorted(scores, reverse=True)
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
    assert found.front[0].score == found.best.score
    rows = list_all(space)
    rows, all_scores = rows[latency(rows) <= at], None
    all_scores, all_costs = score(rows), latency(rows)
    for one, cost in zip(all_scores, all_costs, strict=True):
        assert any(s >= one and c <= cost for s, c in zip(scores, costs, strict=True))
    assert found.best.to_json()["score"] == found.best.score


def test_without_constraints_anything_goes():
    space = load_space("mbv3-cifar")
    found = search(space, maximize=macs_table(space), evaluations=3000)
    assert found.best.arch == space.largest()
    assert [c.arch for c in found.front] == [found.best.arch]


def test_a_space_of_one_network():
    space = tiny().restrict(resolution=(12,), depth=(1,), kernel=(3,), expand=(2.0,))
    assert space.size == 1
    found = search(space, maximize=lambda rows: np.zeros(len(rows)))
    assert found.best.arch == space.largest()


def test_scores_that_are_no_numbers_are_never_best():
    space = tiny()
    macs = macs_table(space)

    def half(rows: Codes) -> np.ndarray:
        return np.where(rows[:, 0] == 1, np.nan, macs(rows))

    for strategy in STRATEGIES:
        for evaluations in (60, 5000):
            found = search(space, maximize=half, strategy=strategy, evaluations=evaluations)
            assert found.best.arch.resolution == 16
    with pytest.raises(EdgenasError, match="no network has a score"):
        search(space, maximize=lambda rows: np.full(len(rows), np.nan))


def test_what_is_not_a_number_keeps_no_limit():
    space = tiny()
    broken = limit("latency", lambda rows: np.where(rows[:, 0] == 1, np.nan, 1.0), 2.0)
    for evaluations in (300, 5000):
        found = search(
            space, maximize=macs_table(space), subject_to=[broken], evaluations=evaluations
        )
        assert found.best.arch.resolution == 16


# What cannot be


@pytest.mark.parametrize("evaluations", [500, 100_000])
@pytest.mark.parametrize("opaque", [False, True])
def test_an_infeasible_budget_says_what_is_least_reachable(opaque: bool, evaluations: int):
    space = load_space("mbv3-cifar") if evaluations == 500 else tiny()
    table = macs_table(space)
    lowest = float(table(space.encode([space.smallest()]))[0])
    values = (lambda rows: table(rows)) if opaque else table
    limits = [limit("params", params_table(space), 1e9), limit("macs", values, 0.9 * lowest)]
    with pytest.raises(EdgenasError) as caught:
        search(space, maximize=table, subject_to=limits, evaluations=evaluations)
    words = "least found" if opaque else "least reachable"
    assert f"no network of space {space.name} keeps macs<=" in caught.value.message
    assert f"the {words} is " in caught.value.message
    # What the hint says works, and gives the least there is.
    allowed = re.search(r"allow at least (macs<=\S+),", caught.value.hint)
    assert allowed is not None
    constraint = parse_constraint(allowed[1])
    assert constraint.limit == pytest.approx(lowest, rel=2e-3)
    kept = Limit(constraint=constraint, values=values)
    found = search(space, maximize=table, subject_to=[kept], evaluations=evaluations)
    assert found.best.values["macs"] <= constraint.limit


def test_a_guide_makes_the_least_of_a_bound_exact():
    space = load_space("mbv3-cifar")
    table = compile_tables(space, fake_seconds)
    bound = limit("latency", lambda rows: 1.2 * table(rows), 1e-9, guide=table)
    with pytest.raises(EdgenasError) as caught:
        search(space, maximize=table, subject_to=[bound])
    exact = 1.2 * float(table(find_least(space, table))[0])
    assert f"the least reachable is {bound.constraint.quantity(exact)}" in str(caught.value)


def test_limits_that_exclude_each_other_are_named():
    space = load_space("mbv3-cifar")
    macs = macs_table(space)

    # Small networks are slow: either limit can be kept, both cannot.
    def inverse(rows: Codes) -> np.ndarray:
        return 1e6 / macs(rows)

    middle = float(np.median(macs(rows_of(space, seed=0, n=200))))
    limits = [limit("macs", macs, 0.8 * middle), limit("latency", inverse, 1e6 / (1.2 * middle))]
    with pytest.raises(EdgenasError) as caught:
        search(space, maximize=macs, subject_to=limits)
    assert "was found that keeps macs<=" in caught.value.message
    assert "together, though each alone can be kept; the closest has" in caught.value.message
    assert "; allow " in caught.value.hint


def test_a_needle_is_found_by_two_limits():
    """Only networks of nearly one size are left: samples miss them, descent does not."""
    space = load_space("mbv3-cifar")
    macs = macs_table(space)
    goal = rows_of(space, seed=77, n=1)
    at = float(macs(goal)[0])
    limits = [
        limit("macs", macs, at * 1.00005),
        limit("latency", lambda rows: 1 / macs(rows), 1.00005 / at),
    ]
    found = search(space, maximize=params_table(space), subject_to=limits, evaluations=5000)
    assert found.best.values["macs"] == pytest.approx(at, rel=1e-4)


def test_unknown_strategies_and_no_evaluations_are_refused():
    with pytest.raises(EdgenasError, match="unknown strategy 'evolutoin'\nhint: did you mean evol"):
        search(tiny(), maximize=macs_table(tiny()), strategy="evolutoin")
    with pytest.raises(EdgenasError, match="evaluations must be at least 1, found 0"):
        search(tiny(), maximize=macs_table(tiny()), evaluations=0)


def test_tables_are_their_own_guide():
    table = macs_table(tiny())
    assert isinstance(limit("macs", table, 1.0).tables, Tables)
    assert limit("macs", lambda rows: table(rows), 1.0).tables is None


# Strategies against each other


def test_strategies_are_compared_on_equal_terms():
    space = load_space("mbv3-cifar")
    score, macs = random_mlp(space, seed=5, hidden=(30, 30)), macs_table(space)
    limits = [limit("macs", macs, float(np.median(macs(rows_of(space, seed=0, n=500)))))]
    found = compare_strategies(
        space,
        maximize=score,
        subject_to=limits,
        strategies=["evolution", "random", "aging"],
        evaluations=1000,
        seeds=3,
    )
    assert [c.strategy for c in found] == ["evolution", "random", "aging"]
    for one in found:
        alone = [
            search(
                space,
                maximize=score,
                subject_to=limits,
                strategy=one.strategy,
                seed=seed,
                evaluations=1000,
            ).best.score
            for seed in range(3)
        ]
        assert list(one.scores) == alone
        assert one.mean == pytest.approx(np.mean(alone))
        assert one.spread == pytest.approx(np.std(alone, ddof=1))
        assert one.evaluations <= 1000
    by_name = {c.strategy: c for c in found}
    assert by_name["random"].wins == 0
    assert by_name["evolution"].wins == 3
    with pytest.raises(EdgenasError, match="seeds must be at least 1, found 0"):
        compare_strategies(space, maximize=score, strategies=["random"], evaluations=10, seeds=0)
