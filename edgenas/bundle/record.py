"""What is known of a delivered network, as values. A number never travels without its evidence."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields, check_schema
from edgenas.basics.units import count, milliseconds, size
from edgenas.clock.measure import Measurement
from edgenas.latency.device import Target
from edgenas.space.cost import Cost

SCHEMA = "edgenas.report/1"

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 accuracy as a fraction.

    Args:
        kind: ``predicted`` (by a predictor) or ``measured`` (on images).
        value: the fraction.
        data: the images it is of, e.g. ``cifar10``.
        split: the part of them, e.g. ``validation``.
        images: how many.
        error: predicted: mean absolute error on held-out archs; measured: standard error of
            a proportion. A fraction.
        archs: predicted: how many archs were held out; measured: 0.
    """

    kind: Literal["predicted", "measured"]
    value: float
    data: str
    split: str
    images: int
    error: float
    archs: int = 0

    @staticmethod
    def of(*, correct: int, images: int, data: str, split: str) -> "Accuracy":
        """The measured accuracy of so many correct answers."""
        value = correct / images
        error = math.sqrt(value * (1 - value) / images)
        return Accuracy(
            kind="measured", value=value, data=data, split=split, images=images, error=error
        )

    def __str__(self) -> str:
        points = f"{100 * self.error:.2f} points"
        where = f"{self.data} {self.split}, n={self.images}"
        if self.kind == "measured":
            return f"{self.value:.2%} measured ({where}, standard error {points})"
        held_out = f"mean error {points} on {self.archs} held-out archs"
        return f"{self.value:.2%} predicted ({where}, {held_out})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """A latency that was not measured on this network, in seconds.

    Args:
        seconds: the prediction.
        upper: its upper bound.
        confidence: of the bound, e.g. 0.95.
        bound: how the bound came about, e.g. ``split-conformal on 40 networks``.
        provenance: of the numbers it is made from: ``measured``, ``published`` or ``estimated``.
        source: the table or device model, in words.
    """

    seconds: float
    upper: float
    confidence: float
    bound: str
    provenance: Literal["measured", "published", "estimated"]
    source: str

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
    """A latency timed on this very model. Seconds of one run, as in `edgenas.clock.measure`.

    Args:
        median: behind the canary's gate; p10, p90 and n likewise.
        p10: 10th percentile.
        p90: 90th percentile.
        n: gated runs.
        half_width: of the 95% interval of the median, as a part of it; None: too few runs.
        wall_p50: median of all runs, whatever the machine did meanwhile.
        wall_p95: 95th percentile of all runs.
        wall_n: all runs.
        flag: empty, or why not to trust the median.
        environment: processor, clocks, versions: what the numbers depend on.
    """

    median: float
    p10: float
    p90: float
    n: int
    half_width: float | None
    wall_p50: float
    wall_p95: float
    wall_n: int
    flag: str
    environment: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(measurement: Measurement, *, environment: Mapping[str, Any]) -> "MeasuredLatency":
        """The part of a measurement that is reported."""
        names = [f.name for f in dataclasses.fields(MeasuredLatency) if f.name != "environment"]
        values = {name: getattr(measurement, name) for name in names}
        return MeasuredLatency(**values, environment=environment)

    def __str__(self) -> str:
        flag = f"; {self.flag}" if self.flag else ""
        return (
            f"{milliseconds(self.median)} measured (median, n={self.n}, 10th to 90th percentile "
            f"{milliseconds(self.p10)} to {milliseconds(self.p90)}; ungated p95 "
            f"{milliseconds(self.wall_p95)}, n={self.wall_n}{flag})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One constraint and the number it is kept with.

    Args:
        constraint: as asked, e.g. ``latency<=20ms``.
        value: the number held against the limit, in seconds, bytes, joules or counts.
        limit: in the same unit.
        rests_on: what the number is: ``measured median``, ``upper bound of the prediction``,
            ``exact count`` ...
    """

    constraint: str
    value: float
    limit: float
    rests_on: str

    @property
    def kept(self) -> bool:
        """Whether the number is within the limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        share = f"{self.value / self.limit:.0%} of it used"
        return f"{self.constraint}: {'kept' if self.kept else 'BROKEN'}, {share}, {self.rests_on}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """A network that was trained further.

    Args:
        arch_id: of the network.
        arch_text: its text form.
        before: accuracy on the validation images with the supernet's weights.
        after: with its own.
    """

    arch_id: str
    arch_text: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """How a network came by weights of its own.

    Args:
        start: ``inherited``: from the supernet's weights; ``scratch``: from random ones; ``joint``:
            from the supernet's, beside the choices that a strategy learnt.
        epochs: passes over the training images.
        learning_rate: at its peak.
        images: that were learnt from.
        validation: images that chose among the candidates.
        candidates: all that were trained, the best on the validation images first.
        before: of the delivered network with the supernet's weights, in fp32.
        after: with its own, on the same images, in fp32.
    """

    start: Literal["inherited", "scratch", "joint"]
    epochs: int
    learning_rate: float
    images: int
    validation: int
    candidates: tuple[Retrained, ...]
    before: Accuracy
    after: Accuracy

    def __str__(self) -> str:
        start = "random" if self.start == "scratch" else "the supernet's"
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
        predicted: the latency before any measurement; None: nothing to predict from.
        measured: the latency of this model on the target; None: the device was not at hand.
        promises: one for each constraint.
        costs: exact counts.
        memory: bytes of weights and of the largest live activations at the target's precision.
        supernet: name of the supernet whose weights these are.
        supernet_digest: SHA-256 of its weights; may be empty.
        seed: of the search.
        notes: what a reader should know: extrapolated, budget that does not bind, the command
            that replaces an estimate by a measurement.
        retraining: how the network came by weights of its own; None: they are the supernet's.
    """

    target: Target
    accuracy: Accuracy
    predicted: PredictedLatency | None
    measured: MeasuredLatency | None
    promises: tuple[Promise, ...]
    costs: Cost
    memory: float
    supernet: str
    supernet_digest: str = ""
    seed: int = 0
    notes: tuple[str, ...] = ()
    retraining: Retraining | None = None

    def costs_text(self) -> str:
        """The exact counts, for people."""
        return (
            f"{count(self.costs.macs)} MACs, {count(self.costs.params)} parameters, "
            f"{count(self.costs.weights)} weights shipped, {size(self.memory)} while running "
            f"at {self.target.precision}"
        )

    def weights_json(self) -> dict[str, Any] | None:
        """Where weights come from that are not the supernet's own; None: they are."""
        told = {name: value for name, value in self.to_json().items() if name in _OPTIONAL}
        return {"supernet": self.supernet, "sha256": self.supernet_digest, **told} if told else None

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first. Times in seconds, sizes in bytes."""
        value = {"schema": SCHEMA, **dataclasses.asdict(self)}
        for name in _OPTIONAL:
            if value[name] is None:
                del value[name]
        # As JSON gives it back: lists.
        return json.loads(json.dumps(value, allow_nan=False))

    @staticmethod
    def from_json(value: Mapping[str, Any], *, where: str = "report") -> "Record":
        """The record of a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        given = check_schema(dict(value), schema=SCHEMA, where=where)
        fields: dict[str, Any] = {**dict.fromkeys(_OPTIONAL), **given}
        check_types(Record, fields, where)
        parts: dict[str, Any] = {
            "target": make(Target, fields["target"], f"{where}.target"),
            "accuracy": make(Accuracy, fields["accuracy"], f"{where}.accuracy"),
            "costs": make(Cost, fields["costs"], f"{where}.costs"),
        }
        for name, kind in (("predicted", PredictedLatency), ("measured", MeasuredLatency)):
            given = fields[name]
            parts[name] = None if given is None else make(kind, given, f"{where}.{name}")
        for name in ("promises", "notes"):
            if not isinstance(fields[name], list):
                raise EdgenasError(f"{where}.{name} must be a list, found {fields[name]!r}")
        parts["promises"] = tuple(
            make(Promise, promise, f"{where}.promises[{i}]")
            for i, promise in enumerate(fields["promises"])
        )
        parts["notes"] = tuple(str(note) for note in fields["notes"])
        if fields["retraining"] is not None:
            parts["retraining"] = _retraining(fields["retraining"], f"{where}.retraining")
        return Record(**{**fields, **parts})


