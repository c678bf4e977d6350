"""Devices nobody has published rows of: their relatives, corrected by a few measurements.

The prices (see ``edgenas.latency.estimate``) of many boards that run one runtime are one
population: a mean
and a covariance of their logarithms. A new board starts there and departs as far as the networks
measured on it say (partial pooling, Gelman & Hill 2007, chapter 12). The interval is the one of
the same game on boards that the population had not seen. `tools/device_fits/fit_relatives.py`
makes the files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import data_folders, read_json
from edgenas.basics.ranges import (
    Id,
    Length,
    Log,
    Name,
    Positive,
    Range,
    Words,
)
from edgenas.latency.device import Estimate, Parameter, PublishedRow
from edgenas.latency.estimate import (
    MODEL,
    NAMES,
    Array,
    Fit,
    Kernels,
    Prior,
    doubt,
    features,
    fit,
    further,
    half_width,
)
from edgenas.space.plan import Primitive

SCHEMA = "edgenas.relatives/1"
FOLDER = "device_profiles"
ANY_CPU = "cpu"  # of runtimes on CPUs that have no population of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Relatives:
    """The prices of boards in general, with one runtime.

    Args:
        name: the runtime, or ``cpu`` for any on CPUs.
        kernels: how the runtime cuts networks into kernels.
        used: indices of the prices that exist there.
        prior: of the logarithms of those.
        noise: standard deviation of log(seconds) about a perfect fit.
        boards: how many different boards.
        networks: how many rows.
        sources: of the rows.
        method: how ``errors`` came about, in words.
        errors: log(measured / predicted) on boards never seen, by the number of networks measured.
        doubts: root mean square of what was not known of the prices in those, likewise.
    """

    name: str
    kernels: Kernels
    used: tuple[int, ...]
    prior: Prior
    noise: float
    boards: int
    networks: int
    sources: tuple[str, ...]
    method: str
    errors: Mapping[int, tuple[float, ...]]
    doubts: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """As in its file."""
        kernels = {
            "fused": sorted(self.kernels.fused),
            "tile": self.kernels.tile,
            "per_group": self.kernels.per_group,
            "vectors": self.kernels.vectors,
        }
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model": MODEL,
            "kernels": kernels,
            "prices": [NAMES[i] for i in self.used],
            "mean": [round(float(value), 4) for value in self.prior.mean],
            "covariance": [
                [float(f"{value:.4g}") for value in row] for row in self.prior.covariance
            ],
            "noise": self.noise,
            "boards": self.boards,
            "networks": self.networks,
            "sources": list(self.sources),
            "method": self.method,
            "errors": {str(k): [round(e, 4) for e in off] for k, off in self.errors.items()},
            "doubts": {str(k): round(value, 4) for k, value in self.doubts.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A network measured on a board: its operators, its seconds, and where that is from."""

    name: str
    operators: tuple[Primitive, ...]
    seconds: float
    source: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(p.macs for p in self.operators)


def relatives_of(runtime: str) -> Relatives:
    """The population of a runtime, or the one of CPUs in general.

    Raises:
        EdgenasError: TensorRT (a GPU has no relatives here), or a damaged file.
    """
    if "tensorrt" in runtime or "cuda" in runtime:
        raise EdgenasError(
            f"no relatives are known for {runtime}: they are of CPUs",
            hint="measure on the board itself: trtexec --onnx=model.onnx --fp16",
        )
    for name in (runtime, ANY_CPU):
        for folder in data_folders(FOLDER):
            path = folder / "relatives" / f"{name}.json"
            if "/" not in name and path.is_file():
                return _read(path)
    raise EdgenasError(
        f"there is no population of {ANY_CPU} in {FOLDER}/relatives", hint="install edgenas anew"
    )


