"""From the sum of a network's layers to its time: a line, and an upper bound with it.

Sums of separately timed layers are off by a few percent, mostly the same way for all networks of
a space; a line through a few whole networks mends that. All errors are relative: a line minimises
the squares of (predicted - measured) / measured.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut, held_out
from edgenas.basics.ranges import ALWAYS, Positive, PredictedSeconds, Range
from edgenas.space.cost import Vector

Indices = NDArray[np.intp]

BoundKind = Literal["split-conformal", "student-t", "estimate", "none"]

CONFORMAL = 40  # networks from which on half of them may be spared for the bound


_Number = Annotated[float, Range(-1e12, 1e12, "number")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """``intercept + slope * sum`` with what is known of its errors.

    Args:
        intercept: seconds.
        slope: a ratio.
        free: parameters fitted: 2, or 1 where the intercept is held at zero.
        networks: measured networks behind the line and the bound.
        spread: standard deviation of relative errors, with ``networks - free`` degrees of freedom;
            None where there are none left.
        covariance: of (intercept, slope) for a spread of 1, rows of two.
        ratios: measured / predicted of networks spared from the fit, ascending; for the conformal
            bound.
        error: each network predicted by a line through the others; None: too few.
    """

    intercept: PredictedSeconds
    slope: _Number
    free: Annotated[int, Range(1, 2, "count")]
    networks: Positive
    spread: Annotated[Annotated[float, Range(0, 1e6, "number")] | None, ALWAYS] = None
    covariance: Annotated[tuple[tuple[_Number, _Number], tuple[_Number, _Number]], ALWAYS] = (
        (0.0, 0.0),
        (0.0, 0.0),
    )
    ratios: Annotated[tuple[Annotated[float, Range(0, 1e6, "number")], ...], ALWAYS] = ()
    error: Annotated[HeldOut | None, ALWAYS] = None

    def __call__(self, sums: Vector) -> Vector:
        """Predicted seconds."""
        return self.intercept + self.slope * sums

    def bound_kind(self, confidence: float) -> BoundKind:
        """What ``upper`` rests on at a confidence."""
        if self._rank(confidence) is not None:
            return "split-conformal"
        return "none" if self.spread is None else "student-t"

    def upper(self, sums: Vector, *, confidence: float) -> Vector:
        """Seconds that a new network's time does not exceed with a given confidence.

        Split-conformal (Lei et al., "Distribution-free predictive inference for regression",
        2018, section 2.2): the quantile of measured / predicted over networks that the line has
        not seen. With too few of them: the prediction interval of the line, one-sided, Student's t.

        Raises:
            EdgenasError: too few networks were measured for any bound.
        """
        predicted, rank = self(sums), self._rank(confidence)
        if rank is not None:
            return predicted * self.ratios[rank]
        if self.spread is None:
            raise EdgenasError(
                f"{self.networks} measured networks are too few for an upper bound",
                hint=f"measure at least {self.free + 1} networks",
            )
        design = np.stack([np.ones_like(sums), sums], 1) / predicted[:, None]
        leverage = np.einsum("ni,ij,nj->n", design, np.array(self.covariance), design)
        quantile = float(stdtrit(self.networks - self.free, confidence))
        return predicted * (1 + quantile * self.spread * np.sqrt(1 + leverage))

    @staticmethod
    def from_json(value: Any, *, where: str) -> "Line":
        """The line of the JSON form of its fields.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type.
        """
        return decode(Line, value, where=where)

    def _rank(self, confidence: float) -> int | None:
        rank = int(np.ceil((len(self.ratios) + 1) * confidence)) - 1
        return rank if 0 <= rank < len(self.ratios) else None


def check_measured(networks: int, seconds: Vector) -> None:
    """Refuse measured times that nothing can be fitted to.

    Raises:
        EdgenasError: there are none, not as many as networks, or some are not above zero.
    """
    if seconds.shape != (networks,) or not networks:
        raise EdgenasError(
            f"a fit needs as many times as networks, found {seconds.shape} and {networks}",
            hint="measure at least three networks",
        )
    if not (seconds > 0).all():
        raise EdgenasError("measured times must be above zero")


def halves(networks: int, *, seed: int = 0) -> tuple[Indices, Indices]:
    """Which of n networks to fit to, and which to spare for the bound: few are all fitted to."""
    if networks < CONFORMAL:
        return np.arange(networks), np.arange(0)
    fitted, spared = np.split(np.random.default_rng(seed).permutation(networks), [networks // 2])
    return fitted, spared


def with_spared(line: Line, sums: Vector, seconds: Vector) -> Line:
    """The line with the bound and the error of networks that it was not fitted to.

    Args:
        line: fitted to others.
        sums: of the networks' layers, shape (n,), above zero.
        seconds: measured, shape (n,).
    """
    check_measured(len(sums), seconds)
    predicted = line(sums)
    return replace(
        line,
        ratios=tuple(np.sort(seconds / predicted).tolist()),
        error=held_out(predicted, seconds, relative=True, method="networks held out of the fit"),
    )


def without_line(left_out: Vector, seconds: Vector) -> Line:
    """The line that changes nothing, for predictions that were fitted to networks already.

    Its spread is that of predictions by fits without the network: nothing more is estimated from
    them, so one degree of freedom is counted, whatever the fit has.

    Args:
        left_out: each network predicted by a fit without it, shape (n,).
        seconds: measured, shape (n,).
    """
    off, several = left_out / seconds - 1, len(seconds) > 1
    return Line(
        intercept=0.0,
        slope=1.0,
        free=1,
        networks=len(seconds),
        spread=float(np.sqrt((off**2).mean())) if several else None,
        error=held_out(left_out, seconds, relative=True, method="networks, each fold left out once")
        if several
        else None,
    )


def fit_line(sums: Vector, seconds: Vector) -> Line:
    """Fit a line to measured networks.

    One or two networks give a slope only, and no intercept comes from a fit that would slope
    downwards or predict no time at all.

    Args:
        sums: of the networks' layers, shape (n,), above zero.
        seconds: measured, shape (n,).

    Raises:
        EdgenasError: nothing to fit to.
    """
    if sums.shape != seconds.shape or sums.ndim != 1 or not len(sums):
        raise EdgenasError(
            f"a line needs as many sums as measured networks, found {sums.shape} and "
            f"{seconds.shape}",
            hint="measure at least three networks",
        )
    if not ((sums > 0) & (seconds > 0)).all():
        raise EdgenasError("sums and measured times must be above zero")
    coefficients, free = _solve(sums, seconds)
    intercept, slope = float(coefficients[0]), float(coefficients[1])
    design = np.stack([np.ones_like(sums), sums], 1) / seconds[:, None]
    off = design @ coefficients - 1
    left = len(sums) - free
    covariance = np.zeros((2, 2))
    covariance[2 - free :, 2 - free :] = np.linalg.inv((design.T @ design)[2 - free :, 2 - free :])
    return Line(
        intercept=intercept,
        slope=slope,
        free=free,
        networks=len(sums),
        spread=float(np.sqrt((off**2).sum() / left)) if left > 0 else None,
        covariance=(
            (float(covariance[0, 0]), float(covariance[0, 1])),
            (float(covariance[1, 0]), float(covariance[1, 1])),
        ),
        error=_error(sums, seconds),
    )


def _solve(sums: Vector, seconds: Vector) -> tuple[Vector, int]:
    """The coefficients (intercept, slope) and how many of them were fitted."""
    design = np.stack([np.ones_like(sums), sums], 1) / seconds[:, None]
    ones = np.ones(len(sums))
    if len(sums) > 2 and float(np.ptp(sums)) > 1e-6 * float(sums.max()):
        found = np.linalg.lstsq(design, ones, rcond=None)[0].astype(np.float64)
        if found[1] > 0 and found[0] + found[1] * sums.min() > 0:
            return found, 2
    slope = float(design[:, 1].sum() / (design[:, 1] ** 2).sum())
    return np.array([0.0, slope]), 1


def _error(sums: Vector, seconds: Vector) -> HeldOut | None:
    if len(sums) < 4:
        return None
    predicted = np.empty(len(sums))
    for i in range(len(sums)):
        rest = np.arange(len(sums)) != i
        (intercept, slope), _ = _solve(sums[rest], seconds[rest])
        predicted[i] = intercept + slope * sums[i]
    return held_out(predicted, seconds, relative=True, method="each network left out once")
