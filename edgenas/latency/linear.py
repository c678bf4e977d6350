"""The linear algebra that the latency models share: a time is a sum of counts times rates.

Counts are of anything that takes time: layers, weights, multiply-accumulates, a run. All fits
minimise the squares of relative errors, (predicted - measured) / measured.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Tables, Vector, compile_tables
from edgenas.space.layer import Layer
from edgenas.space.plan import layers
from edgenas.space.space import Space

Matrix = NDArray[np.float64]
Fit = Callable[[Matrix, Vector], Vector]


def check_measured(networks: int, seconds: Vector) -> None:
    """Refuse measured times that nothing can be fitted to.

    Raises:
        EdgenasError: there are none, not as many as networks, or some are not above zero.
    """
    if seconds.shape != (networks,) or not networks:
        raise EdgenasError(
            f"a fit needs as many times as networks, found {seconds.shape} and {networks}",
            hint="measure at least three networks",
        )
    if not (seconds > 0).all():
        raise EdgenasError("measured times must be above zero")


def compile_features(
    space: Space, features: Callable[[Layer], Mapping[str, float]]
) -> dict[str, Tables]:
    """The counts of networks as compiled tables, one for each feature, sorted by name.

    Args:
        space: of the networks.
        features: the counts of one layer, by name; a name that is absent counts 0.
    """
    counts = {layer: features(layer) for layer in layers(space)}
    names = sorted({name for own in counts.values() for name in own})
    return {
        name: compile_tables(space, lambda layer, name=name: counts[layer].get(name, 0.0))
        for name in names
    }


def combine_tables(
    tables: Sequence[Tables], weights: Sequence[float], *, constant: float = 0.0
) -> Tables:
    """The weighted sum of tables that read the same columns, plus a constant."""
    pairs = [(table, weight) for table, weight in zip(tables, weights, strict=True) if weight]
    pairs = pairs or [(tables[0], 0.0)]
    places = range(len(tables[0].columns))
    values = tuple(
        np.sum([table.values[i] * weight for table, weight in pairs], axis=0) for i in places
    )
    constant += sum(table.constant * weight for table, weight in pairs)
    return Tables(tables[0].columns, values, "sum", constant)


def fit_rates(counts: Matrix, seconds: Vector) -> Vector:
    """The rates of least squared relative error.

    Args:
        counts: of n networks, shape (n, d); no column is all zeros.
        seconds: measured, shape (n,), above zero.

    Returns:
        Shape (d,).
    """
    scale: Vector = counts.mean(0) / seconds.mean()  # so that all numbers are about one
    relative: Matrix = counts / scale / seconds[:, None]
    rates = np.linalg.lstsq(relative, np.ones(len(seconds)), rcond=None)[0].astype(np.float64)
    return rates / scale


def fit_non_negative_rates(counts: Matrix, seconds: Vector) -> Vector:
    """The rates of least squared relative error of which none is below zero.

    Lawson & Hanson, "Solving Least Squares Problems", 1974, chapter 23. Arguments and result are
    those of ``fit_rates``; columns may be all zeros here.
    """
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

    scale = counts.mean(0)
    scale[scale == 0] = 1.0
    scale /= seconds.mean()  # so that all numbers are about one
    relative = counts / scale / seconds[:, None]
    rates: Vector = cast(Any, optimize).nnls(relative, np.ones(len(seconds)))[0]
    return rates / scale


def predict_left_out(
    counts: Matrix, seconds: Vector, *, fit: Fit, folds: NDArray[np.intp] | None = None
) -> Vector:
    """The time of each network, predicted by a fit to the networks of all other folds.

    Args:
        counts: of n networks, shape (n, d).
        seconds: measured, shape (n,).
        fit: from counts and seconds to rates.
        folds: the fold of each network, shape (n,); None: each network is a fold of its own. If
            there is one fold alone, it is predicted by a fit to itself.

    Returns:
        Shape (n,).
    """
    folds = np.arange(len(seconds)) if folds is None else folds
    predicted = np.empty(len(seconds))
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        rest = ~out if folds.max() else out
        predicted[out] = counts[out] @ fit(counts[rest], seconds[rest])
    return predicted
