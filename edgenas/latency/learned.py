"""Layer costs learned from whole networks alone, where no layer was ever timed.

A layer costs a non-negative sum of what its operators do: multiply-accumulates, elements read and
written, weights, and the launch of each operator. The rates are those that fit measured networks
best, in relative error, none below zero (Lawson & Hanson, "Solving Least Squares Problems", 1974,
chapter 23). So the prediction stays a sum over layers: it compiles to tables, its exact minima
are known, and it grows with every block that is added.

Two lists of rates compete: a coarse one of six, and a fine one that tells operators apart. With
few networks so do priors: the latencies of other devices, each taken as one rate. The winner is
what predicts networks left out of the fit best; which one that is depends on how many they are and
how noisy. The prior that wins is the nearest device there is, judged by its times, not its name.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

from edgenas.space.cost import Tables, Vector, compile_tables
from edgenas.space.plan import Layer, Primitive, layers, primitives
from edgenas.space.space import Codes, Space

Matrix = NDArray[np.float64]
_FOLDS = 10
_FEWEST = 10  # networks from which on more than a rate of MACs is learned
FEW = 30  # networks up to which the latencies of other devices may be nearer the truth
CONSTANT, _ALL = "run", "all macs"


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

    def layer(self, layer: Layer) -> float:
        """Seconds of one layer by these rates; 0 where they are latencies of other devices."""
        found = layer_features(layer)
        return sum(
            rate * sum(amount for name, amount in found.items() if _part_of(name, label))
            for label, rate in self.rates.items()
        )


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


def _part_of(name: str, label: str) -> bool:
    """Whether a fine feature belongs to a label of rates."""
    return label in (name, _coarse(name)) or (label == _ALL and name.startswith("macs"))


def work_of(space: Space, rows: Codes) -> Matrix:
    """The features of networks, added up over their layers: shape (n, genes) -> (n, features)."""
    return np.stack([table(rows) for table in _feature_tables(space).values()], 1)


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


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Rates that may be fitted: names, units of work of each network, shape (n, rates), tables."""

    names: tuple[str, ...]
    work: Matrix
    tables: tuple[Tables, ...]  # of each name but the last, which is per run


def learn(
    space: Space,
    rows: Codes,
    *,
    seconds: Vector,
    priors: Mapping[str, Tables] | None = None,
    seed: int = 0,
) -> Learned:
    """Learn from measured networks.

    Args:
        space: of the networks.
        rows: canonical rows, shape (n, genes), n >= 1.
        seconds: measured, shape (n,), above zero.
        priors: latencies of other devices by name, compiled over the space; looked at where there
            are fewer than 30 networks.
        seed: of the folds that choose between candidates.
    """
    folds = np.random.default_rng(seed).permutation(len(rows)) % min(_FOLDS, len(rows))
    best: tuple[float, _Candidate, Vector] | None = None
    for candidate in _candidates(space, rows, priors=priors or {}):
        left_out = np.empty(len(rows))
        for fold in range(folds.max() + 1):
            out = folds == fold
            kept = ~out if folds.max() else out  # one network: itself
            left_out[out] = candidate.work[out] @ _rates(candidate.work[kept], seconds[kept])
        error = float(np.abs(left_out / seconds - 1).mean())
        if best is None or error < best[0]:
            best = error, candidate, left_out
    assert best is not None
    _, candidate, left_out = best
    rates = _rates(candidate.work, seconds).tolist()
    return Learned(
        rates={name: r for name, r in zip(candidate.names, rates, strict=True) if r > 0},
        sums=_weighted(candidate.tables, rates[:-1], constant=rates[-1]),
        left_out=left_out,
    )


def _candidates(space: Space, rows: Codes, *, priors: Mapping[str, Tables]) -> Iterator[_Candidate]:
    fine = _feature_tables(space)
    names, work = list(fine), work_of(space, rows)
    if len(rows) < _FEWEST:
        groupings = [[_ALL if name.startswith("macs") else "" for name in names]]
    else:
        groupings = [[_coarse(name) for name in names], names]
    for grouping in groupings:
        labels = [label for label in dict.fromkeys(grouping) if label]
        members = [np.array([name == label for name in grouping]) for label in labels]
        columns = [work[:, at].sum(1) for at in members]
        tables = [_weighted(tuple(fine.values()), at.astype(float).tolist()) for at in members]
        yield _candidate(labels, columns, tables)
    for name, table in priors.items() if len(rows) < FEW else ():
        yield _candidate([f"latency of {name}"], [table(rows)], [table])


def _candidate(labels: list[str], columns: list[Vector], tables: list[Tables]) -> _Candidate:
    work = np.stack([*columns, np.ones(len(columns[0]))], 1)
    return _Candidate((*labels, CONSTANT), work, tuple(tables))


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


def _weighted(tables: Sequence[Tables], weights: list[float], *, constant: float = 0.0) -> Tables:
    """The weighted sum of tables that read the same columns."""
    pairs = [(table, weight) for table, weight in zip(tables, weights, strict=True) if weight]
    pairs = pairs or [(tables[0], 0.0)]
    places = range(len(tables[0].columns))
    values = tuple(
        np.sum([table.values[i] * weight for table, weight in pairs], axis=0) for i in places
    )
    constant += sum(table.constant * weight for table, weight in pairs)
    return Tables(tables[0].columns, values, "sum", constant)
