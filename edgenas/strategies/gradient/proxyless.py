"""ProxylessNAS (Cai, Zhu, Han 2019; arXiv 1812.00332): binarised paths, two of them a step.

Two alternatives of every choice are sampled (section 3.2.1); one of the two runs, and the gradient
with respect to their binary gates goes to the logits through the softmax over the two (equation 4).
The paper rescales the two afterwards, so that all others keep their probability; here one goes up
by what the other goes down, which leaves the others as they were to first order.
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep
from edgenas.strategies.gradient.two import two_path_loss


def proxyless(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of ProxylessNAS; see ``Estimator``."""
    pairs: list[tuple[int, int]] = []
    weights: list[Tensor] = []
    for scores in policy.scores():
        chances = torch.softmax(scores.detach(), 0).clamp_min(1e-9)  # two of them can be drawn
        count = min(2, len(scores))
        # Without replacement, in random order: the first is the active one in the proportion
        # of their probabilities.
        drawn = torch.multinomial(chances, count, generator=step.generator)
        pair = int(drawn[0]), int(drawn[-1])
        both = torch.softmax(scores[list(pair)].detach(), 0)
        if count == 2 and torch.rand((), generator=step.generator) >= both[0]:
            pair = pair[1], pair[0]
        pairs.append(pair)
        weights.append(torch.softmax(scores[list(pair)], 0))
    # Gates of 1 and 0 whose gradient is that of the probabilities.
    hard = torch.tensor([1.0, 0.0])
    gates = [hard - w.detach() + w for w in weights]
    return two_path_loss(policy, paths, step, pairs, gates)
