"""Encodings, the Gaussian process on them, and the searches that ask it what to score next."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from strategies import seeds
from test_predict import random_mlp

from edgenas.accuracy.encoding import (
    Encoding,
    Wiring,
    encode_choices,
    encode_pairs,
    encode_paths,
    encode_values,
    encodings_of,
    wirings_of,
)
from edgenas.accuracy.process import (
    Lengths,
    _loss,
    fit_lengths,
    fit_process,
    measure_distances,
    normal_scores,
)
from edgenas.space.cells import CellSpace
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space, tiny
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace
from edgenas.strategies import surrogate
from edgenas.strategies.neighbours import list_neighbours
from edgenas.strategies.run import search
from edgenas.strategies.surrogate import log_expected_improvement

# A cell of four nodes, each fed by all before it; codes: 1 nothing, 2 identity, 3 to 5 operations.
CELL = Wiring(paths=((3,), (0, 4), (1, 5), (0, 2, 5)), cuts=(1,), passes=(2,), operations=5)


def cells(*, seed: int, n: int = 30) -> Codes:
    return np.random.default_rng(seed).integers(1, 6, (n, 6)).astype(np.uint8)


@given(seed=seeds)
def test_choices_and_pairs_count_what_differs(seed: int):
    rows, others = cells(seed=seed), cells(seed=seed + 1, n=7)
    unlike = (rows[:, None] != others).sum(2)
    choices, pairs = measure_distances(
        [encode_choices([5] * 6), encode_pairs([5] * 6)], rows, others
    )
    np.testing.assert_allclose(choices, unlike, atol=1e-12)
    same = 6 - unlike
    np.testing.assert_allclose(pairs, 15 - same * (same - 1) / 2, atol=1e-12)


def walk(row: list[int]) -> list[tuple[int, ...]]:
    """Every sequence of operations from the input of a cell to its end, by walking its edges."""
    edges = {1: [(0, 0)], 2: [(0, 1), (1, 2)], 3: [(0, 3), (1, 4), (2, 5)]}

    def to(node: int) -> list[tuple[int, ...]]:
        if node == 0:
            return [()]
        return [
            before + ((row[edge],) if row[edge] > 2 else ())
            for start, edge in edges[node]
            if row[edge] != 1
            for before in to(start)
        ]

    return sorted(to(3))


@given(seed=seeds)
def test_paths_are_at_distance_zero_exactly_where_cells_compute_the_same_sums(seed: int):
    rows = cells(seed=seed, n=40)
    rows[20:] = np.where(rows[20:] > 3, 3, rows[20:])  # few operations: more are alike
    (apart,) = measure_distances([encode_paths(CELL)], rows, rows)
    words = [walk(row) for row in rows.tolist()]
    for i, one in enumerate(words):
        for j, other in enumerate(words):
            counts = [one.count(w) - other.count(w) for w in {*one, *other}]
            assert apart[i, j] == sum(map(abs, counts))


def test_the_wiring_of_cells_is_that_of_their_space():
    assert wirings_of(load_space("nas-bench-201")) == [CELL]
    cell = CellSpace(operations=("nor_conv_3x3", "none"), nodes=2)
    two = Space(
        name="two",
        resolutions=(8, 16),
        stages=tuple(StageSpace(kind="cell", widths=(3,), cell=i) for i in range(2)),
        cells=(cell, cell),
    )
    wanted = [((2,), (1, 3)), ((5,), (4, 6))]  # the first column is the resolution
    assert [wiring.paths for wiring in wirings_of(two)] == wanted
    assert {(w.cuts, w.passes, w.operations) for w in wirings_of(two)} == {((2,), (), 2)}


def test_a_network_that_equals_the_best_may_be_better_by_the_noise_of_its_score():
    rows = cells(seed=4, n=12)
    twin = rows[:1]
    distances = measure_distances([encode_paths(CELL)], rows, rows)
    targets = np.where(np.arange(12) == 0, 2.0, -0.2)
    candidates = surrogate.Candidates.of((encode_paths(CELL),), twin)
    candidates.add(rows)
    values = list[float]()
    for noise in (1e-4, 1e-1):
        process = fit_process(distances, targets, lengths=Lengths(rates=np.ones(1), noise=noise))
        candidates.narrowed = None
        (value,) = surrogate._expect_improvement(
            process, targets, candidates, np.random.default_rng(0)
        )
        mean, deviation = process.believe(candidates.narrow(process))
        whole = np.sqrt(deviation**2 + process.variance * noise)
        assert value == pytest.approx(log_expected_improvement(mean, whole, best=2.0)[0])
        values.append(float(value))
    assert values[0] < values[1]


def test_values_are_as_far_apart_as_the_numbers_they_stand_for():
    space = load_space("mbv3-cifar")
    rows = space.sample(20, rng=np.random.default_rng(0), by="gene")
    expected = np.zeros((20, 20))
    for column, gene in enumerate(space.genes):
        if len(gene.values) < 3:
            continue
        low, high = min(gene.values), max(gene.values)
        place = [
            0.5 if c == 0 else (gene.values[c - 1] - low) / (high - low) for c in rows[:, column]
        ]
        expected += np.abs(np.subtract.outer(place, place))
    (found,) = measure_distances([encode_values(space)], rows, rows)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert [e.name for e in encodings_of(space)] == ["choices", "values"]
    assert [e.name for e in encodings_of(load_space("nas-bench-macro"))] == ["choices"]
    assert [e.name for e in encodings_of(load_space("nas-bench-201"))] == ["choices", "paths"]
    assert [e.name for e in encodings_of(load_space("darts"))] == ["choices"]
    few = space.restrict(resolution=space.resolutions[:1], kernel=(3, 7), depth=(1, 2))
    assert all(len(gene.values) < 3 for gene in few.genes) == (len(encodings_of(few)) == 1)


def line(points: np.ndarray) -> Encoding:
    return Encoding(name="line", of=lambda rows: points[rows[:, 0].astype(int)][:, None])


def test_the_process_agrees_with_scikit_learn():
    # On a line, the exponential kernel of distances is Matern's with nu = 1/2.
    rng = np.random.default_rng(1)
    points, y = rng.uniform(0, 10, 60), rng.normal(size=40)
    rows = np.arange(60, dtype=np.uint8)[:, None]
    known, asked = rows[:40], rows[40:]
    own = measure_distances([line(points)], known, known)
    cross = measure_distances([line(points)], asked, known)
    ours = fit_process(own, y, lengths=Lengths(rates=np.array([0.5]), noise=0.3))
    kernel = Matern(length_scale=2.0, nu=0.5)
    without: Any = None
    theirs: Any = GaussianProcessRegressor(kernel, alpha=0.3, optimizer=without)
    theirs.fit(points[:40, None], y)
    mean, deviation = theirs.predict(points[40:, None], return_std=True)
    narrowed = ours.narrow(cross)
    found, spread = ours.believe(narrowed)
    fewer = fit_process(own[:, :25, :25], y[:25], lengths=ours.lengths)
    grown = ours.narrow(cross, fewer.narrow(cross[:, :, :25]))
    np.testing.assert_allclose(grown, narrowed, atol=1e-9)
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(spread, deviation * np.sqrt(ours.variance), rtol=1e-5)
    # Draws have the mean and the covariance of what is believed, to the error of 4,000 of them.
    among = measure_distances([line(points)], asked, asked)
    drawn = np.stack([ours.draw(narrowed, among, rng=rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * spread.max() / np.sqrt(4000))
    _, covariance = theirs.predict(points[40:, None], return_cov=True)
    scale = ours.variance * np.diag(covariance).max()
    assert np.abs(np.cov(drawn.T) - ours.variance * covariance).max() < 7 * scale / np.sqrt(4000)


def test_the_most_likely_lengths_are_where_the_gradient_is_zero():
    rows = cells(seed=3, n=60)
    both = [encode_choices([5] * 6), encode_paths(CELL)]
    apart = measure_distances(both, rows, rows)
    rng = np.random.default_rng(0)
    hidden = np.exp(-0.3 * apart[1]) + 0.05 * np.eye(60)
    y = np.linalg.cholesky(hidden) @ rng.standard_normal(60)
    at, step = np.array([0.3, -0.4, -2.0]), 1e-5
    _, gradient = _loss(at, apart, y)
    for i in range(3):
        away = step * np.eye(3)[i]
        slope = (_loss(at + away, apart, y)[0] - _loss(at - away, apart, y)[0]) / (2 * step)
        assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-6)
    found = fit_lengths(apart, y)
    # The data come from paths alone: choices are found to say little.
    assert found.rates[1] * apart[1].mean() > 3 * found.rates[0] * apart[0].mean()
    again = fit_lengths(apart, y, start=found)
    np.testing.assert_allclose(again.rates, found.rates, rtol=0.05)


@given(mean=st.floats(-30, 3), deviation=st.floats(0.05, 2))
def test_the_expected_improvement_is_the_integral_it_is_named_after(mean: float, deviation: float):
    found = log_expected_improvement(np.array([mean]), np.array([deviation]), best=0.5)[0]
    # By Gauss and Laguerre: the integral of t * exp(-(t - mean + best)^2 / 2 d^2) over t > 0.
    z = (0.5 - mean) / deviation
    points, weights = np.polynomial.laguerre.laggauss(60)
    if z < 1:
        t, w = np.polynomial.legendre.leggauss(400)
        high = 12.0 + max(-z, 0.0)
        t, w = (t + 1) * high / 2, w * high / 2
        logs = np.log(np.sum(w * t * np.exp(-((t + z) ** 2) / 2)))
    else:
        t = points / z
        logs = np.log(np.sum(weights * t * np.exp(-t * t / 2)) / z) - z * z / 2
    assert found == pytest.approx(np.log(deviation) + logs - np.log(2 * np.pi) / 2, abs=2e-3)


def test_the_expected_improvement_orders_networks_that_have_hardly_any():
    values = log_expected_improvement(-np.geomspace(1, 1e8, 400), np.ones(400), best=0.0)
    assert np.isfinite(values).all()
    assert (np.diff(values) < 0).all()


def test_normal_scores_are_of_ranks_alone():
    scores = np.array([3.0, -np.inf, 5.0, 5.0, 1.0])
    found = normal_scores(scores)
    assert (np.argsort(found, kind="stable") == np.argsort(scores, kind="stable")).all()
    assert found[2] == found[3]
    assert abs(found[[0, 1, 4]].sum() + found[2:4].sum()) < 0.2
    np.testing.assert_array_equal(found, normal_scores(np.exp(np.maximum(scores, -700))))


@pytest.mark.parametrize("strategy", ["gaussian", "thompson"])
def test_a_monotone_change_of_scores_changes_no_search(strategy: str):
    score = random_mlp(tiny(), seed=2)
    asked = list[list[bytes]]()

    def run(change: Callable[[np.ndarray], np.ndarray]) -> None:
        asked.append([])

        def watched(rows: Codes) -> np.ndarray:
            asked[-1] += [row.tobytes() for row in rows]
            return change(score(rows))

        search(tiny(), maximize=watched, strategy=strategy, evaluations=25, seed=4)

    run(lambda values: values)
    run(lambda values: np.exp(3 * values) - 7)
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 25


def test_a_large_space_is_searched_by_draws(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(surrogate, "_WHOLE", 100)
    space = tiny()
    score = random_mlp(space, seed=2)
    for strategy in ("gaussian", "thompson"):
        found = search(space, maximize=score, strategy=strategy, evaluations=40, seed=1)
        drawn = search(space, maximize=score, strategy="random", evaluations=40, seed=1)
        assert found.evaluations == 40
        assert found.best.score >= drawn.best.score


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_local_search_climbs_as_far_as_single_genes_lead(seed: int):
    space = tiny()
    score = random_mlp(space, seed=seed)
    found = search(space, maximize=score, strategy="local", evaluations=space.size // 2, seed=seed)
    best = space.encode([found.best.arch])
    assert score(list_neighbours(space, best, genes=1)).max() <= found.best.score + 1e-6
