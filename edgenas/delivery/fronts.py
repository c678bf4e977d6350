"""The whole accuracy-latency front of a supernet on devices, by prediction.

A front is what budgets can be chosen from; ``specialize`` then builds, checks and, where the device
is at hand, measures a network for one of them.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.accuracy.measured import evaluated_on
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut
from edgenas.basics.progress import Progress
from edgenas.delivery.latency import TargetLatency
from edgenas.delivery.limits import count_for
from edgenas.delivery.preparing import check_runtime
from edgenas.delivery.shared import SharedInputs
from edgenas.latency import device as devices
from edgenas.latency.device import Target
from edgenas.profiling.reach import clock_of, timed_target
from edgenas.space.arch import Arch
from edgenas.space.cost import macs_table, params_table
from edgenas.space.space import Space
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.pareto import EVALUATIONS, Objective, pareto

SCHEMA = "edgenas.fronts/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A network that no other one found beats in both predicted accuracy and latency.

    Args:
        arch: the network.
        accuracy: predicted, a fraction of 1.
        latency: predicted, in seconds.
        upper: bound of the latency at the front's confidence; None: none is known.
        macs: of one image.
        params: trainable parameters.
    """

    arch: Arch
    accuracy: float
    latency: float
    upper: float | None
    macs: int
    params: int

    def to_json(self) -> dict[str, Any]:
        """The JSON object; latencies in milliseconds."""
        return {
            "arch_id": self.arch.id,
            "arch": self.arch.to_json(),
            "accuracy": self.accuracy,
            "latency_ms": self.latency * 1e3,
            "latency_upper_ms": None if self.upper is None else self.upper * 1e3,
            "macs": self.macs,
            "params": self.params,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFront:
    """The front of one target.

    Args:
        target: what the latencies are of.
        title: of the device, for people.
        provenance: of its latency numbers: ``measured``, ``published`` or ``estimated``.
        source: the table or device model, in words.
        bound: what the upper bounds rest on; empty: there are none.
        exact: whether every network of the space was scored.
        evaluations: networks scored.
        notes: what a reader should know.
        points: the fastest first.
    """

    target: Target
    title: str
    provenance: str
    source: str
    bound: str
    exact: bool
    evaluations: int
    notes: tuple[str, ...]
    points: tuple[FrontPoint, ...]

    def few(self, count: int) -> list[FrontPoint]:
        """For that many budgets, evenly spread over the latencies, the best network of each."""
        ends = self.points[0].latency, self.points[-1].latency
        found: list[FrontPoint] = []
        for budget in np.linspace(*ends, count):
            within = [p for p in self.points if p.latency <= budget * (1 + 1e-9)]
            if not found or within[-1] != found[-1]:
                found.append(within[-1])
        return found

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "device": self.target.device,
            "target": str(self.target),
            "title": self.title,
            "provenance": self.provenance,
            "source": self.source,
            "bound": self.bound,
            "exact": self.exact,
            "evaluations": self.evaluations,
            "notes": list(self.notes),
            "points": [point.to_json() for point in self.points],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fronts:
    """The fronts of a supernet on some devices.

    Args:
        supernet: its name.
        space: name of its space.
        data: the images that accuracy is predicted of, e.g. ``cifar10 validation, n=5000``.
        error: of the accuracy predictor.
        constraints: that every network keeps beside.
        confidence: of upper bounds.
        seed: of the search.
        devices: one front each, in the order asked for.
    """

    supernet: str
    space: str
    data: str
    error: HeldOut
    constraints: tuple[str, ...]
    confidence: float
    seed: int
    devices: tuple[DeviceFront, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": SCHEMA,
            "supernet": self.supernet,
            "space": self.space,
            "accuracy": {"of": self.data, **self.error.to_json()},
            "constraints": list(self.constraints),
            "confidence": self.confidence,
            "seed": self.seed,
            "devices": [front.to_json() for front in self.devices],
        }

    def to_csv(self) -> str:
        """One line a network, under a line of names."""
        names = "device target provenance arch_id accuracy latency_ms latency_upper_ms macs params"
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow([*names.split(), "arch"])
        for front in self.devices:
            for point in front.points:
                told = point.to_json()
                first = [front.target.device, front.target.slug, front.provenance, point.arch.id]
                numbers = [told[name] for name in names.split()[4:]]
                lines.writerow([*first, *numbers, str(point.arch)])
        return text.getvalue()


def fronts(
    names: Sequence[str],
    *,
    supernet: str,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    constraints: Sequence[Constraint] = (),
    confidence: float = 0.95,
    seed: int = 0,
    evaluations: int = EVALUATIONS,
    history: Path | None = None,
    progress: Progress = lambda step, done, total, words: None,
    inputs: SharedInputs | None = None,
) -> Fronts:
    """The accuracy-latency front on each of some devices.

    Args:
        names: of devices, aliases, or paths of profiles.
        supernet: name or folder.
        runtime: None: the first of each device, likewise below.
        precision: of weights and activations.
        threads: of the processor.
        batch: images a run.
        constraints: on MACs, parameters or memory.
        confidence: of upper bounds.
        seed: of the search.
        evaluations: networks scored for each device, at most.
        history: a CSV file of every network scored, of a single device; an interrupted search goes
            on from it.
        progress: called with (step, done, total, words).
        inputs: what was read already.

    Raises:
        EdgenasError: a name is unknown, a constraint is of latency or energy, nothing keeps it, or
            there is one history for many devices.
    """
    if not names:
        raise EdgenasError("no device was given", hint="edgenas pareto --device jetson")
    if not 0.5 <= confidence <= 0.999:
        raise EdgenasError(f"confidence must be from 0.5 to 0.999, found {confidence}")
    if runtime is not None:
        check_runtime(runtime)
    found = [devices.load(name) for name in names]
    twice = [device.name for i, device in enumerate(found) if device in found[:i]]
    if twice:
        raise EdgenasError(f"the device {twice[0]} was given twice", hint="name each device once")
    if history is not None and len(found) > 1:
        raise EdgenasError(
            f"a history is of one search, {len(found)} devices are searched for one by one",
            hint="name a single device, and another history for the next",
        )
    for constraint in constraints:
        if constraint.metric not in ("macs", "params", "memory"):
            raise EdgenasError(
                f"a front is cut by macs, params or memory, found {constraint}",
                hint="the whole range of latencies is in the front; read it off there",
            )
    inputs = SharedInputs() if inputs is None else inputs
    made: list[DeviceFront] = []
    for number, device in enumerate(found):
        clock = clock_of(device, say=lambda line: progress("connecting", 0, 1, line))
        use = device.target if clock is None else partial(timed_target, device)
        target = use(runtime=runtime, precision=precision, threads=threads, batch=batch)
        latency = inputs.latency(
            supernet, device=device, target=target, clock=clock, progress=progress
        )
        progress("searching", number, len(found), device.name)
        made.append(
            _front(
                inputs.supernet(supernet).supernet.space,
                accuracy=inputs.predictor(supernet),
                latency=latency,
                constraints=constraints,
                confidence=confidence,
                seed=seed,
                evaluations=evaluations,
                history=history,
            )
        )
    progress("searching", len(found), len(found), "")
    predictor = inputs.predictor(supernet)
    data, split, images = evaluated_on(predictor)
    return Fronts(
        supernet=supernet,
        space=predictor.space.name,
        data=f"{data} {split}, n={images}" if images else data,
        error=predictor.require_error(),
        constraints=tuple(str(c) for c in constraints),
        confidence=confidence,
        seed=seed,
        devices=tuple(made),
    )


def _front(
    space: Space,
    *,
    accuracy: AccuracyPredictor,
    latency: TargetLatency,
    constraints: Sequence[Constraint],
    confidence: float,
    seed: int,
    evaluations: int,
    history: Path | None,
) -> DeviceFront:
    """The front on one device."""
    target, times = latency.target, latency.predictor
    front = pareto(
        space,
        objectives=[
            Objective(name="accuracy", values=accuracy, goal="max"),
            Objective(name="latency", values=times.predict, guide=times.tables()),
        ],
        subject_to=[
            Limit(
                constraint=c,
                values=count_for(space, c, precision=target.precision, batch=target.batch),
            )
            for c in constraints
        ],
        seed=seed,
        evaluations=evaluations,
        history=history,
    )
    points = sorted(front.points, key=lambda p: p.values["latency"])
    rows = space.encode([p.arch for p in points])
    bounded = times.bound_kind(confidence) != "none"
    uppers = latency.upper(confidence)(rows).tolist() if bounded else [None] * len(rows)
    macs, params = macs_table(space)(rows), params_table(space)(rows)
    return DeviceFront(
        target=target,
        title=latency.device.title,
        provenance=times.provenance,
        source=latency.source,
        bound=latency.bound_words(confidence) if bounded else "",
        exact=front.exact,
        evaluations=front.evaluations,
        notes=tuple(latency.cautions(int(np.median(macs)), space=space)),
        points=tuple(
            FrontPoint(
                arch=p.arch,
                accuracy=p.values["accuracy"],
                latency=p.values["latency"],
                upper=uppers[i],
                macs=int(macs[i]),
                params=int(params[i]),
            )
            for i, p in enumerate(points)
        ),
    )
