"""The benchmark of gradient searches: its reduced space, its table, and a run that goes on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import toy_images

from edgenas.accuracy.evaluation import ImageAccuracy
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network
from edgenas.space.benchmarks import nas_bench_201
from edgenas.space.cells import parse_cell
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.gradient.choosing import find_most_preferred
from edgenas.strategies.gradient.run import SearchData
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.strategies.neighbours import list_all
from edgenas.training.recipe import Recipe
from tools.benchmarks import bench_gradient
from tools.benchmarks.bench_gradient import (
    Bench,
    fit_table,
    limit_of,
    read_options,
    reduced_space,
    run_method,
)
from tools.benchmarks.lookup import LookUp

SPACE = reduced_space(width=4, cells=1, side=8).with_classes(3)


def rows_of() -> Codes:
    return list_all(SPACE)


def known() -> LookUp:
    """Cells whose seconds are a sum over edges, and whose accuracy is that of a sum too."""
    rows, rng = rows_of(), np.random.default_rng(0)
    costs, worth = rng.uniform(1e-3, 2e-3, (6, 5)), rng.uniform(1, 3, (6, 5))
    picks = rows.astype(int) - 1
    return LookUp(
        space=SPACE,
        rows=rows,
        accuracy=worth[np.arange(6), picks].sum(1),
        early=None,
        seconds={"raspi4": costs[np.arange(6), picks].sum(1)},
        counts={},
    )


def test_the_reduced_space_has_the_choices_of_the_whole():
    assert SPACE.genes == nas_bench_201().genes
    assert [stage.widths[0] for stage in SPACE.stages] == [4, 4, 8, 8, 16, 16]
    assert SPACE.size == 15_625


def test_the_table_of_a_device_whose_latency_is_a_sum_is_exact():
    cells = known()
    table = fit_table(cells, "raspi4", known=200)
    # The small weight that makes the fit unique moves it by a millionth.
    assert table(cells.rows) == pytest.approx(cells.seconds["raspi4"], rel=1e-3)


def small_bench(space: Space, folder: Path) -> Bench:
    images = toy_images(40, side=8, classes=3)
    data = SearchData(
        images=images,
        preprocessing=Preprocessing(stored=8, mean=(0.4,) * 3, std=(0.2,) * 3),
        training=WeightTraining(images=images, recipe=Recipe(batch=8, warmup=0)),
    )
    return Bench(space=space, cells=known(), data=data, out=folder, deadline=math.inf)


def test_cells_of_fewer_operations_are_looked_up_among_all(tmp_path: Path):
    few = ("skip_connect", "nor_conv_1x1")
    space = reduced_space(width=4, cells=1, side=8, operations=few).with_classes(3)
    bench = small_bench(space, tmp_path)
    settings = GradientSettings(steps=2, batch=8)
    outcome, _ = run_method(bench, "darts-v1", name="few", limit=None, seed=0, settings=settings)
    chosen = [name for terms in parse_cell(outcome.cell) for name, _ in terms]
    assert set(chosen) <= set(few)
    codes = [1 + SPACE.cells[0].operations.index(name) for name in chosen]
    assert outcome.accuracy == pytest.approx(bench.cells.score(np.array([codes], np.uint8))[0])


def test_finalists_are_trained_alone_and_the_best_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bench = replace(small_bench(SPACE, tmp_path), finalists=3, epochs=1)
    settings = GradientSettings(steps=2, batch=8)
    values = iter([0.3, 0.9, 0.5])

    def measure(network: Network, images: Images, **rest: Any) -> ImageAccuracy:
        return ImageAccuracy(value=next(values), n=len(images), split="search")

    monkeypatch.setattr(bench_gradient, "measure_accuracy", measure)
    outcome, learnt = run_method(
        bench, "darts-v1", name="three", limit=None, seed=0, settings=settings
    )
    most = find_most_preferred(SPACE, learnt.policy.preference(), limits=[], seed=0, count=3)
    assert outcome.cell == most[1].arch.cells[0]
    first = bench.cells.score(SPACE.encode([most[0].arch]))[0]
    assert outcome.preferred == pytest.approx(first)
    assert len(list(tmp_path.glob("alone-*.safetensors"))) == 3


@pytest.mark.parametrize("method", ["gdas", "enas"])
def test_a_run_keeps_its_limit_and_is_read_again(method: str, tmp_path: Path):
    bench = small_bench(SPACE, tmp_path)
    cells = bench.cells
    options = read_options(["folder", "--data", "x", "--out", str(tmp_path), "--limit", "0.3"])
    limit = limit_of(bench, options)
    assert limit is not None
    settings = GradientSettings(steps=2, batch=8, measure=1)
    outcome, learnt = run_method(bench, method, name="run", limit=limit, seed=0, settings=settings)
    assert outcome.kept
    assert outcome.steps == 2
    assert cells.accuracy.min() <= outcome.accuracy <= cells.accuracy.max()
    again, read = run_method(bench, method, name="run", limit=limit, seed=0, settings=settings)
    assert again == outcome
    assert read.history == learnt.history
