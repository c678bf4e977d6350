"""Limits while learning: the networks that are drawn keep them on average, at every step.

In ProxylessNAS (arXiv 1812.00332, section 3.3.1) the expected latency is a term of the loss, with
a weight that is tuned until networks come out near the target. Here the weight is solved for
before every step: of all distributions that keep the limits, networks are drawn from the one that
is nearest to what was learnt. Its scores are the logits minus a multiple of what each alternative
costs in expectation, as minimising the Kullback-Leibler divergence under a linear limit demands
(Csiszar 1975, I-divergence geometry); as those costs depend on the other choices, small steps
lead there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgenas.space.cost import Tables
from edgenas.strategies.gradient.expected import Expected
from edgenas.strategies.gradient.policy import Policy

_CLOSE = 0.002  # of a limit: kept, and not missed by more
_STEP = 30.0  # by which a score falls at most in one of the small steps
_STEPS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A limit on an expectation.

    Args:
        name: of the metric, e.g. ``latency``.
        tables: sums over places.
        limit: in their unit.
    """

    name: str
    tables: Tables
    limit: float


def tilt(
    policy: Policy, ceilings: Sequence[Ceiling], expected: Sequence[Expected]
) -> tuple[list[float], list[float]]:
    """Set the tilt of a policy so that its expectations keep the ceilings.

    A ceiling below what any network keeps brings the policy as near to it as it comes.

    Args:
        policy: whose tilt is set anew; it depends on the logits alone.
        ceilings: the limits.
        expected: of their tables, for the parts of the policy.

    Returns:
        Of each ceiling the expectation, and the price: what an alternative that costs as much as
        the whole limit loses in its score.
    """
    policy.tilt = [torch.zeros(c.size) for c in policy.choices]
    prices = [0.0] * len(ceilings)
    parts: list[float] = []

    def part(which: int, chances: list[Tensor]) -> Tensor:
        return expected[which](policy.join(chances)) / ceilings[which].limit

    for _ in range(_STEPS):
        chances = [p.detach().double().requires_grad_() for p in policy.probabilities()]
        tensors = [part(i, chances) for i in range(len(ceilings))]
        parts = [float(value.detach()) for value in tensors]
        worst = max(range(len(parts)), key=parts.__getitem__, default=-1)
        if worst < 0 or parts[worst] <= 1 + _CLOSE:
            break
        costs = torch.autograd.grad(tensors[worst], chances, materialize_grads=True)
        above = [(c - (c * p).sum()).detach() for c, p in zip(costs, chances, strict=True)]
        slope = sum(
            float((p * a.square()).sum().detach()) for a, p in zip(above, chances, strict=True)
        )
        left = sum(
            float(((c * p).sum() - c.min()).detach()) for c, p in zip(costs, chances, strict=True)
        )
        if left < 1e-6:  # the cheapest of everything: as near to the limit as it comes
            break
        before, most = policy.tilt, max(float(a.abs().max()) for a in above)
        # Newton's step. Where the policy is almost certain, the slope says nothing.
        price = min((parts[worst] - 1) / max(slope, 1e-12), _STEP / most)
        while True:
            policy.tilt = [t - (price * a).float() for t, a in zip(before, above, strict=True)]
            if part(worst, policy.probabilities()) >= 1 - _CLOSE:
                break
            price /= 2
        prices[worst] += price
    else:
        chances = policy.probabilities()
        parts = [float(part(i, chances).detach()) for i in range(len(ceilings))]
    expectations = [p * c.limit for p, c in zip(parts, ceilings, strict=True)]
    return expectations, prices
