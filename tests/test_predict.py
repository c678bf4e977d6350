"""Predictors: exactness against independent forms, coverage of bounds, files, what is refused."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.gaussian_process.kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.gaussian_process import GaussianProcessRegressor
from strategies import rows_of, seeds, spaces
from test_table import DATA, TARGET, fake_seconds, table_of

from edgenas.accuracy.gaussian import inputs_of, totals_of
from edgenas.accuracy.mlp import Mlp, one_hot
from edgenas.accuracy.predictor import AccuracyPredictor, load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import (
    HeldOut,
    compare_with_truth,
    describe_lean,
    rank_correlation,
)
from edgenas.latency.bound import split_networks
from edgenas.latency.fitting import build_predictor, learn_predictor
from edgenas.latency.learned import count_features, learn_costs
from edgenas.latency.line import Line, add_bound, fit_line
from edgenas.latency.predictor import SumPredictor
from edgenas.latency.predictor_file import load_latency, save_latency
from edgenas.latency.source import EstimatedSource
from edgenas.latency.table import MeasuredNetwork, Timing
from edgenas.space.cost import (
    Tables,
    compile_tables,
    cost,
    macs_table,
    params_table,
    weights_table,
)
from edgenas.space.genes import Codes
from edgenas.space.layer import Layer
from edgenas.space.narrow import narrow_tables
from edgenas.space.plan import layers, plan
from edgenas.space.presets import load_space, tiny
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from tools.benchmarks.bench_latency import read_published

# The error of predictions


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40))
def test_spearman_equals_scipys(pairs: list[tuple[int, int]]):
    one, other = np.array(pairs, float).T
    if np.ptp(one) and np.ptp(other):
        assert rank_correlation(one, other) == pytest.approx(scipy.stats.spearmanr(one, other)[0])
    else:
        assert rank_correlation(one, other) == 0


def test_errors_have_a_sign_and_a_unit():
    found = compare_with_truth([0.7, 0.8], [0.6, 0.8], method="m")
    assert (found.n, found.error, found.bias) == (2, pytest.approx(0.05), pytest.approx(0.05))
    found = compare_with_truth([1.1, 0.9], [1.0, 1.0], relative=True, method="m")
    assert (found.error, found.bias) == (pytest.approx(0.1), pytest.approx(0.0))
    assert HeldOut.from_json(found.to_json(), where="x") == found


def test_a_lean_is_told_with_its_side_and_chance_is_none():
    assert describe_lean(error=0.022, bias=0.0215, n=12) == "2.15 points too high on average"
    assert describe_lean(error=0.022, bias=-0.0215, n=12) == "2.15 points too low on average"
    assert describe_lean(error=0.022, bias=0.0215, n=3) == ""  # three may err to one side by chance
    assert describe_lean(error=0.01, bias=0.002, n=1000) == ""  # sure, but the spread is the news
    assert describe_lean(error=0.0, bias=0.0, n=0) == ""
    rng = np.random.default_rng(0)
    fair = [compare_with_truth(rng.normal(size=12), np.zeros(12), method="m") for _ in range(1000)]
    assert sum(bool(one.lean) for one in fair) < 50


@pytest.mark.parametrize(
    ("value", "told"),
    [([], "must be an object"), ({"n": 1}, "the field 'error' is missing")],
)
def test_a_damaged_error_is_refused(value: Any, told: str):
    with pytest.raises(EdgenasError, match=told):
        HeldOut.from_json(value, where="x")


# Narrower spaces


@st.composite
def narrowed(draw: st.DrawFn) -> tuple[Space, Space]:
    space = draw(spaces())
    whole = space.resolutions
    kept = draw(st.lists(st.sampled_from(whole), min_size=1, unique=True))
    depths = {d for s in space.stages for d in s.depths}
    most = {d for d in depths if all(d in s.depths or len(s.depths) == 1 for s in space.stages)}
    depth = draw(st.sampled_from([None, *({d} for d in most)]))
    return space, space.restrict(resolution=kept, depth=depth)


@settings(max_examples=60)
@given(both=narrowed(), seed=seeds)
def test_a_narrow_space_is_scored_as_the_wide_one(both: tuple[Space, Space], seed: int):
    space, narrow = both
    rows = rows_of(narrow, seed=seed)
    wide = space.encode(narrow.decode(rows))
    for table in (macs_table(space), compile_tables(space, fake_seconds, reduce="max")):
        found = narrow_tables(table, space=space, narrow=narrow)
        assert found(rows).tolist() == table(wide).tolist()
        assert found.reduce == table.reduce
    mlp = random_mlp(space, seed=seed)
    assert mlp.on(space, narrow)(rows).tolist() == mlp(wide).tolist()


@pytest.mark.parametrize(
    "other",
    [
        load_space("mbv3-cifar"),
        replace(tiny(), resolutions=(12, 20)),
        replace(tiny(), resolutions=(12, 16, 20)),
    ],
)
def test_a_space_that_is_no_narrower_one_is_refused(other: Space):
    table = macs_table(tiny())
    with pytest.raises(EdgenasError, match="must be space tiny or a narrower one"):
        narrow_tables(table, space=tiny(), narrow=other)


# Perceptrons


def random_mlp(space: Space, *, seed: int, hidden: tuple[int, ...] = (7, 5)) -> Mlp:
    rng = np.random.default_rng(seed)
    columns, codes = inputs_of(space)
    columns, codes = np.append(columns, [-1, -1]), np.append(codes, [0, 1])
    sizes = [len(columns), *hidden, 1]
    shapes = list(itertools.pairwise(sizes))
    return Mlp.make(
        columns=columns.tolist(),
        codes=codes.tolist(),
        weights=[rng.normal(size=shape) for shape in shapes],
        biases=[rng.normal(size=shape[1]) for shape in shapes],
    )


def test_a_perceptron_equals_torchs():
    space = load_space("mbv3-cifar")
    mlp = random_mlp(space, seed=1, hidden=(40, 30, 20))
    rows = rows_of(space, seed=2, n=1100)  # more than one chunk
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        layer = torch.nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = torch.tensor(weight.T), torch.tensor(bias)
        layers += [layer, torch.nn.ReLU()]
    inputs = np.zeros((len(rows), len(mlp.columns)), np.float32)
    for j, (column, code) in enumerate(zip(mlp.columns, mlp.codes, strict=True)):
        inputs[:, j] = code if column < 0 else rows[:, column] == code
    with torch.no_grad():
        wanted = torch.nn.Sequential(*layers[:-1])(torch.tensor(inputs))[:, 0].numpy()
    assert mlp(rows) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    # A network has the same score alone and among others, to the last bit.
    assert [mlp(row[None])[0] for row in rows[500:530]] == mlp(rows)[500:530].tolist()
    assert mlp(rows[::-1]).tolist() == mlp(rows)[::-1].tolist()
    assert mlp(rows[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": [np.ones((3, 1))]}, "layer 0 must take 2 inputs"),
        ({"weights": [np.ones((2, 4))], "biases": [np.ones(4)]}, "must have one output, found 4"),
        ({"biases": [np.ones(1), np.ones(1)]}, "must be as many"),
        ({"codes": [1]}, "must be as many"),
    ],
)
def test_misshapen_perceptrons_are_refused(change: dict[str, Any], told: str):
    given = {"columns": [0, 1], "codes": [1, 1], "weights": [np.ones((2, 1))], "biases": [[0.0]]}
    assert Mlp.make(**given).weights[0].dtype == np.float32
    with pytest.raises(EdgenasError, match=told):
        Mlp.make(**{**given, **change})


# Accuracy


def supernet_like(space: Space, *, seed: int) -> Callable[[Codes], np.ndarray]:
    """Accuracies with what real ones have: saturation in size, effects of single choices."""
    rng = np.random.default_rng(seed)
    columns, codes = inputs_of(space)
    effects = rng.normal(size=len(columns))

    def truth(rows: Codes) -> np.ndarray:
        size = np.log(macs_table(space)(rows)) - 14
        own = np.tanh(one_hot(rows, columns, codes) @ effects / 3)
        deep = 0.004 * (np.log(params_table(space)(rows)) - 12) * (rows[:, 0] == 2)
        return 0.93 - 0.12 * np.exp(-0.8 * size) + 0.004 * own + deep

    return truth


@pytest.fixture(scope="module")
def fitted() -> AccuracyPredictor:
    space = load_space("mbv3-cifar")
    rows = rows_of(space, seed=0, n=150)
    noise = 0.002 * np.random.default_rng(1).normal(size=len(rows))
    accuracy = supernet_like(space, seed=3)(rows) + noise
    return AccuracyPredictor.fit(space, rows, accuracy=accuracy, seed=5, source="made up")


def test_unseen_networks_are_ranked_and_the_stated_error_is_theirs(fitted: AccuracyPredictor):
    rows = rows_of(fitted.space, seed=99, n=1000)
    found = compare_with_truth(
        fitted.predict(rows), supernet_like(fitted.space, seed=3)(rows), method="new"
    )
    assert found.spearman >= 0.95
    assert found.error <= 0.003
    assert fitted.error is not None
    assert fitted.error.n == 150
    # Cross-validation sees the noise of the measurement as well, and a fifth fewer networks.
    assert found.error <= fitted.error.error <= 3 * found.error + 0.002
    assert fitted.error.spearman >= 0.9


def test_the_gaussian_process_equals_scikit_learns(fitted: AccuracyPredictor):
    model, rows, space = fitted.model, fitted.rows, fitted.space
    assert rows is not None
    assert fitted.accuracies is not None
    columns, codes = inputs_of(space)
    sizes = [macs_table(space), params_table(space)]

    def features(rows: Codes) -> np.ndarray:
        x = one_hot(rows, columns, codes)
        z = np.hstack([x @ totals_of(space), np.stack([np.log(t(rows)) for t in sizes], 1)])
        x = (x - one_hot(fitted.rows, columns, codes).mean(0)) / np.sqrt(len(space.genes))
        return np.hstack([x, (z - model.shift) * model.scale])

    class Part(kernels.Kernel):
        """A kernel on some of the columns."""

        def __init__(self, kernel: kernels.Kernel, at: slice):
            self.kernel, self.at = kernel, at

        def __call__(self, one: Any, other: Any = None, eval_gradient: bool = False) -> Any:
            return self.kernel(one[:, self.at], None if other is None else other[:, self.at])

        def diag(self, points: Any) -> Any:
            return self.kernel.diag(points[:, self.at])

        def is_stationary(self) -> bool:
            return False

    genes = slice(0, len(columns))
    kernel = Part(kernels.DotProduct(0, "fixed"), genes)
    if model.ratio:
        radial = kernels.ConstantKernel(model.ratio) * kernels.RBF(model.length)
        kernel = kernel + Part(radial, slice(len(columns), None))
    oracle = GaussianProcessRegressor(kernel, alpha=model.noise, optimizer=None)
    mean = fitted.accuracies.mean()
    oracle.fit(features(rows), fitted.accuracies - mean)
    new = rows_of(space, seed=7, n=200)
    assert fitted.predict(new) == pytest.approx(oracle.predict(features(new)) + mean, abs=1e-5)


def test_a_fit_repeats_itself_and_survives_the_disk(fitted: AccuracyPredictor, tmp_path: Path):
    assert fitted.rows is not None
    again = AccuracyPredictor.fit(
        fitted.space, fitted.rows, accuracy=fitted.accuracies, seed=5, source="made up"
    )
    rows = rows_of(fitted.space, seed=11, n=50)
    assert again.predict(rows).tolist() == fitted.predict(rows).tolist()
    assert again.error == fitted.error
    chosen = fitted.with_chosen(rows, accuracy=fitted.predict(rows) - 0.01)
    assert chosen.chosen is not None
    assert chosen.chosen.bias == pytest.approx(0.01)
    chosen.save(tmp_path / "a.safetensors")
    read = load_accuracy(tmp_path / "a.safetensors")
    assert read.predict(rows).tolist() == fitted.predict(rows).tolist()
    assert (read.space, read.source, read.seed) == (fitted.space, "made up", 5)
    assert (read.error, read.chosen) == (chosen.error, chosen.chosen)
    assert (read.rows == fitted.rows).all()
    assert (read.accuracies == fitted.accuracies).all()


def test_a_fit_serves_narrower_spaces(fitted: AccuracyPredictor):
    narrow = fitted.space.restrict(resolution=(24,), kernel=(3, 7), depth=(2,))
    rows = rows_of(narrow, seed=1, n=40)
    wide = fitted.space.encode(narrow.decode(rows))
    assert fitted.on(narrow).predict(rows) == pytest.approx(fitted.predict(wide), abs=1e-6)
    assert fitted.on(fitted.space) is fitted


def test_a_perceptron_survives_the_disk(tmp_path: Path):
    space = tiny()
    predictor = AccuracyPredictor(space=space, model=random_mlp(space, seed=0), source="released")
    predictor.save(tmp_path / "a.safetensors")
    read = load_accuracy(tmp_path / "a.safetensors")
    rows = rows_of(space, seed=1)
    assert read(rows).tolist() == predictor(rows).tolist()
    assert (read.error, read.rows) == (None, None)


@pytest.mark.parametrize(
    ("n", "accuracy", "told"),
    [
        (19, np.full(19, 0.5), "at least 20 networks are needed, found 19"),
        (20, np.full(20, 71.0), "must be fractions from 0 to 1, found 71 to 71"),
        (20, np.full(20, np.nan), "must be fractions"),
        (20, np.full(21, 0.5), r"must have shape \(20,\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n: int, accuracy: np.ndarray, told: str):
    with pytest.raises(EdgenasError, match=told):
        AccuracyPredictor.fit(tiny(), rows_of(tiny(), seed=0, n=n), accuracy=accuracy)


def test_a_supernet_of_equals_is_fitted_too():
    rows = rows_of(tiny(), seed=0, n=20)
    predictor = AccuracyPredictor.fit(tiny(), rows, accuracy=np.full(20, 0.5))
    assert predictor.predict(rows) == pytest.approx(np.full(20, 0.5))


# Files


def test_predictors_written_by_the_first_version_still_open():
    """Loading checks the five probes: they predict what they did when they were written."""
    for name in ("accuracy-predictor-1", "accuracy-predictor-1-mlp"):
        assert load_accuracy(DATA / f"{name}.safetensors").source == "made up"
    assert load_latency(DATA / "latency-predictor-1.safetensors").target == TARGET


def resaved(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    with safe_open(path, framework="numpy") as stream:
        header = json.loads(stream.metadata()["edgenas"])
        arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    change(header, arrays)
    save_file(arrays, path, metadata={"edgenas": json.dumps(header)})


def _nudge(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["model.biases.0"] = arrays["model.biases.0"] + 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_nudge, "its arrays do not have the hash in its header"),
        (lambda h, a: h["probes"]["values"].reverse(), "probes must give"),
        (lambda h, a: h["probes"].pop("rows"), "probes: the field 'rows' is missing"),
        (lambda h, a: h.update(schema="edgenas.other/1"), "must have schema"),
        (lambda h, a: h.update(extra=1), "unknown field 'extra'"),
        (lambda h, a: h.pop("source"), "the field 'source' is missing"),
        (lambda h, a: h.update(kind="forest"), "kind must be one of mlp, gaussian"),
        (lambda h, a: h.update(kind="gaussian"), "arrays are missing or misshapen"),
        (lambda h, a: h.update(seed=10**30), "seed must be at most"),
        (lambda h, a: h["probes"]["rows"][0].append(256), "must be at most 255, found 256"),
        (lambda h, a: h["space"].update(resolutions=[1]), "resolutions must be pixels"),
    ],
)
def test_a_damaged_predictor_is_refused(
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], told: str, tmp_path: Path
):
    path = tmp_path / "a.safetensors"
    AccuracyPredictor(space=tiny(), model=random_mlp(tiny(), seed=0), source="x").save(path)
    load_accuracy(path)
    resaved(path, change)
    with pytest.raises(EdgenasError, match=told):
        load_accuracy(path)


def test_files_that_are_no_predictors_are_refused(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(EdgenasError, match="no file"):
        load_accuracy(path)
    AccuracyPredictor(space=tiny(), model=random_mlp(tiny(), seed=0), source="x").save(path)
    whole = path.read_bytes()
    for end in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(EdgenasError, match="is damaged or no predictor"):
            load_accuracy(path)
    save_file({"x": np.ones(2)}, path)
    with pytest.raises(EdgenasError, match="must have schema"):
        load_accuracy(path)


# The line from sums to times, and its bounds


@given(
    sums=st.lists(st.floats(0.001, 0.05), min_size=3, max_size=30, unique=True),
    intercept=st.floats(0, 0.01),
    slope=st.floats(0.5, 2),
)
def test_a_line_without_noise_is_found(sums: list[float], intercept: float, slope: float):
    x = np.array(sums)
    line = fit_line(x, intercept + slope * x)
    assert line(x) == pytest.approx(intercept + slope * x, rel=1e-6)


def test_few_networks_give_a_slope_and_none_an_error():
    one = fit_line(np.array([2.0]), np.array([3.0]))
    assert (one.intercept, one.slope, one.bound_kind(0.95)) == (0, 1.5, "none")
    with pytest.raises(EdgenasError, match="1 measured networks are too few for an upper bound"):
        one.upper(np.array([1.0]), confidence=0.95)
    two = fit_line(np.array([2.0, 4.0]), np.array([3.0, 4.0]))
    assert (two.intercept, two.free, two.bound_kind(0.95)) == (0, 1, "student-t")
    falling = fit_line(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]))
    assert falling.free == 1
    assert falling.slope > 0
    same = fit_line(np.array([2.0, 2.0, 2.0]), np.array([3.0, 3.0, 3.0]))
    assert (same.intercept, same.slope) == (0, 1.5)
    for sums, seconds in ((np.empty(0), np.empty(0)), (np.ones(2), np.ones(3))):
        with pytest.raises(EdgenasError, match="needs as many sums as measured networks"):
            fit_line(sums, seconds)
    with pytest.raises(EdgenasError, match="must be above zero"):
        fit_line(np.array([1.0]), np.array([0.0]))


def test_student_bound_equals_the_textbook_one():
    """Weighted least squares with statsmodels' formulas, written out."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 3, 9)
    y = (0.2 + 1.1 * x) * (1 + 0.03 * rng.normal(size=9))
    weights = np.diag(1 / y**2)
    design = np.stack([np.ones(9), x], 1)
    inverse = np.linalg.inv(design.T @ weights @ design)
    beta = inverse @ design.T @ weights @ y
    residual = (design @ beta - y) / y
    spread = np.sqrt((residual**2).sum() / 7)
    new = np.array([1.5, 2.9])
    at = np.stack([np.ones(2), new], 1)
    mean = at @ beta
    half = scipy.stats.t.ppf(0.9, 7) * spread * np.sqrt(mean**2 + np.diag(at @ inverse @ at.T))
    line = fit_line(x, y)
    assert line(new) == pytest.approx(mean)
    assert line.bound_kind(0.9) == "student-t"
    assert line.upper(new, confidence=0.9) == pytest.approx(mean + half)


