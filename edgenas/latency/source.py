"""Where the times of layers come from: a table, or a device model that computes them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgenas.latency.device import Target
from edgenas.latency.estimate import DeviceModel
from edgenas.latency.features import AT, NAMES
from edgenas.latency.linear import compile_features
from edgenas.latency.table import Provenance
from edgenas.space.cost import Tables, Vector, compile_tables
from edgenas.space.genes import Codes
from edgenas.space.layer import Layer
from edgenas.space.primitives import primitives
from edgenas.space.space import Space


class LatencySource(Protocol):
    """Where the times of layers come from: a table, or a device model that computes them."""

    @property
    def target(self) -> Target:
        """What the latencies belong to."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Where the numbers are from."""
        ...

    def seconds(self, layer: Layer) -> float:
        """The seconds of one layer. Raises EdgenasError where the source has none."""
        ...

    def compile(self, space: Space) -> Tables:
        """The sums of layers for rows of a space. Raises EdgenasError where a layer is missing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedSource:
    """Latencies of a device model: any function of a layer, and a constant for each run.

    Args:
        target: what they belong to.
        layer_seconds: the time of one layer.
        constant: added once a run.
        upper_on: for a space, rows and a confidence to upper bound / estimate of those networks;
            None: it is not known.
    """

    target: Target
    layer_seconds: Callable[[Layer], float]
    constant: float = 0.0
    upper_on: Callable[[Space], Callable[[Codes, float], Vector]] | None = None

    @property
    def provenance(self) -> Provenance:
        """Always ``estimated``."""
        return "estimated"

    def seconds(self, layer: Layer) -> float:
        """The time of one layer."""
        return self.layer_seconds(layer)

    def compile(self, space: Space) -> Tables:
        """Sums of layers, plus the constant, for rows of a space."""
        return compile_tables(space, self.layer_seconds, constant=self.constant)


def expand_model(model: DeviceModel) -> EstimatedSource:
    """The latencies of an estimated device model, with its bound."""
    return EstimatedSource(
        target=model.target,
        layer_seconds=model.seconds,
        constant=model.run_overhead,
        upper_on=functools.lru_cache(maxsize=8)(functools.partial(compile_bounds, model)),
    )


def compile_bounds(model: DeviceModel, space: Space) -> Callable[[Codes, float], Vector]:
    """The upper bounds of a device model on the networks of a space.

    Returns:
        Rows, shape (n, genes), and a confidence to upper bound / estimate, shape (n,).
    """
    priced = [name for name in NAMES if name != "run" and getattr(model.prices, name) > 0]

    def count(layer: Layer) -> dict[str, float]:
        counts = model.count(primitives(layer))
        return {name: float(counts[AT[name]]) for name in priced}

    tables = compile_features(space, count)

    def upper(rows: Codes, confidence: float) -> Vector:
        counts = np.zeros((len(rows), len(NAMES)))
        counts[:, AT["run"]] = 1
        for name, table in tables.items():
            counts[:, AT[name]] = table(rows)
        return model.upper_factors(counts, confidence=confidence).astype(np.float64)

    return upper
