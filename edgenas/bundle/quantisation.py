"""What integers cost a network in accuracy, before and after its weights learnt for them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from edgenas.basics.ranges import Count, Positive, Range, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerAccuracy:
    """How many of the same images a network classifies correctly.

    Args:
        split: the part of the data set, e.g. ``validation``.
        images: number of images.
        fp32: correct answers before the precision was lowered.
        calibrated: those of the int8 network whose ranges were calibrated and whose weights were
            rounded.
        fine_tuned: those of the int8 network whose weights were fine-tuned too.
    """

    split: Words
    images: Positive
    fp32: Count
    calibrated: Count
    fine_tuned: Count

    @property
    def losses(self) -> tuple[float, float]:
        """Accuracy lost against fp32 by calibration alone and after fine-tuning, fractions."""
        calibrated, fine_tuned = self.fp32 - self.calibrated, self.fp32 - self.fine_tuned
        return calibrated / self.images, fine_tuned / self.images

    def __str__(self) -> str:
        calibrated, fine_tuned = (100 * loss for loss in self.losses)
        return (
            f"{self.split}, n={self.images}: {calibrated:.2f} points by calibration alone, "
            f"{fine_tuned:.2f} after fine-tuning"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """The quantisation-aware fine-tuning of an int8 network.

    Args:
        shipped: the weights that the bundle has. The validation images decide: ``fine-tuned``
            where these classify more of them correctly, else ``calibrated``.
        steps: of the fine-tuning.
        batch: images of a step.
        learning_rate: its highest value.
        validation: on the images that decide.
        evaluation: on the images of the reported accuracy. None: those are the same images.
    """

    shipped: Literal["fine-tuned", "calibrated"]
    steps: Count
    batch: Positive
    learning_rate: Annotated[float, Range(0, 1000, "number")]
    validation: IntegerAccuracy
    evaluation: IntegerAccuracy | None = None

    def __str__(self) -> str:
        """For people: what ships, and what it loses against fp32."""
        what = {"fine-tuned": "fine-tuned for int8", "calibrated": "rounded, not fine-tuned"}
        losses = [str(one) for one in (self.validation, self.evaluation) if one is not None]
        return (
            f"weights {what[self.shipped]}; {self.steps} steps of {self.batch} images; lost "
            f"against fp32 on {'; on '.join(losses)}"
        )
