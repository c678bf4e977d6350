"""Latency tables: what each layer takes on one target, and where the numbers are from.

A table is one JSON file, schema ``edgenas.latency-table/1``: a header, then one layer a line, then
one whole network a line, so that a change reads well in a diff. Values are seconds.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from edgenas.arch import Arch
from edgenas.cost import Tables, compile_tables
from edgenas.device import Target
from edgenas.errors import EdgenasError
from edgenas.files import cache_folder, check_fields, data_folders, read_json, write_text
from edgenas.plan import Layer, Slot, layers, plan, slots
from edgenas.space import Space, layout

SCHEMA = "edgenas.latency-table/1"
_KIND = "latency_tables"

Provenance = Literal["measured", "published", "estimated"]
Statistic = Literal["typical", "wall_p50", "wall_p95"]

# Tables merge and apply only where these agree; the rest of the environment is recorded.
MATCHED = ("cpu", "gpu", "power_mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What is known of the duration of one layer or network, in seconds.

    Args:
        median: at full speed of the machine; None where only a mean was published.
        mean: given instead of a median by published tables.
        std: standard deviation beside a mean.
        p10: 10th percentile at full speed.
        p90: 90th percentile at full speed.
        n: runs behind the median or mean.
        wall_p50: median of all runs, whatever the machine did meanwhile.
        wall_p95: 95th percentile of all runs.
        noisy: whether too few runs met the machine at full speed.
    """

    median: float | None = None
    mean: float | None = None
    std: float | None = None
    p10: float | None = None
    p90: float | None = None
    n: int
    wall_p50: float | None = None
    wall_p95: float | None = None
    noisy: bool = False

    @property
    def seconds(self) -> float:
        """The typical time: the median, or else the mean."""
        value = self.mean if self.median is None else self.median
        assert value is not None
        return value

    def statistic(self, name: Statistic) -> float | None:
        """``typical`` (see ``seconds``), ``wall_p50`` or ``wall_p95``; None: not known."""
        if name == "typical":
            return self.seconds
        return self.wall_p50 if name == "wall_p50" else self.wall_p95


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """A whole network, timed end to end.

    Args:
        space: the name of its space.
        classes: its number of classes, part of the last layer.
        arch: the network.
        timing: its timing.
    """

    space: str
    classes: int
    arch: Arch
    timing: Timing


