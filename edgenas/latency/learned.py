"""Layer costs that are learned from whole networks alone, where no layer was ever timed.

A layer costs a sum of what its operators do: multiply-accumulates, elements read and written,
weights, and the launch of each operator. The rates are those that fit measured networks best, and
none is below zero (`edgenas.latency.linear`). So the prediction stays a sum over layers: it
compiles to tables, its exact minima are known, and it grows with every block that is added.

Two lists of rates compete: a coarse list of six, and a fine list that tells operators apart. With
few networks the latencies of other devices compete as well, each of them as one rate. The list
that predicts networks best that were left out of the fit wins. Which one that is depends on how
many networks there are and how noisy they are. The other device that wins is the nearest one by
its times, whatever its name.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgenas.latency.linear import (
    Matrix,
    combine_tables,
    compile_features,
    fit_non_negative_rates,
    predict_left_out,
)
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.layer import Layer, Primitive
from edgenas.space.primitives import primitives
from edgenas.space.space import Space

_FOLDS = 10
_FEWEST = 10  # with fewer networks a rate of MACs alone is learned
FEW = 30  # with fewer networks the latencies of other devices may be nearer the truth
CONSTANT, _ALL = "run", "all macs"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedCosts:
    """Layer costs that were learned from networks.

    Args:
        rates: seconds per unit of each feature, zeros left out; ``run`` is per run.
        sums: of the layers' costs, compiled, with the cost of a run.
        left_out: each network predicted by rates that were fitted without it, shape (n,).
    """

    rates: Mapping[str, float]
    sums: Tables
    left_out: Vector

    def layer(self, layer: Layer) -> float:
        """The seconds of one layer by these rates; 0 where they are latencies of other devices."""
        counts = count_features(layer)
        return sum(
            rate * sum(amount for name, amount in counts.items() if _belongs_to(name, label))
            for label, rate in self.rates.items()
        )


def count_features(layer: Layer) -> dict[str, float]:
    """Count what the operators of a layer do for one image, by name.

    The names are ``macs <operator>``, ``elements <operator>`` (read and written) and ``runs
    <operator>`` for each operator in the layer, and ``weights``. The kernel size of depthwise convs
    and the kind of activations are part of the operator's name.
    """
    counts: dict[str, float] = {"weights": 0.0}
    for part in primitives(layer):
        counts["weights"] += part.weights
        moved = part.input_elements + part.output_elements
        for what, amount in (("macs", part.macs), ("elements", moved), ("runs", 1)):
            if amount:
                key = f"{what} {_operator(part)}"
                counts[key] = counts.get(key, 0.0) + amount
    return counts


def _belongs_to(name: str, label: str) -> bool:
    """Whether a fine feature belongs to a label of rates."""
    return label in (name, _coarse(name)) or (label == _ALL and name.startswith("macs"))


def sum_features(space: Space, rows: Codes) -> Matrix:
    """The features of networks, summed over their layers: shape (n, genes) -> (n, features)."""
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
    """A list of rates that may be fitted.

    Args:
        names: of the rates; the last one is per run.
        counts: of each network, shape (n, rates).
        tables: the counts of every name but the last, compiled.
    """

    names: tuple[str, ...]
    counts: Matrix
    tables: tuple[Tables, ...]


def learn_costs(
    space: Space,
    rows: Codes,
    *,
    seconds: Vector,
    priors: Mapping[str, Tables] | None = None,
    seed: int = 0,
) -> LearnedCosts:
    """Learn layer costs from measured networks.

    Args:
        space: of the networks.
        rows: canonical rows, shape (n, genes), n >= 1.
        seconds: measured, shape (n,), above zero.
        priors: latencies of other devices by name, compiled over the space. They compete where
            there are fewer than 30 networks.
        seed: of the folds that decide between the lists of rates.
    """
    folds = np.random.default_rng(seed).permutation(len(rows)) % min(_FOLDS, len(rows))
    tried: list[tuple[float, _Candidate, Vector]] = []
    for candidate in _candidates(space, rows, priors=priors or {}):
        left_out = predict_left_out(
            candidate.counts, seconds, fit=fit_non_negative_rates, folds=folds
        )
        tried.append((float(np.abs(left_out / seconds - 1).mean()), candidate, left_out))
    _, candidate, left_out = min(tried, key=lambda each: each[0])
    rates = fit_non_negative_rates(candidate.counts, seconds).tolist()
    return LearnedCosts(
        rates={name: r for name, r in zip(candidate.names, rates, strict=True) if r > 0},
        sums=combine_tables(candidate.tables, rates[:-1], constant=rates[-1]),
        left_out=left_out,
    )


def _candidates(space: Space, rows: Codes, *, priors: Mapping[str, Tables]) -> Iterator[_Candidate]:
    fine = _feature_tables(space)
    names, counts = list(fine), sum_features(space, rows)
    if len(rows) < _FEWEST:
        groupings = [[_ALL if name.startswith("macs") else "" for name in names]]
    else:
        groupings = [[_coarse(name) for name in names], names]
    for grouping in groupings:
        labels = [label for label in dict.fromkeys(grouping) if label]
        members = [np.array([name == label for name in grouping]) for label in labels]
        columns = [counts[:, at].sum(1) for at in members]
        tables = [combine_tables([*fine.values()], at.astype(float).tolist()) for at in members]
        yield _candidate(labels, columns, tables)
    for name, table in priors.items() if len(rows) < FEW else ():
        yield _candidate([f"latency of {name}"], [table(rows)], [table])


def _candidate(labels: list[str], columns: list[Vector], tables: list[Tables]) -> _Candidate:
    counts = np.stack([*columns, np.ones(len(columns[0]))], 1)
    return _Candidate((*labels, CONSTANT), counts, tuple(tables))


@functools.lru_cache(maxsize=4)
def _feature_tables(space: Space) -> Mapping[str, Tables]:
    return compile_features(space, count_features)
