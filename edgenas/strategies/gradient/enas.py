"""ENAS (Pham et al. 2018; arXiv 1802.03268): the controller learns by REINFORCE.

Some networks are written; the cross entropy of each on the batch is its cost. A moving average of
the costs of past steps is the baseline, and the entropy of tokens is sought too, with a small
weight (section 2.2). Nothing is propagated back through the supernet.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from edgenas.space.genes import Codes
from edgenas.strategies.gradient.controller import Controller
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

SAMPLES = 8  # networks a step
_MEMORY = 0.95  # of the moving average: 20 steps are remembered


def enas(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of ENAS; see ``Estimator``."""
    assert isinstance(policy, Controller)
    rows, advantages, mean = draw_networks(policy, paths, step)
    logs, entropy = policy.log_probabilities(rows, masks=policy.masks)
    return -(advantages * logs + step.settings.entropy * entropy).mean(), mean


def draw_networks(
    controller: Controller, paths: Paths, step: GradientStep
) -> tuple[Codes, Tensor, float]:
    """Networks that the controller writes, how much better than usual each is, and the mean cost.

    Args:
        controller: that writes.
        paths: whose losses are the costs.
        step: its batch and its chance.

    Returns:
        Canonical rows, shape (n, genes); baseline minus cost of each, shape (n,); the mean cost.
    """
    picks = controller.write(SAMPLES, step.generator)
    costs = [float(paths.loss(p, pixels=step.pixels, labels=step.labels)) for p in picks]
    mean = sum(costs) / len(costs)
    return controller.written, _average(step.past, mean) - torch.tensor(costs), mean


def _average(past: Sequence[float], now: float) -> float:
    """The moving average of the costs of past steps; at the first step the mean of this one."""
    if not past:
        return now
    return functools.reduce(lambda m, cost: _MEMORY * m + (1 - _MEMORY) * cost, past)
