"""The main job, top to bottom: a supernet, a device and budgets in, a verified bundle out.

    load -> latency of the target -> search -> extract -> calibrate -> ONNX -> parity
         -> measure, correct the prediction and search again while it misses -> bundle

On a device at hand the promise is on the measured number of a fresh measurement; elsewhere it is
on the upper bound of the prediction, and the output says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgenas import device as devices
from edgenas.arch import Arch
from edgenas.bundle import (
    Accuracy,
    MeasuredLatency,
    PredictedLatency,
    Promise,
    Record,
    check_out,
    load_bundle,
    write_bundle,
)
from edgenas.cost import Vector, macs_table, params_table, peak_table, total, weights_table
from edgenas.cost import memory as memory_of
from edgenas.data import Images, load_images, split
from edgenas.device import Device, Target
from edgenas.errors import EdgenasError
from edgenas.estimate import DeviceModel, device_model
from edgenas.evaluate import accuracy, calibrate
from edgenas.export import Parity, parity, to_onnx
from edgenas.files import sha256
from edgenas.measure import DEFAULT, NETWORK, Measurement
from edgenas.network import Network
from edgenas.predict import AccuracyPredictor, LatencyPredictor, estimated, load_accuracy
from edgenas.profiling import (
    NoTableError,
    environment_of,
    measure_network,
    predictor_for,
    profile,
    table_for,
)
from edgenas.search import Constraint, Limit, search
from edgenas.space import Codes, Space
from edgenas.table import LatencyTable, Statistic, find_table
from edgenas.trained import ACCURACY_FILE, TrainedSupernet, find_supernet, load_supernet
from edgenas.units import count, milliseconds

SUPERNET = "mbv3-cifar10"
ATTEMPTS = 6  # networks built and measured before giving up
MARGIN = 1.004  # of a corrected prediction: the repeat error of the clock
ENOUGH = 0.97  # of the budget used: below it, a corrected search may find a better network

# While choosing; the number that is reported comes from a longer, fresh measurement.
QUICK = replace(DEFAULT, baseline_seconds=3.0, min_samples=100, max_samples=400, visit_seconds=2.0)

Tell = Callable[[str, int, int, str], None]
Percentile = Literal["p50", "p95"]
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        device: name or alias of the device, or the path of a profile.
        constraints: the budgets, e.g. ``latency<=20ms``.
        supernet: name or folder of the supernet.
        runtime: None: the device's first, likewise below.
        precision: of weights and activations.
        threads: of the processor.
        batch: images a run.
        percentile: what a measured latency is held to: ``p50``, the median at the machine's
            normal speed, or ``p95`` of all runs, whatever the machine did meanwhile.
        confidence: of the upper bound of a predicted latency.
        strategy: of the search.
        data: images the supernet was trained on, to calibrate with and to measure accuracy on
            their validation split; None: synthetic images, and accuracy is predicted.
        test: images to measure accuracy on.
        seed: of the search.
    """

    device: str
    constraints: tuple[Constraint, ...]
    supernet: str = SUPERNET
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    batch: int | None = None
    percentile: Percentile = "p50"
    confidence: float = 0.95
    strategy: str = "evolution"
    data: str | None = None
    test: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came out.

    Args:
        folder: the bundle.
        arch: the network.
        record: its numbers, with their evidence.
        existed: whether an identical bundle was there already and was only verified.
    """

    folder: Path
    arch: Arch
    record: Record
    existed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Latency:
    """How latency is predicted for the target, and what that rests on."""

    device: Device
    target: Target
    predictor: LatencyPredictor
    model: DeviceModel | None
    source: str

    @property
    def reachable(self) -> bool:
        return self.device.reach == "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """A network of the search, made real."""

    arch: Arch
    network: Network
    onnx: bytes
    parity: Parity
    predicted: float
    measured: Measurement | None = None


@dataclass(slots=True)
class _Job:
    """One specialisation at work."""

    request: Request
    trained: TrainedSupernet
    predictor: AccuracyPredictor
    latency: _Latency
    images: "_ImagesOfJob"
    tell: Tell
    notes: list[str] = field(default_factory=list[str])

    @property
    def space(self) -> Space:
        return self.trained.supernet.space


@dataclass(frozen=True, slots=True)
class _ImagesOfJob:
    calibration: Tensor
    judged: Images | None
    split: str


def specialize(
    request: Request, *, out: Path | None = None, force: bool = False, tell: Tell
) -> Result:
    """Find, build, check and deliver the network that fits a device and its budgets.

    Args:
        request: what is asked for.
        out: folder of the bundle; None: ``./<device>-<budget>-<arch id>``.
        force: replace a bundle that is there.
        tell: called with (step, done, total, words).

    Raises:
        EdgenasError: something asked for is unknown, the budgets cannot be met, or the built
            network fails a check. No bundle is left behind then.
    """
    trained = load_supernet(find_supernet(request.supernet))
    key = _request_json(request, trained)
    if out is not None and (there := _existing(out, key, force=force)):
        return there
    space = trained.supernet.space
    job = _Job(
        request=request,
        trained=trained,
        predictor=_accuracy_predictor(trained),
        latency=_latency(request, space, tell),
        images=_images(request, trained, tell),
        tell=tell,
    )
    best = _first_choice(job)
    built = _fit_by_measuring(job, best) if job.latency.reachable else _build(job, best)
    record = _record(job, built)
    folder = out or Path(_folder_name(request, built.arch))
    if out is None and (there := _existing(folder, key, force=force)):
        return there
    write_bundle(
        folder,
        space=space,
        arch=built.arch,
        onnx=built.onnx,
        preprocessing=trained.preprocessing,
        labels=trained.classes,
        record=record,
        parity=built.parity,
        request=key,
        batch=job.latency.target.batch,
    )
    return Result(folder=folder, arch=built.arch, record=record)


# -- what latency rests on -------------------------------------------------------------------------


def _latency(request: Request, space: Space, tell: Tell) -> _Latency:
    device = devices.load(request.device)
    target = device.target(
        runtime=request.runtime,
        precision=request.precision,
        threads=request.threads,
        batch=request.batch,
    )
    statistic: Statistic = "typical" if request.percentile == "p50" else "wall_p95"
    table: LatencyTable | None = None
    if device.reach == "local":
        try:
            table = table_for(space, target=target)
        except NoTableError as missing:
            tell("profiling", 0, 1, missing.message)
            table = profile(
                space,
                target=target,
                tell=lambda done, of, name, _: tell("profiling", done, of, name),
            )
    elif find_table(target) is not None:
        table = table_for(space, target=target, clock=None)
    if table is not None:
        return _Latency(
            device=device,
            target=target,
            predictor=predictor_for(table, space, statistic=statistic),
            model=None,
            source=f"table of {len(table.layers)} layers and {len(table.networks)} networks, "
            f"{table.provenance} {table.date}",
        )
    model = device_model(device, target)
    rows = model.evidence.rows
    return _Latency(
        device=device,
        target=target,
        predictor=LatencyPredictor.over(space, estimated(model)),
        model=model,
        source=f"device model of {device.title}, {rows} published networks of its own",
    )


# -- search ----------------------------------------------------------------------------------------


def _limits(job: _Job, *, latency: Limit | None) -> list[Limit]:
    """The constraints as functions of rows; latency is left out where it is None."""
    space, target = job.space, job.latency.target
    width = _BYTES[target.precision]

    def memory(rows: Codes) -> Vector:
        live = peak_table(space)(rows) * target.batch
        return (weights_table(space)(rows) + live) * width

    limits = [] if latency is None else [latency]
    for constraint in job.request.constraints:
        if constraint.metric == "macs":
            limits.append(Limit(constraint=constraint, values=macs_table(space)))
        elif constraint.metric == "params":
            limits.append(Limit(constraint=constraint, values=params_table(space)))
        elif constraint.metric == "memory":
            limits.append(Limit(constraint=constraint, values=memory))
        elif constraint.metric == "energy":
            values = _energy(job)
            guide = job.latency.predictor.tables()
            limits.append(Limit(constraint=constraint, values=values, guide=guide))
    return limits


def _latency_limit(job: _Job, values: Callable[[Codes], Vector]) -> Limit | None:
    """The tightest latency budget, held of these values; None: there is no such budget."""
    budgets = [c for c in job.request.constraints if c.metric == "latency"]
    if not budgets:
        return None
    tightest = min(budgets, key=lambda c: c.limit)
    return Limit(constraint=tightest, values=values, guide=job.latency.predictor.tables())


def _energy(job: _Job) -> Callable[[Codes], Vector]:
    model = job.latency.model
    if model is None or model.joules(1.0) is None:
        raise EdgenasError(
            f"no energy is known for {job.latency.target}: no wall power was published",
            hint="leave out --energy; edgenas list devices shows what is known",
        )
    watts = model.joules(1.0)
    assert watts is not None
    return lambda rows: job.latency.predictor.predict(rows) * watts


def _search(job: _Job, *, latency: Limit | None) -> Arch:
    found = search(
        job.space,
        maximize=job.predictor,
        subject_to=_limits(job, latency=latency),
        strategy=job.request.strategy,
        seed=job.request.seed,
    )
    return found.best.arch


def _first_choice(job: _Job) -> Arch:
    """The winner under the upper bound of the prediction."""
    confidence, predictor = job.request.confidence, job.latency.predictor
    job.tell("searching", 0, 1, "")

    def bound(rows: Codes) -> Vector:
        return predictor.upper(rows, confidence=confidence)

    best = _search(job, latency=_latency_limit(job, bound))
    job.tell("searching", 1, 1, str(best))
    budget = _budget(job.request)
    if budget is not None:
        free = _search(job, latency=None)
        if free == best:
            _say_unbound(job, best, budget)
    return best


def _say_unbound(job: _Job, best: Arch, budget: float) -> None:
    rows = job.space.encode([best])
    needs = float(job.latency.predictor.upper(rows, confidence=job.request.confidence)[0])
    macs = total(job.space, best).macs
    job.notes.append(
        f"the latency budget of {milliseconds(budget)} does not bind: the most accurate network of "
        f"space {job.space.name} ({count(macs)} MACs) needs at most {milliseconds(needs)}; the "
        f"device could take a network about {budget / needs:.1f} times as slow: use a larger space "
        "or a tighter budget"
    )


def _fit_by_measuring(job: _Job, first: Arch) -> _Built:
    """Build and measure; while the budget is missed, or left unused, correct and search again.

    The winner is then measured afresh, and that number is the one held against the budget.
    """
    budget = _budget(job.request)
    predictor = job.latency.predictor
    tried: dict[Arch, _Built] = {}
    arch = first
    for attempt in range(ATTEMPTS):
        job.tell("measuring", attempt, ATTEMPTS, str(arch))
        if arch not in tried:
            tried[arch] = _measured(job, _build(job, arch), quick=True)
        if budget is None:
            break
        ratios = [_held(job, b.measured) / b.predicted for b in tried.values() if b.measured]
        used = _held(job, tried[arch].measured) / budget
        if ENOUGH <= used <= 1 or (used < ENOUGH and _unbound(job)):
            break
        # The prediction is off by a common factor near this budget: that of the latest networks.
        factor = float(np.mean(ratios[-2:]))
        slower = factor * MARGIN
        limit = _latency_limit(job, lambda rows, by=slower: predictor.predict(rows) * by)
        try:
            arch = _search(job, latency=limit)
        except EdgenasError:
            if not any(_held(job, b.measured) <= budget for b in tried.values()):
                raise
            break
        if arch in tried:
            break
    fitting = [b for b in tried.values() if budget is None or _held(job, b.measured) <= budget]
    for built in sorted(fitting, key=lambda b: -_predicted_accuracy(job, b.arch)):
        job.tell("measuring", ATTEMPTS - 1, ATTEMPTS, f"the winner afresh: {built.arch}")
        final = _measured(job, built, quick=False)
        if budget is None or _held(job, final.measured) <= budget:
            job.tell("measuring", ATTEMPTS, ATTEMPTS, "")
            return final
    closest = min(tried.values(), key=lambda b: _held(job, b.measured))
    raise EdgenasError(
        f"no network measured within {milliseconds(budget or math.inf)} on {job.latency.target}: "
        f"the closest of {len(tried)} took {milliseconds(_held(job, closest.measured))}",
        hint="allow a little more, or look for what slows this machine: edgenas check",
    )


def _unbound(job: _Job) -> bool:
    return any("does not bind" in note for note in job.notes)


def _held(job: _Job, measured: Measurement | None) -> float:
    """The measured number that the budget is held to."""
    assert measured is not None
    return measured.median if job.request.percentile == "p50" else measured.wall_p95


# -- from an arch to a checked model ---------------------------------------------------------------


def _build(job: _Job, arch: Arch) -> _Built:
    """Extract, calibrate, export, and hold the export against PyTorch."""
    trained, target = job.trained, job.latency.target
    network = trained.supernet.extract(arch)
    calibrate(network, job.images.calibration, preprocessing=trained.preprocessing)
    network.to(memory_format=torch.contiguous_format)
    onnx = to_onnx(network, preprocessing=trained.preprocessing.to_json(), batch=target.batch)
    inputs = trained.preprocessing.prepare(job.images.calibration, resolution=arch.resolution)
    checked = parity(network, onnx, images=inputs.contiguous())
    checked.require()
    predicted = float(job.latency.predictor.predict(job.space.encode([arch]))[0])
    return _Built(arch=arch, network=network, onnx=onnx, parity=checked, predicted=predicted)


def _measured(job: _Job, built: _Built, *, quick: bool) -> _Built:
    settings = QUICK if quick else NETWORK
    found = measure_network(built.onnx, target=job.latency.target, settings=settings)
    return replace(built, measured=found)


def _images(request: Request, trained: TrainedSupernet, tell: Tell) -> _ImagesOfJob:
    """What to calibrate with, and what to measure accuracy on, if anything."""
    stored = trained.preprocessing.stored

    def read(source: str) -> Images:
        images = load_images(
            source, stored=stored, progress=lambda done, of: tell("reading images", done, of, "")
        )
        if images.classes != trained.classes:
            strange = sorted(set(images.classes) ^ set(trained.classes))
            raise EdgenasError(
                f"the classes of {source} must be those of the supernet, they differ in "
                f"{strange[0]!r}",
                hint="give images of the same classes, or train: edgenas train --init SUPERNET",
            )
        return images

    test = None if request.test is None else read(request.test)
    if request.data is None:
        return _ImagesOfJob(trained.calibration_images(), test, "test")
    training = trained.training
    recipe = training["recipe"]
    parts = split(
        read(request.data), validation=float(recipe["validation"]), seed=int(training["seed"])
    )
    order = np.random.default_rng((int(training["seed"]), 3)).permutation(len(parts.train))
    chosen = torch.from_numpy(order[: int(recipe["calibration"])])
    calibration = parts.train.pixels[chosen]
    if test is None:
        return _ImagesOfJob(calibration, parts.validation, "validation")
    return _ImagesOfJob(calibration, test, "test")


# -- the record ------------------------------------------------------------------------------------


def _record(job: _Job, built: _Built) -> Record:
    request, latency = job.request, job.latency
    rows = job.space.encode([built.arch])
    confidence = request.confidence
    upper = float(latency.predictor.upper(rows, confidence=confidence)[0])
    predicted = PredictedLatency(
        seconds=built.predicted,
        upper=upper,
        confidence=confidence,
        bound=latency.predictor.bound_kind(confidence),
        provenance=latency.predictor.provenance,
        source=latency.source,
    )
    costs = total(job.space, built.arch)
    width = _BYTES[latency.target.precision]
    memory = memory_of(
        costs, weight_bytes=width, activation_bytes=width, batch=latency.target.batch
    )
    measured = None
    if built.measured is not None:
        facts = environment_of(latency.target)
        measured = MeasuredLatency.of(built.measured, environment=facts)
    _say_estimated(job, costs.macs)
    values = {"macs": costs.macs, "params": costs.params, "memory": memory}
    promises: list[Promise] = []
    for constraint in request.constraints:
        if constraint.metric in values:
            value, rests = float(values[constraint.metric]), "exact count"
        elif constraint.metric == "energy":
            value, rests = float(_energy(job)(rows)[0]), "estimated from published wall power"
        elif built.measured is not None:
            value = _held(job, built.measured)
            rests = "measured median" if request.percentile == "p50" else "measured p95, ungated"
        else:
            value, rests = upper, f"upper bound of the prediction at {confidence:.0%} confidence"
        promises.append(
            Promise(constraint=str(constraint), value=value, limit=constraint.limit, rests_on=rests)
        )
    assert job.trained.folder is not None
    return Record(
        target=latency.target,
        accuracy=_accuracy(job, built),
        predicted=predicted,
        measured=measured,
        promises=tuple(promises),
        costs=costs,
        memory=memory,
        supernet=request.supernet,
        supernet_digest=sha256(job.trained.folder / "weights.safetensors"),
        seed=request.seed,
        notes=tuple(job.notes),
    )


def _accuracy(job: _Job, built: _Built) -> Accuracy:
    judged, data = job.images.judged, str(job.trained.training["data"]["source"])
    if judged is not None:
        found = accuracy(
            built.network,
            judged,
            preprocessing=job.trained.preprocessing,
            split=job.images.split,
        )
        return Accuracy.of(
            correct=round(found.value * found.n), images=found.n, data=data, split=found.split
        )
    error = job.predictor.chosen or job.predictor.error
    assert error is not None, "a fitted predictor knows its error"
    return Accuracy(
        kind="predicted",
        value=_predicted_accuracy(job, built.arch),
        data=data,
        split="validation",
        images=int(job.trained.training["validation_images"]),
        error=error.error,
        archs=error.n,
    )


def _predicted_accuracy(job: _Job, arch: Arch) -> float:
    return float(job.predictor.predict(job.space.encode([arch]))[0])


def _say_estimated(job: _Job, macs: int) -> None:
    latency, model = job.latency, job.latency.model
    if latency.reachable:
        return
    if model is not None:
        near = model.extrapolated(macs)
        if near is not None:
            job.notes.append(
                f"extrapolated: {count(macs)} MACs are outside four times the range of the "
                f"published networks; the nearest is {near.network} ({count(near.macs)} MACs, "
                f"{milliseconds(near.seconds)}, {near.source})"
            )
        job.notes.append(
            f"the latency is estimated, not measured; measure the real one on the board: "
            f"edgenas profile --device {latency.device.name} --space {job.space.name}"
        )
    if latency.target.runtime == "tensorrt":
        flag = " --fp16" if latency.target.precision == "fp16" else ""
        job.notes.append(
            "no engine is in the bundle, TensorRT builds it on the board itself: "
            f"trtexec --onnx=model.onnx{flag} --saveEngine=model.engine"
        )


# -- names -----------------------------------------------------------------------------------------


def _accuracy_predictor(trained: TrainedSupernet) -> AccuracyPredictor:
    assert trained.folder is not None
    path = trained.folder / ACCURACY_FILE
    if not path.exists():
        raise EdgenasError(
            f"the supernet {trained.folder} has no accuracy predictor",
            hint=f"fit one: edgenas fit-accuracy {trained.folder} --data PATH",
        )
    return load_accuracy(path)


def _budget(request: Request) -> float | None:
    limits = [c.limit for c in request.constraints if c.metric == "latency"]
    return min(limits, default=None)


def _request_json(request: Request, trained: TrainedSupernet) -> dict[str, Any]:
    """Everything that decides what the bundle will be, as JSON values."""
    assert trained.folder is not None
    names = ("runtime", "precision", "threads", "batch", "percentile", "confidence", "strategy")
    return {
        "device": devices.load(request.device).name,
        "constraints": sorted(str(c) for c in request.constraints),
        "supernet": sha256(trained.folder / "weights.safetensors"),
        **{name: getattr(request, name) for name in (*names, "data", "test", "seed")},
    }


def _existing(folder: Path, key: dict[str, Any], *, force: bool) -> Result | None:
    if check_out(folder, request=key, force=force) is None:
        return None
    arch, record = load_bundle(folder)
    return Result(folder=folder, arch=arch, record=record, existed=True)


def _folder_name(request: Request, arch: Arch) -> str:
    budgets: Sequence[str] = [c.text for c in request.constraints if c.metric == "latency"]
    budget = budgets[0] if budgets else "-".join(c.text for c in request.constraints) or "free"
    device = Path(request.device).stem
    return f"{device}-{budget}-{arch.id}"
