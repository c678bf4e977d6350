"""The line from the sum of a network's layers to its time, with an upper bound.

Sums of separately timed layers are off by a few percent, mostly in the same direction for all
networks of a space. A line through a few whole networks corrects that.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut, compare_with_truth
from edgenas.basics.ranges import ALWAYS, Positive, PredictedSeconds, Range
from edgenas.latency.bound import BoundKind, conformal_rank, student_quantile
from edgenas.latency.linear import Matrix, check_measured, fit_rates, predict_left_out
from edgenas.space.cost import Vector

_Number = Annotated[float, Range(-1e12, 1e12, "number")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """``intercept + slope * sum``, and how large its errors are.

    Args:
        intercept: seconds.
        slope: a ratio.
        free: number of fitted parameters: 2, or 1 where the intercept is held at zero.
        networks: number of measured networks that the line was fitted to.
        spread: standard deviation of relative errors, with ``networks - free`` degrees of freedom;
            None where no degree is left.
        covariance: of (intercept, slope) for a spread of 1, two rows of two.
        ratios: measured / predicted of networks that were kept out of the fit, ascending; they
            give the conformal bound.
        error: of predictions for networks that the line was not fitted to; None where too few
            networks were measured.
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
        """The predicted seconds for sums of layers."""
        return self.intercept + self.slope * sums

    def bound_kind(self, confidence: float) -> BoundKind:
        """What ``upper`` rests on at a confidence."""
        if conformal_rank(len(self.ratios), confidence) is not None:
            return "split-conformal"
        return "none" if self.spread is None else "student-t"

    def upper(self, sums: Vector, *, confidence: float) -> Vector:
        """The seconds that a new network does not exceed with a confidence.

        With enough ``ratios`` the bound is split-conformal, see `edgenas.latency.bound`. Otherwise
        it is the one-sided prediction interval of the line.

        Raises:
            EdgenasError: too few networks were measured for any bound.
        """
        predicted, rank = self(sums), conformal_rank(len(self.ratios), confidence)
        if rank is not None:
            return predicted * self.ratios[rank]
        if self.spread is None:
            raise EdgenasError(
                f"{self.networks} measured networks are too few for an upper bound",
                hint=f"measure at least {self.free + 1} networks",
            )
        design = np.stack([np.ones_like(sums), sums], 1) / predicted[:, None]
        leverage = np.einsum("ni,ij,nj->n", design, np.array(self.covariance), design)
        quantile = student_quantile(confidence, self.networks - self.free)
        return predicted * (1 + quantile * self.spread * np.sqrt(1 + leverage))

    @staticmethod
    def from_json(value: Any, *, where: str) -> "Line":
        """The line of the JSON form of its fields.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type.
        """
        return decode(Line, value, where=where)


def add_bound(line: Line, sums: Vector, seconds: Vector) -> Line:
    """Give a line the bound and the error that networks outside of its fit show.

    Args:
        line: fitted to other networks.
        sums: of the networks' layers, shape (n,), above zero.
        seconds: measured, shape (n,).
    """
    check_measured(len(sums), seconds)
    predicted = line(sums)
    return replace(
        line,
        ratios=tuple(np.sort(seconds / predicted).tolist()),
        error=compare_with_truth(
            predicted, seconds, relative=True, method="networks held out of the fit"
        ),
    )


def identity_line(left_out: Vector, seconds: Vector) -> Line:
    """The line that changes nothing, for sums that were themselves fitted to networks.

    Its spread is that of predictions for networks outside of their fit. Nothing more is estimated
    from these networks, so one degree of freedom is subtracted, whatever the fit has.

    Args:
        left_out: each network, predicted by a fit to others, shape (n,).
        seconds: measured, shape (n,).
    """
    errors, several = left_out / seconds - 1, len(seconds) > 1
    return Line(
        intercept=0.0,
        slope=1.0,
        free=1,
        networks=len(seconds),
        spread=float(np.sqrt((errors**2).mean())) if several else None,
        error=compare_with_truth(
            left_out, seconds, relative=True, method="networks, each fold left out once"
        )
        if several
        else None,
    )


def fit_line(sums: Vector, seconds: Vector) -> Line:
    """Fit a line to measured networks.

    One or two networks give a slope only. So does a fit that would slope downwards, or that would
    predict no time at all for the smallest sum.

    Args:
        sums: of the networks' layers, shape (n,), above zero.
        seconds: measured, shape (n,).

    Raises:
        EdgenasError: there are no networks, or sums or times are not above zero.
    """
    if sums.shape != seconds.shape or sums.ndim != 1 or not len(sums):
        raise EdgenasError(
            f"a line needs as many sums as measured networks, found {sums.shape} and "
            f"{seconds.shape}",
            hint="measure at least three networks",
        )
    if not ((sums > 0) & (seconds > 0)).all():
        raise EdgenasError("sums and measured times must be above zero")
    counts = np.stack([np.ones_like(sums), sums], 1)
    coefficients, free = _fit_coefficients(counts, seconds)
    design = counts / seconds[:, None]
    errors = design @ coefficients - 1
    left = len(sums) - free
    covariance = np.zeros((2, 2))
    covariance[2 - free :, 2 - free :] = np.linalg.inv((design.T @ design)[2 - free :, 2 - free :])
    return Line(
        intercept=float(coefficients[0]),
        slope=float(coefficients[1]),
        free=free,
        networks=len(sums),
        spread=float(np.sqrt((errors**2).sum() / left)) if left > 0 else None,
        covariance=(
            (float(covariance[0, 0]), float(covariance[0, 1])),
            (float(covariance[1, 0]), float(covariance[1, 1])),
        ),
        error=_error(counts, seconds),
    )


def _fit_coefficients(counts: Matrix, seconds: Vector) -> tuple[Vector, int]:
    """The coefficients (intercept, slope), and how many of the two were fitted."""
    sums = counts[:, 1]
    if len(sums) > 2 and float(np.ptp(sums)) > 1e-6 * float(sums.max()):
        coefficients = fit_rates(counts, seconds)
        if coefficients[1] > 0 and coefficients[0] + coefficients[1] * sums.min() > 0:
            return coefficients, 2
    ratios = sums / seconds
    return np.array([0.0, float(ratios.sum() / (ratios**2).sum())]), 1


def _error(counts: Matrix, seconds: Vector) -> HeldOut | None:
    if len(seconds) < 4:
        return None
    predicted = predict_left_out(
        counts, seconds, fit=lambda rest, times: _fit_coefficients(rest, times)[0]
    )
    return compare_with_truth(
        predicted, seconds, relative=True, method="each network left out once"
    )
