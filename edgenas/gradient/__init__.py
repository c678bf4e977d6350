"""Gradient search on a supernet: ProxylessNAS, Gumbel-softmax and REINFORCE, one loop."""

from edgenas.gradient.checkpoint import digest
from edgenas.gradient.choosing import FINALISTS, ceilings_of, most_preferred
from edgenas.gradient.expected import Expected
from edgenas.gradient.policy import Policy
from edgenas.gradient.run import STRATEGIES, Learnt, learn
from edgenas.gradient.step import Settings, Step
from edgenas.gradient.tilt import Ceiling
from edgenas.gradient.weights import WeightTraining

__all__ = [
    "FINALISTS",
    "STRATEGIES",
    "Ceiling",
    "Expected",
    "Learnt",
    "Policy",
    "Settings",
    "Step",
    "WeightTraining",
    "ceilings_of",
    "digest",
    "learn",
    "most_preferred",
]
