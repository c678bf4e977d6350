"""PPO (Schulman et al. 2017; arXiv 1707.06347): the controller learns by the clipped objective.

The same networks teach several times. How much more likely each has become is cut to 0.8 and 1.2,
so that nothing is gained by going further (section 3, equation 7).
"""

import torch
from torch import Tensor

from edgenas.space.genes import Codes
from edgenas.strategies.gradient.controller import Controller
from edgenas.strategies.gradient.enas import draw_networks
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

CLIP = 0.2
TIMES = 4  # that the networks of a step teach


def ppo(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of PPO; see ``Estimator``. All but the last move are done here."""
    assert isinstance(policy, Controller)
    rows, advantages, mean = draw_networks(policy, paths, step)
    with torch.no_grad():
        before, _ = policy.log_probabilities(rows, masks=policy.masks)

    def objective() -> Tensor:
        return clipped_loss(
            policy, rows, before=before, advantages=advantages, entropy=step.settings.entropy
        )

    for _ in range(TIMES - 1):
        policy.move(objective(), rate=step.settings.rate, step=step.number)
    return objective(), mean


def clipped_loss(
    controller: Controller, rows: Codes, *, before: Tensor, advantages: Tensor, entropy: float
) -> Tensor:
    """Minus the clipped objective (section 3, equation 7), and minus the entropy times a weight.

    Args:
        controller: that wrote the networks.
        rows: of the networks, shape (n, genes).
        before: their log-probabilities when they were written, shape (n,).
        advantages: how much better than usual each is, shape (n,).
        entropy: the weight.
    """
    logs, spread = controller.log_probabilities(rows, masks=controller.masks)
    ratio = (logs - before).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return -(gain + entropy * spread).mean()
