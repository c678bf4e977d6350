"""Where a device is timed, and as which target."""

from collections.abc import Callable

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.clock.remote import Board
from edgenas.clock.ssh import PYTHON, Place
from edgenas.latency.device import Device, Target
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes


def clock_of(
    device: Device,
    *,
    ssh: str | None = None,
    python: str | None = None,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Clock | None:
    """Find where networks are timed for a device: here, on a board, or nowhere (None).

    Args:
        device: the device.
        ssh: address of the board; None: the one in the device's profile, if there is one.
        python: the interpreter on the board; None: ``python3``.
        seconds: the limit for all timing on the board; None: no limit.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: the address cannot be one, or the device is this machine.
    """
    if device.reach == "local":
        if ssh is not None:
            raise EdgenasError(
                f"the device {device.name} is this machine, it is not reached over ssh",
                hint="name the device that the board is: edgenas list devices",
            )
        return measure
    address = ssh if ssh is not None else device.address
    if ssh is None and not address:
        if python is not None:
            raise EdgenasError("--python is for a board: it needs --ssh user@host too")
        return None
    place = Place(address=address, python=python or PYTHON)
    return Board(place=place, say=say, seconds=seconds)


def clock_at_hand(
    device: Device,
    *,
    ssh: str | None = None,
    python: str | None = None,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Clock:
    """As ``clock_of``, for a device that must be timed.

    Raises:
        EdgenasError: as ``clock_of``, or nothing says how the device is reached.
    """
    clock = clock_of(device, ssh=ssh, python=python, seconds=seconds, say=say)
    if clock is None:
        raise EdgenasError(
            f"the device {device.name} must be reached to be timed, and is not this machine",
            hint="say where it is: --ssh user@board",
        )
    return clock


def timed_target(
    device: Device,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
) -> Target:
    """As ``Device.target``, for a device that is timed: by default on a runtime that can be.

    By default the runtime is the first one listed, if the clock can load it, and else ONNX
    Runtime. A runtime that the profile does not list is used in fp32.

    Raises:
        EdgenasError: the precision is unknown, or threads or batch are below one.
    """
    listed = [use.target.runtime for use in device.uses]
    if runtime is None:
        runtime = listed[0] if runtimes.can_be_timed(listed[0]) else runtimes.DEFAULT
    if runtime not in listed:
        precision = precision or "fp32"
    return device.target(runtime=runtime, precision=precision, threads=threads, batch=batch)
