"""The latency of networks on a device, from a few times there and the times of other devices.

Seconds, in units of their mean, are a sum of what networks contain and of what they take on other
devices. Each group of such features has a variance of its own (Gaussian process with linear
kernels; Rasmussen & Williams 2006, sections 2.1 and 5.4):

    k(a, b) = constant + sum over groups of variance * features_a . features_b + noise [a = b]

How much each group counts is learnt from the known devices, each of them held to be new once; the
new device may differ from them as far as its own times say (a log-normal prior about theirs). Which
networks to time is chosen before any is: those that leave the least doubt about all others.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Indices = NDArray[np.intp]
Groups = tuple[Matrix, ...]

_CONSTANT = 100.0  # variance of the mean, in units of the mean squared: it is as good as free
_FLOOR = 1e-5  # of the noise, so that rounding leaves the matrix positive
# Of logarithms of variances: what is held likely of any device, and how far a new one may depart.
_USUAL, _WIDE, _OWN = -2.0, 3.0, 2.0
_OWN_NOISE = 1.0  # a few times say little about their noise, and always too little noise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shots:
    """A device that some networks were timed on.

    Args:
        groups: features of the networks, one matrix (n, features) a group, see ``scale_groups``.
        seconds: of each, shape (n,).
    """

    groups: Groups
    seconds: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FewShots:
    """Latencies of a device from a few of its times.

    Args:
        unit: seconds that are 1 inside: the mean of the times.
        logs: logarithms of the variances of the groups, and of the noise.
        shots: what was timed.
    """

    unit: float
    logs: Vector
    shots: Shots

    def predict(self, groups: Groups) -> tuple[Vector, Vector]:
        """Seconds of networks, and the standard deviation of a time of each, shape (n,) both.

        No latency is predicted below a hundredth of the mean, where a line would go below zero.
        """
        own, others = self.shots.groups, _inner(self.logs, groups, self.shots.groups)
        whole = _covariance(self.logs, own)
        mean = others @ np.linalg.solve(whole, self.shots.seconds / self.unit)
        solved = np.linalg.solve(whole, others.T)
        alone = _CONSTANT + sum(
            np.exp(log) * (group**2).sum(1) for log, group in zip(self.logs, groups, strict=False)
        )
        left = np.maximum(alone - np.einsum("mn,nm->m", others, solved), 0) + np.exp(self.logs[-1])
        return self.unit * np.maximum(mean, 0.01), self.unit * np.sqrt(left)

    def interval(self, groups: Groups, *, confidence: float) -> tuple[Vector, Vector]:
        """The ends of an interval that a time lies in, at a confidence, shape (n,) both."""
        from edgenas.latency.bound import student_quantile

        mean, deviation = self.predict(groups)
        deviation = deviation * max(1.0, self._left_out())
        times = student_quantile((1 + confidence) / 2, max(2, len(self.shots.seconds) - 2))
        return mean - times * deviation, mean + times * deviation

    def _left_out(self) -> float:
        """How far off each time is where it is left out, in deviations: the root mean square.

        In closed form, Rasmussen & Williams (5.12): above 1, the fit is surer than it should be.
        """
        inverse = np.linalg.inv(_covariance(self.logs, self.shots.groups))
        off = inverse @ (self.shots.seconds / self.unit) / np.sqrt(np.diagonal(inverse))
        return float(np.sqrt((off**2).mean()))


def scale_groups(groups: Sequence[Matrix]) -> Groups:
    """Groups with mean 0 and, each as a whole, mean square 1 over the networks."""
    centred = [group - group.mean(0) for group in groups]
    return tuple(c / max(float(np.sqrt((c**2).sum(1).mean())), 1e-12) for c in centred)


def learn_variances(devices: Sequence[Shots]) -> Vector:
    """Logarithms of the variances, and of the noise, that are most likely on known devices.

    Args:
        devices: with the same groups, in which the times of the device itself are not.

    Raises:
        EdgenasError: there is no device.
    """
    if not devices:
        raise EdgenasError("at least one known device is needed, found none")
    usual = np.full(len(devices[0].groups) + 1, _USUAL)
    return _most_likely(devices, usual, spread=np.full(len(usual), _WIDE))


def choose_networks(groups: Groups, logs: Vector, *, count: int) -> Indices:
    """Which networks to time: one after the other, the one that leaves the least doubt.

    The doubt is the sum of the variances of all networks; no time is needed to know it.

    Args:
        groups: of all networks that may be timed, and stand for all that will be predicted.
        logs: see ``learn_variances``.
        count: how many.

    Raises:
        EdgenasError: fewer networks than shall be timed.
    """
    if not 1 <= count <= len(groups[0]):
        raise EdgenasError(f"count must be from 1 to {len(groups[0])}, found {count}")
    parts = [np.exp(log / 2) * group for log, group in zip(logs, groups, strict=False)]
    points = np.hstack([*parts, np.full((len(groups[0]), 1), np.sqrt(_CONSTANT))])
    doubt, noise = np.eye(points.shape[1]), np.exp(logs[-1]) + _FLOOR
    second, taken = points.T @ points, list[int]()
    for _ in range(count):
        spread = points @ doubt
        variance = np.einsum("nf,nf->n", spread, points) + noise
        gain = np.einsum("nf,nf->n", spread @ second, spread) / variance
        gain[taken] = -np.inf
        taken.append(int(gain.argmax()))
        row = spread[taken[-1]]
        doubt -= np.outer(row, row) / variance[taken[-1]]
    return np.array(taken, np.intp)


def fit_few_shots(shots: Shots, logs: Vector) -> FewShots:
    """The latencies of a device from a few of its times.

    Args:
        shots: the networks that were timed, at least 3.
        logs: see ``learn_variances``.

    Raises:
        EdgenasError: too few times, or a time that is not above 0.
    """
    if len(shots.seconds) < 3 or not (shots.seconds > 0).all():
        raise EdgenasError(
            f"at least 3 times above 0 are needed, found {int((shots.seconds > 0).sum())}",
            hint="time more networks",
        )
    spread = np.full(len(logs), _OWN)
    spread[-1] = _OWN_NOISE
    own = _most_likely([shots], logs, spread=spread)
    return FewShots(unit=float(shots.seconds.mean()), logs=own, shots=shots)


def _most_likely(devices: Sequence[Shots], logs: Vector, *, spread: Vector) -> Vector:
    optimize: Any = importlib.import_module("scipy.optimize")

    def loss(at: Vector) -> float:
        total = float((((at - logs) / spread) ** 2).sum()) / 2
        for shots in devices:
            seconds = shots.seconds / shots.seconds.mean()
            factor = np.linalg.cholesky(_covariance(at, shots.groups))
            half = np.asarray(np.linalg.solve(factor, seconds), float)
            total += float(np.sum(np.square(half))) / 2 + float(np.log(np.diagonal(factor)).sum())
        return total

    end = optimize.minimize(loss, logs, method="L-BFGS-B", bounds=[(-20, 10)] * len(logs))
    likely: Vector = end.x
    return likely


def _inner(logs: Vector, groups: Groups, others: Groups) -> Matrix:
    parts = zip(logs, groups, others, strict=False)
    return _CONSTANT + sum((np.exp(log) * a @ b.T for log, a, b in parts), np.zeros(()))


def _covariance(logs: Vector, groups: Groups) -> Matrix:
    whole = _inner(logs, groups, groups)
    whole.flat[:: len(whole) + 1] += np.exp(logs[-1]) + _FLOOR
    return whole
