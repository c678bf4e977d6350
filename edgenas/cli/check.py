"""``edgenas check``: whether a device has drifted from its latency table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgenas.basics import units
from edgenas.basics.options import Option
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_json, print_table, print_text, steps
from edgenas.profiling.request import CheckRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFiles:
    """Where the result goes."""

    junit: Annotated[Path | None, Option("Write the result to this file as JUnit XML.")] = None


def run(request: CheckRequest, files: CheckFiles, shown: Shown) -> None:
    """Tell whether a device still runs as its table says.

    A few layers and networks of the table are timed again; exit 1 where they have drifted.
    """
    from edgenas.basics.files import write_text
    from edgenas.profiling.answering import check

    with steps() as progress:
        result = check(request, progress=progress, say=note)
    if files.junit is not None:
        write_text(files.junit, result.to_junit())
    if shown.json:
        print_json({"schema": "edgenas.check/1", **result.to_json()})
    else:
        rows = [
            (
                row.kind,
                row.name,
                units.milliseconds(row.stored),
                units.milliseconds(row.now),
                f"{row.change:+.1%}{' noisy' if row.noisy else ''}",
            )
            for row in result.rows
        ]
        print_text(result.verdict())
        for cause in result.causes:
            print_text(f"likely cause: {cause}")
        for words in result.notes:
            print_text(f"note: {words}")
        print_table(("sentinel", "", "table", "now", "change"), rows)
    if result.drifted:
        raise typer.Exit(1)


VERB = Verb(run=run, kinds=(CheckRequest, CheckFiles, Shown))
