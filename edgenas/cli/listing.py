"""``edgenas list``: what there is."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from edgenas import units
from edgenas.cli.console import print_json, print_table


class Kind(StrEnum):
    """What can be listed."""

    devices = "devices"
    spaces = "spaces"
    supernets = "supernets"
    runtimes = "runtimes"


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("list")(list_)


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List devices, spaces, supernets or runtimes, with where their numbers come from."""
    rows = {
        Kind.devices: _devices,
        Kind.spaces: _spaces,
        Kind.supernets: _supernets,
        Kind.runtimes: _runtimes,
    }[kind]()
    if json:
        print_json({"schema": f"edgenas.{kind}/1", kind.value: rows})
    elif rows:
        print_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])


def _devices() -> list[dict[str, Any]]:
    from edgenas.device import list_devices
    from edgenas.table import find_table, load_table

    rows: list[dict[str, Any]] = []
    for device in list_devices():
        for use in device.uses:
            path = find_table(use.target)
            if path is not None:
                table = load_table(path)
                numbers = f"{table.provenance} {table.date}, {len(table.layers)} layers"
            elif use.estimate is not None:
                numbers = f"estimated, {use.estimate.rows} published networks of its own"
            elif device.reach == "local":
                numbers = "measured at first use"
            else:
                numbers = f"no estimate: {use.no_estimate}"
            rows.append(
                {
                    "device": device.name,
                    "also": ", ".join(device.aliases),
                    "runtime": f"{use.target.runtime} {use.target.precision}",
                    "threads": use.target.threads,
                    "latency numbers": numbers,
                }
            )
    return rows


def _spaces() -> list[dict[str, Any]]:
    from edgenas.cost import total
    from edgenas.spaces import PRESETS

    rows: list[dict[str, Any]] = []
    for name, make in PRESETS.items():
        space = make()
        small, large = total(space, space.smallest()), total(space, space.largest())
        rows.append(
            {
                "space": name,
                "archs": f"{space.size:.2e}",
                "resolutions": f"{space.resolutions[0]}-{space.resolutions[-1]}",
                "MACs": f"{units.count(small.macs)}-{units.count(large.macs)}",
                "params": f"{units.count(small.params)}-{units.count(large.params)}",
            }
        )
    return rows


def _supernets() -> list[dict[str, Any]]:
    from edgenas.files import read_json
    from edgenas.trained import SCHEMA, list_supernets, pretrained_folder

    rows: list[dict[str, Any]] = []
    for name in list_supernets():
        fields = read_json(pretrained_folder() / name / "supernet.json", schema=SCHEMA)
        training = fields["training"]
        rows.append(
            {
                "supernet": name,
                "space": fields["space"]["name"],
                "classes": len(fields["classes"]),
                "trained on": training["data"]["source"],
                "epochs": training["recipe"]["epochs"],
            }
        )
    return rows


def _runtimes() -> list[dict[str, Any]]:
    from edgenas import runtimes

    return [
        {"runtime": name, "here": runtimes.get(name).available() or "available"}
        for name in runtimes.names()
    ]
