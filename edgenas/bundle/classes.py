"""The accuracy of each class of a delivered network, and what is taken for what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.basics.ranges import Count, Fraction, Length, Positive, Words

PAIRS = 10  # confused pairs that are told
_QUANTILE = 1.959963984540054  # of the normal distribution, for an interval of 95%


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """The accuracy of one class.

    Args:
        name: of the class.
        images: of this class.
        correct: how many of them the network recognises.
        low: lower end of the 95% interval of the accuracy, see ``wilson_interval``.
        high: its upper end.
    """

    name: Words
    images: Positive
    correct: Count
    low: Fraction
    high: Fraction

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise EdgenasError(
                f"{self.correct} of {self.images} images is no accuracy between {self.low:g} and "
                f"{self.high:g}"
            )

    @staticmethod
    def of(*, name: str, images: int, correct: int) -> "ClassAccuracy":
        """The accuracy of a class from counts."""
        low, high = wilson_interval(correct, images)
        return ClassAccuracy(name=name, images=images, correct=correct, low=low, high=high)

    @property
    def value(self) -> float:
        """The accuracy, a fraction."""
        return self.correct / self.images

    def __str__(self) -> str:
        return (
            f"{self.name} {self.value:.0%} ({self.correct} of {self.images}, 95% interval "
            f"{self.low:.0%} to {self.high:.0%})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusedPair:
    """Images of one class that are taken for another.

    Args:
        name: of their class.
        taken_for: the other class.
        images: how many.
        of: all images of their class.
    """

    name: Words
    taken_for: Words
    images: Positive
    of: Positive

    def __str__(self) -> str:
        return f"{self.images} of {self.of} of {self.name} are taken for {self.taken_for}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracies:
    """How well a network knows each class.

    Args:
        each: the classes of which there are images, in the order of the labels.
        confused: the pairs that are confused most often, at most ``PAIRS``; most images first.
    """

    each: Annotated[tuple[ClassAccuracy, ...], Length(1, 1_000_000)]
    confused: tuple[ConfusedPair, ...] = ()

    @property
    def mean(self) -> float:
        """The mean of the classes, each counted alike."""
        return sum(one.value for one in self.each) / len(self.each)

    def check_sum(self, accuracy: float) -> None:
        """Refuse counts that do not add up to an accuracy over all images, a fraction."""
        correct = sum(one.correct for one in self.each)
        images = sum(one.images for one in self.each)
        if abs(correct / images - accuracy) > 1e-9:
            raise EdgenasError(
                f"classes must add up to the measured accuracy, found {correct} of {images}"
            )

    @property
    def worst_first(self) -> tuple[ClassAccuracy, ...]:
        """The classes, the least accurate first."""
        return tuple(sorted(self.each, key=lambda one: (one.value, -one.images, one.name)))


def count_by_class(
    labels: NDArray[np.int64], answers: NDArray[np.int64], *, names: Sequence[str]
) -> ClassAccuracies:
    """Count what a network recognises of each class, and what it takes for what.

    Args:
        labels: of the images, shape (n,).
        answers: the class that the network finds for each, shape (n,).
        names: of the classes.
    """
    images = np.bincount(labels, minlength=len(names))
    correct = np.bincount(labels[answers == labels], minlength=len(names))
    each = [
        ClassAccuracy.of(name=name, images=int(n), correct=int(k))
        for name, n, k in zip(names, images, correct, strict=True)
        if n
    ]
    wrong = answers != labels
    pairs, counts = np.unique(np.stack([labels[wrong], answers[wrong]]), axis=1, return_counts=True)
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], *pairs[:, i].tolist()))
    confused = [
        ConfusedPair(
            name=names[int(pairs[0, i])],
            taken_for=names[int(pairs[1, i])],
            images=int(counts[i]),
            of=int(images[pairs[0, i]]),
        )
        for i in order[:PAIRS]
    ]
    return ClassAccuracies(each=tuple(each), confused=tuple(confused))


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """The 95% interval of a proportion; Wilson, JASA 22 (1927), also for few images.

    Args:
        correct: of the images.
        images: at least 1.
    """
    z, share = _QUANTILE, correct / images
    centre = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    # At 0% and 100% an end is the share itself; rounding must not put it on the wrong side.
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return min(max(low, 0.0), share), max(min(high, 1.0), share)
