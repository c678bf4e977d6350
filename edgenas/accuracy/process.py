"""A Gaussian process over encodings of networks: what is believed, and how sure that is.

The kernel is the product of one exponential kernel for each encoding:

    k(a, b) = variance * exp(-sum over encodings of |e(a) - e(b)| / length) + noise [a = b]

Over one feature for each choice, this is the product kernel on categories: networks are alike as
far as they share choices, in any combination. Rasmussen & Williams, "Gaussian Processes for Machine
Learning", 2006: prediction (2.25, 2.26), marginal likelihood (2.30) and its gradient (5.9). The
lengths and the noise are the most likely ones under wide priors, the variance is at its optimum.

Scores are turned into normal scores by rank before the fit (a Gaussian copula, as in arXiv
1909.13595): searches care for order, and a few networks that learn nothing would decide the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.accuracy.encoding import Encoding
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes

Matrix = NDArray[np.float64]
Cube = NDArray[np.float64]
_JITTER = 1e-8  # of the variance, so that rounding leaves the matrix positive
_STEPS = 60  # of the optimiser
# Priors of logarithms: lengths in units of the median distance, noise in units of the variance.
_LENGTH_SPREAD = 1.5
_NOISE_MEAN, _NOISE_SPREAD = -4.0, 2.0
_BOUND = 7.0  # of logarithms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lengths:
    """What a process has learnt of its kernel.

    Args:
        rates: 1 / length of each encoding, shape (encodings,).
        noise: variance of the noise, in units of the process's.
    """

    rates: Vector
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Process:
    """A fitted process; all it needs of networks is their distances to those it was fitted to.

    Args:
        lengths: of the kernel.
        variance: of the process.
        factor: lower Cholesky factor of kernel and noise, in units of the variance, shape (n, n).
        half: inverse of the factor, times the targets, shape (n,).
    """

    lengths: Lengths
    variance: float
    factor: Matrix
    half: Vector

    @property
    def noise(self) -> float:
        """Variance of the noise of a score."""
        return self.variance * self.lengths.noise

    def narrow(self, distances: Cube, known: Matrix | None = None) -> Matrix:
        """What the networks of the fit say about others: inverse of the factor, times the kernel.

        Args:
            distances: of the others to the networks of the fit, shape (encodings, m, n).
            known: the same of a process with the same lengths and the first of these networks.

        Returns:
            Shape (n, m).
        """
        before = 0 if known is None else len(known)
        if known is not None and before == len(self.factor):
            return known
        rest = _kernel(self.lengths, distances[:, :, before:]).T
        if known is None:
            return _solve_lower(self.factor, rest)
        rest -= self.factor[before:, :before] @ known
        return np.concatenate([known, _solve_lower(self.factor[before:, before:], rest)])

    def believe(self, narrowed: Matrix) -> tuple[Vector, Vector]:
        """Mean and standard deviation of the function itself, without the noise of a score.

        Args:
            narrowed: what ``narrow`` gave, shape (n, m).
        """
        left = 1 - np.einsum("nm,nm->m", narrowed, narrowed)
        return self.half @ narrowed, np.sqrt(self.variance * np.maximum(left, 1e-12))

    def draw(self, narrowed: Matrix, among: Cube, *, rng: np.random.Generator) -> Vector:
        """One function that may be the true one, at some networks, shape (m,).

        Args:
            narrowed: what ``narrow`` gave, shape (n, m).
            among: distances of the networks to each other, shape (encodings, m, m).
            rng: the source of chance.
        """
        left = _kernel(self.lengths, among) - narrowed.T @ narrowed
        left.flat[:: len(left) + 1] += 1e-6
        root = np.linalg.cholesky(left)
        drawn = root @ rng.standard_normal(len(root))
        return self.half @ narrowed + np.sqrt(self.variance) * drawn


def measure_distances(encodings: Sequence[Encoding], rows: Codes, others: Codes) -> Cube:
    """The distances of rows to others by each encoding, shape (encodings, rows, others)."""
    return distances_between([e.of(rows) for e in encodings], [e.of(others) for e in encodings])


def distances_between(points: Sequence[Matrix], others: Sequence[Matrix]) -> Cube:
    """The same of features, one matrix for each encoding."""
    from scipy.spatial.distance import cdist

    apart: Any = [cdist(a, b, "cityblock") for a, b in zip(points, others, strict=True)]
    return np.stack(apart)


def fit_lengths(distances: Cube, targets: Vector, *, start: Lengths | None = None) -> Lengths:
    """The most likely lengths and noise.

    Args:
        distances: of the networks to each other, shape (encodings, n, n).
        targets: shape (n,), mean 0.
        start: where the optimiser starts, such as the lengths of fewer networks.
    """
    from scipy.optimize import minimize

    medians = _typical(distances)
    scaled = distances / medians[:, None, None]
    at = np.append(np.zeros(len(distances)), _NOISE_MEAN)
    if start is not None:
        at = np.append(np.log(start.rates * medians), np.log(start.noise))
    limits = [(-_BOUND, _BOUND)] * len(distances) + [(-2 * _BOUND, _BOUND)]
    end: Any = minimize(
        _loss,
        np.clip(at, *np.array(limits).T),
        args=(scaled, targets),
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": _STEPS},
    )
    logs: Vector = end.x
    return Lengths(rates=np.exp(logs[:-1]) / medians, noise=float(np.exp(logs[-1])))


def fit_process(distances: Cube, targets: Vector, *, lengths: Lengths) -> Process:
    """The process with these lengths; arguments as of ``fit_lengths``."""
    kernel = _kernel(lengths, distances)
    kernel.flat[:: len(kernel) + 1] += lengths.noise + _JITTER
    factor: Matrix = np.asarray(np.linalg.cholesky(kernel), float)
    half = _solve_lower(factor, targets)
    return Process(
        lengths=lengths,
        variance=max(float(half @ half) / len(targets), 1e-12),
        factor=factor,
        half=half,
    )


def normal_scores(scores: Vector) -> Vector:
    """Scores as the quantiles of a normal distribution that their ranks stand for; ties share one.

    Args:
        scores: any numbers, also infinite ones, shape (n,).
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    quantiles: Vector = np.asarray(ndtri((rankdata(scores) - 0.5) / len(scores)))
    return quantiles


