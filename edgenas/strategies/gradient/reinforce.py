"""REINFORCE (Williams 1992) as in ENAS (arXiv 1802.03268, section 2.2) and ProxylessNAS (3.3.2).

A sampled network's loss on a batch is its cost. Several networks share one batch, and the mean of
the others' costs is the baseline of each (Kool et al. 2019, "Buy 4 REINFORCE samples, get a
baseline for free!"): how hard a batch is cancels, which a moving average of past costs, as ENAS
has it, cannot know; that average is a setting. As in ENAS, the entropy of what is drawn from is
sought too, with a small weight. Nothing is propagated back through the supernet, so a step costs
forward passes alone.
"""

import functools

import torch
from torch import Tensor

from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Picks, Policy
from edgenas.strategies.gradient.step import GradientStep

SAMPLES = 8  # networks a step, about as dear as one pass forward and back of two paths
_MEMORY = 0.95  # of the moving average: 20 steps are remembered


def reinforce(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of REINFORCE; see ``Estimator``."""
    sampled = [policy.sample(step.generator) for _ in range(SAMPLES)]
    costs = [float(paths.loss(p, pixels=step.pixels, labels=step.labels)) for p in sampled]
    mean = sum(costs) / SAMPLES
    if step.settings.baseline == "others" or not step.past:
        # cost - (mean of the others) = (cost - mean) * n / (n - 1)
        baseline, size = mean, SAMPLES - 1
    else:
        baseline = functools.reduce(lambda m, cost: _MEMORY * m + (1 - _MEMORY) * cost, step.past)
        size = SAMPLES
    logs = [torch.log_softmax(scores, 0) for scores in policy.scores()]
    surrogate = step.settings.entropy * torch.stack([(x.exp() * x).sum() for x in logs]).sum()
    for picks, cost in zip(sampled, costs, strict=True):
        chances = [
            log[pick]
            for i, (log, pick) in enumerate(zip(logs, picks, strict=True))
            if _matters(policy, picks, i)
        ]
        surrogate = surrogate + (cost - baseline) / size * torch.stack(chances).sum()
    return surrogate, mean


def _matters(policy: Policy, picks: Picks, place: int) -> bool:
    """Whether a choice has an effect: not that of an absent block."""
    choice = policy.choices[place]
    if choice.block < 0:
        return True
    for other, pick in zip(policy.choices, picks, strict=True):
        if other.field == "depth" and other.stage == choice.stage:
            return policy.space.stages[choice.stage].depths[pick] > choice.block
    return True
