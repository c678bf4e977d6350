"""The names of the strategies that ``specialize`` knows. This module loads nothing heavy."""

from typing import Literal

Strategy = Literal[
    "evolution",
    "aging",
    "random",
    "local",
    "bayes",
    "gaussian",
    "thompson",
    "proxyless",
    "gumbel",
    "reinforce",
    "darts-v1",
    "darts-v2",
    "pc-darts",
    "gdas",
    "snas",
    "fair-darts",
    "sdarts-rs",
    "enas",
    "ppo",
]
# These learn from validation images. All others ask the accuracy predictor alone.
ASKING = ("bayes", "gaussian", "thompson")
# These have a recurrent network in place of logits.
CONTROLLERS = ("enas", "ppo")
# These train the weights of single networks, which can be delivered.
GRADIENT = ("proxyless", "gumbel", "reinforce", *CONTROLLERS)
# These train weights of mixtures, which serve the search alone.
MIXING = ("darts-v1", "darts-v2", "pc-darts", "gdas", "snas", "fair-darts", "sdarts-rs")
# All that learn by gradients on the supernet.
SLOPES = (*GRADIENT, *MIXING)
# All that have logits.
LOGITS = tuple(name for name in SLOPES if name not in CONTROLLERS)
LEARNING = (*ASKING, *SLOPES)
