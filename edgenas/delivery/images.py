"""The images of a specialisation: what is calibrated with, and what accuracy is measured on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgenas.accuracy.measured import check_classes
from edgenas.basics.errors import EdgenasError
from edgenas.delivery.request import Request, Tell
from edgenas.images.data import (
    Images,
    Split,
    load_images,
    split,
    unlike,
)
from edgenas.model.saved import TrainedSupernet
from edgenas.training.course import calibration_pixels
from edgenas.training.recipe import Recipe, default_recipe


@dataclass(frozen=True, slots=True)
class Material:
    """What is calibrated with, and the images to judge on with the name of their split.

    ``notes`` are what a reader of the accuracy should know; ``search`` are the images that a
    strategy may learn from: those for validation, never those for tests. ``train`` are those that
    weights may learn from: none of them is among those for validation, nor looks like one of those
    or of those for tests.
    """

    calibration: Tensor
    judged: Images | None
    split: str
    notes: tuple[str, ...] = ()
    search: Images | None = None
    train: Images | None = None


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
    parts, calibration = own_parts(trained, images)
    validation, train, notes = parts.validation, None, ()
    if request.trains:
        train = unlike(parts.train, [validation] if test is None else [validation, test])
        if copies := len(parts.train) - len(train):
            notes += (
                f"{copies} training images are among those for validation or tests too; no "
                "weights were trained on them here",
            )
        if len(train) < 2:
            raise EdgenasError(
                f"of the training images in {images.source} {len(train)} are left to learn from, "
                "all others are among those for validation or tests",
                hint="give other images with --test",
            )
    if test is not None:
        return Material(calibration, test, "test", notes, search=validation, train=train)
    learnt = _record(trained.training, "data")
    if learnt.get("digest") != images.digest:
        notes += (
            f"{images.source} is not the very data set that the supernet was trained on; where it "
            "holds images of that one, the measured accuracy is too high",
        )
    if request.learns or request.trains:
        chosen = f"strategy {request.strategy}" if request.learns else "retraining"
        notes += (
            f"{chosen} chose the network by the very images that its accuracy is measured on, so "
            "the accuracy is optimistic: give others with --test",
        )
    return Material(calibration, validation, "validation", notes, search=validation, train=train)


def own_parts(trained: TrainedSupernet, images: Images) -> tuple[Split, Tensor]:
    """Images divided as the training of the supernet divided them, and those for calibration.

    An imported supernet has no such record; then as a training would by default.

    Args:
        trained: the supernet.
        images: those it was trained on, or others of the same classes.

    Raises:
        EdgenasError: a class has a single image, or the record of the training is damaged.
    """
    recipe, seed = own_recipe(trained), int(_number(trained.training, "seed", 0))
    divided_by = seed
    if trained.training.get("split_seed") is not None:
        divided_by = int(_number(trained.training, "split_seed", 0))
    parts = split(images, validation=recipe.validation, seed=divided_by)
    return parts, calibration_pixels(parts.train, recipe, seed=seed)


def own_split(trained: TrainedSupernet, images: Images) -> tuple[Tensor, Images]:
    """Images of ``own_parts`` to calibrate with and to judge on: nothing learnt from is judged.

    Returns:
        Calibration images, uint8, shape (n, 3, height, width), and validation images.
    """
    parts, calibration = own_parts(trained, images)
    return calibration, parts.validation


def own_recipe(trained: TrainedSupernet) -> Recipe:
    """How a supernet was trained, as far as that is on record; for the rest, as is usual.

    Raises:
        EdgenasError: the record of the training is damaged.
    """
    given = _record(trained.training, "recipe")
    known = dataclasses.asdict(default_recipe(trained.supernet.space))
    for name, value in known.items():
        if isinstance(value, str):
            known[name] = given.get(name, value)
        else:
            known[name] = type(value)(_number(given, name, value))
    return Recipe(**known)


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
