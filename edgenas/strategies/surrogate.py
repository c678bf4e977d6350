"""Bayesian optimisation with a Gaussian process, for scores that are expensive.

Each network scored teaches a model of all others, and the model says which one to score next:
where the expected improvement is largest (Jones, Schonlau, Welch 1998), or where one draw from what
is believed has its maximum (Thompson 1933). The model is in `edgenas.accuracy.process`. Limits cost
nothing: only networks that keep them are candidates.

A small space is known whole, so every network of it is a candidate each time. Of a large one,
candidates are draws, draws towards the best, and the neighbours of the best.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgenas.accuracy.encoding import Encoding, encodings_of
from edgenas.accuracy.process import (
    Cube,
    Lengths,
    Matrix,
    Process,
    distances_between,
    fit_lengths,
    fit_process,
    measure_distances,
    normal_scores,
)
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.feasible import first_population, move_towards
from edgenas.strategies.neighbours import drop_repeats, list_all, list_neighbours
from edgenas.strategies.problem import Account, Problem

_START = 10  # networks of chance first
_WHOLE = 20_000  # networks of a space that are all candidates
_DRAWN = 1024  # candidates of a larger space, from each source
_LEADERS = 4  # whose neighbours are candidates
_JOINT = 384  # candidates whose values are drawn together
_STALE = 10  # rounds in a row without a new network
_GROWTH = 1.1  # times as many networks as at the last fit of the lengths, for the next
_BATCH = 64  # networks scored, for each one that is proposed at once


@dataclass(slots=True)
class Candidates:
    """Networks that may be scored next, and what those that were scored say about them.

    Args:
        encodings: of rows.
        rows: canonical rows, shape (m, genes).
        points: features of the rows, by encoding.
        distances: to the networks scored, shape (encodings, m, n).
        narrowed: see ``Process.narrow``; None: by lengths that no longer hold.
    """

    encodings: tuple[Encoding, ...]
    rows: Codes
    points: tuple[Matrix, ...]
    distances: Cube = field(default_factory=lambda: np.empty((0, 0, 0)))
    narrowed: Matrix | None = None

    @staticmethod
    def of(encodings: tuple[Encoding, ...], rows: Codes) -> "Candidates":
        """Candidates, of which nothing is known yet."""
        return Candidates(encodings, rows, tuple(encoding.of(rows) for encoding in encodings))

    def add(self, scored: Codes) -> None:
        """Measure the distances to more networks."""
        apart = distances_between(self.points, [e.of(scored) for e in self.encodings])
        known = self.distances
        self.distances = np.concatenate([known, apart], 2) if known.size else apart

    def narrow(self, process: Process) -> Matrix:
        """As ``Process.narrow``, from where the last call with the same lengths came to."""
        self.narrowed = process.narrow(self.distances, self.narrowed)
        return self.narrowed


Acquire = Callable[[Process, Vector, Candidates, np.random.Generator], Vector]


def improve(problem: Problem, *, start: Codes | None = None) -> Account:
    """Score where the expected improvement is largest, until the evaluations are spent.

    Args:
        problem: what is searched.
        start: networks to score first, canonical rows; None: some of chance.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    return _optimise(problem, _expect_improvement, start=start)


def thompson(problem: Problem) -> Account:
    """Score where a draw from what is believed is largest, until the evaluations are spent.

    Raises:
        EdgenasError: no network keeps all limits.
    """
    return _optimise(problem, _draw_values)


def log_expected_improvement(mean: Vector, deviation: Vector, *, best: float) -> Vector:
    """Logarithm of the expected improvement on the best, which stays finite far below it.

    Args:
        mean: believed, shape (n,).
        deviation: above 0, shape (n,).
        best: of what was scored.
    """
    from scipy.special import erfcx, log_ndtr  # pyright: ignore[reportMissingTypeStubs]

    z = (mean - best) / deviation
    density = -z * z / 2 - np.log(2 * np.pi) / 2
    # z * ndtr(z) + pdf(z) = pdf(z) * (1 + z * ndtr(z) / pdf(z)), without cancellation for z < -1.
    ratio: Vector = np.sqrt(np.pi / 2) * erfcx(-np.minimum(z, 0) / np.sqrt(2))
    below: Vector = np.log(np.maximum(1 + np.minimum(z, 0) * ratio, 1e-300)) + density
    # Beyond -100 the series of that bracket is 1 / z^2 (Ament et al. 2023, arXiv 2310.20708).
    below = np.where(z < -100, density - 2 * np.log(np.maximum(-z, 1)), below)
    above = np.log(np.maximum(z * np.exp(log_ndtr(z)) + np.exp(density), 1e-300))
    return np.log(deviation) + np.where(z < -1, below, above)


