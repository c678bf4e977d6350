"""The fit of device models: prices of many boards, families of networks, and their doubt.

For a network n of family f on board b,

    log seconds = log(counts of n * prices of b) + effect of f + effect of f on b + noise of b

The logarithms of the prices are Gaussian over the boards of one runtime, and so are the effects of
families over families (partial pooling, Gelman & Hill, "Data Analysis Using Regression and
Multilevel/Hierarchical Models", 2007, chapters 12 and 13). The noise has Student's t distribution
with four degrees of freedom (Lange, Little & Taylor 1989), so that a row with a slip does not bend
a fit. Everything is linearised about the most probable prices, where it is closed-form algebra.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from edgenas.latency.features import Array

_TAIL = 4.0  # degrees of freedom of the noise
_OWN = 8.0  # rows that the common noise counts for against the noise of a board's own rows
_LIKE = 4.0  # boards, and families, that what is known before counts for


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of the logarithms of the prices: mean, shape (d,), and covariance (d, d)."""

    mean: Array
    covariance: Array


@dataclass(frozen=True, slots=True)
class Spreads:
    """Standard deviations of log seconds.

    Args:
        family: of the effects of families, the same on all boards of a runtime.
        own: of the effects of families on single boards.
        noise: of one row.
    """

    family: float = 0.06
    own: float = 0.05
    noise: float = 0.05

    @property
    def unseen(self) -> float:
        """The doubt about the effect of a family that nobody measured."""
        return math.hypot(self.family, self.own)


@dataclass(frozen=True, slots=True)
class Rows:
    """Networks measured on one board, used in one way.

    Args:
        counts: of the things that have a price, shape (n, d).
        seconds: shape (n,).
        families: of the networks, n names.
    """

    counts: Array
    seconds: Array
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """What is known of one board.

    Args:
        logs: of the prices, shape (d,), and after them the effects of ``families``.
        covariance: of ``logs``.
        families: with a known effect.
        noise: standard deviation of one row.
    """

    logs: Array
    covariance: Array
    families: tuple[str, ...]
    noise: float

    @property
    def prices(self) -> Array:
        """Seconds per unit, shape (d,)."""
        return np.exp(self.logs[: self._width])

    @property
    def _width(self) -> int:
        return len(self.logs) - len(self.families)

    def predict(
        self, counts: Array, families: Sequence[str], *, spreads: Spreads
    ) -> tuple[Array, Array]:
        """Mean and standard deviation of log seconds of n networks, shape (n,) each.

        Args:
            counts: shape (n, d).
            families: n names; those without a known effect pay for it in the deviation.
            spreads: of the population.
        """
        width = self._width
        parts = counts * self.prices
        total = parts.sum(axis=1)
        slopes = np.zeros((len(counts), len(self.logs)))
        slopes[:, :width] = parts / total[:, None]
        further = np.full(len(counts), self.noise**2)
        for i, family in enumerate(families):
            if family in self.families:
                slopes[i, width + self.families.index(family)] = 1
            else:
                further[i] += spreads.unseen**2
        mean = np.log(total) + slopes[:, width:] @ self.logs[width:]
        variance = np.einsum("ni,ij,nj->n", slopes, self.covariance, slopes)
        return mean, np.sqrt(variance + further)


@dataclass(frozen=True, slots=True)
class Population:
    """The boards of one runtime.

    Args:
        mean: of the log prices over boards, and after them the effects of ``families``.
        covariance: of those of a new board, what is not known of the mean included.
        families: that were measured.
        spreads: of the effects and the noise.
    """

    mean: Array
    covariance: Array
    families: tuple[str, ...]
    spreads: Spreads

    @property
    def new_board(self) -> Fit:
        """A board of which nothing is known."""
        return Fit(self.mean, self.covariance, self.families, self.spreads.noise)

    def fit_board(self, rows: Rows) -> Fit:
        """A board of which some networks were measured."""
        families = [*self.families, *sorted(set(rows.families) - set(self.families))]
        more = len(families) - len(self.families)
        mean = np.concatenate([self.mean, np.zeros(more)])
        covariance = np.diag(np.full(len(mean), self.spreads.unseen**2))
        covariance[: len(self.mean), : len(self.mean)] = self.covariance
        stack = _Stack([rows], families, width=len(self.mean) - len(self.families))
        noise = np.array([self.spreads.noise])
        logs, curvature, _ = stack.maximise(
            mean, _inverse(covariance), noise=noise, start=mean[None]
        )
        return Fit(logs[0], _inverse(curvature[0]), tuple(families), self.spreads.noise)


