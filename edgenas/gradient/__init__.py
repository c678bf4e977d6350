"""Gradient search on a supernet: ProxylessNAS, Gumbel-softmax and REINFORCE, one loop."""

from edgenas.gradient.expected import Expected
from edgenas.gradient.policy import Policy
from edgenas.gradient.run import STRATEGIES, Ceiling, Learnt, Settings, learn

__all__ = [
    "STRATEGIES",
    "Ceiling",
    "Expected",
    "Learnt",
    "Policy",
    "Settings",
    "learn",
]
