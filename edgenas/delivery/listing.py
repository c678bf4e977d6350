"""What there is: devices, spaces, supernets and runtimes, one row each."""

from collections.abc import Callable, Mapping
from typing import Any

from edgenas.basics import units

Row = dict[str, Any]


def _devices() -> list[Row]:
    from edgenas.latency.device import list_devices
    from edgenas.latency.table_file import find_table, load_table

    rows: list[Row] = []
    for device in list_devices():
        for use in device.uses:
            path = find_table(use.target)
            if path is not None:
                table = load_table(path)
                networks = f"{len(table.networks)} networks"
                size = f"{len(table.layers)} layers" if table.layers else networks
                numbers = f"{table.provenance} {table.date}, {size}"
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


def _spaces() -> list[Row]:
    from edgenas.space.backbones import NAMES
    from edgenas.space.cost import total
    from edgenas.space.presets import LARGER, PRESETS, load_space

    rows: list[Row] = []
    for name in (*PRESETS, *LARGER, *NAMES):
        space = load_space(name)
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


def _backbones() -> list[Row]:
    from edgenas.basics.download import ADDRESSES
    from edgenas.model.backbones import BACKBONES
    from edgenas.space.backbones import published
    from edgenas.space.cost import total
    from edgenas.space.presets import load_space

    rows: list[Row] = []
    for name, backbone in BACKBONES.items():
        network = published(name)
        cost = total(network.space, network.original)
        weights = "a file"
        if backbone.pip is not None:
            weights = f"pip: {backbone.pip.package}"
        elif backbone.download is not None:
            weights = "a file or --download"
        rows.append(
            {
                "backbone": name,
                "network": backbone.title,
                "in timm": backbone.also,
                "pixels": network.original.resolution,
                "MACs": units.count(cost.macs),
                "params": units.count(cost.params),
                "networks around it": f"{network.space.size:.1e}",
                "weights": weights,
                "license": backbone.license,
            }
        )
    for name in ADDRESSES:
        space = load_space(name)
        cost = total(space, space.largest())
        rows.append(
            {
                "backbone": name,
                "network": "once-for-all supernet",
                "in timm": "",
                "pixels": space.resolutions[-1],
                "MACs": units.count(cost.macs),
                "params": units.count(cost.params),
                "networks around it": f"{space.size:.1e}",
                "weights": "a file or --download",
                "license": "none stated",
            }
        )
    return rows


def _supernets() -> list[Row]:
    from edgenas.model.saved import list_supernets, pretrained_folder, read_supernet_file
    from edgenas.space.presets import space_from_json

    rows: list[Row] = []
    for name in list_supernets():
        path = pretrained_folder() / name / "supernet.json"
        file = read_supernet_file(path)
        space = space_from_json(file.space, where=f"{path}: space")
        rows.append(
            {
                "supernet": name,
                "space": space.name,
                "classes": space.classes,
                "trained on": _name_data(file.training),
                "epochs": file.training.get("recipe", {}).get("epochs", ""),
            }
        )
    return rows


def _name_data(training: Mapping[str, Any]) -> str:
    from edgenas.model.saved import name_teacher

    source = training.get("data", {}).get("source", "imported")
    teacher = name_teacher(training)
    return f"{source}, answers of {teacher}" if teacher else source


def _runtimes() -> list[Row]:
    from edgenas.runtime import registry as runtimes

    return [
        {"runtime": name, "here": runtimes.get(name).available() or "available"}
        for name in runtimes.names()
    ]


def _formats() -> list[Row]:
    from edgenas.runtime import registry as runtimes

    return [
        {"format": kind, "precision": made.precision, "for": made.about}
        for kind, (_, made) in runtimes.export_formats().items()
    ]


LISTERS: Mapping[str, Callable[[], list[Row]]] = {
    "devices": _devices,
    "spaces": _spaces,
    "backbones": _backbones,
    "supernets": _supernets,
    "runtimes": _runtimes,
    "formats": _formats,
}
"""What makes the rows of a kind, with where its numbers come from."""