def _expect_improvement(
    process: Process, targets: Vector, candidates: Candidates, rng: np.random.Generator
) -> Vector:
    del rng
    mean, deviation = process.believe(candidates.narrow(process))
    # What is sought is the best score, and the noise of a score is its own for good: a network that
    # computes just what the best one does may have a better one.
    deviation = np.sqrt(deviation**2 + process.noise)
    return log_expected_improvement(mean, deviation, best=float(targets.max()))


def _draw_values(
    process: Process, targets: Vector, candidates: Candidates, rng: np.random.Generator
) -> Vector:
    """A draw at some of the candidates; the others are not looked at."""
    del targets
    rows, narrowed = candidates.rows, candidates.narrow(process)
    mean, deviation = process.believe(narrowed)
    # Those that have the highest values where each is drawn on its own.
    alone = mean + deviation * rng.standard_normal(len(rows))
    taken = np.argsort(-alone, kind="stable")[:_JOINT]
    points = [features[taken] for features in candidates.points]
    among = distances_between(points, points)
    values = np.full(len(rows), -np.inf)
    values[taken] = process.draw(narrowed[:, taken], among, rng=rng)
    return values


def _optimise(problem: Problem, acquire: Acquire, *, start: Codes | None = None) -> Account:
    rng = np.random.default_rng(problem.seed)
    account, space = Account(problem), problem.space
    encodings = problem.encodings or encodings_of(space)
    if start is None:
        start = first_population(problem, rng, size=_START)
    rows = account.fresh(start)
    scores = account.score(rows, phase="sample")
    whole = _all_candidates(problem, encodings)
    if whole is not None:
        whole.add(rows)
    among = measure_distances(encodings, rows, rows)
    lengths: Lengths | None = None
    fitted, stale = 0, 0
    while account.left > 0 and stale < _STALE and account.best is not None:
        targets = normal_scores(scores)
        if lengths is None or len(rows) >= _GROWTH * fitted:
            lengths, fitted = fit_lengths(among, targets, start=lengths), len(rows)
            if whole is not None:
                whole.narrowed = None
        process = fit_process(among, targets, lengths=lengths)
        candidates = whole or _draw_candidates(problem, encodings, rows, scores, rng=rng)
        if whole is None:
            candidates.add(rows)
        values = acquire(process, targets, candidates, rng)
        count = max(1, len(rows) // _BATCH)
        order = np.argsort(-values, kind="stable")[: len(rows) + count]
        fresh = account.fresh(candidates.rows[order], most=count)
        stale = 0 if len(fresh) else stale + 1
        if not len(fresh):
            continue
        scores = np.concatenate([scores, account.score(fresh, phase="propose")])
        if whole is not None:
            whole.add(fresh)
        beside = measure_distances(encodings, rows, fresh)
        own = measure_distances(encodings, fresh, fresh)
        lower = np.concatenate([beside.transpose(0, 2, 1), own], 2)
        among = np.concatenate([np.concatenate([among, beside], 2), lower], 1)
        rows = np.concatenate([rows, fresh])
    return account


def _all_candidates(problem: Problem, encodings: tuple[Encoding, ...]) -> Candidates | None:
    """All networks that keep the limits, in an order of chance; None: the space is too large."""
    if problem.space.size > _WHOLE:
        return None
    rows = list_all(problem.space)
    rows = rows[problem.kept(rows)]
    # Ties go to the first one, which shall not be that of the lowest codes.
    order = np.random.default_rng((problem.seed, 1)).permutation(len(rows))
    return Candidates.of(encodings, rows[order])


def _draw_candidates(
    problem: Problem,
    encodings: tuple[Encoding, ...],
    rows: Codes,
    scores: Vector,
    *,
    rng: np.random.Generator,
) -> Candidates:
    space = problem.space
    leaders = rows[np.argsort(-scores, kind="stable")[:_LEADERS]]
    drawn = [space.sample(_DRAWN, rng=rng, by=by) for by in ("gene", "arch")]
    goals = leaders[rng.integers(len(leaders), size=2 * _DRAWN)]
    moved = move_towards(space, np.concatenate(drawn), goals, rng=rng)
    near = [list_neighbours(space, leader[None], genes=1) for leader in leaders]
    candidates = drop_repeats(np.concatenate([*near, moved, *drawn]))
    return Candidates.of(encodings, candidates[problem.kept(candidates)])
