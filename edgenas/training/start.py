"""The start of a training: its weights, its division of the images, and what its run records."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgenas.basics.errors import EdgenasError
from edgenas.images.copies import LearntImages, Sketches
from edgenas.images.data import Images, Split
from edgenas.images.preprocessing import Preprocessing, as_size
from edgenas.model import processes as parallel
from edgenas.model.saved import TrainedSupernet
from edgenas.model.supernet import Supernet
from edgenas.space.presets import space_to_json
from edgenas.space.space import Space
from edgenas.training.course import Course, choose_calibration
from edgenas.training.options import Normalisation, TrainingOptions
from edgenas.training.recipe import Recipe


def make_course(space: Space, parts: Split, recipe: Recipe, options: TrainingOptions) -> Course:
    """Make the course of a training.

    Args:
        space: of the supernet.
        parts: the images, divided.
        recipe: how to train.
        options: the seed, the teacher and the normalisation.

    Raises:
        EdgenasError: the images do not fill a batch, or have another aspect than the space.
    """
    count, step_images = len(parts.train), recipe.batch * recipe.accumulate * parallel.world()
    if count < step_images:
        raise EdgenasError(
            f"the training images must fill a batch of {step_images}, found {count}",
            hint="use more images, or a smaller batch: a line like batch = 8 in --recipe FILE.toml",
        )
    height, width = (int(size) for size in parts.train.pixels.shape[2:])
    if height * space.aspect[1] != width * space.aspect[0]:
        raise EdgenasError(
            f"images must have the aspect {[*space.aspect]} of the space {space.name}, "
            f"found {height}x{width} pixels",
            hint="load them with stored=choose_stored_size(space)",
        )
    mean, std = _choose_normalisation(space, parts, options)
    rng = np.random.default_rng((options.seed, 6))
    return Course(
        space=space,
        recipe=recipe,
        seed=options.seed,
        parts=parts,
        preprocessing=Preprocessing(
            stored=as_size(height, width), mean=mean, std=std, framing=parts.train.framing
        ),
        calibration=choose_calibration(parts.train, recipe, seed=options.seed),
        watched=(
            space.largest(),
            space.smallest(),
            *space.decode(space.sample(recipe.watched, rng=rng, by="gene")),
        ),
        teacher=options.teacher,
        steps_per_epoch=count // step_images,
    )


def _choose_normalisation(space: Space, parts: Split, options: TrainingOptions) -> Normalisation:
    """The one that was asked for, else that of the weights to start from, else of the images.

    A space states one where its weights were trained with it.
    """
    stated = options.normalisation or space.normalisation
    if stated is None and options.init is not None:
        stated = options.init.supernet.space.normalisation
    return stated or parts.train.statistics()


def make_supernet(course: Course, options: TrainingOptions) -> Supernet:
    """Make the supernet that a training starts from, on its device.

    Raises:
        EdgenasError: the weights to start from are of another space.
    """
    supernet = Supernet(course.space, seed=options.seed)
    if options.init is not None:
        copy_weights(options.init, supernet, classes=course.parts.train.classes)
    return supernet.to(torch.device(options.device)).to(memory_format=torch.channels_last)


def describe_run(
    course: Course, images: Images, options: TrainingOptions, *, split_seed: int
) -> dict[str, Any]:
    """Describe a training for its ``run.json``. A run goes on only with an equal description.

    Args:
        course: the training.
        images: everything that may be learnt from.
        options: of the training.
        split_seed: the seed by which the images are divided.
    """
    init = options.init
    return {
        "space": space_to_json(course.space),
        "time_budget": options.time_budget,
        "recipe": dataclasses.asdict(course.recipe),
        "seed": course.seed,
        "data": {
            "source": Path(images.source).name,
            "digest": images.digest,
            "classes": len(images.classes),
            "images": len(images),
            **({} if images.labelled else {"labels": "answers of the teacher"}),
        },
        "threads": torch.get_num_threads(),
        "processes": parallel.world(),
        "init": None if init is None else _digest(init.supernet),
        "teacher": None if course.teacher is None else course.teacher.record,
        "normalisation": options.normalisation,
        "split_seed": None if split_seed == course.seed else split_seed,
    }


def record_learnt(images: Images, init: TrainedSupernet | None) -> LearntImages:
    """Record which images the weights have learnt from at the end of a training.

    Args:
        images: the training images.
        init: the weights that the training starts from. Their images count too.
    """
    sketches = Sketches.of(images.pixels)
    if init is None:
        return LearntImages(sketches, whole=True)
    if (before := init.learnt) is None:
        return LearntImages(sketches, whole=False)
    return LearntImages(Sketches.joined([before.sketches, sketches]), whole=before.whole)


def copy_weights(init: TrainedSupernet, supernet: Supernet, *, classes: tuple[str, ...]) -> None:
    """Copy the weights of a trained supernet into another one.

    Batch-norm statistics are not copied, because they belong to networks of the old training.
    Classes, resolutions, aspect, strides and preprocessing may differ: only weights of the
    classifier depend on them.

    Args:
        init: the weights.
        supernet: gets them.
        classes: of the new training. The classifier is copied only where they are the same.

    Raises:
        EdgenasError: the two spaces differ in anything else.
    """
    space, old = supernet.space, init.supernet.space
    pairs = zip(old.stages, space.stages, strict=False)
    alike = dataclasses.replace(
        old.with_classes(space.classes),
        name=space.name,
        resolutions=space.resolutions,
        aspect=space.aspect,
        framing=space.framing,
        mean=space.mean,
        std=space.std,
        stages=tuple(dataclasses.replace(one, stride=other.stride) for one, other in pairs),
    )
    if alike != space or len(old.stages) != len(space.stages):
        raise EdgenasError(
            f"--init must have the stages of the space {space.name}, found {old.name}",
            hint="classes, resolutions, aspect and strides may be others, nothing else",
        )
    with torch.no_grad():
        for name, parameter in init.supernet.named_parameters():
            if init.classes == classes or not name.startswith("head.classifier"):
                supernet.get_parameter(name).copy_(parameter)


def find_split_seed(
    images: Images, *, recipe: Recipe, seed: int, init: TrainedSupernet | None
) -> int:
    """Find the seed by which a training sets images aside for validation.

    It is the seed of the training, unless the training starts from weights that have learnt from
    as many images of the same classes. Those may be the same images, perhaps stored at another
    size. So the images are divided as they were for those weights, and what was set aside then
    stays unseen.

    Args:
        images: everything that may be learnt from.
        recipe: of the training.
        seed: of the training.
        init: the weights to start from, if any.

    Raises:
        EdgenasError: the recipe sets another part of the images aside than that of the weights.
    """
    if init is None or images.held is not None or init.classes != images.classes:
        return seed
    if not images.labelled:
        return seed  # nobody has learnt a label of them
    record = init.training
    if record.get("data", {}).get("images") != len(images):
        return seed
    part = record.get("recipe", {}).get("validation")
    if part != recipe.validation:
        raise EdgenasError(
            f"--init was trained on {len(images)} images of the same classes with {part:.0%} of "
            f"them for validation: if they are these, with {recipe.validation:.0%} images would "
            "be set aside that it has learnt from",
            hint=f"use a recipe with validation = {part}",
        )
    split_seed = record.get("split_seed")
    return record.get("seed", 0) if split_seed is None else split_seed


def _digest(supernet: Supernet) -> str:
    """A number that differs between weights, for the record of a run."""
    total = sum(p.double().sum().item() for p in supernet.parameters())
    return f"{total:.9e}"
