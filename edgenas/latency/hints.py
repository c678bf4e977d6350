"""Commands that hints name: they must work as they are printed."""

import shlex

from edgenas.basics.files import data_folders
from edgenas.latency.device import Device

# How the advice for a device begins that nobody can log in to.
NO_LOGIN = "no login leads to "


def name_in_command(device: Device) -> str:
    """What ``--device`` takes for a device: its name, or its path where the name finds another."""
    paths = (folder / device.path.name for folder in data_folders("device_profiles"))
    first = next((path for path in paths if path.is_file()), None)
    if first is not None and first.resolve() == device.path.resolve():
        return device.name
    return shlex.quote(str(device.path))


def advise_measuring(device: Device, command: str) -> str:
    """How a latency of a device is measured, as a part of a sentence.

    Args:
        device: the device.
        command: the verb of edgenas that measures it, with its options except ``--ssh``.
    """
    if device.reach == "none":
        return (
            f"{NO_LOGIN}{device.name}: time networks there with a program of your own; edgenas "
            "estimate makes a profile of such times"
        )
    return f"measure it: {command}{'' if device.reach == 'local' else ' --ssh user@board'}"
