"""ProxylessNAS (Cai, Zhu, Han 2019; arXiv 1812.00332): binarised paths, two of them a step.

Two alternatives of every choice are sampled (section 3.2.1); one of the two runs, and the gradient
with respect to their binary gates goes to the logits through the softmax over the two (equation 4).
The paper rescales the two afterwards, so that all others keep their probability; here one goes up
by what the other goes down, which leaves the others as they were to first order.
"""

from torch import Tensor

from edgenas.strategies.gradient.mixture import draw_pair
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep
from edgenas.strategies.gradient.two import two_path_loss


def proxyless(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of ProxylessNAS; see ``Estimator``."""
    drawn = [draw_pair(scores, step.generator) for scores in policy.scores()]
    pairs, gates = [pair for pair, _ in drawn], [both for _, both in drawn]
    return two_path_loss(policy, paths, step, pairs, gates)