def _typical(distances: Cube) -> Vector:
    """A distance of each encoding, to measure lengths in; 1 where all rows are alike."""
    apart = ~np.eye(distances.shape[1], dtype=bool)
    means = [float(np.mean(d[apart])) if apart.any() else 0.0 for d in distances]
    return np.array([mean if mean > 0 else 1.0 for mean in means])


def _kernel(lengths: Lengths, distances: Cube) -> Matrix:
    return np.exp(-np.tensordot(lengths.rates, distances, 1))


def _loss(logs: Vector, distances: Cube, targets: Vector) -> tuple[float, Vector]:
    """Minus the logarithm of likelihood times prior, and its gradient, by logarithms."""
    rates, noise, n = np.exp(logs[:-1]), float(np.exp(logs[-1])), len(targets)
    kernel = np.exp(-np.tensordot(rates, distances, 1))
    whole = kernel.copy()
    whole.flat[:: n + 1] += noise + _JITTER
    factor = np.linalg.cholesky(whole)
    inner = _solve_lower(factor, np.eye(n))
    inverse = inner.T @ inner
    weights = inverse @ targets
    variance = max(float(targets @ weights) / n, 1e-12)
    away = logs.copy()
    away[-1] -= _NOISE_MEAN
    spreads = np.full(len(logs), _LENGTH_SPREAD)
    spreads[-1] = _NOISE_SPREAD
    loss = n * np.log(variance) / 2 + float(np.log(np.diagonal(factor)).sum())
    loss += float(((away / spreads) ** 2).sum()) / 2
    # Of each logarithm: half the trace of (inverse - weights weights' / variance) times the change.
    bend = inverse - np.outer(weights, weights) / variance
    changes = [
        -rate * float(np.sum(bend * kernel * d)) for rate, d in zip(rates, distances, strict=True)
    ]
    changes.append(noise * float(np.trace(bend)))
    return loss, np.array(changes) / 2 + away / spreads**2


def _solve_lower(factor: Matrix, right: Matrix) -> Matrix:
    from scipy.linalg import solve_triangular

    solved: Any = solve_triangular(factor, right, lower=True, check_finite=False)
    return solved
