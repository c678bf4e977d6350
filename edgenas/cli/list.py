"""``edgenas list``: what there is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any

from edgenas.basics.errors import unknown_name
from edgenas.basics.options import Option
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_json, print_table

# What the screen leaves out: what nobody needs to choose by. JSON has it.
_FOR_JSON = ("network", "in timm", "networks around it")

# A row of a table: its columns, with what stands there.
Cells = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequest:
    """What is listed."""

    kind: Annotated[
        str,
        Option(
            "devices, spaces, backbones, supernets, runtimes or formats (of edgenas export).",
            positional=True,
        ),
    ]


def run(request: ListRequest, shown: Shown) -> None:
    """List devices, spaces, supernets, runtimes or formats.

    Each comes with where its numbers are from.
    """
    from edgenas.delivery.listing import LISTERS

    kind = request.kind
    if kind not in LISTERS:
        raise unknown_name("kind", kind, names=LISTERS, listing="edgenas list --help")
    rows = LISTERS[kind]()
    if shown.json:
        print_json({"schema": f"edgenas.{kind}/1", kind: rows})
    elif rows:
        cells = _merge([_cells(row) for row in rows])
        print_table(list(cells[0]), [list(row.values()) for row in cells])
        if cells[0] != {name: str(value) for name, value in rows[0].items()}:
            note("--json has more of each")
    else:
        note(f"there are no {kind} here")


def _cells(row: Mapping[str, Any]) -> Cells:
    """The cells of a row: the shortest of several names, no reasons, no holder of a license."""
    cells = {name: str(value) for name, value in row.items() if name not in _FOR_JSON}
    if "also" in cells:
        cells["also"] = min(cells["also"].split(", "), key=len)
    if "latency numbers" in cells:
        numbers = cells["latency numbers"].partition(":")[0]
        numbers = numbers.replace(
            "estimated, 0 published networks of its own", "estimated, as its relatives"
        )
        cells["latency numbers"] = numbers.replace(" published networks of its own", " networks")
    if "license" in cells:
        cells["license"] = cells["license"].partition(",")[0]
    return cells


def _merge(rows: Sequence[Cells]) -> list[Cells]:
    """One row for neighbours that differ in their threads alone; the usual ones come first."""
    merged: list[Cells] = []
    for _, alike in groupby(rows, key=lambda row: {**row, "threads": ""}):
        group = list(alike)
        threads = ", ".join(row["threads"] for row in group if "threads" in row)
        merged.append({**group[0], "threads": threads} if threads else group[0])
    return merged


VERB = Verb(run=run, kinds=(ListRequest, Shown))
