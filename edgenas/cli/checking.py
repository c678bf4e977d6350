"""``check``: the verb that tells whether a device has drifted from its table."""

from pathlib import Path
from typing import Annotated

import typer

from edgenas.basics import units
from edgenas.cli.console import (
    bar,
    note,
    print_json,
    print_line,
    print_table,
)


def check(
    device: Annotated[str, typer.Option(help="Device name or alias; see list devices.")],
    tolerance: Annotated[str, typer.Option(help="Change that is no drift.")] = "5%",
    ssh: Annotated[
        str | None, typer.Option(help="Address of the board: user@host, or a name of ssh's.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="On that board. Default: python3.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Name of a space, or a file. Default: the table's.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Default: the device's first.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a run.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time a few layers and networks of a latency table again; exit 1 where they have drifted."""
    from edgenas.basics.files import write_text
    from edgenas.latency.device import load
    from edgenas.profiling.check import check as run
    from edgenas.profiling.reach import clock_at_hand, timed_target
    from edgenas.space.presets import load_space

    allowed = units.parse(tolerance, unit="ratio", name="--tolerance")
    profile = load(device)
    clock = clock_at_hand(profile, ssh=ssh, python=python, say=note)
    target = timed_target(
        profile, runtime=runtime, precision=precision, threads=threads, batch=batch
    )
    with bar(f"checking {target}") as tell:
        found = run(
            target,
            clock=clock,
            space=None if space is None else load_space(space),
            tolerance=allowed,
            progress=lambda step, done, total, words: tell(done, total, words),
        )
    if junit is not None:
        write_text(junit, found.to_junit())
    if json:
        print_json({"schema": "edgenas.check/1", **found.to_json()})
    else:
        rows = [
            (
                row.kind,
                row.name,
                units.milliseconds(row.stored),
                units.milliseconds(row.now),
                f"{row.change:+.1%}{' noisy' if row.noisy else ''}",
            )
            for row in found.rows
        ]
        print_table(("canary", "", "table", "now", "change"), rows)
        print_line(found.verdict())
        for cause in found.causes:
            print_line(f"likely cause: {cause}")
        for words in found.notes:
            print_line(f"note: {words}")
    if found.drifted:
        raise typer.Exit(1)


VERBS = {"check": check}
