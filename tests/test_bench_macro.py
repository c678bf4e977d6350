"""The benchmark of a supernet of NAS-Bench-Macro: its space, its correlations, what it measures."""

from pathlib import Path

import numpy as np
import pytest

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.space.presets import load_space
from edgenas.strategies.neighbours import list_all
from edgenas.training.recipe import default_recipe, load_recipe
from tools.benchmarks.bench_macro import choose_best, kendall

TOOLS = Path(__file__).parent.parent / "tools" / "benchmarks"
SPACE = load_space(str(TOOLS / "macro_space.toml"))


def test_the_space_has_the_choices_of_the_benchmark():
    assert SPACE.genes == load_space("nas-bench-macro").genes
    assert SPACE.size == 6_561


def test_the_recipe_is_read():
    assert load_recipe(TOOLS / "macro_recipe.toml", default_recipe(SPACE)).sampling == "fair"


def test_kendall_counts_pairs():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=40), rng.normal(size=40)
    signs = [np.sign(a[:, None] - a[None])[np.triu_indices(40, 1)] for a in (one, other)]
    tau, low, high = kendall(one, other)
    assert tau == pytest.approx(np.mean(signs[0] * signs[1]))
    assert low < tau < high
    assert kendall(one, one)[:2] == pytest.approx((1, 1))


def test_the_finalists_are_the_best_by_prediction_that_were_not_measured():
    rows = list_all(SPACE)
    truth = (rows == 3).sum(1) / 10
    known = rows[np.random.default_rng(0).permutation(len(rows))[:200]]
    predictor = AccuracyPredictor.fit(SPACE, known, accuracy=(known == 3).sum(1) / 10)
    measured = {row.tobytes(): 0.0 for row in known}
    finalists = choose_best(predictor, rows, measured, count=20)
    assert not {row.tobytes() for row in finalists} & measured.keys()
    left = [value for row, value in zip(rows, truth, strict=True) if row.tobytes() not in measured]
    assert np.mean((finalists == 3).sum(1) / 10) >= np.sort(left)[-40]