def corrected(relatives: Relatives, measured: Sequence[Measured]) -> Estimate:
    """The estimate of a board on which some networks were measured.

    Args:
        relatives: of its runtime.
        measured: at least one; more than ten change its prices, but no longer its interval.

    Raises:
        EdgenasError: nothing was measured.
    """
    if not measured:
        raise EdgenasError(
            "at least one measured network is needed", hint="three or more are better"
        )
    found = _fit(relatives, measured)
    shots = max(k for k in relatives.errors if k <= max(len(measured), min(relatives.errors)))
    halved = np.diag(found.covariance) < np.diag(relatives.prior.covariance) / 4
    parameters = {name: Parameter(0.0, "formula") for name in NAMES}
    covariance = np.zeros((len(NAMES), len(NAMES)))
    covariance[np.ix_(relatives.used, relatives.used)] = found.covariance
    for i, value, own in zip(relatives.used, np.exp(found.logs), halved, strict=True):
        parameters[NAMES[i]] = Parameter(float(value), "fit" if own else "pooled")
    by_size = sorted(measured, key=lambda network: network.macs)
    ends = [PublishedRow(m.name, m.macs, m.seconds, m.source) for m in (by_size[0], by_size[-1])]
    kernels = relatives.kernels
    return Estimate(
        model=MODEL,
        parameters=parameters,
        fused=tuple(sorted(kernels.fused)),
        residuals=tuple(sorted(relatives.errors[shots])),
        doubt=relatives.doubts[shots],
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        method=f"{relatives.method}, {shots} network{'s' * (shots > 1)} measured on each",
        rows=len(measured),
        smallest=ends[0],
        largest=ends[1],
        sources=(*relatives.sources, *dict.fromkeys(m.source for m in measured)),
        tile=kernels.tile,
        per_group=kernels.per_group,
        vectors=kernels.vectors,
        measured=True,
    )


@dataclass(frozen=True, slots=True)
class Check:
    """A measured network predicted from the others alone: seconds, and the 90% interval."""

    network: Measured
    predicted: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the measured time lies in the interval."""
        return self.low <= self.network.seconds <= self.high


def checks(relatives: Relatives, measured: Sequence[Measured]) -> list[Check]:
    """Each measured network predicted from the others; empty where there is only one."""
    found: list[Check] = []
    for i, network in enumerate(measured if len(measured) > 1 else ()):
        rest = [*measured[:i], *measured[i + 1 :]]
        without = _fit(relatives, rest)
        parts = _counts(relatives, [network])[0] * np.exp(without.logs)
        shots = max(k for k in relatives.errors if k <= max(len(rest), min(relatives.errors)))
        wide = half_width(
            relatives.errors[shots],
            extra=further(doubt(parts, without.covariance), known=relatives.doubts[shots]),
            confidence=0.9,
        )
        seconds = float(parts.sum())
        found.append(Check(network, seconds, seconds * math.exp(-wide), seconds * math.exp(wide)))
    return found


def _counts(relatives: Relatives, measured: Sequence[Measured]) -> Array:
    rows = np.array([features(m.operators, kernels=relatives.kernels) for m in measured])
    rows[:, NAMES.index("run")] = 1
    return rows[:, list(relatives.used)]


def _fit(relatives: Relatives, measured: Sequence[Measured]) -> Fit:
    seconds = np.array([m.seconds for m in measured])
    counts = _counts(relatives, measured)
    return fit(counts, seconds, prior=relatives.prior, noise=relatives.noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernels:
    """See ``edgenas.latency.estimate.Kernels``."""

    fused: tuple[Id, ...] = ()
    tile: Annotated[int, Range(1, 1000, "pixels")] = 1
    per_group: bool = False
    vectors: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A population as its file holds it, see ``Relatives``."""

    name: Id
    model: Literal["prices/1"]
    kernels: _Kernels
    prices: tuple[Id, ...]
    mean: tuple[Log, ...]
    covariance: tuple[tuple[Log, ...], ...]
    noise: Annotated[float, Range(0, 50, "number", above=True)]
    boards: Positive
    networks: Positive
    sources: tuple[Name, ...]
    method: Words
    errors: Annotated[Mapping[str, Annotated[tuple[Log, ...], Length(1)]], Length(1, 1000)]
    doubts: Mapping[str, Annotated[float, Range(0, 50, "number")]]

    def __post_init__(self) -> None:
        n = len(self.prices)
        if not set(self.prices) <= set(NAMES) or len(set(self.prices)) < n:
            raise EdgenasError(f"prices must be of {', '.join(NAMES)}, each once")
        if len(self.mean) != n or [len(row) for row in self.covariance] != [n] * n:
            raise EdgenasError(f"mean and covariance must be of the {n} prices, covariance square")
        if self.errors.keys() != self.doubts.keys() or not all(
            shots.isdecimal() and len(shots) < 5 for shots in self.errors
        ):
            raise EdgenasError("errors and doubts must be by the same numbers of networks")


