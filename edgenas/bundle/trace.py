"""How a delivered network was found: what the search saw, what was measured, where the time goes.

``search.json`` of a bundle, schema ``edgenas.trace/1``. Seconds, and accuracies as fractions of 1.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_schema
from edgenas.basics.ranges import (
    ALWAYS,
    Count,
    Id,
    PredictedAccuracy,
    PredictedSeconds,
    Seconds,
    Words,
)

SCHEMA = "edgenas.trace/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontNetwork:
    """A network of the front: none that was seen is both faster and more accurate.

    Args:
        arch_id: of the network.
        arch_text: its text form.
        accuracy: predicted.
        latency: predicted, in seconds.
    """

    arch_id: Id
    arch_text: Words
    accuracy: PredictedAccuracy
    latency: PredictedSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A moment of a search: networks scored so far, and the best accuracy so far."""

    phase: Words
    evaluations: Count
    best: PredictedAccuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """One of the searches behind a bundle.

    Args:
        name: what it was for.
        strategy: its name.
        evaluations: networks scored.
        history: where the best became better, and the end.
    """

    name: Words
    strategy: Words
    evaluations: Count
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

    arch_id: Id
    accuracy: PredictedAccuracy
    predicted: PredictedSeconds
    measured: Seconds
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

    name: Words
    layer: Words
    seconds: PredictedSeconds
    macs: Count


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

    seen: Annotated[Count, ALWAYS] = 0
    accuracies: Annotated[tuple[PredictedAccuracy, ...], ALWAYS] = ()
    latencies: Annotated[tuple[PredictedSeconds, ...], ALWAYS] = ()
    front: Annotated[tuple[FrontNetwork, ...], ALWAYS] = ()
    searches: Annotated[tuple[SearchSummary, ...], ALWAYS] = ()
    attempts: Annotated[tuple[Attempt, ...], ALWAYS] = ()
    layers: Annotated[tuple[LayerTime, ...], ALWAYS] = ()
    overhead: Annotated[PredictedSeconds, ALWAYS] = 0.0

    def __post_init__(self) -> None:
        if len(self.accuracies) != len(self.latencies):
            raise EdgenasError("accuracies and latencies must be of the same networks")

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(value: Any, *, where: str = "search") -> "Trace":
        """The trace of a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        return decode(Trace, check_schema(value, schema=SCHEMA, where=where), where=where)
