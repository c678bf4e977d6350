"""A training that fits into a time: planned once, from what is measured at the start."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_train import CutOffError, cut_off_at
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.space.presets import tiny
from edgenas.space.space import Space
from edgenas.training import course, loop, timing
from edgenas.training.loop import TrainingProgress, train
from edgenas.training.options import TrainingOptions
from edgenas.training.recipe import Recipe
from edgenas.training.runs import METRICS, RUN

TOYS = toy_images(60)
RECIPE = Recipe(
    batch=16, learning_rate=0.1, calibration=48, validation=0.2, accuracy_archs=20, watched=1
)
HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 10 s for a step, 6 s for a judgement, 2 s for a network."""
    monkeypatch.setattr(timing, "_seconds_per_step", lambda course, supernet: 10.0)
    monkeypatch.setattr(timing, "_time_of", lambda work: 6.0)
    monkeypatch.setattr(timing, "_seconds_per_network", lambda course, supernet: 2.0)


def run(out: Path, *, recipe: Recipe = RECIPE, time_budget: float | None = None, **more):
    options = TrainingOptions(time_budget=time_budget)
    return train(tiny(), TOYS, recipe=recipe, out=out, options=options, **more)


def recipe_of(out: Path) -> dict:
    return json.loads((out / RUN).read_text())["recipe"]


def begin(out: Path, *, seconds: float) -> dict:
    """The recipe that a training begins with."""
    with pytest.raises(CutOffError):
        run(out, time_budget=seconds, progress=cut_off_at(1))
    return recipe_of(out)


def test_the_time_is_shared_out(clock, tmp_path: Path):
    # 3 steps, so 30 s, an epoch; judged every 4th: 5% of 4 epochs are 6 s. 3492 s of the hour, less
    # 64 s for 20 networks and the 12 that a search chooses, and 6 s for the last judgement, are
    # 108.6 times the 31.5 s of an epoch.
    found = begin(tmp_path / "hour", seconds=HOUR)
    assert (found["epochs"], found["judge_every"]) == (108, 4)
    # A tenth of it has 279.2 s left.
    found = begin(tmp_path / "minutes", seconds=HOUR / 10)
    assert (found["epochs"], found["judge_every"]) == (8, 4)


def test_memory_of_the_steps_is_given_back_before_networks_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Batches of other sizes do not fit into what the steps keep, and came on top of it."""
    told = list[str]()

    def tell(name: str, *modules: ModuleType) -> None:
        for module in modules:
            work = getattr(module, name)

            def told_work(*given: object, work: Any = work, **rest: object) -> Any:
                told.append(name)
                return work(*given, **rest)

            monkeypatch.setattr(module, name, told_work)

    tell("take_step", timing, loop)
    tell("evaluate_archs", course)
    tell("give_memory_back", timing, loop, course)
    options = TrainingOptions(time_budget=HOUR, most_epochs=2)
    train(tiny(), TOYS, recipe=RECIPE, out=tmp_path / "run", options=options)
    changes = [name for name, _ in itertools.groupby(told)]
    evaluating = ["evaluate_archs", "give_memory_back"]
    # Planned with the watched networks and with others, then two epochs, each judged or not.
    planning = ["take_step", "give_memory_back", *evaluating, *evaluating]
    assert changes[: len(planning)] == planning
    rest = changes[len(planning) :]
    assert rest == ["take_step", "give_memory_back", *evaluating] * (len(rest) // 4)
    given_back = len(told) - told.count("take_step") - told.count("evaluate_archs")
    judged = len(rest) // 4
    assert given_back == 1 + 3 + 4 + judged * (1 + 3), "once for the steps, and for each network"


def test_no_more_networks_are_planned_for_than_there_are(clock, tmp_path: Path, monkeypatch):
    # As above with 40 s for all its networks, though the recipe asks for a thousand.
    monkeypatch.setattr(Space, "size", 20)
    recipe = dataclasses.replace(RECIPE, accuracy_archs=1000)
    with pytest.raises(CutOffError):
        run(tmp_path / "run", recipe=recipe, time_budget=HOUR, progress=cut_off_at(1))
    assert recipe_of(tmp_path / "run")["epochs"] == 109


def test_a_time_too_short_for_an_epoch_is_refused(clock, tmp_path: Path):
    # 20 networks that the predictor is fitted to, and 12 that a search chooses by it: 2 s each.
    words = "enough for an epoch .30 s. and the evaluation of 32 networks .64 s., found 60 s"
    with pytest.raises(EdgenasError, match=words) as caught:
        run(tmp_path / "run", time_budget=60.0)
    assert caught.value.hint.startswith("give --time 119s")
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_keeps_its_epochs(clock, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(timing, "_seconds_per_step", lambda course, supernet: 400.0)
    out = tmp_path / "run"
    assert begin(out, seconds=HOUR)["epochs"] == 2
    monkeypatch.setattr(timing, "_seconds_per_step", lambda course, supernet: 1.0)
    told: list[TrainingProgress] = []
    with pytest.raises(EdgenasError, match=r"time_budget of the run in .* is 3600.0, now it is 60"):
        run(out, time_budget=60.0, resume=True)
    found = run(out, time_budget=HOUR, resume=True, progress=told.append)
    assert told[-1].steps == 6

    # What was measured leaves no trace in the weights.
    recipe = dataclasses.replace(RECIPE, epochs=2)
    same = run(tmp_path / "same", recipe=recipe).supernet
    for name, parameter in found.supernet.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name)), name


def test_what_is_measured_is_a_time(tmp_path: Path):
    with pytest.raises(EdgenasError, match="must be enough for an epoch"):
        run(tmp_path / "short", time_budget=1e-3)
    assert begin(tmp_path / "long", seconds=100 * HOUR)["epochs"] > 10


def test_networks_are_judged_every_few_epochs_and_at_the_end(tmp_path: Path):
    recipe = dataclasses.replace(RECIPE, epochs=5, judge_every=2)
    run(tmp_path / "run", recipe=recipe)
    lines = map(json.loads, (tmp_path / "run" / METRICS).read_text().splitlines())
    assert [line["epoch"] for line in lines if "validation" in line] == [2, 4, 5]