def _read(path: Path) -> Relatives:
    found = decode(_File, read_json(path, schema=SCHEMA), where=str(path))
    kernels = found.kernels
    return Relatives(
        name=found.name,
        kernels=Kernels(
            fused=frozenset(kernels.fused),
            tile=kernels.tile,
            per_group=kernels.per_group,
            vectors=kernels.vectors,
        ),
        used=tuple(NAMES.index(name) for name in found.prices),
        prior=Prior(np.array(found.mean, float), np.array(found.covariance, float)),
        noise=found.noise,
        boards=found.boards,
        networks=found.networks,
        sources=found.sources,
        method=found.method,
        errors={int(shots): off for shots, off in found.errors.items()},
        doubts={int(shots): value for shots, value in found.doubts.items()},
    )


# -- as text --------------------------------------------------------------------------------------


def estimate_text(estimate: Estimate) -> str:
    """The TOML lines of an estimate, as a device profile holds them."""
    plain = Kernels()
    lines = [
        "[targets.estimate]",
        f"model = {quoted(estimate.model)}",
        f"fused = [{', '.join(quoted(name) for name in sorted(estimate.fused))}]",
        *([f"tile = {estimate.tile}"] if estimate.tile != plain.tile else []),
        *(["per_group = true"] if estimate.per_group else []),
        *([] if estimate.vectors else ["vectors = false"]),
        *(["measured = true"] if estimate.measured else []),
        f"rows = {estimate.rows}",
        f"method = {quoted(estimate.method)}",
        f"residuals = [{', '.join(f'{r:.3f}' for r in sorted(estimate.residuals))}]",
        f"doubt = {estimate.doubt:.3g}",
        "covariance = [",
        *(f"  [{', '.join(f'{c:.3g}' for c in row)}]," for row in estimate.covariance),
        "]",
        "sources = [",
        *(f"  {quoted(source)}," for source in estimate.sources),
        "]",
    ]
    for name, row in (("smallest", estimate.smallest), ("largest", estimate.largest)):
        lines.append(
            f"{name} = {{ network = {quoted(row.network)}, macs = {row.macs:.0f}, "
            f"latency_ms = {row.seconds * 1e3:.6g}, source = {quoted(row.source)} }}"
        )
    if estimate.power is not None:
        power = estimate.power
        lines.append(
            f"power = {{ value = {power.value:.2f}, unit = {quoted(power.unit)}, "
            f"source = {quoted(power.source)} }}"
        )
    lines.append("[targets.estimate.parameters]")
    for name, parameter in estimate.parameters.items():
        value = f"{parameter.value:.3g}"
        lines.append(f"{name} = {{ value = {value}, origin = {quoted(parameter.origin)} }}")
    return "\n".join(lines)


def quoted(value: str) -> str:
    """A TOML string. Raises EdgenasError where it holds what such a string cannot."""
    if not value.isprintable() or '"' in value or "\\" in value:
        raise EdgenasError(
            f"texts in a device profile must be free of quotes and backslashes, found {value!r}",
            hint="rename it",
        )
    return f'"{value}"'


def profile_text(
    estimate: Estimate, *, name: str, title: str, runtime: str, precision: str, threads: int
) -> str:
    """A device profile of one target with an estimate; ``edgenas.latency.device.read`` reads it."""
    return "\n".join(
        [
            'schema = "edgenas.device/1"',
            f"name = {quoted(name)}",
            f"title = {quoted(title)}",
            'reach = "none"',
            "",
            "[[targets]]",
            f"runtime = {quoted(runtime)}",
            f"precision = {quoted(precision)}",
            f"threads = {threads}",
            "batch = 1",
            estimate_text(estimate),
            "",
        ]
    )
