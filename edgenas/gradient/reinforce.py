"""REINFORCE (Williams 1992) as in ENAS (arXiv 1802.03268, section 2.2) and ProxylessNAS (3.3.2).

A sampled network's loss on a batch is its cost; the moving average of past costs is the baseline;
an entropy bonus keeps the policy from settling early. Nothing is propagated back through the
supernet, so a step costs forward passes alone, and several networks share one batch.
"""

import torch
from torch import Tensor

from edgenas.gradient.paths import Paths
from edgenas.gradient.policy import Picks, Policy

SAMPLES = 4  # networks a step, about as dear as one pass forward and back of two paths
DECAY = 0.95  # of the baseline, as in ENAS


class Reinforce:
    """The estimator of REINFORCE; keeps its baseline."""

    momentum = 0.0
    entropy_bonus = 0.01

    def __init__(self) -> None:
        self.baseline: float | None = None

    def loss(
        self,
        policy: Policy,
        paths: Paths,
        *,
        pixels: Tensor,
        labels: Tensor,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Picks, float]:
        """As ``Estimator.loss``."""
        del progress
        surrogate, total, picks = torch.zeros(()), 0.0, Picks()
        sampled = [policy.sample(generator) for _ in range(SAMPLES)]
        costs = [float(paths.loss(picks, pixels=pixels, labels=labels)) for picks in sampled]
        total = sum(costs) / len(costs)
        # The first step has no past: its own mean stands in.
        baseline = total if self.baseline is None else self.baseline
        for picks, cost in zip(sampled, costs, strict=True):
            logs = [
                torch.log_softmax(logits, 0)[pick]
                for i, (logits, pick) in enumerate(zip(policy.logits, picks, strict=True))
                if _matters(policy, picks, i)
            ]
            surrogate = surrogate + (cost - baseline) * torch.stack(logs).sum() / len(sampled)
        self.baseline = DECAY * baseline + (1 - DECAY) * total
        return surrogate, picks, total


def _matters(policy: Policy, picks: Picks, place: int) -> bool:
    """Whether a choice has an effect: not that of an absent block."""
    choice = policy.choices[place]
    if choice.block < 0:
        return True
    for other, pick in zip(policy.choices, picks, strict=True):
        if other.field == "depth" and other.stage == choice.stage:
            return policy.space.stages[choice.stage].depths[pick] > choice.block
    return True
