"""The error of a predictor on networks that it has not seen."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from edgenas.basics.decode import decode
from edgenas.basics.ranges import Positive, Range, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The error of predictions on networks not used for the fit.

    Args:
        n: how many networks.
        error: mean |predicted - true|: a fraction of 1 for accuracy, of the truth for latency.
        bias: mean of predicted - true, in the same unit; above zero is optimistic for accuracy.
        spearman: rank correlation. Ties have their mean rank; it is 0 if one side is constant.
        method: how the networks were held out, in words.
    """

    n: Positive
    error: Annotated[float, Range(0, 1e6, "fraction")]
    bias: Annotated[float, Range(-1e6, 1e6, "fraction")]
    spearman: Annotated[float, Range(-1.001, 1.001, "number")]  # rounding may pass 1
    method: Words

    @staticmethod
    def from_json(value: Any, *, where: str) -> "HeldOut":
        """Read the value from a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type.
        """
        return decode(HeldOut, value, where=where)

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)

    @property
    def lean(self) -> str:
        """To which side predicted accuracies err, as from ``describe_lean``."""
        return describe_lean(error=self.error, bias=self.bias, n=self.n)


def describe_lean(*, error: float, bias: float, n: int) -> str:
    """To which side predicted accuracies err and by how much; empty: to neither, for all we know.

    They lean where their bias is more than half of their error, and more than chance gives. Without
    a bias, the mean of normal errors has the standard deviation 1.25 error / sqrt(n).

    Args:
        error: mean |predicted - measured|, a fraction.
        bias: mean of predicted - measured, a fraction.
        n: how many networks.
    """
    if not n or abs(bias) <= error * max(0.5, 2.5 / math.sqrt(n)):
        return ""
    return f"{100 * abs(bias):.2f} points too {'high' if bias > 0 else 'low'} on average"


def compare_with_truth(
    predicted: ArrayLike, true: ArrayLike, *, relative: bool = False, method: str
) -> HeldOut:
    """Compare predictions with the truth, both of shape (n,).

    Args:
        predicted: by a predictor that has not seen these networks.
        true: measured.
        relative: whether errors are parts of the truth.
        method: how the networks were held out, in words.
    """
    one, other = np.asarray(predicted, float), np.asarray(true, float)
    assert one.shape == other.shape
    assert one.size
    off = (one - other) / (other if relative else 1.0)
    return HeldOut(
        n=one.size,
        error=float(np.abs(off).mean()),
        bias=float(off.mean()),
        spearman=rank_correlation(one, other),
        method=method,
    )


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Compute Spearman's rank correlation; 0 if it is not defined."""
    from scipy.stats import rankdata

    a, b = (rankdata(np.asarray(values, float)) for values in (one, other))
    scale = float(np.sqrt(a.var() * b.var()))
    return float(((a - a.mean()) * (b - b.mean())).mean() / scale) if scale else 0.0
