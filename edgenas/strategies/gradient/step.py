"""What a step of the loop gives to an estimator, and the settings of all steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:  # which mixes by the settings here
    from edgenas.strategies.gradient.weights import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSettings:
    """How long and how fast to learn.

    Args:
        steps: batches.
        batch: images of a batch.
        rate: the root mean square of what the logits move by in a step.
        baseline: what REINFORCE takes off a network's loss: ``others``, the mean of the networks
            that share its batch, or ``average``, a moving average of the steps before.
        entropy: weight of the entropy of what networks are drawn from, which REINFORCE adds to
            what is sought; in nats, summed over choices. ENAS has 1e-4.
        skip_dropout: the share of values that skip connections of mixtures lose at the start; it
            falls to none (P-DARTS, arXiv 1904.12760, section 3.3).
        decay: weight of the squared logits in what is learnt (DARTS, 1806.09055, appendix A.1.1).
        measure: steps between measurements of the dominant eigenvalue (``collapse.py``); 0: none.
        early_stop: end where that eigenvalue grows, with the logits from before (RobustDARTS,
            1909.09656, section 4.3).
        warmup: steps at first in which weights that are trained learn alone (PC-DARTS, 1907.05737,
            section 4.2): what they cannot do yet would decide. The loss of these steps is that on
            training images.
    """

    steps: int = 400
    batch: int = 64
    rate: float = 0.05
    baseline: Literal["others", "average"] = "others"
    entropy: float = 1e-4
    skip_dropout: float = 0.0
    decay: float = 0.0
    measure: int = 0
    early_stop: bool = False
    warmup: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientStep:
    """A step.

    Args:
        number: from 0.
        settings: of all steps.
        pixels: of the batch, uint8, shape (n, 3, height, width).
        labels: shape (n,).
        past: cross entropies of the steps before.
        generator: of all chance.
        weights: that are trained; None: they are fixed.
    """

    number: int
    settings: GradientSettings
    pixels: Tensor
    labels: Tensor
    past: Sequence[float]
    generator: torch.Generator
    weights: "Weights | None" = None

    @property
    def progress(self) -> float:
        """The part of all steps that is done, from 0 to 1."""
        return self.number / max(self.settings.steps - 1, 1)
