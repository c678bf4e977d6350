"""The whole accuracy-latency front of a supernet on devices, by prediction.

A front is what budgets can be chosen from; ``specialize`` then builds, checks and, where the device
is at hand, measures a network for one of them.
"""

import csv
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.accuracy.measured import evaluated_on
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_json, write_text
from edgenas.basics.held_out import HeldOut
from edgenas.basics.progress import Progress, no_progress
from edgenas.delivery.latency import TargetLatency, check_runtime
from edgenas.delivery.limits import count_for
from edgenas.delivery.request import ParetoRequest
from edgenas.delivery.shared import SharedInputs
from edgenas.latency import device as devices
from edgenas.latency.device import Device, Target
from edgenas.pages.fronts import draw_fronts, fronts_page
from edgenas.profiling.reach import clock_of, timed_target
from edgenas.space.arch import Arch
from edgenas.space.cost import macs_table, params_table
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.pareto import Objective, pareto

SCHEMA = "edgenas.fronts/1"
ENDINGS = (".csv", ".json", ".html", ".svg", ".png", ".pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A network that no other scored one beats in both predicted accuracy and latency.

    Args:
        arch: the network.
        accuracy: predicted, a fraction of 1.
        latency: predicted, in seconds.
        upper: bound of the latency at the front's confidence; None where there is none.
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
        shown: list[FrontPoint] = []
        for budget in np.linspace(*ends, count):
            within = [p for p in self.points if p.latency <= budget * (1 + 1e-9)]
            if not shown or within[-1] != shown[-1]:
                shown.append(within[-1])
        return shown

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
                fields = point.to_json()
                first = [front.target.device, front.target.slug, front.provenance, point.arch.id]
                numbers = [fields[name] for name in names.split()[4:]]
                lines.writerow([*first, *numbers, str(point.arch)])
        return text.getvalue()


def search_fronts(
    request: ParetoRequest,
    *,
    progress: Progress = no_progress,
    inputs: SharedInputs | None = None,
) -> Fronts:
    """The accuracy-latency front on each of some devices.

    Args:
        request: the devices, and what every network keeps.
        progress: called with (step, done, total, words).
        inputs: supernets, predictors and latencies that were read already.

    Raises:
        EdgenasError: a name is unknown, a device is named twice, or no network keeps the budgets.
    """
    request.check()
    named = _load_devices(request)
    inputs = SharedInputs() if inputs is None else inputs
    predictor = inputs.predictor(request.supernet)
    fronts: list[DeviceFront] = []
    for number, device in enumerate(named):
        latency = _latency_on(device, request, inputs, progress=progress)
        progress("searching", number, len(named), device.name)
        space = inputs.supernet(request.supernet).supernet.space
        fronts.append(_search_front(space, request, accuracy=predictor, latency=latency))
    progress("searching", len(named), len(named), "")
    data, split, images = evaluated_on(predictor)
    return Fronts(
        supernet=request.supernet,
        space=predictor.space.name,
        data=f"{data} {split}, n={images}" if images else data,
        error=predictor.require_error(),
        constraints=tuple(map(str, request.constraints)),
        confidence=request.confidence,
        seed=request.seed,
        devices=tuple(fronts),
    )


def _load_devices(request: ParetoRequest) -> list[Device]:
    """The devices of a request.

    Raises:
        EdgenasError: a name is unknown, or two names are of the same device.
    """
    if request.runtime is not None:
        check_runtime(request.runtime)
    named = [devices.load(name) for name in request.device]
    twice = [device.name for i, device in enumerate(named) if device in named[:i]]
    if twice:
        raise EdgenasError(f"the device {twice[0]} was given twice", hint="name each device once")
    return named


def _latency_on(
    device: Device, request: ParetoRequest, inputs: SharedInputs, *, progress: Progress
) -> TargetLatency:
    """The latency of the networks of the supernet on a device."""
    clock = clock_of(
        device, runtime=request.runtime, say=lambda line: progress("connecting", 0, 1, line)
    )
    use = device.target if clock is None else partial(timed_target, device)
    target = use(
        runtime=request.runtime,
        precision=request.precision,
        threads=request.threads,
        batch=request.batch,
    )
    return inputs.latency(
        request.supernet, device=device, target=target, clock=clock, progress=progress
    )


def _search_front(
    space: Space,
    request: ParetoRequest,
    *,
    accuracy: AccuracyPredictor,
    latency: TargetLatency,
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
            for c in request.constraints
        ],
        seed=request.seed,
        evaluations=request.evaluations,
        history=request.history,
    )
    confidence = request.confidence
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
        notes=tuple(latency.cautions(points[len(points) // 2].arch, space=space)),
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


def write_fronts(fronts: Fronts, path: Path) -> None:
    """Write fronts to a file; its ending says how: .csv, .json, .html, .svg, .png or .pdf.

    Raises:
        EdgenasError: another ending.
    """
    check_ending(path)
    if path.suffix == ".csv":
        write_text(path, fronts.to_csv())
    elif path.suffix == ".json":
        write_json(path, fronts.to_json())
    elif path.suffix == ".html":
        write_text(path, fronts_page(fronts.to_json()))
    else:
        draw_fronts(fronts.to_json(), path)


def check_ending(path: Path) -> None:
    """Refuse the name of a file that fronts cannot be written to.

    Raises:
        EdgenasError: names the endings.
    """
    if path.suffix not in ENDINGS:
        raise EdgenasError(
            f"--out must end in one of {' '.join(ENDINGS)}, found {path.name!r}",
            hint="for example --out front.html --out front.csv",
        )
