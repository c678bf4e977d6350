"""Devices that nobody published rows of: their relatives, corrected by a few measurements.

The boards that run one runtime are one population (`edgenas.latency.hierarchy`). A new board starts
at its mean and departs as far as the networks measured on it say. The same model tells which
network to time next: the one that narrows the intervals of others the most.
`tools/device_fits/fit_relatives.py` makes the files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import data_folders, read_json
from edgenas.basics.ranges import Count, Id, Length, Log, Name, Positive, Range, Words
from edgenas.basics.units import count, milliseconds
from edgenas.latency.device import MODEL, Estimate, PublishedRow, Spread
from edgenas.latency.estimate import quantile
from edgenas.latency.features import AT, NAMES, Array, Kernels, features
from edgenas.latency.hierarchy import Fit, Population, Rows, Spreads
from edgenas.latency.profile_text import Evidence, estimate_of
from edgenas.space.layer import Primitive

SCHEMA = "edgenas.relatives/2"
FOLDER = "device_profiles"
ANY_CPU = "cpu"  # of runtimes on CPUs that have no population of their own
_BEYOND = 3.0  # times the speed of the fastest of the relatives that a board may reach

_Matrix = Annotated[tuple[Annotated[tuple[Log, ...], Length(1, 200)], ...], Length(1, 200)]
_Speed = Annotated[float, Range(0, 1e9, "number", above=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A population as its file holds it, see ``Relatives``."""

    name: Name
    model: Name
    fused: tuple[Id, ...]
    tile: Positive
    per_group: bool
    vectors: bool
    fast3x3: bool
    shared_rows: bool
    plain: tuple[Id, ...]
    prices: Annotated[tuple[Id, ...], Length(1, 100)]
    families: tuple[Name, ...]
    mean: Annotated[tuple[Log, ...], Length(1, 200)]
    covariance: _Matrix
    family: Spread
    family_own: Spread
    noise: Spread
    scale: Annotated[float, Range(0, 100, "number", above=True)]
    slowest: _Speed
    fastest: _Speed
    boards: Count
    networks: Count
    sources: tuple[Name, ...]
    method: Words
    errors: Mapping[str, Annotated[tuple[Log, ...], Length(1)]]

    def __post_init__(self) -> None:
        width = len(self.prices) + len(self.families)
        if self.model != MODEL:
            raise EdgenasError(f"model must be {MODEL!r}, found {self.model!r}")
        if not set(self.prices) <= set(NAMES):
            raise EdgenasError(f"prices must be of {', '.join(NAMES)}")
        if len(self.mean) != width or [len(row) for row in self.covariance] != [width] * width:
            raise EdgenasError(f"mean and covariance must have {width} numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relatives:
    """The boards with one runtime.

    Args:
        name: the runtime, or ``cpu`` for any on CPUs.
        kernels: how the runtime cuts networks into kernels.
        shared_rows: whether threads share whole rows of depthwise convs.
        used: indices of the prices that exist there.
        population: of the boards.
        scale: what the intervals of new boards are multiplied by; 1: the population is of the
            very runtime.
        speeds: how many times as fast as a typical board the slowest and the fastest were on a
            published network.
        boards: how many different boards.
        networks: how many rows.
        sources: of the rows.
        method: how ``errors`` came about, in words.
        errors: log(measured / predicted) on boards that the population had not seen, by the
            number of networks measured.
    """

    name: str
    kernels: Kernels
    shared_rows: bool
    used: tuple[int, ...]
    population: Population
    scale: float
    speeds: tuple[float, float]
    boards: int
    networks: int
    sources: tuple[str, ...]
    method: str
    errors: Mapping[int, tuple[float, ...]]

    def kernels_of(self, threads: int) -> Kernels:
        """How the runtime cuts networks into kernels with so many threads."""
        return replace(self.kernels, rows=threads if self.shared_rows else 1)

    def to_json(self) -> dict[str, Any]:
        """As in its file."""
        spreads = self.population.spreads
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model": MODEL,
            "fused": sorted(self.kernels.fused),
            "tile": self.kernels.tile,
            "per_group": self.kernels.per_group,
            "vectors": self.kernels.vectors,
            "fast3x3": self.kernels.fast3x3,
            "shared_rows": self.shared_rows,
            "plain": sorted(self.kernels.plain),
            "prices": [NAMES[i] for i in self.used],
            "families": list(self.population.families),
            "mean": [round(float(value), 4) for value in self.population.mean],
            "covariance": [
                [float(f"{value:.4g}") for value in row] for row in self.population.covariance
            ],
            "family": round(spreads.family, 4),
            "family_own": round(spreads.own, 4),
            "noise": round(spreads.noise, 4),
            "scale": round(self.scale, 3),
            "slowest": float(f"{self.speeds[0]:.4g}"),
            "fastest": float(f"{self.speeds[1]:.4g}"),
            "boards": self.boards,
            "networks": self.networks,
            "sources": list(self.sources),
            "method": self.method,
            "errors": {str(k): [round(e, 4) for e in off] for k, off in self.errors.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A network measured on a board.

    Args:
        name: of the network.
        operators: in order of execution.
        seconds: latency of one image.
        source: where the number is from.
        family: of the network; empty: of its own.
    """

    name: str
    operators: tuple[Primitive, ...]
    seconds: float
    source: str
    family: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(p.macs for p in self.operators)


def relatives_of(runtime: str, precision: str = "fp32") -> Relatives:
    """The population of a runtime in a precision, or the one of CPUs in general.

    Raises:
        EdgenasError: TensorRT (a GPU has no relatives here), or a damaged file.
    """
    if "tensorrt" in runtime or "cuda" in runtime:
        raise EdgenasError(
            f"no relatives are known for {runtime}: they are of CPUs",
            hint=f"measure on the board: edgenas profile --runtime {runtime} --ssh user@board",
        )
    for name in (f"{runtime}-{precision}", runtime, ANY_CPU):
        for folder in data_folders(FOLDER):
            path = folder / "relatives" / f"{name}.json"
            if "/" not in name and path.is_file():
                return _read(path)
    raise EdgenasError(
        f"there is no population of {ANY_CPU} in {FOLDER}/relatives", hint="install edgenas anew"
    )


def check_units(relatives: Relatives, measured: Sequence[Measured], *, threads: int = 1) -> None:
    """Refuse times whose unit must be wrong.

    Raises:
        EdgenasError: a time means that the board is faster or slower than any relative comes near.
    """
    slowest, fastest = relatives.speeds
    counts = _counts(measured, kernels=relatives.kernels_of(threads))[:, list(relatives.used)]
    typical, _ = relatives.population.new_board.predict(
        counts, [m.family for m in measured], spreads=relatives.population.spreads
    )
    for network, seconds in zip(measured, np.exp(typical), strict=True):
        speed = float(seconds) / network.seconds
        if not slowest / _BEYOND <= speed <= fastest * _BEYOND:
            rate = f"{count(int(min(network.macs / network.seconds, 1e30)))} MACs a second"
            raise EdgenasError(
                f"{network.name}: {milliseconds(network.seconds)} would be {rate}, {speed:.3g} "
                f"times as fast as a typical board; {relatives.boards} relatives reach from "
                f"{slowest:.2g} to {fastest:.3g} times",
                hint="latency_ms are milliseconds of one image, for example 12.5",
            )


def corrected(relatives: Relatives, measured: Sequence[Measured], *, threads: int = 1) -> Estimate:
    """The estimate of a board on which some networks were measured.

    Args:
        relatives: of its runtime.
        measured: at least one.
        threads: that they were measured with.

    Raises:
        EdgenasError: nothing was measured, or in another unit.
    """
    if not measured:
        raise EdgenasError(
            "at least one measured network is needed", hint="three or more are better"
        )
    check_units(relatives, measured, threads=threads)
    kernels = relatives.kernels_of(threads)
    fit = _fit(relatives, measured, kernels=kernels)
    shots = max(k for k in relatives.errors if k <= max(len(measured), min(relatives.errors)))
    evidence = Evidence(
        kernels=kernels,
        used=relatives.used,
        before=relatives.population.covariance,
        spreads=relatives.population.spreads,
        counts=_counts(measured, kernels=kernels),
        networks=tuple(PublishedRow(m.name, m.macs, m.seconds, m.source) for m in measured),
        families=tuple(m.family for m in measured if m.family),
        residuals=relatives.errors[shots],
        method=f"{relatives.method}, {shots} network{'s' * (shots > 1)} measured on each",
        sources=(*relatives.sources, *dict.fromkeys(m.source for m in measured)),
        measured=True,
    )
    return estimate_of(fit, evidence, scale=relatives.scale)


@dataclass(frozen=True, slots=True)
class MeasuredCheck:
    """A measured network predicted from the others alone: seconds, and the 90% interval."""

    network: Measured
    predicted: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the measured time lies in the interval."""
        return self.low <= self.network.seconds <= self.high


def checks(
    relatives: Relatives, measured: Sequence[Measured], *, threads: int = 1
) -> list[MeasuredCheck]:
    """Each measured network predicted from the others; empty where there is only one."""
    kernels = relatives.kernels_of(threads)
    results: list[MeasuredCheck] = []
    for i, network in enumerate(measured if len(measured) > 1 else ()):
        fit = _fit(relatives, [*measured[:i], *measured[i + 1 :]], kernels=kernels)
        counts = _counts([network], kernels=kernels)[:, list(relatives.used)]
        spreads = relatives.population.spreads
        mean, spread = fit.predict(counts, [network.family], spreads=spreads)
        wide = quantile(0.95) * float(spread[0]) * relatives.scale
        seconds = math.exp(float(mean[0]))
        low, high = seconds * math.exp(-wide), seconds * math.exp(wide)
        results.append(MeasuredCheck(network, seconds, low, high))
    return results


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A network to time next.

    Args:
        index: of the network among the candidates.
        factor: half width of the 90% interval of the candidates after it was timed, as a factor;
            the root of the mean over them.
    """

    index: int
    factor: float


def suggest(
    relatives: Relatives,
    measured: Sequence[Measured],
    candidates: Sequence[Sequence[Primitive]],
    *,
    family: str,
    threads: int = 1,
    many: int = 2,
) -> tuple[float, list[Suggestion]]:
    """Which of some networks of one family to time next, and what that is worth.

    Args:
        relatives: of the runtime.
        measured: so far.
        candidates: the operators of each network.
        family: that the candidates are of.
        threads: of the board's use.
        many: how many networks to name.

    Returns:
        The factor of the intervals now, and the networks in the order of timing them.
    """
    kernels = relatives.kernels_of(threads)
    fit = _fit(relatives, measured, kernels=kernels)
    spreads = relatives.population.spreads
    counts = np.array([features(c, kernels=kernels) for c in candidates])
    counts[:, AT["run"]] = 1
    parts = counts[:, list(relatives.used)] * fit.prices
    slopes = np.zeros((len(parts), len(fit.logs)))
    slopes[:, : parts.shape[1]] = parts / parts.sum(axis=1, keepdims=True)
    if family in fit.families:
        slopes[:, parts.shape[1] + fit.families.index(family)] = 1
    together: Array = slopes @ fit.covariance @ slopes.T
    if family not in fit.families:
        together = together + spreads.unseen**2

    def factor(covariance: Array) -> float:
        variance = float(np.mean(np.diagonal(covariance))) + spreads.noise**2
        return math.exp(quantile(0.95) * relatives.scale * math.sqrt(variance))

    now, chosen = factor(together), list[Suggestion]()
    # A network that was timed already would show its own error again.
    timed = _counts(measured, kernels=kernels) if measured else np.empty((0, len(NAMES)))
    gains_nothing = np.array([bool((timed == row).all(axis=1).any()) for row in counts])
    for _ in range(min(many, int((~gains_nothing).sum()))):
        own = np.diagonal(together) + spreads.noise**2
        drops = (together**2).sum(axis=0) / own
        best = int(np.argmax(np.where(gains_nothing, -1.0, drops)))
        gains_nothing[best] = True
        together = together - np.outer(together[best], together[best]) / own[best]
        chosen.append(Suggestion(best, factor(together)))
    return now, chosen


def _counts(measured: Sequence[Measured], *, kernels: Kernels) -> Array:
    rows = np.array([features(m.operators, kernels=kernels) for m in measured])
    rows[:, AT["run"]] = 1
    return rows


def _fit(relatives: Relatives, measured: Sequence[Measured], *, kernels: Kernels) -> Fit:
    rows = Rows(
        counts=_counts(measured, kernels=kernels)[:, list(relatives.used)],
        seconds=np.array([m.seconds for m in measured]),
        families=tuple(m.family or f"network {i}" for i, m in enumerate(measured)),
    )
    return relatives.population.fit_board(rows)


def _read(path: Path) -> Relatives:
    fields = decode(_File, read_json(path, schema=SCHEMA), where=str(path))
    return Relatives(
        name=fields.name,
        kernels=Kernels(
            fused=frozenset(fields.fused),
            tile=fields.tile,
            per_group=fields.per_group,
            vectors=fields.vectors,
            fast3x3=fields.fast3x3,
            plain=frozenset(fields.plain),
        ),
        shared_rows=fields.shared_rows,
        used=tuple(AT[name] for name in fields.prices),
        population=Population(
            mean=np.array(fields.mean),
            covariance=np.array(fields.covariance),
            families=fields.families,
            spreads=Spreads(fields.family, fields.family_own, fields.noise),
        ),
        scale=fields.scale,
        speeds=(fields.slowest, fields.fastest),
        boards=fields.boards,
        networks=fields.networks,
        sources=fields.sources,
        method=fields.method,
        errors={int(shots): errors for shots, errors in fields.errors.items()},
    )
