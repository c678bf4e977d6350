"""DARTS of first order (Liu et al. 2019; arXiv 1806.09055): all alternatives, softmax gates.

The weights learn as those of the mixture, on training images; then the logits take the gradient of
the loss of the mixture on search images, with the weights taken for constant (section 2.3).
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import Mixture, mix_all
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep


def mix_softmax(policy: Policy, step: GradientStep) -> Mixture:
    """The continuous relaxation (section 2.2, equation 2)."""
    return mix_all(policy, step, [torch.softmax(scores, 0) for scores in policy.scores()])


def darts(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of first-order DARTS; see ``Estimator``."""
    return mixed_loss(paths, step, mix_softmax(policy, step))
