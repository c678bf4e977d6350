"""The budgets of the benchmark of both methods, and its two lines of one training."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_train import RECIPE
from toys import toy_images

from edgenas.model.saved import load_tensors
from edgenas.space.cost import total
from edgenas.space.presets import load_space, tiny
from edgenas.training.loop import train
from edgenas.training.options import TrainingOptions
from edgenas.training.runs import CHECKPOINT
from tools.benchmarks.bench_methods import judged, recipes, trained, trained_macs


def test_a_network_alone_is_trained_on_every_image_of_every_epoch():
    space = tiny().restrict(depth=(2,), kernel=(5,), expand=(3.0,), resolution=(16,))
    recipe = dataclasses.replace(RECIPE, epochs=3, batch=8)
    macs = total(space, space.largest()).macs
    assert trained_macs(space, recipe, images=50, seed=0) == pytest.approx(3 * 48 * macs)


@pytest.mark.parametrize("name", ["tiny", "mbv3-cifar"])
def test_both_methods_have_the_same_budget(name: str):
    space = load_space(name)
    given = {"images": 2560, "seed": 1}
    sandwich, progressive = recipes(space, epochs=20, ema=0.9, **given)
    assert (sandwich.method, progressive.method) == ("sandwich", "progressive")
    assert sandwich.epochs == 20
    assert (
        dataclasses.replace(sandwich, method="progressive", epochs=progressive.epochs)
        == progressive
    )
    first, second = (trained_macs(space, r, **given) for r in (sandwich, progressive))
    assert second == pytest.approx(first, rel=0.5 / progressive.epochs + 0.02)


def test_one_training_gives_the_weights_with_and_without_averaging(tmp_path: Path):
    images, space = toy_images(60), tiny().with_classes(3)
    recipe = dataclasses.replace(RECIPE, epochs=2, batch=16, ema=0.5)
    lines, preprocessing, validation, calibration = trained(
        space, images, recipe, out=tmp_path, seed=0
    )
    plain = dataclasses.replace(recipe, ema=0.0)
    without = train(
        space, images, recipe=plain, out=tmp_path / "without", options=TrainingOptions(seed=0)
    )
    averages = load_tensors(tmp_path / "sandwich" / CHECKPOINT)
    assert [line.name for line in lines] == ["sandwich", "sandwich, ema 0.5"]
    for name, parameter in without.supernet.named_parameters():
        assert torch.equal(lines[0].supernet.get_parameter(name), parameter)
        assert torch.equal(lines[1].supernet.get_parameter(name), averages[f"average.{name}"])
    assert lines[0].macs == trained_macs(space, plain, images=48, seed=0)
    # What was judged is not judged again.
    journal, archs = tmp_path / "results.jsonl", [space.largest(), space.smallest()]
    given = {
        "sets": {"validation": validation},
        "calibration": calibration,
        "preprocessing": preprocessing,
        "journal": journal,
    }
    found = judged(lines[1], archs, **given)
    told = [json.loads(line)["validation"] for line in journal.read_text().splitlines()]
    assert found == {"validation": told}
    assert judged(lines[1], archs, **given) == found
    assert len(journal.read_text().splitlines()) == 2
