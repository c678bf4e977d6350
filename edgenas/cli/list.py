"""``edgenas list``: what there is."""

from dataclasses import dataclass
from typing import Annotated

from edgenas.basics.errors import unknown_name
from edgenas.basics.options import Option
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_json, print_table


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
        print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    else:
        note(f"there are no {kind} here")


VERB = Verb(run=run, kinds=(ListRequest, Shown))
