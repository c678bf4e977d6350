"""Where a device is timed, and as which target."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, disk_errors, new_file
from edgenas.clock import measure
from edgenas.clock.remote import Board
from edgenas.clock.ssh import PYTHON, Place
from edgenas.clock.trtexec.clock import TimingCaches, TrtexecClock
from edgenas.clock.trtexec.options import TensorrtVersion
from edgenas.latency.device import Device, Target
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import Runtime


class KeptTimingCaches(TimingCaches):
    """Timing caches of TensorRT's builder, in the cache of the user."""

    def read(self, key: str) -> bytes:
        """The cache of a key; empty: there is none."""
        path = self._path(key)
        return path.read_bytes() if path.is_file() else b""

    def write(self, key: str, data: bytes) -> None:
        """Keep the cache of a key."""
        path = self._path(key)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as temporary:
            temporary.write_bytes(data)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return cache_folder() / "timing_caches" / f"trtexec-{name}.bin"


def tool_clock(
    runtime: Runtime, *, place: Place | None, say: Callable[[str], None] = lambda line: None
) -> TrtexecClock:
    """The clock of a runtime whose tool builds engines on the device.

    Args:
        runtime: the runtime.
        place: the board; None: this machine.
        say: called with lines that a person should read.
    """

    def fit(graph: bytes, version: TensorrtVersion) -> bytes:
        return runtime.fit_version(graph, str(version)) if runtime.fit_version else graph

    return TrtexecClock(place=place, fit=fit, caches=KeptTimingCaches(), say=say)


def clock_here(runtime: str) -> Clock:
    """The clock of this machine for a runtime."""
    if runtimes.is_built_by_tool(runtime):
        return tool_clock(runtimes.get(runtime), place=None)
    return measure


def usual_runtime(device: Device) -> str:
    """The runtime of a device that is timed: its first one, if that can be, or ONNX Runtime."""
    first = device.uses[0].target.runtime
    return first if runtimes.can_be_timed(first) else runtimes.DEFAULT


def clock_of(
    device: Device,
    *,
    runtime: str | None = None,
    ssh: str | None = None,
    python: str | None = None,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Clock | None:
    """Find where networks are timed for a device: here, on a board, or nowhere (None).

    Args:
        device: the device.
        runtime: what is timed; None: the usual one of the device.
        ssh: address of the board; None: the one in the device's profile, if there is one.
        python: the interpreter on the board; None: ``python3``.
        seconds: the limit for all timing on the board; None: no limit.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: the address cannot be one, or the device is this machine.
    """
    name = runtime or usual_runtime(device)
    if device.reach == "local":
        if ssh is not None:
            raise EdgenasError(
                f"the device {device.name} is this machine, it is not reached over ssh",
                hint="name the device that the board is: edgenas list devices",
            )
        return clock_here(name)
    address = ssh if ssh is not None else device.address
    if ssh is None and not address:
        if python is not None:
            raise EdgenasError("--python is for a board: it needs --ssh user@host too")
        return None
    place = Place(address=address, python=python or PYTHON)
    if runtimes.is_built_by_tool(name):
        return tool_clock(runtimes.get(name), place=place, say=say)
    return Board(place=place, say=say, seconds=seconds)


def clock_at_hand(
    device: Device,
    *,
    runtime: str | None = None,
    ssh: str | None = None,
    python: str | None = None,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Clock:
    """As ``clock_of``, for a device that must be timed.

    Raises:
        EdgenasError: as ``clock_of``, or nothing says how the device is reached.
    """
    clock = clock_of(device, runtime=runtime, ssh=ssh, python=python, seconds=seconds, say=say)
    if clock is None:
        way = "" if device.reach == "ssh" else "if anybody can log in to it, "
        raise EdgenasError(
            f"the device {device.name} must be reached to be timed, and is not this machine",
            hint=f"{way}say where it is: --ssh user@board",
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
        runtime = usual_runtime(device)
    if runtime not in listed:
        precision = precision or "fp32"
    return device.target(runtime=runtime, precision=precision, threads=threads, batch=batch)
