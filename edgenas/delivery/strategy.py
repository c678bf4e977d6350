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
]
# These learn from validation images. All others ask the accuracy predictor alone.
ASKING = ("bayes", "gaussian", "thompson")
# These learn by gradients on the supernet, and can train its weights too.
GRADIENT = ("proxyless", "gumbel", "reinforce")
# These too, but they train weights of mixtures, which serve the search alone.
MIXING = ("darts-v1", "darts-v2", "pc-darts", "gdas", "snas", "fair-darts", "sdarts-rs")
# All that have logits.
SLOPES = (*GRADIENT, *MIXING)
LEARNING = (*ASKING, *SLOPES)
