"""PC-DARTS (Xu et al. 2020; arXiv 1907.05737): partial channels and edge normalisation.

One quarter of the channels goes through the alternatives of a choice, the rest passes by, and the
channels are shuffled (section 3.2): a step is cheaper, and operations without weights are not
favoured. As that makes logits waver, edges that lead to one node have weights of their own, whose
softmax multiplies them (section 3.3). On an edge with a stride, what passes by is pooled. Other
choices whose alternatives change shapes are mixed whole.
"""

import torch
from torch import Tensor

from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import Mixture, mix
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

PARTS = 4  # of the channels; one of them is mixed


def mix_partial(policy: Policy, step: GradientStep) -> Mixture:
    """All alternatives on a part of the channels, and the weights of edges."""
    return mix(
        policy,
        step,
        picks=[range(c.size) for c in policy.choices],
        gates=[torch.softmax(scores, 0) for scores in policy.scores()],
        parts=PARTS,
        scales=weigh_edges(policy),
    )


def pc_darts(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of PC-DARTS; see ``Estimator``."""
    return mixed_loss(paths, step, mix_partial(policy, step))


def weigh_edges(policy: Policy) -> dict[int, Tensor]:
    """The weight of each edge by its choice; those of edges that lead to one node sum to 1."""
    scales: dict[int, Tensor] = {}
    for places, logits in policy.nodes():
        scales |= dict(zip(places, torch.softmax(logits, 0), strict=True))
    return scales
