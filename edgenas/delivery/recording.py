"""What is reported of the result, each number with its evidence."""

import math
from pathlib import Path

from edgenas.accuracy.measured import judged_on
from edgenas.basics.files import sha256
from edgenas.bundle.record import (
    Accuracy,
    MeasuredLatency,
    PredictedLatency,
    Promise,
    Record,
)
from edgenas.clock.measure import NETWORK
from edgenas.delivery.building import Built, Job, judged_copies
from edgenas.delivery.choosing import BYTES, bound_of, latency_for
from edgenas.delivery.precision import Judged
from edgenas.profiling.run import environment_of
from edgenas.space.cost import memory as memory_of
from edgenas.space.cost import total
from edgenas.strategies.constraint import Constraint


def record_of(job: Job, built: Built, *, judged: Judged | None) -> Record:
    """The record of the chosen network.

    Args:
        job: whose.
        built: the network.
        judged: its accuracy on images; None: it was not measured.
    """
    latency, confidence = job.latency, job.request.confidence
    costs = total(job.space, built.arch)
    width = BYTES[latency.target.precision]
    memory = memory_of(
        costs, weight_bytes=width, activation_bytes=width, batch=latency.target.batch
    )
    measured = None
    if built.measured is not None:
        assert latency.clock is not None
        facts = environment_of(latency.target, clock=latency.clock)
        measured = MeasuredLatency.of(built.measured, environment=facts)
        if built.measured.noisy:
            job.notes.append(f"the measured latency is {built.measured.judgement()}")
        slower = built.measured.canary / (latency.canary or math.inf)
        if slower > NETWORK.gate:
            job.notes.append(
                f"the machine was {slower - 1:.0%} slower than when its table was measured, each "
                "time that this network was; see edgenas check"
            )
    else:
        job.notes.extend(latency.cautions(costs.macs, space=job.space))
    counted = {"macs": float(costs.macs), "params": float(costs.params), "memory": memory}
    rows = job.space.encode([built.arch])
    assert job.trained.folder is not None
    return Record(
        target=latency.target,
        accuracy=_accuracy(job, built, judged),
        predicted=PredictedLatency(
            seconds=built.predicted,
            upper=float(latency.upper(confidence)(rows)[0]),
            confidence=confidence,
            bound=latency.bound_words(confidence),
            provenance=latency.predictor.provenance,
            source=latency.source,
        ),
        measured=measured,
        promises=tuple(_promise(job, built, c, counted) for c in job.request.constraints),
        costs=costs,
        memory=memory,
        supernet=job.request.supernet,
        supernet_digest=sha256(job.trained.folder / "weights.safetensors"),
        seed=job.request.seed,
        notes=(*job.material.notes, *job.notes),
        retraining=next(iter(job.retrained), None),
    )


def _promise(job: Job, built: Built, constraint: Constraint, counted: dict[str, float]) -> Promise:
    request, latency = job.request, latency_for(job, constraint)
    if constraint.metric in counted:
        value, rests = counted[constraint.metric], "exact count"
    elif constraint.metric == "latency" and not constraint.target and built.measured is not None:
        value = job.held(built.measured)
        rests = "measured median" if request.percentile == "p50" else "measured p95, ungated"
        if request.percentile == "p50" and built.measured.flag == "noisy":
            rests = "measured 5th percentile: too few runs met the machine at full speed"
    else:
        bound = bound_of(latency, constraint, confidence=request.confidence)
        value = float(bound(job.space.encode([built.arch]))[0])
        kind = latency.predictor.provenance
        rests = f"upper bound of the {'estimate' if kind == 'estimated' else 'prediction'} at "
        rests += f"{request.confidence:.0%} confidence"
        if constraint.metric == "energy":
            rests += ", at the published wall power"
        if constraint.target:
            rests += f", {latency.target} ({kind})"
    return Promise(constraint=str(constraint), value=value, limit=constraint.limit, rests_on=rests)


def _accuracy(job: Job, built: Built, judged: Judged | None) -> Accuracy:
    if judged is not None:
        assert job.material.judged is not None
        return Accuracy.of(
            correct=judged.correct,
            images=judged.n,
            data=Path(job.material.judged.source).name,
            split=job.material.split,
            copies=judged_copies(job),
        )
    data, split, images = judged_on(job.predictor)
    error = job.predictor.chosen or job.predictor.error
    assert error is not None, "checked when the predictor was loaded"
    return Accuracy(
        kind="predicted",
        value=job.accuracy(built.arch),
        data=data,
        split=split,
        images=images,
        error=error.error,
        archs=error.n,
        chosen=error is job.predictor.chosen,
    )
