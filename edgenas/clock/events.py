"""What a clock says, checked before anything is done with it.

A clock on a board is a program on a machine of somebody. Every line that comes from there is read
here, and nowhere else: it is one JSON object of a known kind, its fields have the types and lie in
the ranges that a clock's fields have, and no text holds a control character.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.ranges import Count, Fraction, Length, Range, Seconds, SecondsOrZero

Event = dict[str, Any]

_MOST = 1 << 16  # processors, or names of units
_Text = Annotated[str, Length(0, 4096)]
_Hertz = Annotated[float, Range(0, 1e13, "number")] | None
_Ratio = Annotated[float, Range(0, 1e9, "number")]
_Nanoseconds = Annotated[
    # The clock thins them out at 2,000.
    tuple[Annotated[int, Range(0, 1e15, "number")], ...], Length(0, 4000)
]


class EventError(ValueError):
    """A line that no clock says. The text names the field, the rule and the value found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sign:
    """``alive``, ``waiting`` and ``done``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    schema: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _MachineState:
    """What changes while a machine works; Celsius, hertz."""

    temperature: Annotated[float, Range(-300, 1000, "number")] | None = None
    frequency: _Hertz = None
    gpu_frequency: _Hertz = None
    load: Annotated[float, Range(0, 1e9, "number")] | None = None
    throttled: _Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Environment(_MachineState):
    machine: _Text | None
    board: _Text | None
    cpu: _Text | None
    cores: Annotated[int, Range(0, _MOST, "count")] | None
    processors: Annotated[tuple[Annotated[int, Range(0, _MOST, "count")], ...], Length(0, _MOST)]
    virtual: bool | None
    governor: _Text | None
    max_frequency: _Hertz
    gpu: _Text | None
    power_mode: _Text | None
    l4t: _Text | None
    os: _Text | None
    kernel: _Text | None
    python: _Text | None
    runtime: _Text
    runtime_version: _Text | None
    runtime_missing: _Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Baseline:
    seconds: Annotated[tuple[Seconds, ...], Length(1, _MOST)]
    p50_ratio: _Ratio
    p95_ratio: _Ratio
    quiet: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    round: Count
    finished: Count
    total: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    median: Seconds
    p10: SecondsOrZero
    p90: Seconds
    n: Count
    half_width: _Ratio | None
    wall_p50: Seconds
    wall_p95: Seconds
    wall_n: Count
    flag: Literal["", "wide", "few", "noisy"]
    canary: Seconds
    visits: Count
    samples: _Nanoseconds
    wall_samples: _Nanoseconds

    def __post_init__(self) -> None:
        for name, count in (("samples", self.n), ("wall_samples", self.wall_n)):
            if count != len(getattr(self, name)):
                raise EdgenasError(
                    f"there must be as many {name} as runs, {count}, "
                    f"found {len(getattr(self, name))}"
                )
        runs = self.wall_samples if self.flag == "noisy" else self.samples
        if not runs or not self.wall_samples:
            raise EdgenasError("there must be runs, found none")
        low, high = min(runs) * 0.999e-9, max(runs) * 1.001e-9  # both are rounded
        for name in ("p10", "median", "p90"):
            if not low <= getattr(self, name) <= high:
                raise EdgenasError(
                    f"{name} must lie among the runs, from {low:.3g} to {high:.3g} s, "
                    f"found {getattr(self, name):.3g}"
                )
        if self.p10 > self.p90:
            raise EdgenasError("p10 must not be above p90")
        if self.half_width is None and self.flag != "noisy":
            raise EdgenasError("half_width must be a number, found None")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steady:
    runs: Count
    seconds: SecondsOrZero


@dataclass(frozen=True, slots=True, kw_only=True)
class _Error:
    message: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _End(_MachineState):
    seconds: Annotated[float, Range(0, 1e9, "seconds")]
    readings: Count
    passes: Count


_KINDS: Mapping[str, type] = {
    "ready": _Ready,
    "alive": _Sign,
    "waiting": _Sign,
    "done": _Sign,
    "environment": _Environment,
    "baseline": _Baseline,
    "progress": _Progress,
    "result": _Result,
    "steady": _Steady,
    "error": _Error,
    "end": _End,
}
# Names of units, which may hold anything: who reads them compares them with the names that were
# sent. And words of a runtime, which may be coloured.
_NAMED = {"result": "id", "steady": "id", "error": "id", "end": "unvisited"}
_SAID = ("message", "runtime_missing")


def read_event(line: bytes | str) -> Event:
    """One line of a clock as an event: the kind, and the fields that this kind has.

    Args:
        line: of the stream.

    Raises:
        EventError: it is no event.
    """
    try:
        value = json.loads(line if isinstance(line, str) else line.decode())
    except (ValueError, RecursionError):
        raise EventError("a line must be one JSON object") from None
    if not isinstance(value, dict):
        raise EventError(f"a line must be one JSON object, found {type(value).__name__}")
    given: dict[str, Any] = {**value}
    kind = given.pop("event", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise EventError(f"event must be one of {', '.join(_KINDS)}, found {quote(kind)}")
    event: Event = {"event": kind}
    if name := _NAMED.get(kind):
        event[name] = _names(given.pop(name, None), kind=kind, one=name == "id")
    for name in _SAID:
        if isinstance(given.get(name), str):
            given[name] = plain(given[name], longest=4000)
    try:
        found = decode(_KINDS[kind], given, where=kind)
    except EdgenasError as error:
        raise EventError(error.message) from None
    for name in given:
        item = getattr(found, name)
        event[name] = list(item) if isinstance(item, tuple) else item
    return event


def _names(value: Any, *, kind: str, one: bool) -> str | list[str]:
    if one and isinstance(value, str):
        return value
    if not one and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    rule = "id must be a text" if one else "unvisited must be a list of texts"
    raise EventError(f"{kind}: {rule}, found {quote(value)}")


def plain(text: str, *, longest: int = 160) -> str:
    """One line without control characters, not too long: what comes from afar may hold anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:longest]
