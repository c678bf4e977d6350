"""The results for a delivered network, as values. Each number carries its evidence."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from edgenas.basics.decode import decode
from edgenas.basics.files import check_schema
from edgenas.basics.ranges import (
    ALWAYS,
    Count,
    Fraction,
    Id,
    Name,
    Range,
    Seconds,
    Seed,
    Words,
)
from edgenas.basics.units import count, milliseconds, size
from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.classes import ClassAccuracies
from edgenas.bundle.energy import PredictedEnergy
from edgenas.bundle.quantisation import Quantisation
from edgenas.clock.measure import Measurement, statistic
from edgenas.latency.device import Target
from edgenas.space.cost import Cost

SCHEMA = "edgenas.report/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """A latency that was not measured on this network, in seconds.

    Args:
        seconds: the prediction.
        upper: its upper bound.
        confidence: of the bound, e.g. 0.95.
        bound: the method of the bound, e.g. ``split-conformal on 40 networks``.
        provenance: where the numbers behind the prediction are from: ``measured``, ``published``
            or ``estimated``.
        source: the table or the device model, in words.
    """

    seconds: Seconds
    upper: Seconds
    confidence: Fraction
    bound: Words
    provenance: Literal["measured", "published", "estimated"]
    source: Words

    @property
    def margin(self) -> float:
        """The bound as a multiple of the prediction."""
        return self.upper / self.seconds

    def __str__(self) -> str:
        verb = "estimated" if self.provenance == "estimated" else "predicted"
        return (
            f"{milliseconds(self.seconds)} {verb}, at most {milliseconds(self.upper)} at "
            f"{self.confidence:.0%} confidence ({self.bound}; from {self.source}, "
            f"{self.provenance})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLatency:
    """A latency that was timed on this very model. Seconds of one run, see `edgenas.clock.measure`.

    The canary's gate leaves out runs while which the machine was slowed down by other work.

    Args:
        median: of the runs that passed the gate.
        p10: their 10th percentile.
        p90: their 90th percentile.
        n: their number.
        half_width: half of the 95% interval of the median, divided by the median. None: too few
            runs.
        wall_p50: median of all runs, also of those that the gate left out.
        wall_p95: 95th percentile of all runs.
        wall_n: number of all runs.
        flag: why nobody should trust the median; empty if it can be trusted.
        environment: what the numbers depend on: processor, clocks, versions.
    """

    median: Seconds
    p10: Seconds
    p90: Seconds
    n: Count
    half_width: Annotated[float, Range(0, 1e6, "number")] | None
    wall_p50: Seconds
    wall_p95: Seconds
    wall_n: Count
    flag: Words
    environment: Annotated[Mapping[str, Any], ALWAYS] = field(default_factory=dict)

    @staticmethod
    def of(measurement: Measurement, *, environment: Mapping[str, Any]) -> "MeasuredLatency":
        """The part of a measurement that a report shows."""
        names = [f.name for f in dataclasses.fields(MeasuredLatency) if f.name != "environment"]
        values = {name: getattr(measurement, name) for name in names}
        return MeasuredLatency(**values, environment=environment)

    def __str__(self) -> str:
        flag = f"; {self.flag}" if self.flag else ""
        what = statistic(n=self.n, wall_n=self.wall_n, flag=self.flag)
        return (
            f"{milliseconds(self.median)} measured ({what}, 10th to 90th percentile "
            f"{milliseconds(self.p10)} to {milliseconds(self.p90)}; ungated p95 "
            f"{milliseconds(self.wall_p95)}, n={self.wall_n}{flag})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One constraint, and the number that is compared with its limit.

    Args:
        constraint: as the user wrote it, e.g. ``latency<=20ms``.
        value: the number, in seconds, bytes, joules or counts.
        limit: in the same unit.
        rests_on: the kind of the number: ``measured median``, ``upper bound of the prediction``,
            ``exact count`` ...
    """

    constraint: Name
    value: Annotated[float, Range(0, 1e18, "number")]
    limit: Annotated[float, Range(0, 1e18, "number", above=True)]
    rests_on: Words

    @property
    def holds(self) -> bool:
        """Whether the number is within the limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        share = f"{self.value / self.limit:.0%} of it used"
        return f"{self.constraint}: {'kept' if self.holds else 'BROKEN'}, {share}, {self.rests_on}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainedNetwork:
    """A network that was trained further.

    Args:
        arch_id: of the network.
        arch_text: its text form.
        before: its accuracy on the validation images with the supernet's weights, a fraction.
        after: its accuracy on the same images with its own weights.
    """

    arch_id: Id
    arch_text: Words
    before: Fraction
    after: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """The training that gave a network weights of its own.

    Args:
        start: where the training started. ``inherited``: from the supernet's weights. ``scratch``:
            from random weights. ``joint``: from the supernet's weights, trained together with the
            choices of a search strategy. ``original``: from the weights of a published network.
        epochs: passes over the training images.
        learning_rate: its highest value.
        images: number of training images.
        validation: number of validation images, which decide among the candidates.
        candidates: all networks that were trained; the best on the validation images comes first.
        before: accuracy of the delivered network with the supernet's weights, in fp32.
        after: its accuracy on the same images with its own weights, in fp32.
    """

    start: Literal["inherited", "scratch", "joint", "original"]
    epochs: Count
    learning_rate: Annotated[float, Range(0, 1000, "number")]
    images: Count
    validation: Count
    candidates: tuple[RetrainedNetwork, ...]
    before: AccuracyRecord
    after: AccuracyRecord

    def __str__(self) -> str:
        starts = {"scratch": "random", "original": "the published"}
        start = starts.get(self.start, "the supernet's")
        role = f"the best of {len(self.candidates)} on"
        if self.start == "joint":
            role = "beside a search that learnt from"
        gain = 100 * (self.after.value - self.before.value)
        return (
            f"{self.epochs} epochs from {start} weights on {self.images} training images, "
            f"{role} {self.validation} validation images; "
            f"{self.after.data} {self.after.split}, n={self.after.images}: {self.before.value:.2%} "
            f"before, {self.after.value:.2%} after ({gain:+.2f} points)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The result of a specialisation.

    Args:
        target: what all latencies are of.
        accuracy: predicted or measured.
        predicted: the latency before any measurement. None: there was nothing to predict it from.
        measured: the latency of this model on the target. None: the device could not be reached.
        promises: one for each constraint.
        costs: exact counts.
        memory: bytes of the weights and of the largest live activations, at the precision of the
            target.
        supernet: name of the supernet that the network is from.
        supernet_digest: SHA-256 of its weights; may be empty.
        seed: of the search.
        notes: what a reader should know, e.g. that a number is extrapolated, that the budget
            decides nothing, or which command replaces an estimate by a measurement.
        retraining: the training that gave the network weights of its own. None: it has the
            supernet's weights.
        quantisation: the fine-tuning of int8 weights for their integers. None: there was none.
        energy: of one run. None: no energy was measured on the target.
        classes: the measured accuracy of each class. None: it was not measured.
        origin: whose weights the supernet's were at first, with their license. None: it learnt
            from random weights.
    """

    target: Target
    accuracy: AccuracyRecord
    predicted: PredictedLatency | None
    measured: MeasuredLatency | None
    promises: tuple[Promise, ...]
    costs: Cost
    memory: Annotated[float, Range(0, 1e15, "bytes")]
    supernet: Name
    supernet_digest: Annotated[Words, ALWAYS] = ""
    seed: Annotated[Seed, ALWAYS] = 0
    notes: Annotated[tuple[Words, ...], ALWAYS] = ()
    retraining: Retraining | None = None
    quantisation: Quantisation | None = None
    energy: PredictedEnergy | None = None
    classes: ClassAccuracies | None = None
    origin: Words | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            self.classes.check_sum(self.accuracy.value if self.accuracy.kind == "measured" else -1)

    def costs_text(self) -> str:
        """The exact counts, for people."""
        return (
            f"{count(self.costs.macs)} MACs, {count(self.costs.params)} parameters, "
            f"{count(self.costs.weights)} weights shipped, {size(self.memory)} while running "
            f"at {self.target.precision}"
        )

    def weights_json(self) -> dict[str, Any] | None:
        """How the weights differ from the supernet's. None: they do not differ."""
        parts = {name: value for name, value in self.to_json().items() if name in _OF_WEIGHTS}
        supernet = {"supernet": self.supernet, "sha256": self.supernet_digest}
        return {**supernet, **parts} if parts else None

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first. Times in seconds, sizes in bytes."""
        value = {"schema": SCHEMA, **dataclasses.asdict(self)}
        for name in _OPTIONAL:
            if value[name] is None:
                del value[name]
        retraining = value.get("retraining", {})
        for accuracy in (value["accuracy"], retraining.get("before"), retraining.get("after")):
            for name in ("bias", "copies", "teacher"):
                if accuracy is not None and accuracy[name] is None:
                    del accuracy[name]
        # Tuples become lists, so that this equals what is read from a file.
        return json.loads(json.dumps(value, allow_nan=False))

    @staticmethod
    def from_json(value: Any, *, where: str = "report") -> "Record":
        """The record of a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        return decode(Record, check_schema(value, schema=SCHEMA, where=where), where=where)


# Fields that are left out of the JSON where they are None.
_OPTIONAL = ("retraining", "quantisation", "energy", "classes", "origin")
_OF_WEIGHTS = ("retraining", "quantisation")
