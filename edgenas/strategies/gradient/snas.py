"""SNAS (Xie, Zheng, Liu, Lin 2019; arXiv 1812.09926): all alternatives, gates of a concrete draw.

The gates of a choice are a draw from the concrete distribution: the softmax of logits plus Gumbel
noise at a temperature (section 2.3, equation 4), through which the gradient goes. The temperature
falls exponentially, so that at the end almost one alternative runs. The paper learns logits and
weights from the same images; here the logits learn from search images, as all strategies do.
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.gdas import draw_gumbel
from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import Mixture, mix_all
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

HOT, COLD = 1.0, 0.1  # temperatures at the start and the end


def mix_concrete(policy: Policy, step: GradientStep) -> Mixture:
    """Gates drawn from the concrete distribution."""
    temperature = HOT * (COLD / HOT) ** step.progress
    gates: list[Tensor] = []
    for scores in policy.scores():
        noisy = torch.log_softmax(scores, 0) + draw_gumbel(len(scores), step)
        gates.append(torch.softmax(noisy / temperature, 0))
    return mix_all(policy, step, gates)


def snas(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of SNAS; see ``Estimator``."""
    return mixed_loss(paths, step, mix_concrete(policy, step))
