"""What every fit of published rows shares: partial pooling, errors, printing, the result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgenas.latency.device import Estimate, Fact, Parameter, PublishedRow
from edgenas.latency.estimate import (
    MODEL,
    NAMES,
    Array,
    Fit,
    Kernels,
    Prior,
    doubt,
    features,
    fit_many,
    further,
    half_width,
)
from tools.device_fits.published_rows import Row

Pairs = Sequence[tuple[float, float]]  # errors with doubts, see below

AT = {name: i for i, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What goes into the profile of one target."""

    profile: str
    slug: str
    kernels: Kernels
    scale: Array  # seconds per unit of each price at exp(log price) = 1
    used: tuple[int, ...]  # indices of the prices that exist in this runtime
    found: Fit
    prior: Prior
    rows: tuple[Row, ...]
    sources: tuple[str, ...]  # of all rows, the relatives' included
    residuals: tuple[float, ...]
    doubts: tuple[float, ...]  # of the rows that the residuals are of
    method: str
    watts: float
    watts_source: str = ""
    relatives: tuple[Row, ...] = ()  # where there are no rows of its own

    def estimate(self) -> Estimate:
        """As the profile holds it."""
        values = np.zeros(len(NAMES))
        values[list(self.used)] = np.exp(self.found.logs)
        values *= self.scale
        covariance = np.zeros((len(NAMES), len(NAMES)))
        covariance[np.ix_(self.used, self.used)] = self.found.covariance
        halved = np.diag(self.found.covariance) < np.diag(self.prior.covariance) / 4
        origin: dict[int, Literal["fit", "pooled"]] = {
            i: "fit" if half else "pooled" for i, half in zip(self.used, halved, strict=True)
        }
        by_size = sorted(self.rows or self.relatives, key=lambda row: row.macs)
        ends = [
            PublishedRow(
                row.network if self.rows else f"{row.network} on {row.group.split(' / ')[0]}",
                row.macs,
                row.seconds,
                row.source,
            )
            for row in (by_size[0], by_size[-1])
        ]
        return Estimate(
            model=MODEL,
            parameters={
                name: Parameter(float(values[i]), origin.get(i, "formula"))
                for i, name in enumerate(NAMES)
            },
            fused=tuple(sorted(self.kernels.fused)),
            residuals=self.residuals,
            doubt=float(np.sqrt(np.mean(np.square(self.doubts)))),
            covariance=tuple(tuple(map(float, row)) for row in covariance),
            method=self.method,
            rows=len(self.rows),
            smallest=ends[0],
            largest=ends[1],
            sources=self.sources,
            power=Fact(self.watts, "W", f"mean wall power {self.watts_source}")
            if self.watts
            else None,
            tile=self.kernels.tile,
            per_group=self.kernels.per_group,
            vectors=self.kernels.vectors,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Measurements of one device: features (n, d) with a run each, and seconds (n,)."""

    counts: Array
    seconds: Array


def pool(
    groups: Sequence[Group],
    *,
    before: Prior,
    noise: float,
    rounds: int = 8,
    strength: float = 4.0,
) -> Prior:
    """The mean and spread of the log prices over devices, by expectation-maximisation.

    Each round fits every device under the current prior (its posterior taken as Gaussian), then
    sets the prior to the mean and covariance of what was found (Dempster, Laird & Rubin 1977,
    section 4.6), the mean under the given prior, the covariance with the given one counted as
    ``strength`` devices (the mode under an inverse-Wishart prior).

    Args:
        groups: the devices.
        before: what is known of the log prices without any row.
        noise: standard deviation of log(seconds) about a perfect fit.
        rounds: of expectation-maximisation.
        strength: how many devices ``before`` counts for.
    """
    mean, spread = before.mean, before.covariance
    precision = np.linalg.inv(before.covariance)
    n = len(groups)
    for _ in range(rounds):
        prior = Prior(mean, spread)
        found = fit_many([(g.counts, g.seconds) for g in groups], prior=prior, noise=noise)
        logs = np.array([f.logs for f in found])
        sharp = np.linalg.inv(spread)
        mean = np.linalg.solve(
            precision + n * sharp, precision @ before.mean + sharp @ logs.sum(axis=0)
        )
        apart = logs - mean
        doubt = sum((f.covariance for f in found), np.zeros_like(spread))
        spread = (apart.T @ apart + doubt + strength * before.covariance) / (n + strength)
    return Prior(mean, spread)


def counted(row: Row, kernels: Kernels, *, batch: int = 1) -> Array:
    """The features of a row, with one run; of a batch where there are several images."""
    counts = features(row.operators, kernels=kernels)
    for name in set(NAMES) - {"kernel", "weight", "vector_weight"}:
        counts[AT[name]] *= batch
    counts[AT["run"]] = 1
    return counts


def errors(group: Group, found: Fit) -> list[float]:
    """log(measured / predicted) of each row."""
    predicted = group.counts @ np.exp(found.logs)
    return [float(error) for error in np.log(group.seconds / predicted)]


def relative_error(off: Sequence[float]) -> float:
    """The mean absolute percentage error, as a fraction, of log(measured / predicted)."""
    return float(np.mean(np.abs(np.expm1(-np.asarray(off)))))


def held(pairs: Pairs, known: Pairs, *, confidence: float = 0.9) -> int:
    """How many errors lie in the intervals that a model with other errors as its evidence gives.

    Args:
        pairs: errors and doubts of rows.
        known: errors and doubts that the intervals are made of.
        confidence: of the intervals.
    """
    doubt = math.sqrt(np.mean([unsure**2 for _, unsure in known]))
    residuals = [off for off, _ in known]
    count = 0
    for off, unsure in pairs:
        extra = further(unsure, known=doubt)
        count += abs(off) <= half_width(residuals, extra=extra, confidence=confidence)
    return count


def doubts(group: Group, found: Fit) -> list[float]:
    """Standard deviation of log(seconds) of each row because the prices are not known."""
    return [doubt(counts * np.exp(found.logs), found.covariance) for counts in group.counts]


def print_rows(rows: Sequence[Row], off: Sequence[float]) -> None:
    """Print rows with what was predicted."""
    for row, error in zip(rows, off, strict=True):
        ms = row.seconds * 1e3
        print(
            f"   {row.group:44s} {row.network:26s} {ms:8.2f} ms, predicted "
            f"{ms * math.exp(-error):8.2f} ({100 * math.expm1(-error):+.0f}%)"
        )


def summary(off: Sequence[float]) -> None:
    """Print how far predictions were off."""
    percent = [100 * abs(math.expm1(-error)) for error in off]
    print(
        f"   {len(percent)} rows: mean error {np.mean(percent):.1f}%, "
        f"median {np.median(percent):.1f}%"
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """Known before any row: log(price / other) is ``mean``, give or take ``spread``."""

    price: str
    other: str
    mean: float
    spread: float


def ratios(names: Sequence[str], *, anchors: Sequence[float], known: Sequence[Ratio]) -> Prior:
    """A prior that hardly knows the speed of a device, but how its prices relate.

    Args:
        names: of the prices, in order.
        anchors: a typical value of each, known to within a factor of seven or so (the standard
            deviation of its logarithm is 2).
        known: relations; those of other prices are left out.
    """
    at = {name: i for i, name in enumerate(names)}
    sharp = np.eye(len(names)) / 4
    pull = sharp @ np.log(anchors)
    for ratio in known:
        if ratio.price in at and ratio.other in at:
            row = np.zeros(len(names))
            row[at[ratio.price]], row[at[ratio.other]] = 1, -1
            sharp = sharp + np.outer(row, row) / ratio.spread**2
            pull = pull + row * ratio.mean / ratio.spread**2
    return Prior(np.linalg.solve(sharp, pull), np.linalg.inv(sharp))
