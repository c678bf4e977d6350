"""The strategies by name: how each finds a gradient, and as what it trains weights."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from edgenas.strategies.gradient.darts import darts, mix_softmax
from edgenas.strategies.gradient.darts_v2 import darts_v2
from edgenas.strategies.gradient.enas import enas
from edgenas.strategies.gradient.fair_darts import fair_darts, mix_sigmoid
from edgenas.strategies.gradient.gdas import gdas, mix_one
from edgenas.strategies.gradient.gumbel import gumbel
from edgenas.strategies.gradient.mixture import Mix
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.pc_darts import mix_partial, pc_darts
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.ppo import TIMES, ppo
from edgenas.strategies.gradient.proxyless import proxyless
from edgenas.strategies.gradient.reinforce import reinforce
from edgenas.strategies.gradient.sdarts import mix_smoothed
from edgenas.strategies.gradient.snas import mix_concrete, snas
from edgenas.strategies.gradient.step import GradientStep


class Estimator(Protocol):
    """How a strategy finds the gradient of the cross entropy with respect to the logits."""

    def __call__(self, policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
        """Estimate the gradient: a scalar that has it, and the cross entropy of what ran.

        Args:
            policy: to learn.
            paths: of the supernet.
            step: its batch, settings and chance.
        """
        ...


STRATEGIES: Mapping[str, Estimator] = {
    "proxyless": proxyless,
    "gumbel": gumbel,
    "reinforce": reinforce,
    "darts-v1": darts,
    "darts-v2": darts_v2,
    "pc-darts": pc_darts,
    "gdas": gdas,
    "snas": snas,
    "fair-darts": fair_darts,
    "sdarts-rs": darts,
    "enas": enas,
    "ppo": ppo,
}
# These learn a ``Controller`` in place of logits: how often it moves in a step.
CONTROLLERS: Mapping[str, int] = {"enas": 1, "ppo": TIMES}
# These draw whole networks. For all others every edge of a cell runs, see ``relaxed.py``.
WHOLE = ("reinforce", *CONTROLLERS)
# Their gates do not compete, so no softmax says how strong an edge is.
UNCOMPETING = ("fair-darts",)
# They run one alternative of an edge, or two, so that they see what none does.
SINGLE = ("proxyless", "gumbel", "gdas")
# What weights that are trained beside the logits learn as; those of the others learn as networks.
MIXTURES: Mapping[str, Mix] = {
    "darts-v1": mix_softmax,
    "darts-v2": mix_softmax,
    "pc-darts": mix_partial,
    "gdas": mix_one,
    "snas": mix_concrete,
    "fair-darts": mix_sigmoid,
    "sdarts-rs": mix_smoothed,
}
