"""``search.json`` of a bundle: what the search saw, what was measured, where the time goes.

Its schema is ``edgenas.trace/1``. Times are in seconds, accuracies are fractions of 1.
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
    """A network of the front: no network that was scored is both faster and more accurate.

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
    """The state of a search at one moment: networks scored so far, and the best accuracy so far."""

    phase: Words
    evaluations: Count
    best: PredictedAccuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """One of the searches behind a bundle.

    Args:
        name: its purpose.
        strategy: name of the strategy.
        evaluations: number of networks scored.
        history: an entry for every time the best accuracy rose, and one for the end.
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
        predicted: the latency that was predicted before, in seconds.
        measured: the latency that is compared with the budget, in seconds.
        fresh: whether this is the long measurement at the end, which is reported; else it is one
            of the short ones before.
    """

    arch_id: Id
    accuracy: PredictedAccuracy
    predicted: PredictedSeconds
    measured: Seconds
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """The predicted time of one layer of the network.

    Args:
        name: as in ``plan``.
        layer: its text form.
        seconds: its part of the predicted latency.
        macs: its multiply-accumulates for one image.
    """

    name: Words
    layer: Words
    seconds: PredictedSeconds
    macs: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What the searches for a network saw and measured.

    Args:
        seen: number of networks scored in all searches.
        accuracies: predicted accuracies of a uniform sample of those networks.
        latencies: predicted latencies of the same sample, in seconds.
        front: the front of all networks scored, the fastest first.
        searches: one entry for each search, in order.
        attempts: the networks that were timed on the device, in order; none if the device could
            not be reached.
        layers: the layers of the delivered network, in order. Their times and ``overhead`` sum up
            to its predicted latency.
        overhead: the part of a run that belongs to no layer, in seconds.
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
            raise EdgenasError("there must be as many latencies as accuracies")

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
