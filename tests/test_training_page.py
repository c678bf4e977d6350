"""What a training tells: its page, and event files for TensorBoard."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from pages import Tree
from test_report import HOSTILE
from test_train import RECIPE, start_and_cut_off
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.pages.training import training_page
from edgenas.space.cost import total
from edgenas.space.presets import tiny
from edgenas.training.history import TrainingHistory, read_history
from edgenas.training.loop import train
from edgenas.training.runs import METRICS, RUN, TENSORBOARD
from edgenas.training.scalars import Scalars, scalars

OLD = ROOT / "tests" / "data" / "run-1"


@pytest.fixture(scope="module")
def run(tiny: Path) -> TrainingHistory:
    return read_history(tiny)


def test_the_page_shows_every_curve(run: TrainingHistory):
    text = training_page(run)
    assert training_page(run) == text
    tree = Tree(text)
    titles = ["Accuracy", "Accuracy against MACs", "Loss", "Learning rate", "Speed"]
    labels = [svg["aria-label"] for svg in tree.named("svg")]
    assert [label.split(".")[0] for label in labels] == titles
    assert not any(tree.named(tag) for tag in ("script", "link", "img", "iframe"))
    lines = [p["class"] for p in tree.named("path") if p["class"].split()[0] == "front"]
    assert lines == ["front", "front second", "front third"] * 2 + ["front"] * 2
    said = " ".join(tree.texts)
    last = [line for line in run.metrics if "validation" in line][-1]
    for value in (*last["validation"], np.mean(last["random"])):
        assert f"{value:.2%}" in said
    assert "stripes validation, n=24" in said
    assert f"recipe epochs {run.configuration['recipe']['epochs']}" in said.replace(
        "method sandwich, ", ""
    )


def test_the_networks_are_those_that_were_evaluated(run: TrainingHistory):
    assert len(run.macs) == len(run.accuracies) == 24
    ends = [total(run.space, arch).macs for arch in (run.space.smallest(), run.space.largest())]
    assert [min(run.macs), max(run.macs)] == ends
    titles = " ".join(Tree(training_page(run)).texts)
    for macs, accuracy in zip(run.macs, run.accuracies, strict=True):
        assert f"{100 * accuracy:.2f}%, {macs / 1e3:.4g}K MACs" in titles


def test_a_run_of_an_older_edgenas_has_a_page():
    tree = Tree(training_page(read_history(OLD)))
    labels = [svg["aria-label"].split(".")[0] for svg in tree.named("svg")]
    assert labels == ["Accuracy", "Loss"]


def test_no_text_can_break_the_page(run: TrainingHistory):
    data = {**run.configuration["data"], "source": HOSTILE}
    hostile = dataclasses.replace(
        run,
        space=dataclasses.replace(run.space, name=HOSTILE),
        configuration={**run.configuration, "data": data, "init": HOSTILE},
        source=HOSTILE,
    )
    usual = dataclasses.replace(run, configuration={**run.configuration, "init": "abc"})
    trees = [Tree(training_page(history)) for history in (hostile, usual)]
    assert [tag for tag, _ in trees[0].elements] == [tag for tag, _ in trees[1].elements]


def test_a_long_training_is_drawn_with_few_points(run: TrainingHistory):
    lines = [{"step": i, "losses": [1.0 + i], "seconds": i} for i in range(1, 5001)]
    long = dataclasses.replace(run, metrics=(*lines, run.metrics[-1]))
    (loss,) = (
        p["d"]
        for p in Tree(training_page(long)).named("path")
        if p["class"] == "front" and p["d"].count("L") > 100
    )
    assert loss.count("L") < 300


def test_a_run_whose_first_epoch_is_not_over_has_no_page(tmp_path: Path):
    start_and_cut_off(toy_images(60), tmp_path / "run", step=1)
    with pytest.raises(EdgenasError, match="have been evaluated yet") as caught:
        read_history(tmp_path / "run")
    assert caught.value.hint.startswith("they are after the first epoch;")
    told = json.loads((tmp_path / "run" / RUN).read_text())
    told["recipe"]["judge_every"] = 7
    (tmp_path / "run" / RUN).write_text(json.dumps(told))
    with pytest.raises(EdgenasError, match="have been evaluated yet") as caught:
        read_history(tmp_path / "run")
    assert caught.value.hint.startswith("they are after every 7 epochs;")
    del told["data"]
    (tmp_path / "run" / RUN).write_text(json.dumps(told))
    with pytest.raises(EdgenasError, match="the field 'data' is missing"):
        read_history(tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (RUN, '"threads": 1', '"threads": 0', "threads must be at least 1, found 0"),
        (RUN, '"epochs": 2', '"epochs": "two"', "recipe.epochs must be an integer, found 'two'"),
        (RUN, '"images": 30', '"images": -1', "data.images must be at least 0, found -1"),
        (METRICS, "0.6667", "NaN", "line 2 is damaged or not what it should be: NaN is no number"),
        (METRICS, "0.6667", "66", r"line 2: validation\[1\] must be at most 1, found 66"),
        (METRICS, '"epoch": 1, ', "", "line 2: it has validation, but no epoch"),
        (METRICS, '{"step": 3, "losses"', '{"step": 3, "losse', "line 1 is damaged"),
    ],
)
def test_numbers_of_a_run_that_cannot_be_are_refused(
    tmp_path: Path, file: str, old: str, new: str, message: str
):
    folder = shutil.copytree(OLD, tmp_path / "run")
    read_history(folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(EdgenasError, match=message):
        read_history(folder)


def test_the_verb_writes_the_page(edgenas, tiny: Path, tmp_path: Path):
    folder = shutil.copytree(tiny, tmp_path / "run")
    page = tmp_path / "page.html"
    wanted = training_page(read_history(folder))
    for _ in range(2):  # its own page is replaced
        done: SimpleNamespace = edgenas("report", folder)
        assert done.code == 0
        assert (folder / "report.html").read_text(encoding="utf-8") == wanted
    assert edgenas("report", folder, "--out", page).code == 0
    assert page.read_text(encoding="utf-8") == wanted
    assert "is there already" in edgenas("report", folder, "--out", page).log
    assert "--out must name the HTML file" in edgenas("report", tmp_path).log


# TensorBoard


def test_the_numbers_of_a_line():
    line = {"step": 20, "losses": [1.0, 2.0, 3.0, 5.0], "learning_rate": 0.1, "seconds": 3.0}
    assert scalars(line) == {
        "loss/largest": 1.0,
        "loss/smallest": 2.0,
        "loss/random": 4.0,
        "learning_rate": 0.1,
    }
    assert scalars({"step": 3, "losses": [1.0]}) == {"loss/largest": 1.0}
    found = scalars({"step": 3, "epoch": 1, "validation": [0.5, 0.4], "random": [0.2, 0.6]})
    assert found == {
        "validation/largest": 0.5,
        "validation/smallest": 0.4,
        "validation/random": 0.4,
    }


def test_event_files_hold_every_step_once(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def events(out: Path) -> dict[str, list[tuple[int, float]]]:
        (path,) = (out / TENSORBOARD).iterdir()
        found = EventAccumulator(str(path), purge_orphaned_data=False).Reload()
        names = found.Tags()["scalars"]
        return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in names}

    toys, cut = toy_images(60), tmp_path / "cut"
    train(tiny(), toys, recipe=RECIPE, out=tmp_path / "whole")
    start_and_cut_off(toys, cut, step=4, recipe=dataclasses.replace(RECIPE, checkpoint_seconds=1e9))
    train(
        tiny(),
        toys,
        recipe=dataclasses.replace(RECIPE, checkpoint_seconds=1e9),
        out=cut,
        resume=True,
    )
    whole, gone_on = events(tmp_path / "whole"), events(cut)
    assert whole.keys() == gone_on.keys() >= {"loss/largest", "validation/random", "learning_rate"}
    for name in whole.keys() - {"images_per_second"}:
        assert gone_on[name] == whole[name], name
        steps = [step for step, _ in whole[name]]
        assert steps == sorted(set(steps)), name
    wanted = [json.loads(line) for line in (cut / METRICS).read_text().splitlines()]
    losses = [(line["step"], np.float32(line["losses"][0])) for line in wanted if "losses" in line]
    assert gone_on["loss/largest"] == losses


def test_without_the_package_there_are_no_event_files(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Scalars, "possible", staticmethod(lambda: False))
    start_and_cut_off(toy_images(60), tmp_path / "run", step=1)
    assert not (tmp_path / "run" / TENSORBOARD).exists()
