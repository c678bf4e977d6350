"""Predictors that know what they do not know: a mean and an interval for every network.

Every model here is fitted to normal scores of ranks and answers in accuracies. How wide an interval
must be comes from networks that were left out of a fit: their errors, in deviations of the model,
have a quantile, and that many deviations are the interval (conformal prediction with normalised
residuals, Lei et al. 2018, section 5.2, over left-out networks as in the jackknife). To each
deviation the median one is added, so that a model that is too sure is not believed (the constant of
Papadopoulos et al. 2011, section 4.2).

A search chooses what is predicted to be best, and what is chosen was overrated more often than not.
So the left-out networks count by how near their own prediction ranks to the one that is asked for
(localised conformal prediction, Guan 2023, arXiv 2106.08460): the interval of a network that is
predicted to be among the best comes from those that were predicted to be so, and were not.
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
_NEAR = 0.2  # part of the ranks after which a left-out network counts e times less
_CHUNK = 4096  # networks whose intervals are computed at once


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
        left_out: scores that were predicted for left-out networks, ascending, shape (n,).
        errors: theirs in deviations, absolute, shape (n,).
        floor: added to each deviation, since a model may be too sure of some networks.
    """

    model: ScoreModel
    scale: RankScale
    left_out: Vector
    errors: Vector
    floor: float

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
        parts = [mean[i : i + _CHUNK] for i in range(0, len(mean), _CHUNK)]
        times = [self._deviations(part, confidence) for part in parts]
        half = np.concatenate([*times, np.empty(0)]) * (deviation + self.floor)
        return self.scale.back(mean - half), self.scale.back(mean + half)

    def _deviations(self, scores: Vector, confidence: float) -> Vector:
        """How many deviations an interval is wide on each side of predicted scores."""
        count = len(self.errors)
        levels = np.searchsorted(self.left_out, scores) / count
        apart = np.abs(levels[:, None] - np.arange(count) / count)
        order = np.argsort(self.errors, kind="stable")
        weights = np.exp(-apart[:, order] / _NEAR)
        # The network itself counts as one more, whose error may be any.
        wanted = confidence * (weights.sum(1) + 1)
        place = (weights.cumsum(1) < wanted[:, None]).sum(1)
        return self.errors[order][np.minimum(place, count - 1)]

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
    order, floor = np.argsort(mean, kind="stable"), float(np.median(deviation))
    errors = np.abs(scores - mean) / (deviation + floor)
    return Believer(
        model=model,
        scale=RankScale.of(accuracy),
        left_out=mean[order],
        errors=errors[order],
        floor=floor,
    )


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
        return mean, np.sqrt(deviation**2 + self.process.noise)

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
