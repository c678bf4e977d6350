"""How a delivered network was found: what the search saw, what was measured, where the time goes.

``search.json`` of a bundle, schema ``edgenas.trace/1``. Seconds, and accuracies as fractions of 1.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields, check_schema
from edgenas.bundle.record import make

SCHEMA = "edgenas.trace/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network of the front: none that was seen is both faster and more accurate.

    Args:
        arch_id: of the network.
        arch_text: its text form.
        accuracy: predicted.
        latency: predicted, in seconds.
    """

    arch_id: str
    arch_text: str
    accuracy: float
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A moment of a search: networks scored so far, and the best accuracy so far."""

    phase: str
    evaluations: int
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One of the searches behind a bundle.

    Args:
        name: what it was for.
        strategy: its name.
        evaluations: networks scored.
        history: where the best became better, and the end.
    """

    name: str
    strategy: str
    evaluations: int
    history: tuple[Improvement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A network that was built and timed on the device.

    Args:
        arch_id: of the network.
        accuracy: predicted.
        predicted: latency before it was timed, in seconds.
        measured: what the budget is held to, in seconds.
        fresh: whether it is the long, fresh measurement that is reported; else a short one.
    """

    arch_id: str
    accuracy: float
    predicted: float
    measured: float
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """What the prediction says of one layer of the network.

    Args:
        name: as in ``plan``.
        layer: its text form.
        seconds: its part of the predicted latency.
        macs: of one image.
    """

    name: str
    layer: str
    seconds: float
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """How a network was found.

    Args:
        seen: networks scored in all searches.
        accuracies: predicted, of a uniform sample of them.
        latencies: predicted, of the same sample, in seconds.
        front: the front of all that were seen, the fastest first.
        searches: in order.
        attempts: networks timed on the device, in order; none where it is not at hand.
        layers: of the network, in order; with ``overhead`` they sum up to its predicted latency.
        overhead: of a run, in seconds.
    """

    seen: int = 0
    accuracies: tuple[float, ...] = ()
    latencies: tuple[float, ...] = ()
    front: tuple[Found, ...] = ()
    searches: tuple[Search, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    layers: tuple[LayerTime, ...] = field(default_factory=tuple)
    overhead: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(value: Mapping[str, Any], *, where: str = "search") -> "Trace":
        """The trace of a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        fields = check_schema(dict(value), schema=SCHEMA, where=where)
        check_fields(fields, required=[f.name for f in dataclasses.fields(Trace)], where=where)
        kinds = {"front": Found, "attempts": Attempt, "layers": LayerTime}
        parts: dict[str, Any] = {
            name: tuple(
                make(kind, item, f"{where}.{name}[{i}]")
                for i, item in enumerate(_list(fields[name], f"{where}.{name}"))
            )
            for name, kind in kinds.items()
        }
        parts["searches"] = tuple(
            _search(item, f"{where}.searches[{i}]")
            for i, item in enumerate(_list(fields["searches"], f"{where}.searches"))
        )
        for name in ("accuracies", "latencies"):
            numbers = _list(fields[name], f"{where}.{name}")
            parts[name] = tuple(_number(n, f"{where}.{name}[{i}]") for i, n in enumerate(numbers))
        if len(parts["accuracies"]) != len(parts["latencies"]):
            raise EdgenasError(f"{where}: accuracies and latencies must be of the same networks")
        parts["overhead"] = _number(fields["overhead"], f"{where}.overhead")
        parts["seen"] = int(_number(fields["seen"], f"{where}.seen"))
        return Trace(**parts)


def _search(value: Any, where: str) -> Search:
    found = make(Search, value, where)
    history = tuple(
        make(Improvement, item, f"{where}.history[{i}]")
        for i, item in enumerate(_list(found.history, f"{where}.history"))
    )
    return dataclasses.replace(found, history=history)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise EdgenasError(f"{where} must be a list, found {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EdgenasError(f"{where} must be a number, found {value!r}")
    return value
