"""``search.json`` of a bundle: what the search saw, what was measured, where the time goes.

Its schema is ``edgenas.trace/1``, or ``edgenas.trace/2`` where a strategy learnt by gradients.
Times are in seconds, accuracies are fractions of 1.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_schema
from edgenas.basics.ranges import (
    ALWAYS,
    Count,
    Fraction,
    Id,
    PredictedAccuracy,
    PredictedSeconds,
    Range,
    Seconds,
    Words,
)

SCHEMA = "edgenas.trace/1"
SCHEMA_LEARNT = "edgenas.trace/2"  # has ``learning``

Logit = Annotated[float, Range(-1e6, 1e6, "number")]


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
class LearntChoice:
    """One choice of a gradient search.

    Args:
        name: of the choice, e.g. ``cells[0].edges[2]``.
        alternatives: their names.
        logits: of each alternative, one number for every step that is shown.
    """

    name: Words
    alternatives: tuple[Words, ...]
    logits: tuple[tuple[Logit, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a gradient search learnt, at some of its steps.

    Args:
        strategy: its name.
        steps: that are shown.
        entropy: of the choices, as a part of its maximum.
        skips: the share of places where a skip connection is preferred; empty where there are none.
        choices: with their logits. Of a controller, mean log-probabilities.
    """

    strategy: Words
    steps: tuple[Count, ...]
    entropy: tuple[Fraction, ...]
    skips: tuple[Fraction, ...]
    choices: tuple[LearntChoice, ...]

    def __post_init__(self) -> None:
        lines = [self.entropy, *([self.skips] if self.skips else [])]
        lines += [line for choice in self.choices for line in choice.logits]
        if any(len(line) != len(self.steps) for line in lines):
            raise EdgenasError("every line must have one number for each step")
        if any(len(c.logits) != len(c.alternatives) for c in self.choices):
            raise EdgenasError("there must be as many lines of logits as alternatives")


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
        learning: what a gradient search learnt; None where there was none.
    """

    seen: Annotated[Count, ALWAYS] = 0
    accuracies: Annotated[tuple[PredictedAccuracy, ...], ALWAYS] = ()
    latencies: Annotated[tuple[PredictedSeconds, ...], ALWAYS] = ()
    front: Annotated[tuple[FrontNetwork, ...], ALWAYS] = ()
    searches: Annotated[tuple[SearchSummary, ...], ALWAYS] = ()
    attempts: Annotated[tuple[Attempt, ...], ALWAYS] = ()
    layers: Annotated[tuple[LayerTime, ...], ALWAYS] = ()
    overhead: Annotated[PredictedSeconds, ALWAYS] = 0.0
    learning: Learning | None = None

    def __post_init__(self) -> None:
        if len(self.accuracies) != len(self.latencies):
            raise EdgenasError("there must be as many latencies as accuracies")

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        fields = dataclasses.asdict(self)
        if self.learning is None:
            del fields["learning"]
            return {"schema": SCHEMA, **fields}
        return {"schema": SCHEMA_LEARNT, **fields}

    @staticmethod
    def from_json(value: Any, *, where: str = "search") -> "Trace":
        """The trace of a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        learnt = isinstance(value, Mapping) and "learning" in value
        schema = SCHEMA_LEARNT if learnt else SCHEMA
        return decode(Trace, check_schema(value, schema=schema, where=where), where=where)