# Fields that are written only where there is something to say.
_OPTIONAL = ("retraining",)

# How a field's type reads in the class, and what it may be in JSON.
_TYPES: Mapping[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    float | None: (int, float, type(None)),
    Mapping[str, Any]: (dict,),
}


def _retraining(value: Any, where: str) -> Retraining:
    found = make(Retraining, value, where)
    if not isinstance(found.candidates, list):
        raise EdgenasError(f"{where}.candidates must be a list, found {found.candidates!r}")
    return dataclasses.replace(
        found,
        candidates=tuple(
            make(Retrained, one, f"{where}.candidates[{i}]")
            for i, one in enumerate(found.candidates)
        ),
        before=make(Accuracy, found.before, f"{where}.before"),
        after=make(Accuracy, found.after, f"{where}.after"),
    )


def make(kind: type[Kind], value: Any, where: str) -> Kind:
    """A flat dataclass from a JSON object of its fields.

    Raises:
        EdgenasError: a field is missing, unknown or of the wrong type; names its path.
    """
    if not isinstance(value, dict):
        raise EdgenasError(f"{where} must be an object, found {value!r}")
    check_types(kind, value, where)
    return kind(**value)


def check_types(kind: type[Any], value: Mapping[str, Any], where: str) -> None:
    """Refuse a JSON object that lacks a field of a dataclass, or has others. Raises as ``make``."""
    declared = dataclasses.fields(kind)
    check_fields(value, required=[f.name for f in declared], where=where)
    for declared_field in declared:
        name, found = declared_field.name, value[declared_field.name]
        wanted = _TYPES.get(declared_field.type)
        if wanted and (isinstance(found, bool) or not isinstance(found, wanted)):
            words = " or ".join("null" if t is type(None) else t.__name__ for t in wanted)
            raise EdgenasError(f"{where}.{name} must be {words}, found {found!r}")
        choices = getattr(declared_field.type, "__args__", ())
        if choices and all(isinstance(c, str) for c in choices) and found not in choices:
            raise EdgenasError(
                f"{where}.{name} must be one of {', '.join(choices)}, found {found!r}"
            )
