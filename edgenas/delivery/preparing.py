"""From a request to everything that the choice needs; what may be wrong comes before what is slow.

SpecializeRequest -> resolve -> Resolved -> prepare -> Prepared
"""

import math
from dataclasses import dataclass, replace
from functools import partial

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.progress import Progress
from edgenas.bundle.signing import check_key
from edgenas.delivery.evaluating import check_images
from edgenas.delivery.images import ImageSets, describe_fit, with_fit
from edgenas.delivery.latency import TargetLatency, check_energy, check_runtime
from edgenas.delivery.limits import check_reachable
from edgenas.delivery.request import AUTO, SpecializeRequest
from edgenas.delivery.shared import SharedInputs
from edgenas.delivery.target_file import is_lowered_here
from edgenas.latency import device as devices
from edgenas.latency.device import Device, Target
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet
from edgenas.profiling.reach import clock_of, timed_target
from edgenas.profiling.work import Clock
from edgenas.runtime.registry import form_of
from edgenas.space.arch import Arch
from edgenas.space.space import Space
from edgenas.strategies.constraint import Constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A request whose words were looked up.

    Args:
        request: what is asked for.
        constraints: its budgets; those that name the device itself name none.
        device: where the network will run.
        target: the device with its runtime, precision, threads and batch.
        clock: where the device is timed; None where it is out of reach.
    """

    request: SpecializeRequest
    constraints: tuple[Constraint, ...]
    device: Device
    target: Target
    clock: Clock | None

    @property
    def reachable(self) -> bool:
        """Whether networks can be timed on the device from here."""
        return self.clock is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that the choice of a network needs.

    Args:
        request: what is asked for.
        constraints: the budgets.
        trained: the supernet.
        accuracy: the predictor of accuracy; None where nothing is searched for and there is none.
        latency: on the device.
        others: on further devices, with the names by which constraints call them.
        images: for calibration, evaluation and learning.
        progress: called with (step, done, total, words).
    """

    request: SpecializeRequest
    constraints: tuple[Constraint, ...]
    trained: TrainedSupernet
    accuracy: AccuracyPredictor | None
    latency: TargetLatency
    others: tuple[tuple[str, TargetLatency], ...]
    images: ImageSets
    progress: Progress

    @property
    def predictor(self) -> AccuracyPredictor:
        """The predictor of accuracy, where networks are searched for."""
        if self.accuracy is None:
            raise AssertionError("only searches ask for it, and they have one")
        return self.accuracy

    @property
    def space(self) -> Space:
        """The space of the supernet."""
        return self.trained.supernet.space

    @property
    def budgets(self) -> list[Constraint]:
        """The latency budgets on the device itself, the tightest first."""
        own = [c for c in self.constraints if c.metric == "latency" and not c.target]
        return sorted(own, key=lambda c: c.limit)

    @property
    def budget(self) -> float | None:
        """The tightest latency budget on the device, in seconds; None where there is none."""
        return self.budgets[0].limit if self.budgets else None

    @property
    def lowered(self) -> bool:
        """Whether the model is brought to less than fp32 here, and not on the device."""
        return is_lowered_here(self.latency.target, reachable=self.latency.reachable)

    @property
    def shipped_precision(self) -> str:
        """The precision of the file that ships; a runtime may lower it by itself."""
        target = self.latency.target
        lower = self.lowered and form_of(target.runtime, target.precision) != "fp32"
        return target.precision if lower else "fp32"

    @property
    def evaluation_copies(self) -> int | None:
        """How many evaluation images the delivered weights have learnt from; None: not known.

        Weights that began at random have learnt from images without such copies.
        """
        if self.request.starts_from_scratch:
            return 0
        return self.images.copies

    def latency_for(self, constraint: Constraint) -> TargetLatency:
        """The latency that a constraint is about: of the device, or of the one that it names."""
        return dict(self.others)[constraint.target] if constraint.target else self.latency

    def predict_seconds(self, arch: Arch) -> float:
        """The predicted latency of a network on the device."""
        return float(self.latency.predictor.predict(self.space.encode([arch]))[0])

    def predict_accuracy(self, arch: Arch) -> float:
        """The predicted accuracy of a network, a fraction; NaN where nothing predicts it."""
        if self.accuracy is None:
            return math.nan
        return float(self.predictor.predict(self.space.encode([arch]))[0])


def resolve(request: SpecializeRequest, *, progress: Progress) -> Resolved:
    """Look up the words of a request, before anything slow is done.

    Args:
        request: what is asked for.
        progress: called with (step, done, total, words).

    Raises:
        EdgenasError: a name is unknown or a number out of range.
    """
    request.check()
    device = devices.load(request.device)
    if request.runtime is not None:
        check_runtime(request.runtime)
    if request.sign is not None:
        check_key(request.sign)
    clock = clock_of(
        device,
        runtime=request.runtime,
        ssh=request.ssh,
        python=request.python,
        say=lambda line: progress("connecting", 0, 1, line),
    )
    target = (device.target if clock is None else partial(timed_target, device))(
        runtime=request.runtime,
        precision=None if request.precision == AUTO else request.precision,
        threads=request.threads,
        batch=request.batch,
    )
    constraints = tuple(
        replace(c, target="") if c.target and devices.load(c.target).name == device.name else c
        for c in request.constraints
    )
    return Resolved(
        request=request, constraints=constraints, device=device, target=target, clock=clock
    )


def prepare(resolved: Resolved, inputs: SharedInputs, *, progress: Progress) -> Prepared:
    """Read the supernet, the images and the latency of a target.

    Args:
        resolved: the request with its target.
        inputs: what was read already; it grows.
        progress: called with (step, done, total, words).

    Raises:
        EdgenasError: a budget cannot be met, or an input is missing or damaged.
    """
    request, target = resolved.request, resolved.target
    as_trained = inputs.supernet(request.supernet)
    trained = with_fit(as_trained, request.fit)
    predictor = None
    if request.arch is None or (as_trained.require_folder() / ACCURACY_FILE).exists():
        predictor = inputs.predictor(request.supernet)
    check_reachable(
        trained.supernet.space,
        resolved.constraints,
        precision=target.precision,
        batch=target.batch,
    )
    others: list[tuple[str, TargetLatency]] = []
    for name in sorted({c.target for c in resolved.constraints if c.target}):
        other = devices.load(name)
        latency = inputs.latency(request.supernet, device=other, target=other.target())
        others.append((name, latency))
    for constraint in resolved.constraints:
        if constraint.metric == "energy" and constraint.target:
            dict(others)[constraint.target].upper_energy(request.confidence)
        elif constraint.metric == "energy" and resolved.clock is not None:
            check_energy(resolved.device, target, resolved.clock)
    images = inputs.images(request, progress)
    images = replace(images, notes=(*images.notes, *describe_fit(as_trained, request.fit)))
    here = is_lowered_here(target, reachable=resolved.reachable)
    check_images(request, images, target=target, here=here)
    latency = inputs.latency(
        request.supernet,
        device=resolved.device,
        target=target,
        statistic="typical" if request.percentile == "p50" else "wall_p95",
        clock=resolved.clock,
        progress=progress,
        energy=any(c.metric == "energy" and not c.target for c in resolved.constraints),
    )
    return Prepared(
        request=request,
        constraints=resolved.constraints,
        trained=trained,
        accuracy=predictor,
        latency=latency,
        others=tuple(others),
        images=images,
        progress=progress,
    )
