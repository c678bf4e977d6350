"""FairDARTS (Chu et al. 2020; arXiv 1911.12126): sigmoid gates and the zero-one loss.

Under a softmax alternatives compete, and skip connections, which help all others to learn, win. A
gate of each alternative's own ends that (section 4.1). The zero-one loss pushes gates to 0 or 1, so
that the mixture is near to the network that is chosen of it (section 4.2, equation 4).
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import Mixture, mix_all
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

ZERO_ONE = 10.0  # weight of that loss


def mix_sigmoid(policy: Policy, step: GradientStep) -> Mixture:
    """Gates that do not compete."""
    return mix_all(policy, step, [torch.sigmoid(scores) for scores in policy.scores()])


def fair_darts(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of FairDARTS; see ``Estimator``."""
    loss, value = mixed_loss(paths, step, mix_sigmoid(policy, step))
    return loss + ZERO_ONE * zero_one_loss(policy), value


def zero_one_loss(policy: Policy) -> Tensor:
    """Minus the mean square by which gates differ from one half (equation 4)."""
    pairs = zip(policy.choices, policy.logits, strict=True)
    mixed = [torch.sigmoid(logits) for choice, logits in pairs if choice.mixed]
    if not mixed:
        return torch.zeros(())
    return -(torch.cat(mixed) - 0.5).square().mean()
