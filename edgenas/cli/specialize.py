"""``edgenas specialize``: the main job, for one device or for a fleet."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, changed_names
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_facts, print_json, print_table, print_text, steps
from edgenas.cli.result import describe_briefly, describe_fully
from edgenas.delivery.request import SpecializeRequest

if TYPE_CHECKING:
    from edgenas.delivery.fleet import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where bundles go."""

    out: Annotated[
        Path | None, Option("Folder of the bundle. Default: ./<device>-<budget>-<arch id>.")
    ] = None
    force: Annotated[bool, Option("Replace a bundle that is there.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Many devices instead of one."""

    devices: Annotated[
        Path | None,
        Option(
            "TOML file of many devices and budgets; with --out, --sign, --force and --json only."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How much is printed."""

    verbose: Annotated[bool, Option("Print every note, and what each number rests on.")] = False


def run(
    request: SpecializeRequest, fleet: Fleet, where: Where, detail: Detail, shown: Shown
) -> None:
    """Find the best network for a budget, verified.

    It is the most accurate network that was found within every budget of one run on the device.
    """
    if fleet.devices is not None:
        for name in sorted(changed_names(request) - {"sign"}):
            raise EdgenasError(
                f"--{name.replace('_', '-')} cannot be given beside --devices",
                hint=f"write {name} into that file",
            )
        _specialize_fleet(fleet.devices, sign=request.sign, where=where, shown=shown)
        return
    # Texts and the device are checked before torch is loaded: a typing slip answers at once.
    request.check()
    from edgenas.latency.device import load

    load(request.device)
    from edgenas.delivery.run import specialize

    with steps() as progress:
        result = specialize(request, out=where.out, force=where.force, progress=progress, say=note)
    if shown.json:
        print_json(result.to_json())
    else:
        print_facts(describe_fully(result) if detail.verbose else describe_briefly(result))
        if not request.constraints and request.arch is None:
            note("no budget was given: this is the most accurate network of the space")


def _specialize_fleet(devices: Path, *, sign: str | None, where: Where, shown: Shown) -> None:
    """One bundle for each device and budget of a file, one table, one index.

    Raises:
        EdgenasError: the file is wrong; nothing was done.
        typer.Exit: with code 1, where an entry failed.
    """
    from edgenas.delivery.fleet import read_fleet, specialize_fleet

    entries = read_fleet(devices, sign=sign)
    folder = where.out or Path(f"{devices.stem}-fleet")

    def show_end(outcome: "Outcome") -> None:
        if outcome.result is None:
            note(f"{outcome.entry.name} FAILED: {outcome.error}")
        elif outcome.result.existed:
            note(f"{outcome.entry.name}: held this very bundle already; every check passed")

    with steps() as progress:
        outcomes = specialize_fleet(
            entries, out=folder, force=where.force, progress=progress, ended=show_end
        )
    failed = sum(outcome.result is None for outcome in outcomes)
    if shown.json:
        rows = [outcome.to_json() for outcome in outcomes]
        print_json({"schema": "edgenas.fleet-result/1", "folder": str(folder), "entries": rows})
    else:
        made = [o.result.record.accuracy for o in outcomes if o.result is not None]
        # A fleet may hold networks of several supernets.
        name = " or ".join(sorted({one.name for one in made})) or "accuracy"
        names = ("bundle", "network", name, "latency", "MACs", "params")
        print_table(names, [_fleet_row(outcome) for outcome in outcomes])
        for what, lean in sorted({(one.what, one.lean) for one in made if one.lean}):
            print_text(f"{what}: such predictions were {lean}")
        for outcome in outcomes:
            if outcome.result is None:
                hint = f" (hint: {outcome.hint})" if outcome.hint else ""
                print_text(f"{outcome.entry.name} failed: {outcome.error}{hint}")
        print_text(
            f"{len(outcomes) - failed} of {len(outcomes)} bundles in {folder}; its index: "
            f"{folder / 'index.html'}"
        )
    if failed:
        raise typer.Exit(1)


def _fleet_row(outcome: "Outcome") -> tuple[str, ...]:
    from edgenas.basics.units import count
    from edgenas.pages.fleet import describe_latency

    if outcome.result is None:
        return outcome.entry.name, "FAILED", "", "", "", ""
    record = outcome.result.record
    return (
        outcome.entry.name,
        outcome.result.arch.id,
        record.accuracy.summary,
        describe_latency(record),
        count(record.costs.macs),
        count(record.costs.params),
    )


VERB = Verb(run=run, kinds=(SpecializeRequest, Fleet, Where, Detail, Shown))
