"""Predictors that know what they do not know: a mean and an interval for every network.

Every model here is fitted to normal scores of ranks and answers in accuracies. How wide an interval
must be comes from networks that were left out of a fit: their errors, in deviations of the model,
have a quantile, and that many deviations are the interval (conformal prediction with normalised
residuals, Lei et al. 2018, section 5.2, over left-out networks as in the jackknife).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgenas.accuracy.encoding import Encoding
from edgenas.accuracy.process import (
    Process,
    fit_lengths,
    fit_process,
    measure_distances,
    normal_scores,
)
from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes

FEWEST = 20  # networks that a model can be fitted to
_TAIL = 0.2  # part of the networks whose line goes on beyond the best and the worst


class ScoreModel(Protocol):
    """What has learnt normal scores of networks."""

    def believe(self, rows: Codes) -> tuple[Vector, Vector]:
        """Mean and standard deviation of the scores of rows, noise included, shape (n,) both."""
        ...

    def left_out(self) -> tuple[Vector, Vector]:
        """The same of the networks of the fit, each by what was learnt without it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankScale:
    """From accuracies to normal scores and back, by the ranks of some networks.

    Args:
        scores: ascending, shape (n,).
        accuracies: ascending, shape (n,).
    """

    scores: Vector
    accuracies: Vector

    @staticmethod
    def of(accuracies: Vector) -> "RankScale":
        """The scale of some networks."""
        order = np.argsort(accuracies, kind="stable")
        return RankScale(scores=normal_scores(accuracies)[order], accuracies=accuracies[order])

    def back(self, scores: Vector) -> Vector:
        """Accuracies of scores; beyond the best and the worst the line of a tail goes on."""
        inside = np.interp(scores, self.scores, self.accuracies)
        count = max(2, int(_TAIL * len(self.scores)))
        for end, tail in ((-1, slice(-count, None)), (0, slice(None, count))):
            run = self.scores[tail] - self.scores[tail].mean()
            rise = self.accuracies[tail] - self.accuracies[tail].mean()
            slope = float(run @ rise) / max(float(run @ run), 1e-12)
            beyond = scores > self.scores[-1] if end else scores < self.scores[0]
            line = self.accuracies[end] + slope * (scores - self.scores[end])
            inside = np.where(beyond, line, inside)
        return np.clip(inside, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Believer:
    """An accuracy predictor with an interval, for any model.

    Args:
        model: of normal scores.
        scale: of the networks of the fit.
        errors: of left-out networks in deviations, absolute and ascending, shape (n,).
    """

    model: ScoreModel
    scale: RankScale
    errors: Vector

    def predict(self, rows: Codes) -> Vector:
        """Accuracies of rows, fractions of 1, shape (n, genes) -> (n,)."""
        return self.scale.back(self.model.believe(rows)[0])

    def deviation(self, rows: Codes) -> Vector:
        """Half of the interval that holds 68% of accuracies, shape (n,)."""
        low, high = self.interval(rows, confidence=0.68)
        return (high - low) / 2

    def interval(self, rows: Codes, *, confidence: float) -> tuple[Vector, Vector]:
        """The ends of an interval that an accuracy lies in at a confidence, shape (n,) both."""
        mean, deviation = self.model.believe(rows)
        rank = int(np.ceil((len(self.errors) + 1) * confidence)) - 1
        times = self.errors[min(rank, len(self.errors) - 1)]
        back = self.scale.back
        return back(mean - times * deviation), back(mean + times * deviation)

    def upper(self, *, confidence: float) -> Callable[[Codes], Vector]:
        """The upper end as a function of rows, for a search that is bold."""
        return lambda rows: self.interval(rows, confidence=confidence)[1]

    def lower(self, *, confidence: float) -> Callable[[Codes], Vector]:
        """The lower end as a function of rows, for a search that takes no risk."""
        return lambda rows: self.interval(rows, confidence=confidence)[0]


def fit_believer(
    rows: Codes, accuracy: Vector, *, fit: Callable[[Codes, Vector], ScoreModel]
) -> Believer:
    """A predictor with intervals.

    Args:
        rows: canonical rows, shape (n, genes), n at least 20.
        accuracy: of each, fractions of 1, shape (n,).
        fit: rows and normal scores to a model, such as ``fit_process_model``.

    Raises:
        EdgenasError: too few networks.
    """
    if len(rows) < FEWEST:
        raise EdgenasError(
            f"accuracies of at least {FEWEST} networks are needed, found {len(rows)}",
            hint="evaluate more networks",
        )
    accuracy = np.asarray(accuracy, float)
    scores = normal_scores(accuracy)
    model = fit(rows, scores)
    mean, deviation = model.left_out()
    errors = np.sort(np.abs(scores - mean) / deviation)
    return Believer(model=model, scale=RankScale.of(accuracy), errors=errors)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProcessModel:
    """A Gaussian process over encodings.

    Args:
        encodings: of rows.
        rows: of the fit, shape (n, genes).
        scores: theirs, shape (n,).
        process: fitted to them.
    """

    encodings: tuple[Encoding, ...]
    rows: Codes
    scores: Vector
    process: Process

    def believe(self, rows: Codes) -> tuple[Vector, Vector]:
        """See ``ScoreModel``."""
        distances = measure_distances(self.encodings, rows, self.rows)
        mean, deviation = self.process.believe(self.process.narrow(distances))
        noise = self.process.variance * self.process.lengths.noise
        return mean, np.sqrt(deviation**2 + noise)

    def left_out(self) -> tuple[Vector, Vector]:
        """See ``ScoreModel``; in closed form, Rasmussen & Williams (5.12)."""
        inner = np.linalg.inv(self.process.factor)
        inverse = inner.T @ inner
        diagonal = np.diagonal(inverse)
        mean = self.scores - (inverse @ self.scores) / diagonal
        return mean, np.sqrt(self.process.variance / diagonal)


def fit_process_model(encodings: tuple[Encoding, ...]) -> Callable[[Codes, Vector], ProcessModel]:
    """How a Gaussian process over encodings is fitted, for ``fit_believer``."""

    def fit(rows: Codes, scores: Vector) -> ProcessModel:
        distances = measure_distances(encodings, rows, rows)
        lengths = fit_lengths(distances, scores)
        process = fit_process(distances, scores, lengths=lengths)
        return ProcessModel(encodings=encodings, rows=rows, scores=scores, process=process)

    return fit
