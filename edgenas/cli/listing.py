"""``edgenas list``: what there is."""

from typing import Annotated, Any

import typer

from edgenas.basics import units
from edgenas.basics.errors import unknown_name
from edgenas.cli.console import note, print_json, print_table


def list_(
    kind: Annotated[str, typer.Argument(help="devices, spaces, supernets or runtimes.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List devices, spaces, supernets or runtimes, with where their numbers come from."""
    kinds = {
        "devices": _devices,
        "spaces": _spaces,
        "supernets": _supernets,
        "runtimes": _runtimes,
    }
    if kind not in kinds:
        raise unknown_name("kind", kind, names=kinds, listing="edgenas list --help")
    rows = kinds[kind]()
    if json:
        print_json({"schema": f"edgenas.{kind}/1", kind: rows})
    elif rows:
        print_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])
    else:
        note(f"there are no {kind} here")


def _devices() -> list[dict[str, Any]]:
    from edgenas.latency.device import list_devices
    from edgenas.latency.table_file import find_table, load_table

    rows: list[dict[str, Any]] = []
    for device in list_devices():
        for use in device.uses:
            path = find_table(use.target)
            if path is not None:
                table = load_table(path)
                held = f"{len(table.layers)} layers" if table.layers else ""
                held = held or f"{len(table.networks)} networks"
                numbers = f"{table.provenance} {table.date}, {held}"
            elif use.estimate is not None:
                numbers = f"estimated, {use.estimate.own}"
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
    from edgenas.space.cost import total
    from edgenas.space.presets import PRESETS

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
    from edgenas.model.saved import list_supernets, pretrained_folder, read_supernet_file
    from edgenas.space.presets import space_from_json

    rows: list[dict[str, Any]] = []
    for name in list_supernets():
        path = pretrained_folder() / name / "supernet.json"
        file = read_supernet_file(path)
        space = space_from_json(file.space, where=f"{path}: space")
        rows.append(
            {
                "supernet": name,
                "space": space.name,
                "classes": space.classes,
                "trained on": file.training.get("data", {}).get("source", "imported"),
                "epochs": file.training.get("recipe", {}).get("epochs", ""),
            }
        )
    return rows


def _runtimes() -> list[dict[str, Any]]:
    from edgenas.runtime import registry as runtimes

    return [
        {"runtime": name, "here": runtimes.get(name).available() or "available"}
        for name in runtimes.names()
    ]


VERBS = {"list": list_}
