"""Learning curves, extrapolated: what a longer training would come to, with an error.

Two families of curves that rise towards a ceiling (Domhan et al. 2015, IJCAI, section 3.2): a power
law, ``ceiling - drop * epochs ** -rate``, and an exponential, ``ceiling - drop * exp(-rate *
epochs)``. Ceiling and drop are linear, so with flat priors their posterior and its evidence are
known exactly for each rate (Student's t). What is answered is the mixture over all rates of both
families by their evidence. Nothing is optimised, and no start can mislead it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector

FEWEST = 5  # points of a curve: with fewer, the variance of the t distribution is not finite
_RATES = 40  # of each family
_POWERS = (0.1, 4.0)
_HALVES = (0.25, 8.0)  # of the longest training seen, in which an exponential may fall by e


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """What is believed of a score that was not reached yet.

    Args:
        mean: of it.
        deviation: standard deviation.
    """

    mean: float
    deviation: float


def extrapolate(epochs: Vector, scores: Vector, *, at: float) -> Extrapolation:
    """What a curve comes to.

    Args:
        epochs: lengths of training, different and above 0, shape (n,), n at least 5.
        scores: after each, shape (n,).
        at: the length asked for, in epochs.

    Raises:
        EdgenasError: too few points.
    """
    epochs, scores = np.asarray(epochs, float), np.asarray(scores, float)
    if len(epochs) < FEWEST or len(np.unique(epochs)) < FEWEST:
        raise EdgenasError(
            f"a learning curve must have at least {FEWEST} different lengths, found "
            f"{len(np.unique(epochs))}",
            hint="train for more lengths before extrapolating",
        )
    n = len(epochs)
    logs, means, variances = list[float](), list[float](), list[float]()
    for shape, there in _shapes(epochs, at):
        spread = float(shape.std())
        level = (shape - shape.mean()) / spread
        place = (there - shape.mean()) / spread
        slope = float(level @ scores) / n
        left = scores - scores.mean() - slope * level
        # Rounding leaves no curve exact; below this the evidence of one rate would be infinite.
        squares = max(float(left @ left), 1e-12 * float(scores @ scores), 1e-300)
        scale = squares / (n - 2) * (1 + (1 + place**2) / n)
        if slope > 0:  # falls: no learning curve
            continue
        logs.append(-(n - 2) / 2 * np.log(squares))
        means.append(float(scores.mean()) + slope * place)
        variances.append(scale * (n - 2) / (n - 4))
    if not logs:  # the scores fall: no better is expected than was seen
        return Extrapolation(mean=float(scores[-1]), deviation=float(np.ptp(scores)))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean = float(weights @ means)
    variance = float(weights @ (np.array(variances) + (np.array(means) - mean) ** 2))
    return Extrapolation(mean=mean, deviation=float(np.sqrt(variance)))


def _shapes(epochs: Vector, at: float) -> Iterator[tuple[Vector, float]]:
    """What is subtracted from the ceiling, of every rate: at the epochs, and at the length."""
    for power in np.geomspace(*_POWERS, _RATES):
        yield epochs**-power, float(at) ** -power
    for part in np.geomspace(*_HALVES, _RATES):
        rate = part / epochs.max()
        yield np.exp(-rate * epochs), float(np.exp(-rate * at))
