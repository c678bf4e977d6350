"""How the images of a training were divided, from its record: what was learnt from stays apart."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images, Split, split
from edgenas.model.saved import TrainedSupernet
from edgenas.training.recipe import Recipe, default_recipe


def divide_as_trained(trained: TrainedSupernet, images: Images) -> tuple[Split, Tensor]:
    """Divide images as the training of the supernet divided them, and draw those for calibration.

    An imported supernet has no record of a training; its images are divided as a training would
    do by default.

    Args:
        trained: the supernet.
        images: those it was trained on, or others of the same classes.

    Raises:
        EdgenasError: a class has a single image, or the record of the training is damaged.
    """
    from edgenas.training.course import choose_calibration

    recipe, seed = recipe_of(trained), int(_number(trained.training, "seed", 0))
    split_seed = seed
    if trained.training.get("split_seed") is not None:
        split_seed = int(_number(trained.training, "split_seed", 0))
    parts = split(images, validation=recipe.validation, seed=split_seed)
    return parts, choose_calibration(parts.train, recipe, seed=seed)


def split_as_trained(trained: TrainedSupernet, images: Images) -> tuple[Tensor, Images]:
    """Calibration pixels and validation images, as the training divided them.

    Returns:
        Calibration images, uint8, shape (n, 3, height, width), drawn from those for training; and
        the validation images, which no weights were learnt from.

    Raises:
        EdgenasError: as ``divide_as_trained``.
    """
    parts, calibration = divide_as_trained(trained, images)
    return calibration, parts.validation


def recipe_of(trained: TrainedSupernet) -> Recipe:
    """How a supernet was trained. What is not on record is as usual.

    Raises:
        EdgenasError: the record of the training is damaged.
    """
    recorded = read_record(trained.training, "recipe")
    values = dataclasses.asdict(default_recipe(trained.supernet.space))
    for name, value in values.items():
        if isinstance(value, str):
            values[name] = recorded.get(name, value)
        else:
            values[name] = type(value)(_number(recorded, name, value))
    return Recipe(**values)


def read_record(training: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the record of a training; empty where it is not there.

    Raises:
        EdgenasError: it is not an object.
    """
    value = training.get(name, {})
    if not isinstance(value, Mapping):
        raise EdgenasError(f"supernet.json: training.{name} must be an object, found {value!r}")
    return value


def _number(record: Mapping[str, Any], name: str, usual: float) -> float:
    value = record.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise EdgenasError(f"supernet.json: training: {name} must be a number, found {value!r}")
    return value
