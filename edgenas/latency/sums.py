"""Sums of layers from which a line leads to whole networks.

A layer that is timed by itself, again and again, finds its weights in a cache. A network whose
weights are larger than that cache reads them from further away in every run, so its time exceeds
the sum of its layers by so much for each weight. Layers timed with cold caches hold that already,
but what memory does changes from one visit to the next and makes each of them uncertain by some
percent; a search finds those that came out too low. So where layers were timed alone as well,
their sums with a rate for each weight compete with those of cold layers. The rate is found together
with the line from sums to times, from the same few networks, and what predicts networks better that
were left out of the fit is kept.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.held_out import held_out
from edgenas.latency.line import Line, fit_line
from edgenas.space.cost import Tables, Vector, weights_table
from edgenas.space.space import Codes, Space

Matrix = NDArray[np.float64]
_FEWEST = 8  # networks from which on a third number is fitted
_BETTER = 0.9  # error of networks left out with the rate, as a part of that without


def fit_sums(
    space: Space, sums: Tables, rows: Codes, *, seconds: Vector, alone: Tables | None = None
) -> tuple[Tables, Line]:
    """Sums of layers, with a rate for each weight where it helps, and the line from them to times.

    Args:
        space: of the networks.
        sums: of layers, compiled over the space.
        alone: of layers timed alone, where ``sums`` are of layers with cold caches.
        rows: of n measured networks, canonical, shape (n, genes).
        seconds: measured, shape (n,).

    Raises:
        EdgenasError: nothing to fit to, or times that are not above zero.
    """
    line = fit_line(sums(rows), seconds)
    if len(rows) < _FEWEST or line.error is None:
        return sums, line
    warm = sums if alone is None else alone
    found = _with_weights(space, warm, rows, seconds, without=line.error.error)
    if found is None:
        return sums, line
    total, left_out = found
    line, n = fit_line(total(rows), seconds), len(rows)
    assert line.spread is not None
    # The rate was estimated from the same networks: a degree of freedom less, and an error that
    # counts its choice.
    error = held_out(left_out, seconds, relative=True, method="each network left out once")
    spread = line.spread * math.sqrt((n - line.free) / (n - line.free - 1))
    return total, replace(line, spread=spread, error=error)


def _with_weights(
    space: Space, sums: Tables, rows: Codes, seconds: Vector, *, without: float
) -> tuple[Tables, Vector] | None:
    """The new sums, and each network predicted by a fit without it; None: no better.

    ``without`` the rate, networks left out of the line are that far off.
    """
    weights = weights_table(space)
    design = np.stack([np.ones(len(rows)), sums(rows), weights(rows)], 1)
    if np.linalg.matrix_rank(design / design.mean(0)) < design.shape[1]:
        return None
    left_out = _left_out(design, seconds)
    _, slope, rate = _fit(design, seconds)
    if rate <= 0 or slope <= 0 or np.abs(left_out / seconds - 1).mean() > _BETTER * without:
        return None
    pairs = zip(sums.values, weights.values, strict=True)
    values = tuple(layer + rate / slope * count for layer, count in pairs)
    return Tables(sums.columns, values, "sum", sums.constant), left_out


def _fit(design: Matrix, seconds: Vector) -> Vector:
    """The coefficients of least squared relative error."""
    scale: Vector = design.mean(0) / seconds.mean()  # so that all numbers are about one
    relative: Matrix = design / scale / seconds[:, None]
    found = np.linalg.lstsq(relative, np.ones(len(seconds)), rcond=None)[0].astype(np.float64)
    return found / scale


def _left_out(design: Matrix, seconds: Vector) -> Vector:
    """Each network predicted by a fit to all others."""
    rests = [np.arange(len(seconds)) != i for i in range(len(seconds))]
    fits = [_fit(design[rest], seconds[rest]) for rest in rests]
    return np.array([row @ found for row, found in zip(design, fits, strict=True)])
