"""Layer costs learned from whole networks alone, where no layer was ever timed.

A layer costs a non-negative sum of what its operators do: multiply-accumulates, elements read and
written, weights, and the launch of each operator. The rates are those that fit measured networks
best, in relative error, none below zero (Lawson & Hanson, "Solving Least Squares Problems", 1974,
chapter 23). So the prediction stays a sum over layers: it compiles to tables, its exact minima
are known, and it grows with every block that is added.

Two lists of rates compete: a coarse one of six, and a fine one that tells operators apart. Which
one predicts networks left out of the fit better depends on how many and how noisy they are.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

from edgenas.cost import Tables, Vector, compile_tables
from edgenas.plan import Layer, Primitive, layers, primitives
from edgenas.space import Codes, Space

Matrix = NDArray[np.float64]
_FOLDS = 10
_FEWEST = 10  # networks from which on more than a rate of MACs is learned
CONSTANT = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Rates learned from networks.

    Args:
        rates: seconds per unit of each feature, zeros left out; ``run`` is per run.
        sums: of the layers' costs, compiled, with the cost of a run.
        left_out: each network predicted by rates that were fitted without it, shape (n,).
    """

    rates: Mapping[str, float]
    sums: Tables
    left_out: Vector


def layer_features(layer: Layer) -> dict[str, float]:
    """What the operators of a layer do, by name, for one image.

    ``macs <operator>``, ``elements <operator>`` (read and written) and ``runs <operator>`` for
    each operator in it, with the kernel size of depthwise convs and the kind of activations, and
    ``weights``.
    """
    found: dict[str, float] = {"weights": 0.0}
    for part in primitives(layer):
        found["weights"] += part.weights
        moved = part.input_elements + part.output_elements
        for what, amount in (("macs", part.macs), ("elements", moved), ("runs", 1)):
            if amount:
                key = f"{what} {_operator(part)}"
                found[key] = found.get(key, 0.0) + amount
    return found


def _operator(part: Primitive) -> str:
    if part.op == "conv" and part.groups > 1:
        return f"depthwise {part.kernel[0]}"
    if part.op == "conv" and part.in_size == (1, 1):
        return "linear"
    return f"{part.op} {part.activation}".strip()


def _coarse(name: str) -> str:
    """The coarse feature that a fine one is part of."""
    what, _, operator = name.partition(" ")
    return "macs depthwise" if name.startswith("macs depthwise") else what if operator else name


def learn(space: Space, rows: Codes, *, seconds: Vector, seed: int = 0) -> Learned:
    """Learn from measured networks.

    Args:
        space: of the networks.
        rows: canonical rows, shape (n, genes), n >= 1.
        seconds: measured, shape (n,), above zero.
        seed: of the folds that choose between coarse and fine.
    """
    fine = _feature_tables(space)
    matrix = np.stack([table(rows) for table in fine.values()], 1)
    names = list(fine)
    if len(rows) < _FEWEST:
        groupings = [["macs" if name.startswith("macs") else "" for name in names]]
    else:
        groupings = [[_coarse(name) for name in names], names]
    folds = np.random.default_rng(seed).permutation(len(rows)) % min(_FOLDS, len(rows))
    best: tuple[float, list[str], Vector] | None = None
    for grouping in groupings:
        left_out = np.empty(len(rows))
        design, _ = _grouped(matrix, grouping)
        for fold in range(folds.max() + 1):
            kept = folds != fold if folds.max() else folds == fold  # one network: itself
            left_out[folds == fold] = design[folds == fold] @ _rates(design[kept], seconds[kept])
        error = float(np.abs(left_out / seconds - 1).mean())
        if best is None or error < best[0]:
            best = error, grouping, left_out
    assert best is not None
    _, grouping, left_out = best
    design, labels = _grouped(matrix, grouping)
    rates = dict(zip(labels, _rates(design, seconds).tolist(), strict=True))
    weights = [rates.get(label, 0.0) for label in grouping]
    return Learned(
        rates={name: rate for name, rate in rates.items() if rate > 0},
        sums=_weighted(list(fine.values()), weights, constant=rates[CONSTANT]),
        left_out=left_out,
    )


def _grouped(matrix: Matrix, grouping: list[str]) -> tuple[Matrix, list[str]]:
    """Columns of the same label added up, an empty label left out; then one for each run."""
    labels = [label for label in dict.fromkeys(grouping) if label]
    at = np.array(grouping)
    columns = [matrix[:, at == label].sum(1) for label in labels]
    return np.stack([*columns, np.ones(len(matrix))], 1), [*labels, CONSTANT]


def _rates(design: Matrix, seconds: Vector) -> Vector:
    """The non-negative rates of least squared relative error."""
    scale = design.mean(0)
    scale[scale == 0] = 1.0
    scale /= seconds.mean()  # so that all numbers are about one
    rates: Vector = cast(Any, optimize).nnls(
        design / scale / seconds[:, None], np.ones(len(seconds))
    )[0]
    return rates / scale


@functools.lru_cache(maxsize=4)
def _feature_tables(space: Space) -> Mapping[str, Tables]:
    every = {layer: layer_features(layer) for layer in layers(space)}
    names = sorted({name for features in every.values() for name in features})
    return {
        name: compile_tables(space, lambda layer, name=name: every[layer].get(name, 0.0))
        for name in names
    }


def _weighted(tables: list[Tables], weights: list[float], *, constant: float) -> Tables:
    """The weighted sum of tables that read the same columns."""
    pairs = list(zip(tables, weights, strict=True))
    places = range(len(tables[0].columns))
    values = tuple(
        np.sum([table.values[i] * weight for table, weight in pairs], axis=0) for i in places
    )
    return Tables(tables[0].columns, values, "sum", constant)
