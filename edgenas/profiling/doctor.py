"""``doctor``: what a board or this machine is, what to change, and what edgenas times there."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.part import import_part
from edgenas.clock.ssh import PYTHON, Place
from edgenas.clock.state import BoardState, Module
from edgenas.clock.state_reading import read_state
from edgenas.latency.device import Device, load
from edgenas.profiling.boards import profile_of
from edgenas.profiling.findings import Finding, find_all
from edgenas.profiling.request import DoctorRequest
from edgenas.runtime import registry as runtimes

_OLDEST = (3, 8)  # the Python that the clock needs
_BY_TRTEXEC = "tensorrt"  # the runtime that trtexec times, without a Python


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A runtime that can be timed, and the command that does it."""

    runtime: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found on a board, or on this machine.

    Args:
        where: its address, or ``this machine``.
        device: the name of its profile; empty: none is of it.
        findings: about it, each one line.
        timed: what can be timed there.
        state: all that it told.
    """

    where: str
    device: str
    findings: tuple[Finding, ...]
    timed: tuple[Timed, ...]
    state: BoardState

    @property
    def changes(self) -> int:
        """How many findings ask for a change."""
        return sum(finding.verdict == "change" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.doctor/1",
            "where": self.where,
            "device": self.device or None,
            "changes": self.changes,
            "findings": [asdict(finding) for finding in self.findings],
            "timed": [asdict(timed) for timed in self.timed],
            "state": self.state.to_json(),
        }


def doctor(request: DoctorRequest) -> Diagnosis:
    """Look at a board over ssh, or at this machine; nothing is changed there.

    Raises:
        EdgenasError: the device is unknown, nothing says where it is, or the board cannot be
            reached.
    """
    request.check()
    named = load(request.device) if request.device is not None else None
    place = _find_place(request, named)
    state = read_state(place, with_python=True)
    device = named or _find_device(state, place)
    findings = find_all(state, device=device)
    findings += _about_python(state, place)
    return Diagnosis(
        where="this machine" if place is None else place.address,
        device="" if device is None else device.name,
        findings=tuple(findings),
        timed=tuple(_timed(state, device=device, place=place)),
        state=state,
    )


def _find_place(request: DoctorRequest, device: Device | None) -> Place | None:
    address = request.ssh
    if device is not None and device.reach == "local" and address is not None:
        raise EdgenasError(
            f"the device {device.name} is this machine, it is not reached over ssh",
            hint="name the device that the board is: edgenas list devices",
        )
    if address is None and device is not None and device.reach != "local":
        if not device.address:
            raise EdgenasError(
                f"nothing says where the device {device.name} is",
                hint="say where it is: --ssh user@board; for this machine: edgenas doctor",
            )
        address = device.address
    if address is None:
        if request.python is not None:
            raise EdgenasError("--python is for a board: it needs --ssh user@host too")
        return None
    return Place(address=address, python=request.python or PYTHON)


def _find_device(state: BoardState, place: Place | None) -> Device | None:
    """The profile of a board by its model; this machine is ``host``."""
    name = "host" if place is None else profile_of(state.model)
    return load(name) if name else None


def _version(text: str) -> tuple[int, ...]:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    return tuple(map(int, match.groups())) if match else ()


def _runs_clock(state: BoardState) -> bool:
    return _version(state.python) >= _OLDEST


def _about_python(state: BoardState, place: Place | None) -> Iterator[Finding]:
    python = PYTHON if place is None else place.python
    words = f"{python} is {state.python}"
    if not state.python:
        words = f"{python} does not run: {state.python_fault or 'not told'}"
        advice = "TensorRT is timed without it; other runtimes need Python 3.8 or newer: --python"
        yield Finding(about="Python", verdict="note", words=words, advice=advice)
        return
    if not _runs_clock(state):
        advice = "TensorRT is timed without it; other runtimes need Python 3.8 or newer: --python"
        yield Finding(about="Python", verdict="note", words=f"{words}, too old", advice=advice)
        return
    itself = ""
    if place is not None and _version(state.python) >= (3, 11):
        itself = "; edgenas itself can run there"
    yield Finding(about="Python", verdict="ok", words=words + itself)
    for module in state.modules:
        if module.name == "tensorrt":  # edgenas exports with it, and times without it
            continue
        yield _about_module(module, python=python)


def _about_module(module: Module, *, python: str) -> Finding:
    if module.version:
        providers = [name.removesuffix("ExecutionProvider") for name in module.providers]
        behind = f" ({', '.join(providers)})" if providers else ""
        version = "there, its version is not told" if module.version == "?" else module.version
        return Finding(about=module.name, verdict="ok", words=f"{version}{behind}")
    package = module.name.replace("_", "-")
    if "No module named" in module.missing:
        advice = f"to time it run {python} -m pip install {package}"
        return Finding(about=module.name, verdict="note", words="not installed", advice=advice)
    advice = f"run {python} -m pip install --force-reinstall {package}"
    words = f"it cannot be imported: {module.missing}"
    return Finding(about=module.name, verdict="change", words=words, advice=advice)


def _timed(state: BoardState, *, device: Device | None, place: Place | None) -> Iterator[Timed]:
    """What edgenas times there, with the command."""
    name = device.name if device is not None else "DEVICE"
    way = "" if place is None else f" --ssh {place.address}"
    python = "" if place is None or place.python == PYTHON else f" --python '{place.python}'"
    for runtime in runtimes.timed_names():
        if not _can_time(state, runtime):
            continue
        precision = _precision(device, runtime)
        command = f"edgenas profile --device {name} --runtime {runtime} --precision {precision}"
        tail = way if runtime == _BY_TRTEXEC else way + python
        yield Timed(runtime=runtime, command=f"{command} --space SPACE{tail}")


def _precision(device: Device | None, runtime: str) -> str:
    """The precision that a profile lists for a runtime, or else one that it has."""
    listed = [use.target for use in device.uses] if device is not None else []
    own = [target.precision for target in listed if target.runtime == runtime]
    precisions = runtimes.get(runtime).precisions
    if own:
        return own[0]
    return "fp16" if runtime == _BY_TRTEXEC else "fp32" if "fp32" in precisions else precisions[0]


def _can_time(state: BoardState, runtime: str) -> bool:
    if runtime == _BY_TRTEXEC:
        return bool(state.tensorrt)
    if not _runs_clock(state):
        return False
    there = {module.name: module for module in state.modules if module.version}
    library = import_part(runtimes.get(runtime).part).library
    if library not in there or "numpy" not in there:
        return False
    providers = {"onnxruntime-cuda": "CUDA", "onnxruntime-tensorrt": "Tensorrt"}
    needed = providers.get(runtime)
    return needed is None or f"{needed}ExecutionProvider" in there[library].providers