class LatencySource(Protocol):
    """What stands behind latencies: a table, or a device model that expands layers on demand."""

    @property
    def target(self) -> Target:
        """What the latencies belong to."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Where the numbers are from."""
        ...

    def seconds(self, layer: Layer) -> float:
        """The time of one layer. Raises EdgenasError where it is not known."""
        ...

    def compile(self, space: Space) -> Tables:
        """Sums of layers for rows of a space. Raises EdgenasError where a layer is not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """Latencies of a device model: any function of a layer, and a constant for each run.

    Args:
        target: what they belong to.
        layer_seconds: the time of one layer.
        constant: added once a run.
        upper_factor: confidence to upper bound / latency of whole networks; None: not known.
    """

    target: Target
    layer_seconds: Callable[[Layer], float]
    constant: float = 0.0
    upper_factor: Callable[[float], float] | None = None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Layer to timing for one target.

    Args:
        target: what the latencies belong to.
        provenance: ``measured`` (here), ``published`` (by others) or ``estimated``.
        runtime_version: of the target's runtime; None: not known.
        environment: CPU, GPU, power mode, driver, clocks ... as far as known.
        method: how the numbers came about, or the source of a published table, in words.
        date: ``2025-01-31``; of the latest measurement in it.
        layers: by layer.
        layers_at: by input resolution of the network and layer: goes before ``layers`` in networks
            of that resolution. Published tables were measured once for each resolution.
        networks: whole networks measured on the same target. The line from sums of layers to
            networks is not stored: ``edgenas.predict.LatencyPredictor`` fits it from them.
    """

    target: Target
    provenance: Provenance
    runtime_version: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    method: str = ""
    date: str = ""
    layers: Mapping[Layer, Timing] = field(default_factory=dict[Layer, Timing])
    layers_at: Mapping[tuple[int, Layer], Timing] = field(
        default_factory=dict[tuple[int, Layer], Timing]
    )
    networks: tuple[MeasuredNetwork, ...] = ()

    def seconds(self, layer: Layer) -> float:
        """The typical time of one layer.

        Raises:
            EdgenasError: the layer is not in the table; names the command that fills it.
        """
        timing = self.layers.get(layer)
        if timing is None:
            raise EdgenasError(
                f"the latency table of {self.target} has no layer {layer}",
                hint=self._remedy("SPACE"),
            )
        return timing.seconds

    def missing(self, space: Space) -> list[Layer]:
        """The layers of a space that are not in the table, in order."""
        return [layer for layer in layers(space) if layer not in self.layers]

    def compile(self, space: Space) -> Tables:
        """Sums of layers, in seconds, for rows of a space; no calibration.

        Raises:
            EdgenasError: a layer is not in the table; names it and the command that fills it.
        """
        missing = self.missing(space)
        if missing:
            raise EdgenasError(
                f"the latency table of {self.target} lacks {len(missing)} of {len(layers(space))} "
                f"layers of space {space.name}, first {missing[0]}",
                hint=self._remedy(space.name),
            )
        tables = compile_tables(space, self.seconds)
        if self.layers_at:
            for slot, values in zip(slots(space), tables.values, strict=True):
                for codes, layer in slot.layers.items():
                    at = (_resolution(space, slot, codes), layer)
                    if layer is not None and at in self.layers_at:
                        values[codes] = self.layers_at[at[0], layer].seconds
        return tables

    def _timing(self, layer: Layer, *, resolution: int) -> Timing | None:
        return self.layers_at.get((resolution, layer)) or self.layers.get(layer)

    def covered_resolutions(self, space: Space) -> tuple[int, ...]:
        """The resolutions of a space for which every layer is in the table."""
        bad = {
            _resolution(space, slot, codes)
            for slot in slots(space)
            for codes, layer in slot.layers.items()
            if layer is not None and layer not in self.layers
        }
        return tuple(r for r in space.resolutions if r not in bad)

    def _remedy(self, space: str) -> str:
        if self.provenance == "published":
            return (
                "a published table cannot be filled here; narrow the space to what it covers, or "
                f"measure your own: edgenas profile --device {self.target.device} --space {space}"
            )
        return (
            f"edgenas profile --device {self.target.device} --space {space} --runtime "
            f"{self.target.runtime} --precision {self.target.precision} --threads "
            f"{self.target.threads} --batch {self.target.batch}"
        )

    def network_sums(
        self, space: Space, *, statistic: Statistic = "typical"
    ) -> list[tuple[MeasuredNetwork, float, float]]:
        """The measured networks of a space: (network, sum of its layers, its measured time).

        Networks whose layers are not all in the table, or that lack the statistic, are left out.
        """
        found: list[tuple[MeasuredNetwork, float, float]] = []
        for network in self.networks:
            measured = network.timing.statistic(statistic)
            if (network.space, network.classes) != (space.name, space.classes) or measured is None:
                continue
            timings = [
                self._timing(layer, resolution=network.arch.resolution)
                for _, layer in plan(space, network.arch)
            ]
            if all(timing is not None for timing in timings):
                total = sum(timing.seconds for timing in timings if timing is not None)
                found.append((network, total, measured))
        return found


def _resolution(space: Space, slot: Slot, codes: tuple[int, ...]) -> int:
    """The input resolution of the networks that fill a place with these codes."""
    column = layout(space).resolution
    return space.resolutions[0 if column is None else codes[slot.columns.index(column)] - 1]


def mismatches(first: LatencyTable, second: LatencyTable) -> list[str]:
    """Why two tables are not of the same thing, one line a field; empty where they are."""
    pairs: list[tuple[str, Any, Any]] = [
        (f"target.{f.name}", getattr(first.target, f.name), getattr(second.target, f.name))
        for f in fields(Target)
    ]
    pairs.append(("provenance", first.provenance, second.provenance))
    pairs.append(("runtime_version", first.runtime_version, second.runtime_version))
    return [
        *(f"{name}: {one!r} and {other!r}" for name, one, other in pairs if one != other),
        *environment_mismatches(first.environment, second.environment),
    ]


