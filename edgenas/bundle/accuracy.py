"""The accuracy of a network, as a record says it: its kind, its images, how far off it may be."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import describe_lean
from edgenas.basics.ranges import ALWAYS, Count, Fraction, PredictedAccuracy, Range, Words


def name_accuracy(teacher: str | None) -> str:
    """The word for a share of right answers: ``accuracy``, or ``agreement`` with a teacher's."""
    return "agreement" if teacher else "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRecord:
    """Top-1 accuracy as a fraction.

    Args:
        kind: ``predicted`` (by a predictor), ``measured`` (on images) or ``unknown``.
        value: the accuracy, a fraction; 0 where it is unknown.
        data: name of the data set, e.g. ``cifar10``.
        split: the part of the data set, e.g. ``validation``.
        images: number of images.
        error: a fraction. If predicted, the mean absolute error on held-out archs; if measured,
            the standard error of a proportion.
        bias: mean of predicted - measured on the same archs, if predicted. None: not known.
        archs: number of archs that ``error`` was measured on, if predicted; else 0.
        chosen: whether a search by this very predictor chose those archs.
        copies: how many of the images are copies of images that the weights have learnt from, if
            measured. None: nobody has counted them.
        teacher: the network whose answers count as right. None: labels that people gave do.
    """

    kind: Literal["predicted", "measured", "unknown"]
    value: PredictedAccuracy
    data: Words
    split: Words
    images: Count
    error: Fraction
    bias: Annotated[float, Range(-1e6, 1e6, "fraction")] | None = None
    archs: Annotated[Count, ALWAYS] = 0
    chosen: bool = False
    copies: Count | None = None
    teacher: Words | None = None

    def __post_init__(self) -> None:
        if self.kind == "measured" and not 0 <= self.value <= 1:
            raise EdgenasError(f"a measured value must be from 0 to 1, found {self.value}")

    @staticmethod
    def of(
        *, correct: int, images: int, data: str, split: str, copies: int | None = None
    ) -> "AccuracyRecord":
        """The measured accuracy from the number of correct answers."""
        value = correct / images
        error = math.sqrt(value * (1 - value) / images)
        return AccuracyRecord(
            kind="measured",
            value=value,
            data=data,
            split=split,
            images=images,
            error=error,
            copies=copies,
        )

    @property
    def caution(self) -> str:
        """Why the number is too high, in words. Empty if there is no reason to think so."""
        if not self.copies:
            return ""
        return f"{self.copies} of {self.images} images are copies of training images"

    @property
    def name(self) -> str:
        """The word for the number wherever it stands, as from ``name_accuracy``."""
        return name_accuracy(self.teacher)

    @property
    def what(self) -> str:
        """The name and whose answers count as right, where no labels do."""
        return f"{self.name} with {self.teacher}" if self.teacher else self.name

    @property
    def figure(self) -> str:
        """The number, or that it is unknown."""
        return "unknown" if self.kind == "unknown" else f"{self.value:.2%}"

    @property
    def summary(self) -> str:
        """The number with its kind, which follows its name, e.g. ``91.20% measured``."""
        if self.kind == "unknown":
            return self.figure
        return f"{self.figure} {self.kind}" + (f" with {self.teacher}" if self.teacher else "")

    @property
    def lean(self) -> str:
        """To which side such predictions err, and by how much; empty where none is known."""
        if self.kind != "predicted" or self.bias is None:
            return ""
        return describe_lean(error=self.error, bias=self.bias, n=self.archs)

    @property
    def doubt(self) -> str:
        """How far off such predictions are, in a few words; of measured ones nothing."""
        if self.kind != "predicted":
            return ""
        return self.lean or f"off by {100 * self.error:.2f} points on average"

    def __str__(self) -> str:
        if self.kind == "unknown":
            return "unknown: no labelled images were given, and the supernet has no predictor"
        points = f"{100 * self.error:.2f} points"
        where = f"{self.data} {self.split}, n={self.images}"
        if self.kind == "measured":
            copies = f"; too high: {self.caution}" if self.caution else ""
            return f"{self.value:.2%} measured ({where}, standard error {points}{copies})"
        kind = "archs that a search chose" if self.chosen else "held-out archs"
        held_out = f"mean error {points} on {self.archs} {kind}"
        if self.lean:
            held_out += f": such predictions were {self.lean}"
        return f"{self.summary} ({where}, {held_out})"
