"""Straight-through Gumbel-softmax (Jang et al. 2017, arXiv 1611.01144) as in GDAS (1910.04465).

Scores plus Gumbel noise: the best alternative of every choice runs, and its gate of 1 has the
gradient of a softmax at a temperature that falls (GDAS, section 3.2, equations 5 and 6). GDAS runs
the best one alone. Here the second best runs beside it as in ProxylessNAS, and the softmax is over
these two: behind batch norms the scale of a lone output says next to nothing.
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep
from edgenas.strategies.gradient.two import two_path_loss

HOT, COLD = 5.0, 0.5  # temperatures at the start and the end


def gumbel(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of Gumbel-softmax; see ``Estimator``."""
    temperature = HOT + (COLD - HOT) * step.progress
    pairs: list[tuple[int, int]] = []
    gates: list[Tensor] = []
    for scores in policy.scores():
        noise = -torch.log(-torch.log(torch.rand(len(scores), generator=step.generator)))
        noisy = torch.log_softmax(scores, 0) + noise
        order = noisy.detach().argsort(descending=True, stable=True)[:2]
        pairs.append((int(order[0]), int(order[-1])))
        # Over the two that run: else the size of a loss alone would move what did not.
        soft = torch.softmax(noisy[[*pairs[-1]]] / temperature, 0)
        gates.append(torch.tensor([1.0, 0.0]) - soft.detach() + soft)
    return two_path_loss(policy, paths, step, pairs, gates)