def spared_line(sums: np.ndarray, seconds: np.ndarray) -> Line:
    """A line through half of the networks, with the bound of the others, where they are many."""
    fitted, rest = split_networks(len(sums))
    line = fit_line(sums[fitted], seconds[fitted])
    return add_bound(line, sums[rest], seconds[rest]) if len(rest) else line


@pytest.mark.parametrize(
    ("networks", "kind"), [(5, "student-t"), (10, "student-t"), (40, "split-conformal")]
)
def test_upper_bounds_hold_as_often_as_they_say(networks: int, kind: str):
    rng = np.random.default_rng(networks)
    held, rounds, confidence = 0, 400, 0.9
    for _ in range(rounds):
        x = rng.uniform(0.003, 0.01, networks + 1)
        y = (0.0005 + 1.08 * x) * np.exp(0.02 * rng.normal(size=networks + 1))
        line = spared_line(x[:-1], y[:-1])
        assert line.bound_kind(confidence) == kind
        held += y[-1] <= line.upper(x[-1:], confidence=confidence)[0]
    # Three standard deviations of a proportion below; conformal bounds err on the safe side.
    assert 0.855 <= held / rounds <= (0.945 if kind == "student-t" else 0.99)


def test_a_confidence_that_conformal_cannot_give_falls_back():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, 40)
    line = spared_line(x, x * np.exp(0.02 * rng.normal(size=40)))
    assert line.bound_kind(0.95) == "split-conformal"
    assert line.bound_kind(0.99) == "student-t"
    assert line.upper(x, confidence=0.99).min() > 0


