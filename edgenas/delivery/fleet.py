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

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, shown
from edgenas.basics.files import check_fields, read_toml, write_json, write_text
from edgenas.basics.ranges import Batch, Count, Name, Range, Seed, Threads
from edgenas.basics.units import parse
from edgenas.delivery.request import Request, Result, Tell, checked
from edgenas.delivery.run import specialize
from edgenas.delivery.shared import Shared
from edgenas.latency.device import Device, Target
from edgenas.model.saved import find_supernet
from edgenas.pages.fleet import fleet_page
from edgenas.strategies.constraint import METRICS, Constraint, parse_constraint

SCHEMA = "edgenas.fleet/1"
INDEX_SCHEMA = "edgenas.fleet-index/1"
INDEX, PAGE = "fleet.json", "index.html"

# What a field of the file must be; those of a request that are no budgets.
_OPTIONS: Mapping[str, Any] = {
    "supernet": Name,
    "runtime": Name,
    "precision": Name,
    "threads": Threads,
    "batch": Batch,
    "percentile": Name,
    "confidence": Annotated[float, Range(0.5, 0.999, "fraction")],
    "strategy": Name,
    "data": Name,
    "test": Name,
    "skip_bad_images": bool,
    "weights": Name,
    "retrain_top": Count,
    "retrain_from": Name,
    "retrain_epochs": Count,
    "retrain_rate": Annotated[float, Range(0, 1000, "number")],
    "seed": Seed,
    "ssh": Name,
    "python": Name,
    "sign": Name,
}


_DEVICE: Any = Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One bundle that is asked for.

    Args:
        name: of its folder.
        request: what is asked for.
    """

    name: str
    request: Request


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
        told: dict[str, Any] = {
            "name": self.entry.name,
            "device": request.device,
            "constraints": [str(c) for c in request.constraints],
            "passed": self.result is not None,
        }
        if self.result is None:
            return {**told, "error": self.error, "hint": self.hint}
        return {
            **told,
            "folder": self.result.folder.name,
            "existed": self.result.existed,
            "signed_by": self.result.signed_by or None,
            "arch_id": self.result.arch.id,
            "arch_text": str(self.result.arch),
            "report": self.result.record.to_json(),
        }


def read_fleet(path: Path, *, sign: str | None = None) -> tuple[Entry, ...]:
    """The entries of a file, one for each device and latency budget, all of them checked.

    Args:
        path: of the file.
        sign: the SSH key that signs the bundles of entries that name no other.

    Raises:
        EdgenasError: a field is missing, unknown or wrong, a name is unknown, or two entries ask
            for the same; names the entry.
    """
    fields = read_toml(path, schema=SCHEMA)
    check_fields(fields, required=("devices",), optional=_OPTIONS, where=str(path))
    tables = fields["devices"]
    if not isinstance(tables, list) or not tables:
        raise EdgenasError(
            f"{path}: devices must be a list of tables, found {shown(tables)}",
            hint='write [[devices]], then device = "jetson" and latency = "20ms"',
        )
    usual = {name: value for name, value in fields.items() if name != "devices"}
    _check_options(usual, where=str(path))
    if sign is not None:
        usual = {"sign": sign, **usual}
    requests: list[tuple[str, Request]] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: devices[{number}]"
        if not isinstance(table, dict):
            raise EdgenasError(f"{where} must be a table, found {shown(table)}")
        if isinstance(table.get("device"), str):
            where += f" ({table['device']})"
        try:
            for request in _requests(table, usual=usual):
                found = _checked(request)[0]
                find_supernet(found.supernet)
                requests.append((where, request))
        except EdgenasError as error:
            raise EdgenasError(f"{where}: {error.message}", hint=error.hint) from None
    return _named(requests)


def specialize_fleet(
    entries: Sequence[Entry],
    *,
    out: Path,
    force: bool = False,
    tell: Tell = lambda step, done, total, words: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[Outcome, ...]:
    """One bundle for each entry, and an index of them. An entry that fails stops no other.

    Args:
        entries: from ``read_fleet``.
        out: folder for the bundles, ``fleet.json`` and ``index.html``.
        force: replace bundles that are there.
        tell: called with (step, done, total, words).
        ended: called with every outcome.

    Raises:
        EdgenasError: the index cannot be written.
    """
    shared = Shared()
    outcomes: list[Outcome] = []
    for entry in entries:

        def told(step: str, done: int, total: int, words: str, name: str = entry.name) -> None:
            tell(f"{name}: {step}", done, total, words)

        try:
            result = specialize(
                entry.request, out=out / entry.name, force=force, tell=told, shared=shared
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


def _requests(table: Mapping[str, Any], *, usual: Mapping[str, Any]) -> list[Request]:
    """The requests of one table, one for each latency budget."""
    budgets = [metric for metric in METRICS if metric in table]
    check_fields(
        table, required=("device",), optional=(*METRICS, "constraint", *_OPTIONS), where="the entry"
    )
    decode(_DEVICE, table["device"], where="device")
    options = {name: value for name, value in table.items() if name in _OPTIONS}
    _check_options(options, where="")
    beside = [
        Constraint(metric, parse(text, unit=METRICS[metric], name=metric), text.strip())
        for metric in budgets
        if metric != "latency"
        for text in _texts(table, metric, most=1)
    ]
    beside += [parse_constraint(text) for text in _texts(table, "constraint")]
    latencies = [
        Constraint("latency", parse(text, unit="time", name="latency"), text.strip())
        for text in _texts(table, "latency")
    ]
    named: list[tuple[Constraint, ...]] = [(c, *beside) for c in latencies] or [tuple(beside)]
    return [
        Request(device=table["device"], constraints=constraints, **{**usual, **options})
        for constraints in named
    ]


def _texts(table: Mapping[str, Any], name: str, *, most: int | None = None) -> list[str]:
    """A text, or a list of texts, as a list."""
    if name not in table:
        return []
    value = table[name]
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise EdgenasError(
            f"{name} must be a text like '20ms' or a list of them, found {shown(value)}"
        )
    if most is not None and len(texts) > most:
        raise EdgenasError(f"{name} must be one text, found {shown(value)}")
    return texts


def _check_options(options: Mapping[str, Any], *, where: str) -> None:
    for name, value in options.items():
        decode(_OPTIONS[name], value, where=f"{where}: {name}" if where else name)


def _named(requests: Sequence[tuple[str, Request]]) -> tuple[Entry, ...]:
    """Entries with different names: the device and its budgets, and the target where need be."""
    plain = [_name(request) for _, request in requests]
    repeated = Counter(plain)
    entries: list[Entry] = []
    first: dict[str, str] = {}
    for (where, request), short in zip(requests, plain, strict=True):
        name = f"{short}-{_checked(request)[2].slug}" if repeated[short] > 1 else short
        if name in first:
            raise EdgenasError(
                f"{where} asks for {name}, as does {first[name]}", hint="leave one of them out"
            )
        first[name] = where
        entries.append(Entry(name=name, request=request))
    return tuple(entries)


def _name(request: Request) -> str:
    device = _checked(request)[1]
    words = [
        "".join(c.text.split()) if c.name == "latency" else f"{c.name}{''.join(c.text.split())}"
        for c in request.constraints
    ]
    return "-".join([device.name, *(words or ["free"])])


def _checked(request: Request) -> tuple[Request, Device, Target]:
    """The request with its words looked up; no board is asked anything yet."""
    found, device, target, _ = checked(request, tell=lambda step, done, total, words: None)
    return found, device, target
