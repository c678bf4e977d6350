"""``train --balance``: how images are drawn where classes are uneven."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import no_progress
from edgenas.delivery.train_inputs import TrainInputs, read_train_inputs
from edgenas.space.presets import tiny
from edgenas.training.request import TrainRequest


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of one class, three of the other."""
    folder, rng = tmp_path_factory.mktemp("data") / "uneven", np.random.default_rng(0)
    for name, count in {"many": 12, "few": 3}.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def read(data: Path, said: list[str], **changes: object) -> TrainInputs:
    request = TrainRequest(space="tiny", data=str(data), out=data / "out", **changes)  # pyright: ignore
    request.check()
    return read_train_inputs(
        request,
        space=tiny(),
        init=None,
        place=torch.device("cpu"),
        progress=no_progress,
        say=said.append,
    )


def test_uneven_classes_are_told_and_drawn_as_they_come(uneven: Path):
    said: list[str] = []
    assert read(uneven, said).recipe.balance == 0
    (warning,) = (line for line in said if "images of" in line and "only 3" in line)
    assert (
        "12 images of 'many', only 3 of 'few'; --balance 1 draws classes equally often" in warning
    )


def test_the_option_goes_before_the_recipe(uneven: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = "edgenas.recipe/1"\nbalance = 0.25\n')
    said: list[str] = []
    assert read(uneven, said, recipe=str(recipe)).recipe.balance == 0.25
    assert read(uneven, said, recipe=str(recipe), balance=1.0).recipe.balance == 1
    assert not any("--balance" in line for line in said)


def test_a_balance_outside_its_range_is_refused(uneven: Path):
    with pytest.raises(EdgenasError, match="balance must be at most 1, found 2"):
        read(uneven, [], balance=2.0)