# Latency predictors


def test_predictions_over_a_table():
    space = tiny()
    rows = rows_of(space, seed=4, n=30)
    plain = build_predictor(space, table_of(space))
    sums = compile_tables(space, fake_seconds)(rows)
    assert plain.predict(rows) == pytest.approx(sums)
    assert (plain.provenance, plain.target, plain.error) == ("measured", TARGET, None)
    assert plain.bound_kind() == "none"
    with pytest.raises(EdgenasError, match="have no bound: no whole network was measured"):
        plain.upper(rows)
    fitted = plain.fit(rows[:10], 0.001 + 1.2 * sums[:10])
    assert fitted.predict(rows) == pytest.approx(0.001 + 1.2 * sums)
    assert fitted.tables()(rows) == pytest.approx(fitted.predict(rows))
    assert (fitted.upper(rows) >= fitted.predict(rows)).all()
    assert fitted.error is not None
    assert fitted.error.error == pytest.approx(0, abs=1e-9)
    narrow = space.restrict(resolution=(16,))
    few = rows_of(narrow, seed=1)
    wide = space.encode(narrow.decode(few))
    assert fitted.on(narrow).predict(few) == pytest.approx(fitted.predict(wide))
    for confidence in (0.3, 1.0):
        with pytest.raises(EdgenasError, match="confidence must be from"):
            fitted.upper(rows, confidence=confidence)


