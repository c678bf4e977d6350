"""MnasNet's reward: accuracy and one cost as a single number, beside hard limits.

Tan et al. 2019, arXiv 1807.11626, section 3: ``accuracy * (cost / target) ** weight``. With a
weight of -0.07, twice the cost is worth 5% more accuracy, whether the target is kept or not. A hard
limit loses nothing below it and gives nothing above it; the reward gives networks on both sides.
"""

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.problem import Score

SOFT = -0.07  # on both sides of the target: equation 4 of the paper, with alpha = beta


def weigh_cost(
    score: Score, cost: Score, *, target: float, below: float = SOFT, above: float = SOFT
) -> Score:
    """The reward as a function of rows, for ``search(maximize=...)``.

    Args:
        score: rows to accuracies, fractions of 1.
        cost: rows to what is weighed, e.g. seconds or MACs; above 0.
        target: in the unit of the cost.
        below: the exponent where the cost is at most the target; 0: cheaper is no better.
        above: the exponent where it is more; -1: as good as a limit.

    Raises:
        EdgenasError: the target is not above 0, or an exponent is.
    """
    if not target > 0:
        raise EdgenasError(f"target must be above 0, found {target:g}")
    if below > 0 or above > 0:
        raise EdgenasError(
            f"exponents must be at most 0, found {max(below, above):g}",
            hint=f"the paper has {SOFT}",
        )

    def reward(rows: Codes) -> Vector:
        ratio = np.asarray(cost(rows), float) / target
        weights = np.where(ratio <= 1, below, above)
        # What has no cost, or none that is a number, has no reward.
        fit = np.isfinite(ratio) & (ratio > 0)
        return np.where(fit, score(rows) * np.where(fit, ratio, 1.0) ** weights, -np.inf)

    return reward
