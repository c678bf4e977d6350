"""``specialize --devices FILE``: many devices and budgets in one run."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgenas.cli.console import (
    note,
    print_json,
    print_line,
    print_table,
    steps,
)

if TYPE_CHECKING:
    from edgenas.delivery.fleet import Outcome


def specialize_all(
    devices: Path, *, out: Path | None, sign: str | None, force: bool, json: bool
) -> None:
    """One bundle for each device and budget of a file, one table, one index.

    Args:
        devices: the TOML file.
        out: folder of the fleet; None: ``./<name of the file>-fleet``.
        sign: the SSH key that signs the bundles; None: the one that the file names, if any.
        force: replace bundles that are there.
        json: print JSON.

    Raises:
        EdgenasError: the file is wrong; nothing was done.
        typer.Exit: with code 1, where an entry failed.
    """
    from edgenas.delivery.fleet import read_fleet, specialize_fleet

    entries = read_fleet(devices, sign=sign)
    folder = out or Path(f"{devices.stem}-fleet")

    def ended(outcome: "Outcome") -> None:
        if outcome.result is None:
            note(f"{outcome.entry.name} FAILED: {outcome.error}")
        elif outcome.result.existed:
            note(f"{outcome.entry.name}: held this very bundle already; every check passed")

    with steps() as tell:
        outcomes = specialize_fleet(entries, out=folder, force=force, tell=tell, ended=ended)
    failed = sum(outcome.result is None for outcome in outcomes)
    if json:
        told = [outcome.to_json() for outcome in outcomes]
        print_json({"schema": "edgenas.fleet-result/1", "folder": str(folder), "entries": told})
    else:
        names = ("bundle", "network", "accuracy", "latency", "MACs", "params")
        print_table(names, [_row(outcome) for outcome in outcomes])
        for outcome in outcomes:
            if outcome.result is None:
                hint = f" (hint: {outcome.hint})" if outcome.hint else ""
                print_line(f"{outcome.entry.name} failed: {outcome.error}{hint}")
        print_line(
            f"{len(outcomes) - failed} of {len(outcomes)} bundles in {folder}; its index: "
            f"{folder / 'index.html'}"
        )
    if failed:
        raise typer.Exit(1)


def _row(outcome: "Outcome") -> tuple[str, ...]:
    from edgenas.basics.units import count
    from edgenas.pages.fleet import latency_words

    if outcome.result is None:
        return outcome.entry.name, "FAILED", "", "", "", ""
    record = outcome.result.record
    return (
        outcome.entry.name,
        outcome.result.arch.id,
        f"{record.accuracy.value:.2%} {record.accuracy.kind}",
        latency_words(record),
        count(record.costs.macs),
        count(record.costs.params),
    )