def environment_mismatches(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields of ``MATCHED`` in which two environments differ, one line each.

    A GPU reads ``name, driver``: the driver is recorded, the name must match.
    """
    found: list[str] = []
    for name in MATCHED:
        pair = [environment.get(name) for environment in (first, second)]
        one, other = (v.partition(",")[0] if isinstance(v, str) else v for v in pair)
        if one != other:
            found.append(f"environment.{name}: {one!r} and {other!r}")
    return found


def merge(older: LatencyTable, newer: LatencyTable) -> LatencyTable:
    """Both tables in one; where both know a layer or network, the newer value stays.

    Raises:
        EdgenasError: the tables are not of the same target, machine or provenance.
    """
    differ = mismatches(older, newer)
    if differ:
        raise EdgenasError(
            f"latency tables of {older.target} do not merge, they differ in {'; '.join(differ)}",
            hint="keep them in separate files",
        )

    def key(network: MeasuredNetwork) -> tuple[str, int, Arch]:
        return network.space, network.classes, network.arch

    networks = {key(network): network for network in (*older.networks, *newer.networks)}
    return replace(
        newer,
        layers={**older.layers, **newer.layers},
        layers_at={**older.layers_at, **newer.layers_at},
        networks=tuple(networks.values()),
    )


def table_path(target: Target, *, root: Path | None = None) -> Path:
    """Where a table lies: ``root/<device>/<runtime>-<precision>-t<threads>-b<batch>.json``.

    Without a root: where profiles of this machine's user are kept.
    """
    return (root or cache_folder() / _KIND) / target.device / f"{target.slug}.json"


def find_table(target: Target) -> Path | None:
    """The table of a target: the user's cache first, then ``files.data_folders``; None: none."""
    paths = (table_path(target, root=root) for root in (None, *data_folders(_KIND)))
    return next((path for path in paths if path.is_file()), None)


def save_table(table: LatencyTable, path: Path) -> None:
    """Write a table atomically, one entry a line, sorted."""
    header = {
        "schema": SCHEMA,
        "target": asdict(table.target),
        "provenance": table.provenance,
        "runtime_version": table.runtime_version,
        "date": table.date,
        "method": table.method,
        "environment": dict(table.environment),
    }
    lines = [f" {json.dumps(key)}: {_dumps(value)}" for key, value in header.items()]
    entries = {str(layer): _timing_json(timing) for layer, timing in table.layers.items()}
    entries |= {f"{layer}@{r}": _timing_json(t) for (r, layer), t in table.layers_at.items()}
    rows = (_dumps(_network_json(network)) for network in table.networks)
    lines += [
        _block("layers", (f"{json.dumps(k)}: {_dumps(v)}" for k, v in entries.items()), "{}"),
        _block("networks", rows, "[]"),
    ]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _block(name: str, rows: Iterable[str], brackets: str) -> str:
    body = ",\n".join(f"  {row}" for row in sorted(rows))
    inside = f"\n{body}\n " if body else ""
    return f" {json.dumps(name)}: {brackets[0]}{inside}{brackets[1]}"


def _timing_json(timing: Timing) -> dict[str, Any]:
    """What is known, and ``noisy`` where it is so."""
    given = {name: value for name, value in asdict(timing).items() if value is not None}
    if not timing.noisy:
        del given["noisy"]
    return given


def _network_json(network: MeasuredNetwork) -> dict[str, Any]:
    own = {"space": network.space, "classes": network.classes, "arch": network.arch.to_json()}
    return own | _timing_json(network.timing)


def load_table(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        EdgenasError: absent, damaged, another schema, or a field that is missing, unknown or wrong.
    """
    given, where = read_json(path, schema=SCHEMA), str(path)
    header = ("target", "provenance", "runtime_version", "date", "method", "environment")
    check_fields(given, required=(*header, "layers", "networks"), where=where)
    if given["provenance"] not in get_args(Provenance):
        raise EdgenasError(
            f"{where}: provenance must be one of {', '.join(get_args(Provenance))}, "
            f"found {given['provenance']!r}"
        )
    version = given["runtime_version"]
    if not isinstance(version, (str, type(None))):
        raise EdgenasError(f"{where}: runtime_version must be a text or null, found {version!r}")
    if not isinstance(given["networks"], list):
        raise EdgenasError(f"{where}: networks must be a list, found {given['networks']!r}")
    entries = _object(given["layers"], f"{where}: layers")
    rows = cast(list[Any], given["networks"])
    known: dict[Layer, Timing] = {}
    known_at: dict[tuple[int, Layer], Timing] = {}
    for text, value in entries.items():
        name, at, resolution = text.partition("@")
        timing = _timing(value, f"{where}: layers.{text}")
        if not at:
            known[Layer.parse(name)] = timing
        elif resolution.isdecimal():
            known_at[int(resolution), Layer.parse(name)] = timing
        else:
            raise EdgenasError(f"{where}: layers.{text}: the resolution must be a number of pixels")
    return LatencyTable(
        target=_target(given["target"], f"{where}: target"),
        provenance=given["provenance"],
        runtime_version=version,
        environment=_object(given["environment"], f"{where}: environment"),
        method=_text(given, "method", where=where),
        date=_text(given, "date", where=where),
        layers=known,
        layers_at=known_at,
        networks=tuple(_network(row, f"{where}: networks[{i}]") for i, row in enumerate(rows)),
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EdgenasError(f"{where} must be an object, found {value!r}")
    return cast(dict[str, Any], value)


def _target(value: Any, where: str) -> Target:
    given = _object(value, where)
    check_fields(given, required=[f.name for f in fields(Target)], where=where)
    device, runtime, precision = (
        _text(given, name, where=where) for name in ("device", "runtime", "precision")
    )
    threads, batch = (_whole(given, name, where=where) for name in ("threads", "batch"))
    return Target(device, runtime, precision, threads=threads, batch=batch)


def _timing(value: Any, where: str) -> Timing:
    given = _object(value, where)
    times = [f.name for f in fields(Timing) if f.name not in ("n", "noisy")]
    check_fields(given, required=("n",), optional=(*times, "noisy"), where=where)
    if ("median" in given) == ("mean" in given):
        raise EdgenasError(f"{where} must have either median or mean")
    noisy = given.get("noisy", False)
    if not isinstance(noisy, bool):
        raise EdgenasError(f"{where}.noisy must be true or false, found {noisy!r}")
    known = {name: _positive(given, name, where=where) for name in times if name in given}
    return Timing(n=_whole(given, "n", where=where, least=0), noisy=noisy, **known)


def _network(value: Any, where: str) -> MeasuredNetwork:
    given = _object(value, where)
    own = ("space", "classes", "arch")
    rest = {name: item for name, item in given.items() if name not in own}
    check_fields(given, required=own, optional=rest, where=where)
    return MeasuredNetwork(
        space=_text(given, "space", where=where),
        classes=_whole(given, "classes", where=where),
        arch=Arch.from_json(_object(given["arch"], f"{where}.arch"), where=f"{where}.arch"),
        timing=_timing(rest, where),
    )


def _text(given: Mapping[str, Any], name: str, *, where: str) -> str:
    if not isinstance(given[name], str):
        raise EdgenasError(f"{where}.{name} must be a text, found {given[name]!r}")
    return given[name]


def _whole(given: Mapping[str, Any], name: str, *, where: str, least: int = 1) -> int:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise EdgenasError(f"{where}.{name} must be an integer >= {least}, found {value!r}")
    return value


def _positive(given: Mapping[str, Any], name: str, *, where: str) -> float:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EdgenasError(f"{where}.{name} must be a number, found {value!r}")
    if value < 0 or (value == 0 and name != "std"):
        raise EdgenasError(f"{where}.{name} must be above zero, found {value!r}")
    return float(value)
