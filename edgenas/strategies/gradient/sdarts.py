"""SmoothDARTS by random smoothing (Chen, Hsieh 2020; arXiv 2002.05283): weights for noisy logits.

The weights learn with gates that are moved by uniform noise (section 3.2, SDARTS-RS), so that the
loss is flat around the logits; the logits learn as in DARTS.
"""

import torch

from edgenas.strategies.gradient.mixture import Mixture, mix_all
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

NOISE = 0.03  # the largest, at the end; it grows from nothing


def mix_smoothed(policy: Policy, step: GradientStep) -> Mixture:
    """The softmax of logits with uniform noise; no gradient leads to the logits."""
    gates: list[torch.Tensor] = []
    for scores in policy.scores():
        noise = 2 * torch.rand(len(scores), generator=step.generator) - 1
        gates.append(torch.softmax(scores.detach() + NOISE * step.progress * noise, 0))
    return mix_all(policy, step, gates)
