"""Many devices and budgets in one run: a TOML file in, one bundle each and an index out.

    schema = "edgenas.fleet/1"
    supernet = "mbv3-cifar10"            # for all, where an entry says nothing else

    [[devices]]
    device = "jetson"
    latency = ["3ms", "5ms"]             # one bundle for each
    params = "400K"

    [[devices]]
    device = "rpi4"
    latency = "3ms"
    constraint = ["latency@jetson<=4ms"]

Fields are named like the options of ``edgenas specialize``; paths are those of the current folder.
What entries share (supernets, predictors, images, tables) is read once, and a bundle that is there
and answers its entry is verified and kept, so that an interrupted run goes on where it was.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import check_fields, read_toml, write_json, write_text
from edgenas.basics.options import decode_field, request_fields
from edgenas.basics.progress import Progress
from edgenas.delivery.preparing import resolve
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.result import Result
from edgenas.delivery.run import specialize
from edgenas.delivery.shared import SharedInputs
from edgenas.model.importing import find_start
from edgenas.pages.fleet import fleet_page
from edgenas.strategies.constraint import METRICS

SCHEMA = "edgenas.fleet/1"
INDEX_SCHEMA = "edgenas.fleet-index/1"
INDEX, PAGE = "fleet.json", "index.html"

# What an entry says of itself; everything else may also be said once for all entries.
OF_ENTRIES = ("device", *METRICS, "constraint")
_MOST = 1000  # bundles of a fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One bundle that is asked for.

    Args:
        name: of its folder.
        request: what is asked for.
    """

    name: str
    request: SpecializeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an entry: a result, or the error that stopped it."""

    entry: Entry
    result: Result | None
    error: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object; the folder is relative to that of the fleet."""
        request = self.entry.request
        outcome: dict[str, Any] = {
            "name": self.entry.name,
            "device": request.device,
            "constraints": [str(c) for c in request.constraints],
            "passed": self.result is not None,
        }
        if self.result is None:
            return {**outcome, "error": self.error, "hint": self.hint}
        return {
            **outcome,
            "folder": self.result.folder.name,
            "existed": self.result.existed,
            "signed_by": self.result.signed_by or None,
            "arch_id": self.result.arch.id,
            "arch_text": str(self.result.arch),
            "report": self.result.record.to_json(),
        }


def read_fleet(
    path: Path, *, sign: str | None = None, kind: type[SpecializeRequest] = SpecializeRequest
) -> tuple[Entry, ...]:
    """The entries of a file, one for each device and latency budget, all of them checked.

    Args:
        path: of the file.
        sign: the SSH key that signs the bundles of entries that name no other.
        kind: the request class whose fields the file may hold.

    Raises:
        EdgenasError: a field is missing, unknown or wrong, a name is unknown, or two entries ask
            for the same; names the entry.
    """
    options = {field.name: field for field in request_fields(kind)}
    shared = tuple(name for name in options if name not in OF_ENTRIES)
    fields = read_toml(path, schema=SCHEMA)
    check_fields(fields, required=("devices",), optional=shared, where=str(path))
    tables = fields["devices"]
    if not isinstance(tables, list) or not tables:
        raise EdgenasError(
            f"{path}: devices must be a list of tables, found {quote(tables)}",
            hint='write [[devices]], then device = "jetson" and latency = "20ms"',
        )
    usual = {name: value for name, value in fields.items() if name != "devices"}
    if sign is not None:
        usual = {"sign": sign, **usual}
    usual = {name: decode_field(options[name], usual[name], where=str(path)) for name in usual}
    entries: list[tuple[str, SpecializeRequest]] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: devices[{number}]"
        if not isinstance(table, dict):
            raise EdgenasError(f"{where} must be a table, found {quote(table)}")
        if isinstance(table.get("device"), str):
            where += f" ({table['device']})"
        try:
            for request in _read_requests(table, usual=usual, kind=kind):
                if len(entries) == _MOST:
                    raise EdgenasError(
                        f"a fleet has at most {_MOST} bundles", hint="divide it into several files"
                    )
                resolve(request, progress=_ignore_progress)
                find_start(request.supernet)
                entries.append((where, request))
        except EdgenasError as error:
            raise EdgenasError(f"{where}: {error.message}", hint=error.hint) from None
    return _name_entries(entries)


