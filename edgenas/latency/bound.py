"""The upper bound of a latency: what it rests on, and the two quantiles that it is made of.

A bound is split-conformal where enough networks were kept out of the fit, because such a bound
holds whatever the errors look like (Lei et al., "Distribution-free predictive inference for
regression", 2018, section 2.2). With fewer of them it is a prediction interval of Student's t.
"""

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError

Indices = NDArray[np.intp]

BoundKind = Literal["split-conformal", "student-t", "estimate", "none"]

CONFORMAL = 40  # with so many networks or more, half of them are kept out of the fit


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is not from 0.5 to below 1.

    Raises:
        EdgenasError: with the confidence.
    """
    if not 0.5 <= confidence < 1:
        raise EdgenasError(f"confidence must be from 0.5 to below 1, found {confidence}")


def conformal_rank(errors: int, confidence: float) -> int | None:
    """Which of so many ascending errors is the split-conformal bound of the next one.

    Returns:
        An index from 0; None where there are too few errors for this confidence.
    """
    rank = int(np.ceil((errors + 1) * confidence)) - 1
    return rank if 0 <= rank < errors else None


@functools.lru_cache(maxsize=256)
def student_quantile(probability: float, degrees: int) -> float:
    """The value that a variable of Student's t stays below with a probability."""
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    return float(stdtrit(degrees, probability))


def split_networks(networks: int, *, seed: int = 0) -> tuple[Indices, Indices]:
    """Divide n networks into those for the fit and those for the bound.

    With less than ``CONFORMAL`` networks all are for the fit.

    Returns:
        The indices of both.
    """
    if networks < CONFORMAL:
        return np.arange(networks), np.arange(0)
    order = np.random.default_rng(seed).permutation(networks)
    fitted, others = np.split(order, [networks // 2])
    return fitted, others