def test_a_tables_own_networks_calibrate_it():
    space = tiny()
    table = table_of(space, 6)
    rows = rows_of(space, seed=4)
    sums = table.compile(space)(rows)
    assert build_predictor(space, table).predict(rows) == pytest.approx(1.1 * sums)
    slow = replace(
        table,
        networks=tuple(
            replace(n, timing=replace(n.timing, wall_p95=2 * n.timing.seconds))
            for n in table.networks
        ),
    )
    p95 = build_predictor(space, slow, statistic="wall_p95")
    assert p95.predict(rows) == pytest.approx(2.2 * sums)
    with pytest.raises(EdgenasError, match="wall_p95 needs measured networks of space tiny"):
        build_predictor(space, table, statistic="wall_p95")


def with_cold_weights(space: Space, *, rate: float, networks: int, noise: float, seed: int):
    """A table, and networks that take longer than its sums: so many seconds for each weight."""
    table = table_of(space)
    rng = np.random.default_rng(seed)
    rows = np.unique(space.sample(4 * networks, rng=rng, by="gene"), axis=0)
    rows = rows[rng.permutation(len(rows))[:networks]]
    sums, weights = table.compile(space)(rows), weights_table(space)(rows)
    usual = sums.mean() / weights.mean()
    seconds = 1e-6 + 1.1 * sums + rate * usual * weights
    return table, rows, seconds * np.exp(noise * rng.normal(size=networks))


