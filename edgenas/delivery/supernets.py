"""``train``: a supernet, its accuracy predictor and the page of the training."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.accuracy.predictor import FEWEST, AccuracyPredictor
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_text
from edgenas.basics.progress import Progress, Say, explain_stop, no_progress, say_nothing
from edgenas.basics.units import pixels
from edgenas.delivery.fitting import errors_to_json, fit_and_save, name_of
from edgenas.delivery.reading import count_learnt_copies, read_images
from edgenas.images.data import Images, check_classes, count_copies, split
from edgenas.images.preprocessing import Size, choose_stored_size
from edgenas.model import processes as parallel
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet, save_supernet
from edgenas.pages.training import training_page
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.training import loop
from edgenas.training.division import split_as_trained
from edgenas.training.history import read_history
from edgenas.training.options import TrainingOptions
from edgenas.training.recipe import Recipe, default_recipe, load_recipe
from edgenas.training.request import TrainRequest
from edgenas.training.runs import check_out
from edgenas.training.start import find_split_seed
from edgenas.training.teacher import Teacher, load_teacher
from edgenas.training.unlabelled import label_images, teach_by_original

_FEW = 100  # validation images
PAGE = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerAccuracy:
    """The accuracy of one network on test images.

    Args:
        network: ``largest`` or ``smallest``.
        accuracy: a fraction of 1.
        n: how many test images.
        copies: how many of them are copies of images that the supernet has learnt from; None where
            that is not known.
    """

    network: str
    accuracy: float
    n: int
    copies: int | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "network": self.network,
            "accuracy": self.accuracy,
            "n": self.n,
            "copies": self.copies,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a training made.

    Args:
        folder: of the run and of its supernet.
        page: of the training, an HTML file.
        epochs: of the recipe.
        validation_images: how many images the accuracy predictor rests on.
        predictor: of accuracies, with its errors.
        tests: accuracies on the test images; None where there are none.
    """

    folder: Path
    page: Path
    epochs: int
    validation_images: int
    predictor: AccuracyPredictor
    tests: tuple[CornerAccuracy, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        report: dict[str, Any] = {
            "schema": "edgenas.training/1",
            "supernet": str(self.folder),
            "report": str(self.page),
            "epochs": self.epochs,
            "validation_images": self.validation_images,
            **errors_to_json(self.predictor),
        }
        if self.tests is not None:
            report["test"] = [row.to_json() for row in self.tests]
        return report


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


def train(
    request: TrainRequest, *, progress: Progress = no_progress, say: Say = say_nothing
) -> TrainResult:
    """Train a supernet, then evaluate networks of it and fit its accuracy predictor.

    Safe to interrupt at any moment; ``resume`` goes on to the very same weights. Under
    ``torchrun`` several processes train together, and the first one reports.

    Raises:
        EdgenasError: an option, a file or the images are wrong, ``out`` holds another run, or the
            training diverges.
    """
    request.check()
    space = _load_space(request)
    init = None if request.init is None else load_supernet(find_supernet(request.init))
    if request.threads:
        torch.set_num_threads(request.threads)
    if request.device == "cuda" and not torch.cuda.is_available():
        raise EdgenasError("--device cuda: torch finds no GPU", hint="use --device cpu")
    with parallel.processes(request.device) as place:
        if parallel.rank() == 0:
            check_out(request.out, resume=request.resume)  # before images are read
        else:
            progress, say = no_progress, say_nothing
        inputs = _read_inputs(
            request, space=space, init=init, place=place, progress=progress, say=say
        )
        trained = _train_and_save(inputs, request, place=place, progress=progress, say=say)
        calibration, validation = split_as_trained(trained, inputs.images)
        predictor = fit_and_save(
            trained,
            validation,
            folder=request.out,
            calibration=calibration,
            count=inputs.recipe.accuracy_archs,
            seed=request.seed,
            name=request.name or name_of(request.data),
            progress=progress,
        )
        page = request.out / PAGE
        if parallel.rank() == 0:
            write_text(page, training_page(read_history(request.out)))
        tests = None
        if inputs.test is not None:
            tests = _measure_corners(trained, inputs.test, calibration, say=say)
    return TrainResult(
        folder=request.out,
        page=page,
        epochs=trained.training["recipe"]["epochs"],
        validation_images=len(validation),
        predictor=predictor,
        tests=tests,
    )


def _load_space(request: TrainRequest) -> Space:
    """The space. The recipe is tried on it, so that a mistake is refused before images are read."""
    space = load_space(request.space)
    if space.size < FEWEST:
        raise EdgenasError(
            f"the space {space.name} must have at least {FEWEST} networks for an accuracy "
            f"predictor, found {space.size}",
            hint="add choices: kernels, depths, expands, widths or resolutions",
        )
    if request.recipe is not None:
        load_recipe(request.recipe, default_recipe(space))
    return space


def _read_inputs(
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
        framing=space.framing,
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
    recipe = _recipe_of(request, space, images)
    seed = find_split_seed(images, recipe=recipe, seed=request.seed, init=init)
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


def _recipe_of(request: TrainRequest, space: Space, images: Images) -> Recipe:
    recipe = default_recipe(space, images=len(images))
    return recipe if request.recipe is None else load_recipe(request.recipe, recipe)


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
    recipe = replace(_recipe_of(request, space, images), distillation=1.0)
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
        remedy = "; balance = 1 in a recipe draws classes equally often"
        say(
            f"warning: {sizes[most]} images of {images.classes[most]!r}, only {sizes[least]} of "
            f"{images.classes[least]!r}{'' if recipe.balance else remedy}"
        )


def _train_and_save(
    inputs: TrainInputs,
    request: TrainRequest,
    *,
    place: torch.device,
    progress: Progress,
    say: Say,
) -> TrainedSupernet:
    """Train, save, and read what was saved: several processes go on with the same weights."""

    def report(state: loop.TrainingProgress) -> None:
        if state.note:
            say(f"epoch {state.epoch:.0f}  {state.note}")
        words = f"{state.images_per_second:.0f} images/s  loss {state.loss:.3f}"
        progress("training", state.step, state.steps, words)

    normalisation = request.normalisation
    if normalisation is None and inputs.init is not None and not inputs.images.labelled:
        preprocessing = inputs.init.preprocessing
        normalisation = preprocessing.mean, preprocessing.std
    with explain_stop("to go on, run the same command with --resume"):
        trained = loop.train(
            inputs.space,
            inputs.images,
            recipe=inputs.recipe,
            out=request.out,
            options=TrainingOptions(
                seed=request.seed,
                init=inputs.init,
                teacher=inputs.teacher,
                normalisation=normalisation,
                time_budget=request.seconds,
                device=place,
            ),
            resume=request.resume,
            progress=report,
        )
    if parallel.rank() == 0:
        save_supernet(request.out, trained, dtype=torch.float32)
    parallel.gather(None)  # the others read what the first one wrote
    trained = load_supernet(request.out)
    trained.supernet.to(place)
    return trained


def _measure_corners(
    trained: TrainedSupernet, images: Images, calibration: Tensor, *, say: Say
) -> tuple[CornerAccuracy, ...]:
    """Test accuracy of the largest and the smallest network."""
    space = trained.supernet.space
    work = partial(
        evaluate_archs,
        trained.supernet,
        images=images,
        calibration=calibration,
        preprocessing=trained.preprocessing,
        split="test",
    )
    names, archs = ("largest", "smallest"), [space.largest(), space.smallest()]
    copies = count_learnt_copies(trained, images, split="test", say=say)
    return tuple(
        CornerAccuracy(network=name, accuracy=a.value, n=a.n, copies=copies)
        for name, a in zip(names, parallel.share_out(archs, work), strict=True)
    )