class _Stack:
    """The rows of all boards in arrays of one shape; boards with fewer rows have empty ones."""

    def __init__(self, boards: Sequence[Rows], families: Sequence[str], *, width: int) -> None:
        height = max(len(board.seconds) for board in boards)
        self.width = width
        self.counts = np.ones((len(boards), height, width))
        self.target = np.zeros((len(boards), height))
        self.present = np.zeros((len(boards), height))
        self.member = np.zeros((len(boards), height, len(families)))
        at = {family: i for i, family in enumerate(families)}
        for b, board in enumerate(boards):
            n = len(board.seconds)
            self.counts[b, :n], self.target[b, :n] = board.counts, np.log(board.seconds)
            self.present[b, :n] = 1
            for i, family in enumerate(board.families):
                self.member[b, i, at[family]] = 1

    def _errors(self, logs: Array, noise: Array) -> tuple[Array, Array]:
        """Standardised errors, shape (boards, rows), and their slopes by parameter."""
        parts = self.counts * np.exp(np.clip(logs[:, None, : self.width], -60, 20))
        total = parts.sum(axis=2)
        effects = (self.member @ logs[:, self.width :, None])[:, :, 0]
        errors = (np.log(total) + effects - self.target) / noise[:, None]
        slopes = np.concatenate([parts / total[:, :, None], self.member], axis=2)
        return errors, slopes / noise[:, None, None]

    def maximise(
        self, mean: Array, sharp: Array, *, noise: Array, start: Array, steps: int = 60
    ) -> tuple[Array, Array, Array]:
        """The most probable parameters of each board under one Gaussian prior.

        Levenberg and Marquardt's method, every board with its own damping.

        Args:
            mean: of the prior, shape (p,).
            sharp: its inverse covariance, shape (p, p).
            noise: of each board.
            start: shape (boards, p).
            steps: at most.

        Returns:
            Parameters (boards, p), curvatures (boards, p, p), and the mean square of the noise
            that the rows of each board show, together with the number of its rows (boards, 2).
        """

        def loss(logs: Array, errors: Array) -> Array:
            apart = logs - mean
            rows = (self.present * (_TAIL + 1) / 2 * np.log1p(errors**2 / _TAIL)).sum(axis=1)
            return rows + 0.5 * np.einsum("bi,ij,bj->b", apart, sharp, apart)

        logs, damping = start.copy(), np.full(len(start), 1e-3)
        errors, slopes = self._errors(logs, noise)
        best, eye = loss(logs, errors), np.eye(len(mean))
        for _ in range(steps):
            weights = self.present * (_TAIL + 1) / (_TAIL + errors**2)
            weighted = slopes * weights[:, :, None]
            curvature = weighted.transpose(0, 2, 1) @ slopes + sharp
            gradient = np.einsum("bni,bn->bi", weighted, errors) + (logs - mean) @ sharp
            damped = curvature * (1 + damping[:, None, None] * eye)
            step = np.clip(_solve(damped, gradient[:, :, None])[:, :, 0], -3, 3)
            errors_there, slopes_there = self._errors(logs - step, noise)
            there = loss(logs - step, errors_there)
            better = there < best
            logs, best = np.where(better[:, None], logs - step, logs), np.where(better, there, best)
            errors = np.where(better[:, None], errors_there, errors)
            slopes = np.where(better[:, None, None], slopes_there, slopes)
            damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, 1e9)
            if np.abs(step).max() < 1e-4:
                break
        weights = self.present * (_TAIL + 1) / (_TAIL + errors**2)
        curvature = (slopes * weights[:, :, None]).transpose(0, 2, 1) @ slopes + sharp
        hidden = np.einsum("bni,bij,bnj->bn", slopes, _inverse(curvature), slopes)
        square = noise**2 * (weights * (errors**2 + hidden)).sum(axis=1)
        return logs, curvature, np.stack([square, self.present.sum(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class _State:
    """Between two rounds: the population, and the parameters of the boards."""

    mean: Array  # of prices and family effects over boards, shape (p,)
    doubt: Array  # covariance of ``mean``
    spread: Array  # covariance of the log prices over boards, shape (d, d)
    spreads: Spreads
    noise: Array  # of each board
    logs: Array  # of each board, shape (boards, p)
    covariances: Array  # of ``logs``, shape (boards, p, p)


def fit_population(
    boards: Sequence[Rows], *, before: Prior, spreads: Spreads | None = None, rounds: int = 8
) -> tuple[Population, list[Fit]]:
    """The population of boards with one runtime, and what is known of each of them.

    Expectation-maximisation (Dempster, Laird & Rubin 1977, section 4.6): each round fits every
    board under the current population, then sets the population to the fits. The mean of the
    population and the effects of families that all boards share are integrated out exactly.

    Args:
        boards: at least one.
        before: what is known of the prices without any row; as a spread over boards it counts for
            four boards.
        spreads: of family effects and noise without any row; those of families count for four.
        rounds: of expectation-maximisation.
    """
    start = spreads or Spreads()
    families = tuple(sorted({family for board in boards for family in board.families}))
    mean = np.concatenate([before.mean, np.zeros(len(families))])
    stack = _Stack(boards, families, width=len(before.mean))
    state = _State(
        mean=mean,
        doubt=np.zeros((len(mean), len(mean))),
        spread=before.covariance,
        spreads=start,
        noise=np.full(len(boards), start.noise),
        logs=np.tile(mean, (len(boards), 1)),
        covariances=np.zeros((len(boards), len(mean), len(mean))),
    )
    for turn in range(rounds):
        steps = 12 if turn else 60  # later rounds start where the one before ended
        state = _improve(state, stack, before=before, start=start, steps=steps)
    own = np.full(len(families), state.spreads.own**2)
    new = state.doubt + _block(state.spread, own)
    fits = [
        Fit(logs, covariance, families, float(noise))
        for logs, covariance, noise in zip(state.logs, state.covariances, state.noise, strict=True)
    ]
    return Population(state.mean, new, families, state.spreads), fits


def _improve(state: _State, stack: _Stack, *, before: Prior, start: Spreads, steps: int) -> _State:
    """One round of expectation-maximisation."""
    width, boards = stack.width, len(state.logs)
    count = len(state.mean) - width
    sharp = _block(_inverse(state.spread), np.full(count, state.spreads.own**-2))
    outer = _block(_inverse(before.covariance), np.full(count, state.spreads.family**-2))
    logs, curvature, shown = stack.maximise(
        state.mean, sharp, noise=state.noise, start=state.logs, steps=steps
    )
    inverse = _inverse(curvature)
    total = outer + boards * sharp
    centre = np.concatenate([before.mean, np.zeros(count)])
    mean = _solve(total, outer @ centre + sharp @ logs.sum(axis=0))
    doubt = _inverse(total - sharp @ inverse.sum(axis=0) @ sharp)
    # The covariance of each board's parameters about the mean, where both are uncertain.
    pull: Array = inverse @ sharp - np.eye(len(mean))
    about: Array = inverse + pull @ doubt @ pull.transpose(0, 2, 1)
    apart: Array = logs - mean
    square: Array = apart.T @ apart + about.sum(axis=0)
    common = float(np.exp(np.mean(np.log(state.noise))))
    noise: Array = np.sqrt((shown[:, 0] + _OWN * common**2) / (shown[:, 1] + _OWN))
    present: Array = stack.member.max(axis=1)
    own = (
        (apart[:, width:] ** 2 + np.diagonal(about, axis1=1, axis2=2)[:, width:]) * present
    ).sum()
    shared = (mean[width:] ** 2).sum() + np.trace(doubt[width:, width:])
    return _State(
        mean=mean,
        doubt=doubt,
        spread=(square[:width, :width] + _LIKE * before.covariance) / (boards + _LIKE),
        spreads=Spreads(
            family=math.sqrt((shared + _LIKE * start.family**2) / (count + _LIKE)),
            own=math.sqrt((own + _LIKE * start.own**2) / (present.sum() + _LIKE)),
            noise=float(np.exp(np.mean(np.log(noise)))),
        ),
        noise=noise,
        logs=logs,
        covariances=inverse + inverse @ sharp @ doubt @ sharp @ inverse,
    )


def _block(first: Array, second: Array) -> Array:
    """A matrix of two blocks: ``first``, and a diagonal one."""
    width = len(first)
    matrix = np.zeros((width + len(second), width + len(second)))
    matrix[:width, :width] = first
    matrix[range(width, len(matrix)), range(width, len(matrix))] = second
    return matrix


def _inverse(matrices: Array) -> Array:
    return cast(Array, np.linalg.inv(cast(Any, matrices)))


def _solve(matrices: Array, vectors: Array) -> Array:
    return cast(Array, np.linalg.solve(cast(Any, matrices), cast(Any, vectors)))
