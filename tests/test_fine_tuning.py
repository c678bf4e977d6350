"""Fine-tuning in a folder: its plan, how it is cut off and goes on, and several of them at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_images

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_json
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate
from edgenas.model.network import Network
from edgenas.model.saved import save_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny
from edgenas.training import fine_tuning
from edgenas.training.alone import DivergedError
from edgenas.training.fine_tuning import fine_tune, load_trained
from edgenas.training.job import (
    METRICS,
    PLAN,
    PLAN_SCHEMA,
    STATE,
    TRAINED,
    Job,
    make_job,
    plan_steps,
    read_evaluations,
    save_images,
    write_job,
)
from edgenas.training.recipe import Recipe
from edgenas.training.side_by_side import fine_tune_all

SPACE = tiny().with_classes(3)
PREPARED = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
RECIPE = Recipe(epochs=4, batch=16, learning_rate=0.05, warmup=1.0, checkpoint_seconds=0.0)
LEARN, VALIDATE = toy_images(80), toy_images(40, seed=1)


def network() -> Network:
    return Supernet(SPACE, seed=1).eval().extract(SPACE.largest())


def silent(event: Mapping[str, Any]) -> None:
    pass


@pytest.fixture
def images(tmp_path: Path) -> Path:
    save_images(tmp_path / "images.safetensors", training=LEARN, validation=VALIDATE)
    return tmp_path / "images.safetensors"


def job(**changes: Any) -> Job:
    usual = make_job(network(), recipe=RECIPE, preprocessing=PREPARED, seed=0, seconds=600.0)
    return replace(usual, **changes)


def lay_out(folder: Path, *, planned: bool = True, **changes: Any) -> Path:
    """A folder for 80 images in steps of 16. What a step takes here would decide its plan."""
    wanted = job(**changes)
    write_job(folder, wanted, network())
    if planned:
        plan = {"steps": 5 * wanted.recipe.epochs, "per_epoch": 5, "evaluate_every": 1}
        plan |= {"step_seconds": 0.001, "evaluation_seconds": 0.001}
        write_json(folder / PLAN, {"schema": PLAN_SCHEMA, **plan})
    return folder


def same(one: Network, two: Network) -> bool:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_learns_and_its_evaluations_can_be_repeated(tmp_path: Path, images: Path):
    folder, told = lay_out(tmp_path / "one"), list[Mapping[str, Any]]()
    trained = fine_tune(folder, images=images, tell=told.append)
    evaluations = read_evaluations(folder)
    assert [one.step for one in evaluations] == [5, 10, 15, 20], "20 steps of 80 images, 16 each"
    assert evaluations[-1].validation > evaluations[0].validation
    assert [e["accuracy"]["validation"] for e in told[1:]] == [j.validation for j in evaluations]
    calibrate(
        trained, LEARN.pixels, preprocessing=PREPARED
    )  # fewer images than are calibrated with
    given = {"preprocessing": PREPARED, "split": "validation"}
    assert measure_accuracy(trained, VALIDATE, **given).value == evaluations[-1].validation

    again = load_trained(folder, SPACE, SPACE.largest())
    assert same(trained, again)
    assert not (folder / STATE).exists()
    assert same(trained, fine_tune(folder, images=images, tell=silent)), "what is done is done"


def test_steps_are_timed_before_the_training(tmp_path: Path, images: Path):
    folder, told = lay_out(tmp_path / "one", planned=False), list[Mapping[str, Any]]()
    fine_tune(folder, images=images, tell=told.append)
    plan = told[0]["plan"]
    assert (plan["steps"], plan["per_epoch"]) == (20, 5)
    assert plan["step_seconds"] > 0
    assert plan["evaluation_seconds"] > 0
    assert plan == {
        k: v for k, v in json.loads((folder / PLAN).read_text()).items() if k != "schema"
    }
    assert read_evaluations(folder)[-1].step == 20


def test_killed_at_any_step_it_goes_on_to_the_same_weights(tmp_path: Path, images: Path):
    whole = fine_tune(lay_out(tmp_path / "whole"), images=images, tell=silent)
    cut = lay_out(tmp_path / "cut")
    for stop in (3, 5, 12, 20):

        def halt(step: str, done: int, total: int, words: str, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fine_tune(cut, images=images, tell=silent, progress=halt)
    assert same(whole, fine_tune(cut, images=images, tell=silent))
    assert [j.step for j in read_evaluations(cut)] == [5, 10, 15, 20]


def test_a_training_without_progress_ends_soon(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fine_tuning._Evaluator, "measure", lambda self, network: 0.5)
    folder = lay_out(tmp_path / "flat", recipe=replace(RECIPE, epochs=30), patience=3, cooldown=2.0)
    fine_tune(folder, images=images, tell=silent)
    evaluations = read_evaluations(folder)
    assert [(j.step, j.steps) for j in evaluations] == [
        (5, 150), (10, 150), (15, 150), (20, 30), (25, 30), (30, 30)
    ]  # fmt: skip
    assert evaluations[3].why == "no better accuracy in 3 evaluations"


def test_a_slow_machine_shortens_a_training(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
):
    # The plan was made when a step took a millisecond; here every look finds a second a step.
    folder = lay_out(tmp_path / "slow", recipe=replace(RECIPE, epochs=100), seconds=60.0)
    ticks, real = [0.0], time.monotonic

    class Clock:
        @staticmethod
        def monotonic() -> float:
            ticks[0] += 5.0
            return ticks[0]

    monkeypatch.setattr(fine_tuning, "time", Clock)
    fine_tune(folder, images=images, tell=silent)
    assert time.monotonic is real
    last = read_evaluations(folder)[-1]
    assert last.step == last.steps
    assert 55 <= last.step <= 65, "60 seconds at a second a step"


@given(
    seconds=st.floats(1, 1e5),
    step=st.floats(1e-3, 10),
    evaluation=st.floats(1e-3, 30),
    per_epoch=st.integers(1, 300),
    epochs=st.integers(1, 50),
)
def test_a_plan_keeps_to_its_time(
    seconds: float, step: float, evaluation: float, per_epoch: int, epochs: int
):
    wanted = job(seconds=seconds, recipe=replace(RECIPE, epochs=epochs))
    plan = plan_steps(
        wanted, per_epoch=per_epoch, step_seconds=step, evaluation_seconds=evaluation, spent=0
    )
    assert 1 <= plan.steps <= epochs * per_epoch
    if plan.steps > 1:
        evaluations = plan.steps // (per_epoch * plan.evaluate_every) + 1
        assert plan.steps * step + evaluations * evaluation <= seconds + 1e-6
    # Evaluations take at most their share of an epoch of steps.
    assert evaluation / plan.evaluate_every <= wanted.evaluated_share * per_epoch * step * (
        1 + 1e-9
    )


@pytest.mark.slow
def test_several_at_once_come_to_the_same_weights(tmp_path: Path, images: Path):
    said, shown = list[str](), list[tuple[int, int]]()
    folders = {name: lay_out(tmp_path / name) for name in ("a", "b")}
    fine_tune_all(
        folders,
        images=images,
        progress=lambda step, done, total, words: shown.append((done, total)),
        say=said.append,
    )
    one, two = (load_trained(folder, SPACE, SPACE.largest()) for folder in folders.values())
    assert same(one, two)
    assert shown[-1] == (40, 40)
    assert sum("the time allows 4.0 epochs" in line for line in said) == 2
    fine_tune_all(folders, images=images, say=said.append)  # nothing is left to do
    assert len(said) == 2


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "it hangs"
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_with_its_processes_a_command_goes_on(tmp_path: Path, images: Path):
    recipe = replace(RECIPE, epochs=2000)
    folders = {name: lay_out(tmp_path / name, recipe=recipe) for name in ("a", "b")}
    code = (
        "import sys; from pathlib import Path\n"
        "from edgenas.training.side_by_side import fine_tune_all\n"
        "folders = {Path(p).name: Path(p) for p in sys.argv[2:]}\n"
        "fine_tune_all(folders, images=Path(sys.argv[1]))\n"
    )
    words = [sys.executable, "-c", code, str(images), *map(str, folders.values())]
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "2"})
    wait_until(lambda: all((f / METRICS).exists() for f in folders.values()))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def size() -> int:
        return sum((f / METRICS).stat().st_size for f in folders.values())

    def settled() -> bool:
        before = size()
        time.sleep(0.5)
        return size() == before

    wait_until(settled)  # processes that nobody listens to end
    done = {name: read_evaluations(folder)[-1].step for name, folder in folders.items()}
    assert not any((f / TRAINED).exists() for f in folders.values())
    # The rest is cut short, so that it is over soon.
    for folder in folders.values():
        value = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps(value | {"seconds": 0.01}))
    fine_tune_all(folders, images=images)
    for name, folder in folders.items():
        steps = [j.step for j in read_evaluations(folder)]
        assert steps == sorted(set(steps))
        assert steps[-1] > done[name]
        load_trained(folder, SPACE, SPACE.largest())


def test_a_training_that_diverges_starts_over_at_a_smaller_rate(tmp_path: Path, images: Path):
    calls = list[float]()

    def train_alone(network: Network, given: Images, *, recipe: Recipe, **rest: Any) -> Network:
        calls.append(recipe.learning_rate)
        if len(calls) <= bad:
            raise DivergedError("diverged")
        return original(network, given, recipe=recipe, **rest)

    original, bad = fine_tuning.train_alone, 1
    with patch.object(fine_tuning, "train_alone", train_alone):
        one = fine_tune(lay_out(tmp_path / "one"), images=images, tell=silent)
    assert calls == [0.05, pytest.approx(0.05 / 3)]
    calm = lay_out(tmp_path / "calm", recipe=replace(RECIPE, learning_rate=0.05 / 3))
    assert same(one, fine_tune(calm, images=images, tell=silent))

    calls.clear()
    bad = 9
    with (
        patch.object(fine_tuning, "train_alone", train_alone),
        pytest.raises(DivergedError, match="diverged"),
    ):
        fine_tune(lay_out(tmp_path / "wild"), images=images, tell=silent)
    assert len(calls) == 3


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_told(tmp_path: Path, images: Path):
    other = lay_out(tmp_path / "other")
    save_tensors(other / "start.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(EdgenasError, match="has the weights of another network"):
        fine_tune_all({"other": other}, images=images)
    broken = lay_out(tmp_path / "broken")
    (broken / "job.json").write_text("{")
    with pytest.raises(EdgenasError, match=r"job\.json is damaged"):
        fine_tune_all({"broken": broken}, images=images)
    missing = lay_out(tmp_path / "missing")
    with pytest.raises(EdgenasError, match="absent"):
        fine_tune_all({"missing": missing}, images=tmp_path / "absent")