def specialize_fleet(
    entries: Sequence[Entry],
    *,
    out: Path,
    force: bool = False,
    progress: Progress = lambda step, done, total, words: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[Outcome, ...]:
    """One bundle for each entry, and an index of them. An entry that fails stops no other.

    Args:
        entries: from ``read_fleet``.
        out: folder for the bundles, ``fleet.json`` and ``index.html``.
        force: replace bundles that are there.
        progress: called with (step, done, total, words).
        ended: called with every outcome.

    Raises:
        EdgenasError: the index cannot be written.
    """
    inputs = SharedInputs()
    outcomes: list[Outcome] = []
    for entry in entries:

        def show(step: str, done: int, total: int, words: str, name: str = entry.name) -> None:
            progress(f"{name}: {step}", done, total, words)

        try:
            result = specialize(
                entry.request, out=out / entry.name, force=force, progress=show, inputs=inputs
            )
            outcome = Outcome(entry=entry, result=result)
        except EdgenasError as error:
            outcome = Outcome(entry=entry, result=None, error=error.message, hint=error.hint)
        outcomes.append(outcome)
        ended(outcome)
        index = {"schema": INDEX_SCHEMA, "entries": [o.to_json() for o in outcomes]}
        write_json(out / INDEX, index)
        write_text(out / PAGE, fleet_page(index))
    return tuple(outcomes)


def _read_requests(
    table: Mapping[str, Any], *, usual: Mapping[str, Any], kind: type[SpecializeRequest]
) -> list[SpecializeRequest]:
    """The requests of one table, one for each latency budget."""
    fields = {field.name: field for field in request_fields(kind)}
    optional = [name for name in fields if name != "device"]
    check_fields(table, required=("device",), optional=optional, where="the entry")
    latencies = _read_texts(table, "latency")
    values = {name: value for name, value in table.items() if name != "latency"}
    values["constraint"] = _read_texts(table, "constraint")
    values = {name: decode_field(fields[name], value, where="") for name, value in values.items()}
    request = kind(**{**usual, **values})
    if not latencies:
        return [request]
    return [dataclasses.replace(request, latency=latency) for latency in latencies]


def _read_texts(table: Mapping[str, Any], name: str) -> list[str]:
    """A text, or a list of texts, as a list."""
    if name not in table:
        return []
    value = table[name]
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise EdgenasError(
            f"{name} must be a text like '20ms' or a list of them, found {quote(value)}"
        )
    return texts


def _name_entries(requests: Sequence[tuple[str, SpecializeRequest]]) -> tuple[Entry, ...]:
    """Entries with different names: the device and its budgets, and the target where need be."""
    plain = [_name_request(request) for _, request in requests]
    repeated = Counter(plain)
    entries: list[Entry] = []
    first: dict[str, str] = {}
    for (where, request), short in zip(requests, plain, strict=True):
        name = short
        if repeated[short] > 1:
            name = f"{short}-{resolve(request, progress=_ignore_progress).target.slug}"
        if name in first:
            raise EdgenasError(
                f"{where} asks for {name}, as does {first[name]}", hint="leave one of them out"
            )
        first[name] = where
        entries.append(Entry(name=name, request=request))
    return tuple(entries)


def _name_request(request: SpecializeRequest) -> str:
    device = resolve(request, progress=_ignore_progress).device
    words = [
        "".join(c.text.split()) if c.name == "latency" else f"{c.name}{''.join(c.text.split())}"
        for c in request.constraints
    ]
    return "-".join([device.name, *(words or ["free"])])


def _ignore_progress(step: str, done: int, total: int, words: str) -> None:
    """No board is asked anything while a file is read."""
