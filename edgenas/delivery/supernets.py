"""``train``: a supernet, its accuracy predictor and the page of the training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_text
from edgenas.basics.progress import Progress, Say, explain_stop, no_progress, say_nothing
from edgenas.delivery.fitting import errors_to_json, fit_and_save, name_of
from edgenas.delivery.reading import count_learnt_copies
from edgenas.delivery.train_inputs import (
    TrainInputs,
    load_train_space,
    read_train_inputs,
    transfers,
)
from edgenas.images.data import Images
from edgenas.model import processes as parallel
from edgenas.model.importing import find_start
from edgenas.model.saved import TrainedSupernet, load_supernet, save_supernet
from edgenas.pages.training import training_page
from edgenas.training import loop
from edgenas.training.division import split_as_trained
from edgenas.training.history import read_history
from edgenas.training.options import TrainingOptions
from edgenas.training.request import TrainRequest
from edgenas.training.runs import check_out

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
    return train_as_planned(request, None, progress=progress, say=say)


def train_as_planned(
    request: TrainRequest, planned: Mapping[str, int] | None, *, progress: Progress, say: Say
) -> TrainResult:
    """As ``train``, with what ``plan_training`` found out; None: it was not asked."""
    request.check()
    init = None if request.init is None else load_supernet(find_start(request.init))
    space = load_train_space(request, init)
    if request.threads:
        torch.set_num_threads(request.threads)
    if request.device == "cuda" and not torch.cuda.is_available():
        raise EdgenasError("--device cuda: torch finds no GPU", hint="use --device cpu")
    with parallel.processes(request.device) as place:
        if parallel.rank() == 0:
            check_out(request.out, resume=request.resume)  # before images are read
        else:
            progress, say = no_progress, say_nothing
        inputs = read_train_inputs(
            request, space=space, init=init, place=place, progress=progress, say=say
        )
        options = _make_options(inputs, request, place=place, planned=planned)
        trained = _train_and_save(inputs, request, options, progress=progress, say=say)
        calibration, validation = split_as_trained(trained, inputs.images)
        predictor = fit_and_save(
            trained,
            validation,
            folder=request.out,
            calibration=calibration,
            count=trained.training["recipe"]["accuracy_archs"],
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


def plan_training(request: TrainRequest, *, progress: Progress = no_progress) -> dict[str, int]:
    """Find out what the time of a request allows, from a few steps; nothing is trained yet.

    Args:
        request: with a time, for one process.
        progress: called with (step, done, total, words).

    Returns:
        What ``train_as_planned`` takes.

    Raises:
        TooLittleTimeError: not even one epoch fits.
        EdgenasError: as ``train``.
    """
    request.check()
    init = None if request.init is None else load_supernet(find_start(request.init))
    space, place = load_train_space(request, init), torch.device(request.device)
    inputs = read_train_inputs(
        request, space=space, init=init, place=place, progress=progress, say=say_nothing
    )
    progress("timing some steps", 0, 0, "to see how many epochs fit into the time")
    options = _make_options(inputs, request, place=place, planned=None)
    return loop.plan_training(inputs.space, inputs.images, recipe=inputs.recipe, options=options)


def _make_options(
    inputs: TrainInputs,
    request: TrainRequest,
    *,
    place: torch.device,
    planned: Mapping[str, int] | None,
) -> TrainingOptions:
    normalisation = request.normalisation
    scaled = transfers(request) or not inputs.images.labelled
    if normalisation is None and inputs.init is not None and scaled:
        # The weights know inputs that are scaled as they were before.
        preprocessing = inputs.init.preprocessing
        normalisation = preprocessing.mean, preprocessing.std
    return TrainingOptions(
        seed=request.seed,
        init=inputs.init,
        teacher=inputs.teacher,
        normalisation=normalisation,
        time_budget=request.seconds,
        most_epochs=inputs.recipe.epochs if transfers(request) else None,
        planned=planned,
        device=place,
    )


def _train_and_save(
    inputs: TrainInputs,
    request: TrainRequest,
    options: TrainingOptions,
    *,
    progress: Progress,
    say: Say,
) -> TrainedSupernet:
    """Train, save, and read what was saved: several processes go on with the same weights."""

    def report(state: loop.TrainingProgress) -> None:
        if state.note:
            say(f"epoch {state.epoch:.0f}  {state.note}")
        words = f"{state.images_per_second:.0f} images/s  loss {state.loss:.3f}"
        progress("training", state.step, state.steps, words)

    with explain_stop("to go on, run the same command with --resume"):
        trained = loop.train(
            inputs.space,
            inputs.images,
            recipe=inputs.recipe,
            out=request.out,
            options=options,
            resume=request.resume,
            progress=report,
        )
    if parallel.rank() == 0:
        save_supernet(request.out, trained, dtype=torch.float32)
    parallel.gather(None)  # the others read what the first one wrote
    trained = load_supernet(request.out)
    trained.supernet.to(options.device)
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
