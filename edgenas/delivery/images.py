"""The images of a specialisation: what is calibrated with, and what accuracy is measured on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress
from edgenas.delivery.given import keeps_statistics
from edgenas.delivery.request import SpecializeRequest
from edgenas.images.copies import Sketches, find_copies
from edgenas.images.data import Images, Split, check_classes, drop_copies
from edgenas.model.saved import CALIBRATION_FILE, TrainedSupernet
from edgenas.space.framing import Fit
from edgenas.training.division import divide_as_trained, read_record

_NOISE = 100  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSets:
    """The images of a specialisation, divided by what they are for.

    Args:
        calibration: pixels that batch norms and quantisation are calibrated with, uint8, shape
            (n, 3, height, width).
        evaluation: the images that accuracy is measured on; None where there are none.
        split: the name of their split: ``validation`` or ``test``.
        notes: what a reader of the accuracy should know.
        validation: the images that a strategy may learn from. Test images are never among them.
        training: the images that weights may learn from. None of them is among the validation or
            test images, nor looks like one of those.
        copies: how many of the evaluation images are copies of images that the supernet has learnt
            from; None where that is not known.
    """

    calibration: Tensor
    evaluation: Images | None
    split: str
    notes: tuple[str, ...] = ()
    validation: Images | None = None
    training: Images | None = None
    copies: int | None = None

    def require_validation(self) -> Images:
        """The validation images, where the request was checked to give some."""
        assert self.validation is not None
        return self.validation

    def require_training(self) -> Images:
        """The training images, where the request was checked to give some."""
        assert self.training is not None
        return self.training


def with_fit(trained: TrainedSupernet, fit: Fit | None) -> TrainedSupernet:
    """A supernet whose pictures get the shape of inputs in another way. None: as it was trained."""
    steps = trained.preprocessing
    steps = dataclasses.replace(steps, framing=steps.framing.with_fit(fit))
    return dataclasses.replace(trained, preprocessing=steps)


def describe_fit(trained: TrainedSupernet, fit: Fit | None) -> tuple[str, ...]:
    """What a reader should know where pictures get another shape than in the training.

    Args:
        trained: the supernet, as it was trained.
        fit: that is asked for.
    """
    learnt = trained.preprocessing.framing
    if learnt.with_fit(fit) == learnt:
        return ()
    return (
        f"pictures are prepared with fit {fit}, and the supernet has learnt from pictures with "
        f"{learnt}; networks were chosen by accuracies that are predicted for those",
    )


def read_image_sets(
    request: SpecializeRequest, trained: TrainedSupernet, *, progress: Progress
) -> ImageSets:
    """Read the images of a request. Synthetic images calibrate where none are given.

    Raises:
        EdgenasError: images cannot be read, or their classes are not those of the supernet.
    """
    from edgenas.images.loading import load_images

    left_out: list[str] = []

    def read(source: str) -> Images:
        images = load_images(
            source,
            stored=trained.preprocessing.stored,
            framing=trained.preprocessing.framing,
            skip_bad_images=request.skip_bad_images,
            progress=lambda done, of: progress("reading images", done, of, Path(source).name),
        )
        if images.untaken:
            left_out.append(f"{source}: {images.untaken}")
        check_classes(images, trained.classes)
        return images

    test = None if request.test is None else read(request.test)
    if request.data is None:
        calibration, notes = _read_calibration(request, trained)
        sets = ImageSets(
            calibration=calibration,
            evaluation=test,
            split="test",
            notes=(*left_out, *notes),
        )
        return sets if test is None else _count_copies(sets, test, trained, training=None)
    images = read(request.data)
    parts, calibration = divide_as_trained(trained, images)
    validation, training, notes = parts.validation, None, tuple(left_out)
    if request.trains or request.fine_tunes_integers:
        evaluated = [validation] if test is None else [validation, test]
        training = drop_copies(parts.train, evaluated)
        if request.trains or len(training) > 1:
            notes += _training_notes(parts, training)
        else:
            training = None
    if test is None:
        notes += _validation_notes(request, trained, images)
    sets = ImageSets(
        calibration=calibration,
        evaluation=validation if test is None else test,
        split="validation" if test is None else "test",
        notes=notes,
        validation=validation,
        training=training,
    )
    return _count_copies(sets, sets.evaluation or validation, trained, training=parts.train)


def _read_calibration(
    request: SpecializeRequest, trained: TrainedSupernet
) -> tuple[Tensor, tuple[str, ...]]:
    """The calibration images of a supernet, and what a reader should know about them.

    A published network needs none: noise shows whether its export gives its answers.

    Raises:
        EdgenasError: the supernet has none.
    """
    has_images = (trained.require_folder() / CALIBRATION_FILE).exists()
    if has_images or request.allow_accuracy_drop or not keeps_statistics(request, trained):
        return trained.calibration_images(), ()
    generator = torch.Generator().manual_seed(request.seed)
    shape = (_NOISE, 3, *trained.preprocessing.kept)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return noise, (
        "the network keeps the batch-norm statistics that were published with its weights; its "
        f"export was compared with it on {_NOISE} images of noise, because none were given",
    )


def _count_copies(
    sets: ImageSets, evaluation: Images, trained: TrainedSupernet, *, training: Images | None
) -> ImageSets:
    """Count the evaluation images that the supernet has learnt from, and say so.

    Args:
        sets: the images without that number.
        evaluation: the images that accuracy is measured on.
        trained: the supernet.
        training: the training images of the data set that was given; None where none was.
    """
    learnt, split, notes = trained.learnt, sets.split, list(sets.notes)
    if learnt is not None:
        sketches = learnt.sketches
        if not learnt.whole:
            notes.append(
                "the supernet began from weights without a record of what they have learnt from; "
                f"copies of those images among the {split} images are not counted"
            )
    elif training is not None:
        sketches = Sketches.of(training.pixels)
        if read_record(trained.training, "data").get("digest") != training.digest:
            notes.append(
                "the supernet keeps no record of the images that it has learnt from: the "
                f"{split} images were compared with the training images of --data alone"
            )
    else:
        notes.append(
            "the supernet keeps no record of the images that it has learnt from, so it is not "
            f"known how many of the {split} images are copies of them"
        )
        return dataclasses.replace(sets, notes=tuple(notes))
    copies = int(find_copies(evaluation.pixels, sketches).sum())
    if copies:
        notes.append(
            f"{copies} of the {len(evaluation)} {split} images are copies of training images of "
            "the supernet: its accuracy on them is too high"
        )
    return dataclasses.replace(sets, notes=tuple(notes), copies=copies)


def _training_notes(parts: Split, training: Images) -> tuple[str, ...]:
    """What was left out of the training images.

    Raises:
        EdgenasError: fewer than two images are left.
    """
    if len(training) < 2:
        raise EdgenasError(
            f"of the training images in {parts.train.source} {len(training)} are left to learn "
            "from, all others are among those for validation or tests",
            hint="give other images with --test",
        )
    copies = len(parts.train) - len(training)
    if not copies:
        return ()
    return (
        f"{copies} training images are among those for validation or tests too; no weights were "
        "trained on them here",
    )


def _validation_notes(
    request: SpecializeRequest, trained: TrainedSupernet, images: Images
) -> tuple[str, ...]:
    """Why an accuracy on validation images may be too high."""
    notes: tuple[str, ...] = ()
    if read_record(trained.training, "data").get("digest") != images.digest:
        notes += (
            f"{images.source} is not the very data set that the supernet was trained on; where it "
            "holds images of that one, the measured accuracy is too high",
        )
    if request.learns or request.trains:
        chooser = f"strategy {request.strategy}" if request.learns else "retraining"
        notes += (
            f"{chooser} chose the network by the very images that its accuracy is measured on, so "
            "the accuracy is optimistic: give others with --test",
        )
    return notes