def test_what_weights_cost_beside_the_layers_is_found():
    space = load_space("mbv3-cifar")
    table, rows, seconds = with_cold_weights(space, rate=0.3, networks=60, noise=0.0, seed=0)
    fitted = build_predictor(space, table).fit(rows[:10], seconds[:10])
    assert fitted.predict(rows[10:]) == pytest.approx(seconds[10:], rel=1e-6)
    assert fitted.error.error < 1e-6
    # The predictor knows its own minimum: its tables say what it predicts.
    assert fitted.tables()(rows) == pytest.approx(fitted.predict(rows))
    # Fitted again it starts from the layers of the table, not from what it learnt before.
    again = fitted.base.fit(rows[20:30], 2 * seconds[20:30])
    assert again.predict(rows) == pytest.approx(2 * seconds, rel=1e-6)
    narrow = space.restrict(resolution=[32])
    codes = narrow.sample(5, rng=np.random.default_rng(1))
    wide = space.encode(narrow.decode(codes))
    assert fitted.on(narrow).predict(codes) == pytest.approx(fitted.predict(wide))


@pytest.mark.parametrize("networks", [5, 7, 10])
def test_weights_that_cost_nothing_are_left_out(networks: int):
    space = load_space("mbv3-cifar")
    table, rows, seconds = with_cold_weights(space, rate=0.0, networks=60, noise=0.0, seed=0)
    plain = build_predictor(space, table)
    fitted = plain.fit(rows[:networks], seconds[:networks])
    assert fitted.sums is plain.sums
    assert fitted.predict(rows) == pytest.approx(seconds, rel=1e-6)


