"""A latency table on disk.

One JSON file, schema ``edgenas.latency-table/1``: a header, then one layer a line, then one whole
network a line, sorted, so that a change reads well in a diff. Values are seconds.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import cache_folder, data_folders, read_json, write_text
from edgenas.basics.ranges import (
    LARGEST_SIDE,
    Classes,
    Joules,
    Length,
    Name,
    Words,
)
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Provenance, Timing
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer

SCHEMA = "edgenas.latency-table/1"
_KIND = "latency_tables"


def table_path(target: Target, *, root: Path | None = None) -> Path:
    """Where a table lies: ``root/<device>/<runtime>-<precision>-t<threads>-b<batch>.json``.

    Without a root it lies in the cache of the user.
    """
    return (root or cache_folder() / _KIND) / target.device / f"{target.slug}.json"


def find_table(target: Target) -> Path | None:
    """Look for the table of a target in the user's cache, then in ``files.data_folders``."""
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
    """The fields that have a value, and ``noisy`` only where it is true."""
    fields = {name: value for name, value in asdict(timing).items() if value is not None}
    if not timing.noisy:
        del fields["noisy"]
    return fields


def _network_json(network: MeasuredNetwork) -> dict[str, Any]:
    own = {"space": network.space, "classes": network.classes, "arch": network.arch.to_json()}
    energy = {} if network.joules is None else {"joules": network.joules}
    return own | _timing_json(network.timing) | energy


@dataclass(frozen=True, slots=True, kw_only=True)
class _TableFile:
    """The contents of a table's file, see ``LatencyTable``; layers are in their text forms."""

    target: Target
    provenance: Provenance
    runtime_version: Words | None
    date: Words
    method: Words
    environment: Mapping[str, Any]
    layers: Annotated[Mapping[str, Timing], Length(0, 1_000_000)]
    networks: Annotated[tuple[Mapping[str, Any], ...], Length(0, 1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """The fields beside the timing in the row of a network, see ``MeasuredNetwork``."""

    space: Name
    classes: Classes
    arch: Any
    joules: Joules | None = None


_OWN = ("space", "classes", "arch", "joules")


def load_table(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        EdgenasError: the file is absent, damaged or of another schema, or a field is missing,
            unknown or wrong.
    """
    where = str(path)
    file = decode(_TableFile, read_json(path, schema=SCHEMA), where=where)
    timings: dict[Layer, Timing] = {}
    timings_at: dict[tuple[int, Layer], Timing] = {}
    for text, timing in file.layers.items():
        name, at, resolution = text.partition("@")
        try:
            layer = Layer.parse(name)
        except EdgenasError as error:
            raise EdgenasError(f"{where}: layers: {error.message}", hint=error.hint) from None
        if at and not (resolution.isdecimal() and 1 <= int(resolution) <= LARGEST_SIDE):
            raise EdgenasError(
                f"{where}: layers.{text}: the resolution must be from 1 to {LARGEST_SIDE} pixels, "
                f"found {quote(resolution)}"
            )
        if (layer in timings) if not at else ((int(resolution), layer) in timings_at):
            raise EdgenasError(f"{where}: layers.{text}: this layer is there twice")
        if at:
            timings_at[int(resolution), layer] = timing
        else:
            timings[layer] = timing
    return LatencyTable(
        target=file.target,
        provenance=file.provenance,
        runtime_version=file.runtime_version,
        environment=file.environment,
        method=file.method,
        date=file.date,
        layers=timings,
        layers_at=timings_at,
        networks=tuple(
            _network(row, f"{where}: networks[{i}]") for i, row in enumerate(file.networks)
        ),
    )


def _network(row: Mapping[str, Any], where: str) -> MeasuredNetwork:
    rest = {name: item for name, item in row.items() if name not in _OWN}
    own = {name: item for name, item in row.items() if name in _OWN}
    network = decode(_Network, own, where=where)
    return MeasuredNetwork(
        space=network.space,
        classes=network.classes,
        arch=Arch.from_json(network.arch, where=f"{where}.arch"),
        timing=decode(Timing, rest, where=where),
        joules=network.joules,
    )
