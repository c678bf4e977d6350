"""What is reported of the result, each number with its evidence.

Chosen, Evaluated -> record_of -> Record
"""

import math
from pathlib import Path

from edgenas.accuracy.measured import evaluated_on
from edgenas.basics.files import sha256
from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.energy import PredictedEnergy
from edgenas.bundle.record import (
    MeasuredLatency,
    PredictedLatency,
    Promise,
    Record,
)
from edgenas.clock.measure import NETWORK
from edgenas.delivery.choosing import Chosen
from edgenas.delivery.evaluating import Evaluated
from edgenas.delivery.limits import BYTES, bound_for
from edgenas.delivery.preparing import Prepared
from edgenas.profiling.environment import environment_of
from edgenas.profiling.rebuilding import CONFIDENCE
from edgenas.space.cost import memory, total
from edgenas.space.genes import Codes
from edgenas.strategies.constraint import Constraint


def record_of(prepared: Prepared, chosen: Chosen, evaluated: Evaluated) -> Record:
    """The record of the chosen network.

    Args:
        prepared: what was asked for, and what its numbers rest on.
        chosen: the network.
        evaluated: its accuracy.
    """
    latency, confidence = prepared.latency, prepared.request.confidence
    built, costs = chosen.built, total(prepared.space, chosen.built.arch)
    width = BYTES[latency.target.precision]
    bytes_used = memory(
        costs, weight_bytes=width, activation_bytes=width, batch=latency.target.batch
    )
    counts = {"macs": float(costs.macs), "params": float(costs.params), "memory": bytes_used}
    measured, latency_notes = _describe_latency(prepared, chosen)
    rows = prepared.space.encode([built.arch])
    return Record(
        target=latency.target,
        accuracy=_describe_accuracy(prepared, chosen, evaluated),
        predicted=PredictedLatency(
            seconds=built.predicted,
            upper=float(latency.upper(confidence)(rows)[0]),
            confidence=confidence,
            bound=latency.bound_words(confidence),
            provenance=latency.predictor.provenance,
            source=latency.source,
        ),
        measured=measured,
        promises=tuple(
            _describe_promise(prepared, chosen, constraint, counts)
            for constraint in prepared.constraints
        ),
        costs=costs,
        memory=bytes_used,
        supernet=prepared.request.supernet,
        supernet_digest=sha256(prepared.trained.weights_path),
        seed=prepared.request.seed,
        notes=(*prepared.images.notes, *chosen.notes, *evaluated.notes, *latency_notes),
        retraining=chosen.retraining,
        quantisation=chosen.quantisation,
        classes=None if evaluated.evaluation is None else evaluated.evaluation.classes,
        energy=_describe_energy(prepared, chosen, rows),
        origin=prepared.trained.origin or None,
    )


def _describe_energy(prepared: Prepared, chosen: Chosen, row: Codes) -> PredictedEnergy | None:
    """The energy of the network of a row; None where no energy was measured on the target."""
    latency, confidence = prepared.latency, prepared.request.confidence
    predictor = latency.energy
    if predictor is None or predictor.error is None:
        return None
    return PredictedEnergy(
        joules=float(predictor.predict(row)[0]),
        upper=float(predictor.upper(row, confidence=confidence)[0]),
        confidence=confidence,
        error=predictor.error.error,
        networks=predictor.error.n,
        idle_watts=latency.idle_watts,
        sensor=latency.sensor,
        metered=None if chosen.built.energy is None else chosen.built.energy.joules,
    )


def _describe_latency(
    prepared: Prepared, chosen: Chosen
) -> tuple[MeasuredLatency | None, tuple[str, ...]]:
    """The measured latency, None where there is none, and what a reader of it should know."""
    latency, measurement = prepared.latency, chosen.built.measured
    if measurement is None or latency.clock is None:
        return None, tuple(latency.cautions(chosen.built.arch, space=prepared.space))
    notes = ()
    facts = environment_of(latency.target, clock=latency.clock)
    if measurement.noisy:
        notes += (f"the measured latency is {measurement.judgement()}",)
    slowdown = measurement.canary / (latency.canary or math.inf)
    if slowdown > NETWORK.gate:
        notes += (
            f"the machine was {slowdown - 1:.0%} slower than when its table was measured, each "
            "time that this network was; see edgenas check",
        )
    if latency.heat is not None:
        notes += (
            f"the measured latency is of a cool board; another network there: {latency.heat}",
        )
    return MeasuredLatency.of(measurement, environment=facts), notes


def _describe_promise(
    prepared: Prepared, chosen: Chosen, constraint: Constraint, counts: dict[str, float]
) -> Promise:
    """What is promised of one constraint, and what the promise rests on."""
    request, built = prepared.request, chosen.built
    latency = prepared.latency_for(constraint)
    if constraint.metric in counts:
        value, evidence = counts[constraint.metric], "exact count"
    elif constraint.metric == "latency" and not constraint.target and built.measured is not None:
        value = built.seconds(request.percentile)
        evidence = "measured median" if request.percentile == "p50" else "measured p95, ungated"
        if request.percentile == "p50" and built.measured.flag == "noisy":
            evidence = "measured 5th percentile: too few runs met the machine at full speed"
        if built.builds:
            evidence = f"measured on {built.builds} builds of its engine, which "
            evidence += f"{CONFIDENCE:.0%} of further builds keep"
    elif constraint.metric == "energy" and not constraint.target and built.energy is not None:
        value, evidence = built.energy.joules, f"metered on the device, {built.energy.sensor}"
    else:
        bound = bound_for(latency, constraint, confidence=request.confidence)
        value = float(bound(prepared.space.encode([built.arch]))[0])
        kind = latency.predictor.provenance
        evidence = f"upper bound of the {'estimate' if kind == 'estimated' else 'prediction'} at "
        evidence += f"{request.confidence:.0%} confidence"
        if constraint.metric == "energy":
            evidence += f", {latency.energy_words}"
        if constraint.target:
            evidence += f", {latency.target} ({kind})"
    return Promise(
        constraint=str(constraint), value=value, limit=constraint.limit, rests_on=evidence
    )


def _describe_accuracy(prepared: Prepared, chosen: Chosen, evaluated: Evaluated) -> AccuracyRecord:
    """The measured accuracy, or the predicted one with its error."""
    evaluation, images = evaluated.evaluation, prepared.images.evaluation
    if evaluation is not None and images is not None:
        return AccuracyRecord.of(
            correct=evaluation.correct,
            images=evaluation.n,
            data=Path(images.source).name,
            split=prepared.images.split,
            copies=prepared.evaluation_copies,
        )
    if prepared.accuracy is None:
        return AccuracyRecord(kind="unknown", value=0.0, data="", split="", images=0, error=0.0)
    data, split, count = evaluated_on(prepared.predictor)
    error = prepared.predictor.require_error()
    return AccuracyRecord(
        kind="predicted",
        value=prepared.predict_accuracy(chosen.built.arch),
        data=data,
        split=split,
        images=count,
        error=error.error,
        bias=error.bias,
        archs=error.n,
        chosen=error is prepared.predictor.chosen,
        teacher=prepared.trained.teacher,
    )
