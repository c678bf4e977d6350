"""What a training needs, read and checked: space, recipe, images, weights and teacher."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from edgenas.accuracy.predictor import FEWEST
from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress, Say
from edgenas.basics.units import pixels
from edgenas.delivery.reading import read_images
from edgenas.images.data import Images, check_classes, count_copies, split
from edgenas.images.preprocessing import Size, choose_stored_size
from edgenas.model.backbones import BACKBONES
from edgenas.model.saved import TrainedSupernet
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.training.division import recipe_of
from edgenas.training.recipe import Recipe, default_recipe, load_recipe
from edgenas.training.request import TRANSFER as TRANSFER_NAME
from edgenas.training.request import TrainRequest
from edgenas.training.start import find_split_seed
from edgenas.training.teacher import Teacher, load_teacher
from edgenas.training.transfer import TRANSFER
from edgenas.training.unlabelled import label_images, teach_by_original

_FEW = 100  # validation images
PAGE = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainInputs:
    """All that a training needs, read and checked.

    Args:
        space: of the supernet.
        images: everything that may be learnt from.
        test: images that accuracy is measured on at the end; None where there are none.
        recipe: how to train.
        init: supernet to start from.
        teacher: model to learn from.
    """

    space: Space
    images: Images
    test: Images | None
    recipe: Recipe
    init: TrainedSupernet | None
    teacher: Teacher | None


def load_train_space(request: TrainRequest, init: TrainedSupernet | None) -> Space:
    """The space. The recipe is tried on it, so that a mistake is refused before images are read."""
    if request.space is None and init is not None:
        space = init.supernet.space
    else:
        space = load_space(request.space or "")
    if space.size < FEWEST:
        raise EdgenasError(
            f"the space {space.name} must have at least {FEWEST} networks for an accuracy "
            f"predictor, found {space.size}",
            hint="add choices: kernels, depths, expands, widths or resolutions",
        )
    _choose_recipe(request, default_recipe(space))
    return space


def _choose_recipe(request: TrainRequest, usual: Recipe) -> Recipe:
    """The recipe of a request: one with a name, or the usual one with the fields of a file."""
    recipe = usual
    if transfers(request):
        recipe = TRANSFER.elastic
    elif request.recipe is not None:
        recipe = load_recipe(Path(request.recipe), usual)
    return recipe if request.balance is None else replace(recipe, balance=request.balance)


def transfers(request: TrainRequest) -> bool:
    """Whether the recipe ``transfer`` is meant: by its name, or by a published network."""
    published = request.recipe is None and request.init in BACKBONES and not request.unlabelled
    return published or request.recipe == TRANSFER_NAME


def read_train_inputs(
    request: TrainRequest,
    *,
    space: Space,
    init: TrainedSupernet | None,
    place: torch.device,
    progress: Progress,
    say: Say,
) -> TrainInputs:
    """Read everything that a training needs, before the training, which takes hours."""
    stored = choose_stored_size(space)
    read = partial(
        read_images,
        stored=stored,
        framing=space.framing.with_fit(request.fit),
        skip_bad_images=request.skip_bad_images,
        progress=progress,
        say=say,
    )
    if request.unlabelled and init is not None:
        return _read_unlabelled(
            request, read, space=space, init=init, place=place, progress=progress, say=say
        )
    images = read(request.data)
    say(f"{len(images)} images of {len(images.classes)} classes from {request.data}")
    recipe = _choose_recipe(request, default_recipe(space, images=len(images)))
    if transfers(request) and init is not None and init.classes == images.classes:
        # The weights may have learnt from a part of these images: what was set aside stays so.
        recipe = replace(recipe, validation=recipe_of(init).validation)
    seed = find_split_seed(images, recipe=recipe, seed=request.seed, init=init)
    if transfers(request):
        count = len(split(images, validation=recipe.validation, seed=seed).train)
        recipe = TRANSFER.fit(recipe, images=count)
    test = read(request.test) if request.test else None
    inputs = TrainInputs(
        space=space, images=images, test=test, recipe=recipe, init=init, teacher=None
    )
    if request.teacher is not None:
        classes = len(images.classes)
        teacher = _load_teacher(
            request.teacher, request, classes=classes, stored=stored, place=place
        )
        _introduce(teacher, images, recipe=recipe, seed=seed, say=say)
        inputs = replace(inputs, teacher=teacher)
    if test is not None:
        check_classes(test, images.classes)
    _warn(inputs, seed=seed, say=say)
    return inputs


def _read_unlabelled(
    request: TrainRequest,
    read: Callable[..., Images],
    *,
    space: Space,
    init: TrainedSupernet,
    place: torch.device,
    progress: Progress,
    say: Say,
) -> TrainInputs:
    """Read images without labels, and let a teacher answer them."""
    stored = choose_stored_size(space)
    images = read(request.data, labelled=False)
    say(f"{len(images)} images without labels from {request.data}")
    recipe = replace(
        _choose_recipe(request, default_recipe(space, images=len(images))), distillation=1.0
    )
    if request.teacher is None:
        teacher = teach_by_original(init, stored=stored, size=request.teacher_size, place=place)
    else:
        teacher = _load_teacher(
            request.teacher, request, classes=len(init.classes), stored=stored, place=place
        )
    images = label_images(
        images,
        teacher,
        classes=init.classes,
        place=place,
        progress=lambda done, total: progress("answers of the teacher", done, total, ""),
    )
    test = read(request.test) if request.test else None
    if test is not None:
        check_classes(test, images.classes)
    return TrainInputs(
        space=space, images=images, test=test, recipe=recipe, init=init, teacher=teacher
    )


def _load_teacher(
    path: Path, request: TrainRequest, *, classes: int, stored: Size, place: torch.device
) -> Teacher:
    mean, std = request.teacher_normalisation
    return load_teacher(
        path,
        classes=classes,
        stored=stored,
        place=place,
        size=request.teacher_size,
        mean=mean,
        std=std,
    )


def _introduce(teacher: Teacher, images: Images, *, recipe: Recipe, seed: int, say: Say) -> None:
    """Say how good a teacher is: it shows whether its classes and preprocessing are understood."""
    parts = split(images, validation=recipe.validation, seed=seed)
    accuracy, n = teacher.accuracy(parts.validation)
    say(
        f"teacher {teacher.record['file']}: {accuracy:.2%} of {n} validation images right, at "
        f"{pixels(teacher.preprocessing.size(teacher.size))} pixels"
    )
    if accuracy < min(2 / len(images.classes), 0.6):
        first = ", ".join(images.classes[:3])
        say(
            f"warning: that is hardly better than chance; its classes must be in the order "
            f"{first}, ..., and --teacher-mean, -std and -size those that it was trained with"
        )


def _warn(inputs: TrainInputs, *, seed: int, say: Say) -> None:
    """Say what would make the numbers of a training wrong or unfair."""
    images, recipe = inputs.images, inputs.recipe
    parts = split(images, validation=recipe.validation, seed=seed)
    for name, others in (("validation", parts.validation), ("test", inputs.test)):
        if others is not None and (copies := count_copies(parts.train, others)):
            say(
                f"warning: {copies} of {len(others)} {name} images are training images too; "
                f"accuracy on them is too high"
            )
    if (n := len(parts.validation)) < _FEW:
        say(
            f"warning: only {n} validation images: an accuracy on them is known to about "
            f"{100 / math.sqrt(n):.0f} points"
        )
    sizes = images.labels.bincount(minlength=len(images.classes))
    least, most = int(sizes.argmin()), int(sizes.argmax())
    if sizes[most] > 3 * sizes[least]:
        remedy = "; --balance 1 draws classes equally often, which may help rare ones"
        say(
            f"warning: {sizes[most]} images of {images.classes[most]!r}, only {sizes[least]} of "
            f"{images.classes[least]!r}{'' if recipe.balance else remedy}"
        )
