"""Sums of layers, corrected for weights that a network reads from far away.

A layer that is timed alone, again and again, finds its weights in a cache. A network whose weights
are larger than that cache reads them from further away in every run. So its time exceeds the sum
of its layers by some seconds for each weight. Layers that were timed with cold caches contain this
already. But what memory does changes from one visit to the next, and makes each such time
uncertain by some percent; a search then finds the layers that came out too low. So where layers
were timed alone as well, their sums with a rate for each weight compete with the sums of cold
layers. The rate is fitted together with the line from sums to times, to the same few networks. It
is used where it predicts networks better that were left out of the fit.
"""

import math
from dataclasses import replace

import numpy as np

from edgenas.basics.held_out import compare_with_truth
from edgenas.latency.line import Line, fit_line
from edgenas.latency.linear import combine_tables, fit_rates, predict_left_out
from edgenas.space.cost import Tables, Vector, weights_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space

_FEWEST = 8  # networks from which on a third number is fitted
_BETTER = 0.9  # error of networks left out with the rate, as a part of that without


def fit_sums(
    space: Space, sums: Tables, rows: Codes, *, seconds: Vector, alone: Tables | None = None
) -> tuple[Tables, Line]:
    """Fit the line from sums of layers to times, with a rate for each weight where it helps.

    Args:
        space: of the networks.
        sums: of layers, compiled over the space.
        rows: of n measured networks, canonical, shape (n, genes).
        seconds: measured, shape (n,).
        alone: sums of layers timed alone, where ``sums`` are of layers with cold caches.

    Returns:
        The sums that the line starts from, and the line.

    Raises:
        EdgenasError: there is nothing to fit to, or some times are not above zero.
    """
    line = fit_line(sums(rows), seconds)
    if len(rows) < _FEWEST or line.error is None:
        return sums, line
    warm = sums if alone is None else alone
    corrected = _add_weights(space, warm, rows, seconds, without=line.error.error)
    if corrected is None:
        return sums, line
    total, left_out = corrected
    line, n = fit_line(total(rows), seconds), len(rows)
    # The rate was estimated from the same networks. So there is one degree of freedom less, and
    # the error has to count the choice of the rate.
    error = compare_with_truth(
        left_out, seconds, relative=True, method="each network left out once"
    )
    spread = line.spread and line.spread * math.sqrt((n - line.free) / (n - line.free - 1))
    return total, replace(line, spread=spread, error=error)


def _add_weights(
    space: Space, sums: Tables, rows: Codes, seconds: Vector, *, without: float
) -> tuple[Tables, Vector] | None:
    """The sums with a rate for each weight, and each network predicted by a fit to the others.

    None where this is not clearly better than ``without``, the error of the line alone.
    """
    weights = weights_table(space)
    counts = np.stack([np.ones(len(rows)), sums(rows), weights(rows)], 1)
    if np.linalg.matrix_rank(counts / counts.mean(0)) < counts.shape[1]:
        return None
    left_out = predict_left_out(counts, seconds, fit=fit_rates)
    _, slope, rate = fit_rates(counts, seconds).tolist()
    if rate <= 0 or slope <= 0 or np.abs(left_out / seconds - 1).mean() > _BETTER * without:
        return None
    return combine_tables([sums, weights], [1.0, rate / slope]), left_out
