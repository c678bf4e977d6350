"""GDAS (Dong, Yang 2019; arXiv 1910.04465): one path forward, straight-through Gumbel-softmax back.

Logits plus Gumbel noise choose one alternative of every choice, which runs alone with a gate of 1;
its gradient is that of the softmax at a temperature (section 3.2, equations 5 and 6). What does not
run costs nothing. The temperature falls exponentially from 10 to 0.1; the authors' code lets it
fall in a line. ``gumbel`` differs: there the second best runs beside it.
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import Mixture, mix
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

HOT, COLD = 10.0, 0.1  # temperatures at the start and the end


def mix_one(policy: Policy, step: GradientStep) -> Mixture:
    """One alternative of every choice, behind a gate of 1."""
    temperature = HOT * (COLD / HOT) ** step.progress
    picks: list[tuple[int, ...]] = []
    gates: list[Tensor] = []
    for scores in policy.scores():
        noisy = (torch.log_softmax(scores, 0) + draw_gumbel(len(scores), step)) / temperature
        pick = int(noisy.detach().argmax())
        soft = torch.softmax(noisy, 0)[[pick]]
        picks.append((pick,))
        gates.append(1 - soft.detach() + soft)
    return mix(policy, step, picks=picks, gates=gates)


def gdas(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of GDAS; see ``Estimator``."""
    return mixed_loss(paths, step, mix_one(policy, step))


def draw_gumbel(size: int, step: GradientStep) -> Tensor:
    """Gumbel noise, shape (size,)."""
    uniform = torch.rand(size, generator=step.generator)
    # A uniform number can be 0, of which there is no logarithm.
    return -torch.log(-torch.log(uniform.clamp(2.0**-30, 1 - 2.0**-24)))
