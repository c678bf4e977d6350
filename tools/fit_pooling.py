"""Partial pooling: the prior of a device's log prices from its relatives (empirical Bayes)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.estimate import Array, Prior, fit_many


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
