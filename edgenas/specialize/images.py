"""The images of a specialisation: what is calibrated with, and what accuracy is measured on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgenas.accuracy import check_classes
from edgenas.data import Images, load_images, split
from edgenas.errors import EdgenasError
from edgenas.recipe import Recipe
from edgenas.specialize.request import Request, Tell
from edgenas.train import calibration_pixels
from edgenas.trained import TrainedSupernet


@dataclass(frozen=True, slots=True)
class Material:
    """What is calibrated with, and the images to judge on with the name of their split.

    ``notes`` are what a reader of the accuracy should know; ``search`` are the images that a
    strategy may learn from: those for validation, never those for tests.
    """

    calibration: Tensor
    judged: Images | None
    split: str
    notes: tuple[str, ...] = ()
    search: Images | None = None


def material(request: Request, trained: TrainedSupernet, tell: Tell) -> Material:
    """Read the images of a request; synthetic ones calibrate where none are given."""

    def read(source: str) -> Images:
        images = load_images(
            source,
            stored=trained.preprocessing.stored,
            skip_bad_images=request.skip_bad_images,
            progress=lambda done, of: tell("reading images", done, of, Path(source).name),
        )
        check_classes(images, trained.classes)
        return images

    test = None if request.test is None else read(request.test)
    if request.data is None:
        return Material(trained.calibration_images(), test, "test")
    images = read(request.data)
    calibration, validation = own_split(trained, images)
    if test is not None:
        return Material(calibration, test, "test", search=validation)
    notes: tuple[str, ...] = ()
    learnt = _record(trained.training, "data")
    if learnt.get("digest") != images.digest:
        notes = (
            f"{images.source} is not the very data set that the supernet was trained on; where it "
            "holds images of that one, the measured accuracy is too high",
        )
    if request.learns:
        notes += (
            f"strategy {request.strategy} chose the network by the very images that its accuracy "
            "is measured on, so the accuracy is optimistic: give others with --test",
        )
    return Material(calibration, validation, "validation", notes, search=validation)


def own_split(trained: TrainedSupernet, images: Images) -> tuple[Tensor, Images]:
    """Images divided as the training of the supernet divided them: nothing learnt from is judged.

    An imported supernet has no such record; then as a training would by default.

    Args:
        trained: the supernet.
        images: those it was trained on, or others of the same classes.

    Returns:
        Calibration images, uint8, shape (n, 3, stored, stored), and validation images.

    Raises:
        EdgenasError: a class has a single image, or the record of the training is damaged.
    """
    given = _record(trained.training, "recipe")
    usual = Recipe()
    recipe = dataclasses.replace(
        usual,
        validation=float(_number(given, "validation", usual.validation)),
        calibration=int(_number(given, "calibration", usual.calibration)),
    )
    seed = int(_number(trained.training, "seed", 0))
    parts = split(images, validation=recipe.validation, seed=seed)
    return calibration_pixels(parts.train, recipe, seed=seed), parts.validation


def _record(training: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = training.get(name, {})
    if not isinstance(value, Mapping):
        raise EdgenasError(f"supernet.json: training.{name} must be an object, found {value!r}")
    return value


def _number(record: Mapping[str, Any], name: str, usual: float) -> float:
    value = record.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise EdgenasError(f"supernet.json: training: {name} must be a number, found {value!r}")
    return value