def both_ways(space: Space, *, noise: float, seed: int):
    """A table of layers with cold caches, each noisy, that knows their times alone as well."""
    table, rows, seconds = with_cold_weights(space, rate=0.3, networks=60, noise=0.0, seed=seed)
    sums, weights = table.compile(space)(rows), weights_table(space)(rows)
    rate, rng = 0.3 * sums.mean() / weights.mean(), np.random.default_rng(seed)
    cold = {
        layer: Timing(
            median=(1.1 * timing.seconds + rate * cost(layer).weights)
            * float(np.exp(noise * rng.normal())),
            n=1,
            alone=timing.seconds,
        )
        for layer, timing in table.layers.items()
    }
    return replace(table, layers=cold), rows, seconds


def test_of_layers_timed_both_ways_those_are_taken_that_predict_networks_left_out():
    space = load_space("mbv3-cifar")
    table, rows, seconds = both_ways(space, noise=0.1, seed=0)
    plain = build_predictor(space, table)
    fitted = plain.fit(rows[:10], seconds[:10])
    assert fitted.predict(rows[10:]) == pytest.approx(seconds[10:], rel=1e-6)
    narrow = space.restrict(resolution=[32])
    codes = narrow.sample(12, rng=np.random.default_rng(1))
    wide = space.encode(narrow.decode(codes))
    there = fitted.on(narrow)
    assert there.predict(codes) == pytest.approx(fitted.predict(wide))
    assert there.base.fit(codes, fitted.predict(wide)).predict(codes) == pytest.approx(
        fitted.predict(wide)
    )
    # Cold layers without noise are right as they are, and simpler.
    table, rows, seconds = both_ways(space, noise=0.0, seed=0)
    plain = build_predictor(space, table)
    fitted = plain.fit(rows[:10], seconds[:10])
    assert fitted.sums is plain.sums
    assert fitted.predict(rows[10:]) == pytest.approx(seconds[10:], rel=1e-6)


def test_layers_that_were_not_all_timed_alone_are_taken_as_copies():
    space = load_space("mbv3-cifar")
    table, rows, seconds = both_ways(space, noise=0.1, seed=0)
    first = next(iter(table.layers))
    timings = {**table.layers, first: replace(table.layers[first], alone=None)}
    predictor = build_predictor(space, replace(table, layers=timings))
    assert predictor.alone is None
    assert predictor.fit(rows[:10], seconds[:10]).error.error > 1e-3


