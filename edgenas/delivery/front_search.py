"""Searching the fronts of a supernet, in any metrics, by prediction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgenas.accuracy.measured import evaluated_on
from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress, no_progress
from edgenas.delivery.front_request import METRICS, Metric, ParetoRequest
from edgenas.delivery.fronts import DeviceFront, FrontMetric, FrontPoint, Fronts
from edgenas.delivery.latency import TargetLatency, check_energy, check_runtime
from edgenas.delivery.limits import COUNTED, bound_for, count_for
from edgenas.delivery.shared import SharedInputs
from edgenas.latency import device as devices
from edgenas.latency.device import Device
from edgenas.profiling.reach import clock_of, timed_target
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector, macs_table, params_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.pareto import Front, Objective, pareto


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetricSource:
    """A metric with the functions that give it."""

    metric: FrontMetric
    objective: Objective
    upper: Callable[[Codes], Vector] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontInputs:
    """What the search of one front reads: the space, and latencies by the names of devices.

    The name of the front's own device is empty.
    """

    request: ParetoRequest
    shared: SharedInputs
    space: Space
    latencies: Mapping[str, TargetLatency]


def search_fronts(
    request: ParetoRequest,
    *,
    progress: Progress = no_progress,
    inputs: SharedInputs | None = None,
) -> Fronts:
    """The front of some metrics on each of some devices.

    Args:
        request: the metrics, the devices, and what every network keeps.
        progress: called with (step, done, total, words).
        inputs: supernets, predictors and latencies that were read already.

    Raises:
        EdgenasError: a name is unknown, a device is named twice, nothing is known of a metric, or
            no network keeps the budgets.
    """
    request.check()
    named = _load_devices(request)
    shared = SharedInputs() if inputs is None else inputs
    predicted = any(metric.metric == "accuracy" for metric in request.asked)
    data, teacher, error = "", "", None
    if predicted:
        predictor = shared.predictor(request.supernet)
        of, split, images = evaluated_on(predictor)
        data = f"{of} {split}, n={images}" if images else of
        teacher = shared.supernet(request.supernet).teacher or ""
        data += f", where the answers of {teacher} are right" if teacher else ""
        error = predictor.require_error()
    space = shared.supernet(request.supernet).supernet.space
    fronts: list[DeviceFront] = []
    for number, device in enumerate(named):
        latencies = _read_latencies(device, request, shared, progress=progress)
        words = "" if device is None else device.name
        progress("searching", number, len(named), words)
        given = FrontInputs(request=request, shared=shared, space=space, latencies=latencies)
        fronts.append(_search_front(given))
    progress("searching", len(named), len(named), "")
    return Fronts(
        supernet=request.supernet,
        space=space.name,
        data=data,
        teacher=teacher,
        error=error,
        constraints=tuple(map(str, request.constraints)),
        confidence=request.confidence,
        strategy=request.strategy,
        seed=request.seed,
        devices=tuple(fronts),
    )


def _load_devices(request: ParetoRequest) -> list[Device | None]:
    """The devices of a request, one front each; None: one front that is of none.

    Raises:
        EdgenasError: a name is unknown, or two names are of the same device.
    """
    if request.runtime is not None:
        check_runtime(request.runtime)
    named = [devices.load(name) for name in request.device]
    twice = [device.name for i, device in enumerate(named) if device in named[:i]]
    if twice:
        raise EdgenasError(f"the device {twice[0]} was given twice", hint="name each device once")
    return [*named] or [None]


def _read_latencies(
    own: Device | None, request: ParetoRequest, shared: SharedInputs, *, progress: Progress
) -> dict[str, TargetLatency]:
    """The latencies that metrics and budgets are about, by the names of their devices.

    Raises:
        EdgenasError: a device is unknown, or it is named twice.
    """
    asked = [(m.metric, m.target) for m in request.asked]
    limits = [(c.metric, c.target) for c in request.constraints if c.metric not in COUNTED]
    energy = {target for metric, target in (*asked, *limits) if metric == "energy"}
    named = {"": own} if own is not None else {}
    for target in sorted({target for _, target in (*asked, *limits) if target}):
        device = devices.load(target)
        same = [name for name, other in named.items() if other == device]
        if same:
            other = f"also @{same[0]}" if same[0] else "that of --device"
            raise EdgenasError(
                f"the device of @{target} is {other}",
                hint="name each device once",
            )
        named[target] = device
    return {
        name: _latency_on(
            device,
            None if name else request,
            request.supernet,
            shared,
            energy=name in energy,
            progress=progress,
        )
        for name, device in named.items()
    }


def _latency_on(
    device: Device,
    request: ParetoRequest | None,
    supernet: str,
    shared: SharedInputs,
    *,
    energy: bool,
    progress: Progress,
) -> TargetLatency:
    """The latency of the networks of a supernet on a device, used as asked for, or as usual."""
    runtime = None if request is None else request.runtime
    clock = clock_of(device, runtime=runtime, say=lambda line: progress("connecting", 0, 1, line))
    use = device.target if clock is None else partial(timed_target, device)
    target = use(
        runtime=runtime,
        precision=None if request is None else request.precision,
        threads=None if request is None else request.threads,
        batch=None if request is None else request.batch,
    )
    if energy and clock is not None:
        check_energy(device, target, clock)
    return shared.latency(
        supernet, device=device, target=target, clock=clock, progress=progress, energy=energy
    )


def _source(metric: Metric, given: FrontInputs) -> MetricSource:
    """A metric with what is known of it."""
    name = metric.name
    if metric.metric == "accuracy":
        predictor = given.shared.predictor(given.request.supernet)
        told = FrontMetric(metric=metric, provenance="predicted", source=predictor.source)
        return MetricSource(
            metric=told, objective=Objective(name=name, values=predictor, goal="max")
        )
    if metric.metric in COUNTED:
        precision, batch = _used(given)
        values = count_for(given.space, metric.metric, precision=precision, batch=batch)
        source = f"of {precision}, batch {batch}" if metric.metric == "memory" else ""
        told = FrontMetric(metric=metric, provenance="counted", source=source)
        return MetricSource(metric=told, objective=Objective(name=name, values=values))
    latency, confidence = given.latencies[metric.target], given.request.confidence
    times = latency.predictor
    values, guide, upper = times.predict, times.tables(), latency.upper(confidence)
    source, bounded, provenance = latency.source, times, times.provenance
    if metric.metric == "energy":
        (values, guide), upper = latency.predict_energy(), latency.upper_energy(confidence)
        bounded = latency.energy or times
        source = f"{source}, {latency.energy_words}"
    has_bound = bounded.bound_kind(confidence) != "none"
    told = FrontMetric(
        metric=metric,
        provenance=provenance,
        source=source,
        target=latency.target,
        bound=latency.bound_words(confidence) if has_bound else "",
    )
    objective = Objective(name=name, values=values, guide=guide)
    return MetricSource(metric=told, objective=objective, upper=upper if has_bound else None)


def _used(given: FrontInputs) -> tuple[str, int]:
    """The precision and the batch that memory is counted for."""
    own = given.latencies.get("")
    if own is not None:
        return own.target.precision, own.target.batch
    return given.request.precision or "fp32", given.request.batch or 1


def _limits(given: FrontInputs) -> list[Limit]:
    """The budgets as functions of rows; those of latency and energy hold for upper bounds."""
    precision, batch = _used(given)
    limits: list[Limit] = []
    for c in given.request.constraints:
        if c.metric in COUNTED:
            values, guide = count_for(given.space, c.metric, precision=precision, batch=batch), None
        else:
            latency = given.latencies[c.target]
            values = bound_for(latency, c, confidence=given.request.confidence)
            measured = latency.energy if c.metric == "energy" else None
            guide = (measured or latency.predictor).tables()
        limits.append(Limit(constraint=c, values=values, guide=guide))
    return limits


def _search_front(given: FrontInputs) -> DeviceFront:
    """The front on one device."""
    request = given.request
    sources = [_source(metric, given) for metric in request.asked]
    front = pareto(
        given.space,
        objectives=[source.objective for source in sources],
        subject_to=_limits(given),
        seed=request.seed,
        evaluations=request.evaluations,
        history=request.history,
        strategy=request.strategy,
    )
    own = given.latencies.get("")
    points = _points(front, sources, space=given.space)
    middle = points[len(points) // 2].arch
    return DeviceFront(
        target=None if own is None else own.target,
        title="" if own is None else own.device.title,
        metrics=tuple(source.metric for source in sources),
        exact=front.exact,
        evaluations=front.evaluations,
        notes=_notes(given, middle),
        points=points,
    )


def _notes(given: FrontInputs, arch: Arch) -> tuple[str, ...]:
    """What a reader should know of the latencies; where there are several, of which one."""
    several = len(given.latencies) > 1
    return tuple(
        f"{text} (of {latency.device.name})" if several else text
        for latency in given.latencies.values()
        for text in latency.cautions(arch, space=given.space)
    )


def _points(
    front: Front, sources: Sequence[MetricSource], *, space: Space
) -> tuple[FrontPoint, ...]:
    """The networks of a front with their bounds and counts, the least of the first cost first."""
    first = next(s.metric.name for s in sources if METRICS[s.metric.metric.metric] == "min")
    listed = sorted(front.points, key=lambda p: p.values[first])
    rows = space.encode([p.arch for p in listed])
    uppers = {s.metric.name: s.upper(rows).tolist() for s in sources if s.upper is not None}
    counts = {
        "macs": macs_table(space)(rows).tolist(),
        "params": params_table(space)(rows).tolist(),
    }
    return tuple(
        FrontPoint(
            arch=p.arch,
            values={
                **{s.metric.name: p.values[s.metric.name] for s in sources},
                **{name: values[i] for name, values in counts.items()},
            },
            uppers={name: values[i] for name, values in uppers.items()},
        )
        for i, p in enumerate(listed)
    )
