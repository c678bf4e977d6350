"""A latency table on disk.

One JSON file, schema ``edgenas.latency-table/1``: a header, then one layer a line, then one whole
network a line, sorted, so that a change reads well in a diff. Values are seconds.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast, get_args

from edgenas.arch import Arch
from edgenas.device import Target
from edgenas.errors import EdgenasError
from edgenas.files import cache_folder, check_fields, data_folders, read_json, write_text
from edgenas.plan import Layer
from edgenas.table.values import LatencyTable, MeasuredNetwork, Provenance, Timing

SCHEMA = "edgenas.latency-table/1"
_KIND = "latency_tables"


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