def test_a_bound_with_weights_holds_as_often_as_it_says():
    space = load_space("mbv3-cifar")
    held: list[float] = []
    for seed in range(60):
        table, rows, seconds = with_cold_weights(
            space, rate=0.3, networks=60, noise=0.02, seed=seed
        )
        fitted = build_predictor(space, table).fit(rows[:12], seconds[:12])
        assert fitted.bound_kind(0.9) == "student-t"
        held.append(float((seconds[12:] <= fitted.upper(rows[12:], confidence=0.9)).mean()))
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_an_estimate_brings_its_own_bound_until_networks_are_measured(tmp_path: Path):
    space = tiny()
    rows = rows_of(space, seed=4, n=12)
    model = EstimatedSource(
        target=TARGET,
        layer_seconds=fake_seconds,
        constant=0.001,
        upper_on=lambda space: lambda rows, confidence: np.full(len(rows), 1 + confidence),
    )
    predictor = build_predictor(space, model)
    sums = 0.001 + compile_tables(space, fake_seconds)(rows)
    assert predictor.provenance == "estimated"
    assert predictor.bound_kind() == "estimate"
    assert predictor.upper(rows, confidence=0.9) == pytest.approx(1.9 * sums)
    measured = predictor.fit(rows[:6], 0.9 * sums[:6])
    assert measured.bound_kind() == "student-t"
    assert measured.predict(rows) == pytest.approx(0.9 * sums)
    with pytest.raises(EdgenasError, match="an estimated latency predictor is not saved"):
        save_latency(predictor, tmp_path / "l.safetensors")


# Learned from networks alone


def work_of(space: Space, *, noise: float = 0.0, seed: int = 0) -> Callable[[Codes], np.ndarray]:
    """Seconds that are a sum of what operators do: 40 GMAC/s, 8 G elements/s, 5 us a launch."""

    def seconds(layer: Layer) -> float:
        parts = primitives(layer)
        moved = sum(p.input_elements + p.output_elements for p in parts)
        return sum(p.macs for p in parts) / 4e10 + moved / 8e9 + 5e-6 * len(parts)

    table = compile_tables(space, seconds, constant=2e-5)
    rng = np.random.default_rng(seed)
    return lambda rows: table(rows) * np.exp(noise * rng.normal(size=len(rows)))


@pytest.mark.parametrize("name", ["mbv3-cifar", "ofa-resnet50", "tiny"])
def test_layer_costs_are_learned_from_networks(name: str):
    space = load_space(name)
    rows, new = rows_of(space, seed=0, n=60), rows_of(space, seed=1, n=200)
    learned = learn_predictor(space, rows, work_of(space)(rows))
    assert learned.predict(new) == pytest.approx(work_of(space)(new), rel=1e-3)
    assert learned.tables()(new) == pytest.approx(learned.predict(new))
    assert min(learned.rates.values()) > 0
    assert learned.provenance == "measured"


def test_features_count_what_costs_count():
    for name in ("mbv3-cifar", "ofa-resnet50"):
        for layer in layers(load_space(name)):
            features, parts = count_features(layer), primitives(layer)

            def total(what: str, features: dict[str, float] = features) -> float:
                return sum(v for k, v in features.items() if k.partition(" ")[0] == what)

            assert total("macs") == cost(layer).macs
            assert total("weights") == sum(p.weights for p in parts)
            assert total("runs") == len(parts)
            moved = sum(p.input_elements + p.output_elements for p in parts)
            assert total("elements") == moved


def test_a_learned_predictor_grows_with_every_block():
    space = load_space("mbv3-cifar")
    rows = rows_of(space, seed=0, n=30)
    noise = np.exp(np.random.default_rng(0).normal(size=30))
    learned = learn_predictor(space, rows, noise)  # nothing to be learned, only to be misled
    for arch in space.decode(rows):
        for i, stage in enumerate(arch.stages):
            if len(stage.blocks) > min(space.stages[i].depths):
                shorter = replace(stage, blocks=stage.blocks[:-1])
                other = replace(arch, stages=(*arch.stages[:i], shorter, *arch.stages[i + 1 :]))
                less, more = learned.predict([other, arch])
                assert less <= more


@pytest.mark.parametrize("networks", [5, 12, 60])
def test_rates_of_layers_make_up_the_network(networks: int):
    space = load_space("mbv3-cifar")
    rows = rows_of(space, seed=0, n=networks)
    learned = learn_costs(space, rows, seconds=work_of(space, noise=0.1)(rows))
    for row, arch in zip(rows, space.decode(rows), strict=True):
        parts = sum(learned.layer(layer) for _, layer in plan(space, arch))
        assert parts + learned.rates.get("run", 0) == pytest.approx(learned.sums(row[None])[0])


def test_few_networks_calibrate_macs():
    space = tiny()
    rows = rows_of(space, seed=4, n=12)
    fitted = learn_predictor(space, rows[:5], 1e-9 * macs_table(space)(rows[:5]))
    assert set(fitted.rates) <= {"all macs", "run"}
    assert fitted.predict(rows) == pytest.approx(1e-9 * macs_table(space)(rows))
    for seconds, told in ((np.empty(0), "as many times as networks"), ([0.0], "above zero")):
        with pytest.raises(EdgenasError, match=told):
            learn_predictor(space, rows[: len(seconds)], seconds)


