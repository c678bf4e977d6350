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
from edgenas.images.copies import Sketches, copied
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
    or of those for tests. ``copies`` are how many of the judged images are copies of such as the
    supernet has learnt from; None: that is not known.
    """

    calibration: Tensor
    judged: Images | None
    split: str
    notes: tuple[str, ...] = ()
    search: Images | None = None
    train: Images | None = None
    copies: int | None = None


def material(request: Request, trained: TrainedSupernet, tell: Tell) -> Material:
    """Read the images of a request; synthetic ones calibrate where none are given."""
    untaken: list[str] = []

    def read(source: str) -> Images:
        images = load_images(
            source,
            stored=trained.preprocessing.stored,
            skip_bad_images=request.skip_bad_images,
            progress=lambda done, of: tell("reading images", done, of, Path(source).name),
        )
        if images.untaken:
            untaken.append(f"{source}: {images.untaken}")
        check_classes(images, trained.classes)
        return images

    test = None if request.test is None else read(request.test)
    if request.data is None:
        found = Material(trained.calibration_images(), test, "test", tuple(untaken))
        return found if test is None else _with_copies(found, test, trained, None)
    images = read(request.data)
    parts, calibration = own_parts(trained, images)
    validation, train, notes = parts.validation, None, tuple(untaken)
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
        found = Material(calibration, test, "test", notes, search=validation, train=train)
        return _with_copies(found, test, trained, parts.train)
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
    found = Material(calibration, validation, "validation", notes, search=validation, train=train)
    return _with_copies(found, validation, trained, parts.train)


def _with_copies(
    found: Material, judged: Images, trained: TrainedSupernet, train: Images | None
) -> Material:
    """Say which of the judged images the supernet has learnt from.

    Args:
        found: without that.
        judged: its images to judge on.
        trained: the supernet.
        train: images for training of the data set that was given; None: none was.
    """
    learnt, split = trained.learnt, found.split
    if learnt is None and train is None:
        said = (
            "the supernet keeps no record of the images that it has learnt from, so it is not "
            f"known how many of the {split} images are copies of them"
        )
        return dataclasses.replace(found, notes=(*found.notes, said))
    notes = list(found.notes)
    if learnt is not None:
        known = learnt.sketches
        if not learnt.whole:
            notes.append(
                "the supernet began from weights without a record of what they have learnt from; "
                f"copies of those images among the {split} images are not counted"
            )
    else:
        assert train is not None
        known = Sketches.of(train.pixels)
        if _record(trained.training, "data").get("digest") != train.digest:
            notes.append(
                "the supernet keeps no record of the images that it has learnt from: the "
                f"{split} images were compared with the training images of --data alone"
            )
    copies = int(copied(judged.pixels, known).sum())
    if copies:
        notes.append(
            f"{copies} of the {len(judged)} {split} images are copies of training images of the "
            "supernet: its accuracy on them is too high"
        )
    return dataclasses.replace(found, notes=tuple(notes), copies=copies)


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
