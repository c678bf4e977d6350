"""What a training begins from and how long it may take."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edgenas.model.saved import TrainedSupernet
from edgenas.training.teacher import Teacher

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the inputs, per channel, of values in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingOptions:
    """What a training begins from, beside its space, images and recipe, and how long it may take.

    Args:
        seed: of everything that is left to chance.
        init: weights to start from. Those of the classifier are taken only where the class names
            are the same. The space of these weights may have other classes, resolutions, aspect
            and strides.
        teacher: a model whose answers the networks learn, see ``load_teacher``. Without one they
            learn from the largest network.
        normalisation: of the inputs, see ``Preprocessing``. None: that of the training images.
        time_budget: seconds for the training and the evaluation of the networks that an accuracy
            predictor is fitted to. The recipe gets as many epochs as fit, see
            ``timing.plan_epochs``; a run that goes on keeps its epochs. None: the epochs are those
            of the recipe.
        most_epochs: that a time budget may give; None: as many as fit. Then the budget also
            decides how many networks an accuracy predictor is fitted to.
        planned: what the time budget has decided already, see ``loop.plan_training``. None: that
            is found out when the training starts.
        device: where to train, e.g. ``cuda``. For several processes see
            ``edgenas.model.processes``.
    """

    seed: int = 0
    init: TrainedSupernet | None = None
    teacher: Teacher | None = None
    normalisation: Normalisation | None = None
    time_budget: float | None = None
    most_epochs: int | None = None
    planned: Mapping[str, int] | None = None
    device: str | torch.device = "cpu"
