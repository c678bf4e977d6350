"""REINFORCE (Williams 1992) as in ENAS (arXiv 1802.03268, section 2.2) and ProxylessNAS (3.3.2).

A sampled network's loss on a batch is its cost. Several networks share one batch, and the mean of
the others' costs is the baseline of each (Kool et al. 2019, "Buy 4 REINFORCE samples, get a
baseline for free!"): how hard a batch is cancels, which a moving average of past costs cannot
know. Nothing is propagated back through the supernet, so a step costs forward passes alone.
"""

import torch
from torch import Tensor

from edgenas.gradient.paths import Paths
from edgenas.gradient.policy import Picks, Policy

SAMPLES = 8  # networks a step, about as dear as one pass forward and back of two paths


def reinforce(
    policy: Policy,
    paths: Paths,
    *,
    pixels: Tensor,
    labels: Tensor,
    progress: float,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """The estimator of REINFORCE; see ``Estimator``."""
    del progress
    sampled = [policy.sample(generator) for _ in range(SAMPLES)]
    costs = [float(paths.loss(picks, pixels=pixels, labels=labels)) for picks in sampled]
    surrogate, mean = torch.zeros(()), sum(costs) / SAMPLES
    scores = policy.scores()
    for picks, cost in zip(sampled, costs, strict=True):
        logs = [
            torch.log_softmax(score, 0)[pick]
            for i, (score, pick) in enumerate(zip(scores, picks, strict=True))
            if _matters(policy, picks, i)
        ]
        # cost - (mean of the others) = (cost - mean) * n / (n - 1)
        surrogate = surrogate + (cost - mean) / (SAMPLES - 1) * torch.stack(logs).sum()
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