def test_networks_are_archs_or_rows():
    space = tiny()
    rows = rows_of(space, seed=4, n=12)
    archs, seconds = space.decode(rows), work_of(space)(rows)
    one = learn_predictor(space, archs, seconds)
    other = learn_predictor(space, rows, seconds)
    assert one.predict(rows).tolist() == other.predict(archs).tolist()
    assert one.upper(rows).tolist() == other.upper(archs).tolist()


@pytest.mark.parametrize(("networks", "kind"), [(14, "student-t"), (100, "split-conformal")])
def test_bounds_of_learned_predictors_hold(networks: int, kind: str):
    space, confidence, held = load_space("mbv3-cifar"), 0.9, []
    for seed in range(40):
        rows = rows_of(space, seed=seed, n=networks + 50)
        seconds = work_of(space, noise=0.03, seed=seed)(rows)
        learned = learn_predictor(space, rows[:networks], seconds[:networks])
        assert learned.bound_kind(confidence) == kind
        held.append((seconds <= learned.upper(rows, confidence=confidence))[networks:].mean())
    assert 0.86 <= np.mean(held) <= (0.96 if kind == "student-t" else 0.94)


PUBLISHED = Path(__file__).parents[2] / "shared/data/published/ofa_gpu_latency.npz"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="no published GPU latencies here")
def test_a_gpu_is_learned_from_a_hundred_networks():
    """Whole networks on a Titan RTX (HELP, NeurIPS 2021); the full table: tools/bench_latency."""
    space, rows, every = read_published(PUBLISHED)
    seconds, held = every["titan_rtx_64"], []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(rows))
        train, test = order[:100], order[100:1100]
        learned = learn_predictor(space, rows[train], seconds[train])
        found = compare_with_truth(
            learned.predict(rows[test]), seconds[test], relative=True, method="new"
        )
        assert found.error <= 0.015
        assert found.spearman >= 0.995
        assert learned.error is not None
        assert learned.error.error == pytest.approx(found.error, abs=0.003)
        held.append((seconds[test] <= learned.upper(rows[test])).mean())
    assert 0.93 <= np.mean(held) <= 0.99


def test_a_learned_predictor_survives_the_disk(tmp_path: Path):
    space = load_space("mbv3-cifar")
    rows = rows_of(space, seed=8, n=50)
    learned = learn_predictor(space, rows, work_of(space, noise=0.02)(rows))
    save_latency(learned, tmp_path / "l.safetensors")
    read = load_latency(tmp_path / "l.safetensors")
    assert read.predict(rows).tolist() == learned.predict(rows).tolist()
    assert read.upper(rows).tolist() == learned.upper(rows).tolist()
    assert (read.rates, read.line, read.target) == (learned.rates, learned.line, None)


@pytest.mark.parametrize("timed", [0, 3, 60])
def test_a_latency_predictor_survives_the_disk(timed: int, tmp_path: Path):
    space = load_space("mbv3-cifar")
    predictor = build_predictor(space, table_of(space, timed))
    rows = rows_of(space, seed=8, n=20)
    if timed:
        predictor = predictor.with_chosen(rows, predictor.predict(rows) * 1.02)
    path = tmp_path / "l.safetensors"
    save_latency(predictor, path)
    read = load_latency(path)
    assert read.predict(rows).tolist() == predictor.predict(rows).tolist()
    assert type(read) is type(predictor)
    assert (read.target, read.chosen) == (predictor.target, predictor.chosen)
    if timed:
        assert read.line == predictor.line
        assert read.upper(rows).tolist() == predictor.upper(rows).tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda h, a: h["line"].pop("slope"), "the field 'slope' is missing"),
        (lambda h, a: h["line"].update(covariance=[1]), "line.covariance must have 2 items"),
        (lambda h, a: h["line"].update(slope="x"), "line.slope must be a number, found 'x'"),
        (lambda h, a: h.update(line=[]), "line must be an object"),
        (lambda h, a: h.update(target={"device": "x"}), "target: the field 'runtime' is missing"),
        (lambda h, a: h.update(constant=1.0), "probes must give"),
    ],
)
def test_a_damaged_latency_predictor_is_refused(
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], told: str, tmp_path: Path
):
    path = tmp_path / "l.safetensors"
    save_latency(build_predictor(tiny(), table_of(tiny(), 5)), path)
    resaved(path, change)
    with pytest.raises(EdgenasError, match=told):
        load_latency(path)


def test_measured_networks_of_another_head_are_left_out():
    space = tiny()
    table = table_of(space)
    other = MeasuredNetwork(
        space="tiny", classes=7, arch=space.smallest(), timing=Timing(median=9.0, n=1)
    )
    predictor = build_predictor(space, replace(table, networks=(other,)))
    assert isinstance(predictor, SumPredictor)
    assert isinstance(predictor.sums, Tables)
