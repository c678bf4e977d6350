"""From a network of the search to a checked model, and to its time on the device."""

import copy
import time
from dataclasses import dataclass, field, replace

import torch

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.bundle.record import Retraining
from edgenas.clock.board import Settings
from edgenas.clock.measure import Measurement
from edgenas.delivery.images import Material
from edgenas.delivery.latency import Latency
from edgenas.delivery.request import Request, Tell
from edgenas.delivery.trail import Trail
from edgenas.model.evaluate import calibrate
from edgenas.model.export import Parity, parity, to_onnx
from edgenas.model.network import Network
from edgenas.model.saved import TrainedSupernet
from edgenas.profiling.tables import measure_network
from edgenas.runtime import registry as runtimes
from edgenas.runtime.forms import form, formed
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables
from edgenas.space.space import Space

# The gate that every built network passes, and the one for what is delivered.
PARITY_IMAGES, MORE_PARITY_IMAGES = 100, 1000
# Of measurements on a machine that is slower than its table, in all, and the seconds before each.
REPEATS, PAUSE = 4, 5.0
QUANTISATION_IMAGES = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One specialisation at work.

    Args:
        request: what is asked for.
        trained: the supernet.
        predictor: of accuracy.
        latency: on the device.
        others: on further devices that constraints name, by that name.
        material: images.
        tell: called with (step, done, total, words).
        trail: keeps what was seen and measured.
        notes: what a reader of the result should know; grows.
        waits: seconds waited for the full speed of the device, each time; grows.
        learnt: what a gradient strategy prefers, once it was learnt.
        joint: the supernet with the weights that the strategy trained, once it did.
        measured: networks that a search has measured on images.
        tried: networks that were built and timed, with their latest measurement.
        own: networks with weights of their own, not the supernet's.
        retrained: how those came about, once they did.
    """

    request: Request
    trained: TrainedSupernet
    predictor: AccuracyPredictor
    latency: Latency
    others: dict[str, Latency]
    material: Material
    tell: Tell
    trail: Trail
    notes: list[str] = field(default_factory=list[str])
    waits: list[float] = field(default_factory=list[float])
    learnt: list[Tables] = field(default_factory=list[Tables])
    joint: list[TrainedSupernet] = field(default_factory=list[TrainedSupernet])
    measured: set[Arch] = field(default_factory=set[Arch])
    tried: "dict[Arch, Built]" = field(default_factory=dict[Arch, "Built"])
    own: dict[Arch, Network] = field(default_factory=dict[Arch, Network])
    retrained: list[Retraining] = field(default_factory=list[Retraining])

    @property
    def space(self) -> Space:
        """Of the supernet."""
        return self.trained.supernet.space

    @property
    def inherited(self) -> TrainedSupernet:
        """Whose weights networks inherit: the supernet as given, or as the strategy trained it."""
        return self.joint[0] if self.joint else self.trained

    @property
    def budget(self) -> float | None:
        """The tightest latency budget on the device, in seconds; None: there is none."""
        budgets = self.request.budgets()
        return budgets[0].limit if budgets else None

    @property
    def lowered(self) -> bool:
        """Whether the model is brought to less than fp32 here, and not on the device."""
        target = self.latency.target
        known = target.runtime in runtimes.names()
        return self.latency.reachable and known and target.precision != "fp32"

    @property
    def shipped(self) -> str:
        """The precision of the file that ships; a runtime may lower it by itself."""
        target = self.latency.target
        lower = self.lowered and form(target.runtime, target.precision) != "fp32"
        return target.precision if lower else "fp32"

    def network(self, arch: Arch) -> Network:
        """A copy of a network with the weights that it ships with, not yet calibrated."""
        own = self.own.get(arch)
        found = self.inherited.supernet.extract(arch) if own is None else copy.deepcopy(own)
        return found.to(memory_format=torch.channels_last)

    def seconds(self, arch: Arch) -> float:
        """Predicted latency of a network on the device."""
        return float(self.latency.predictor.predict(self.space.encode([arch]))[0])

    def accuracy(self, arch: Arch) -> float:
        """Predicted accuracy of a network, a fraction."""
        return float(self.predictor.predict(self.space.encode([arch]))[0])

    def held(self, measurement: Measurement) -> float:
        """The measured number that the budget is held to."""
        typical = self.request.percentile == "p50"
        return measurement.median if typical else measurement.wall_p95


def judged_copies(job: Job) -> int | None:
    """How many of the judged images the delivered weights have learnt from; None: not known.

    Weights that began at random have learnt from images without such copies.
    """
    request = job.request
    if request.retrain_top and request.retrain_from == "scratch":
        return 0
    return job.material.copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A network of the search, made real; ``predicted`` and ``measured`` are its latency."""

    arch: Arch
    network: Network
    onnx: bytes
    parity: Parity
    predicted: float
    measured: Measurement | None = None


def build(job: Job, arch: Arch) -> Built:
    """Extract, calibrate, export in the form for the target, and hold that against PyTorch.

    Raises:
        EdgenasError: the export is not the network.
    """
    trained, target = job.trained, job.latency.target
    network = job.network(arch)
    calibrate(network, job.material.calibration, preprocessing=trained.preprocessing)
    onnx = to_onnx(network, preprocessing=trained.preprocessing.to_json(), batch=target.batch)
    some = job.material.calibration[:PARITY_IMAGES]
    inputs = trained.preprocessing.prepare(some, resolution=arch.resolution)
    checked = parity(network, onnx, images=inputs)
    checked.require()
    if job.shipped != "fp32":
        pixels = job.material.calibration[:QUANTISATION_IMAGES]
        images = trained.preprocessing.prepare(pixels, resolution=arch.resolution)
        onnx = formed(
            onnx,
            wanted=form(target.runtime, target.precision),
            images=images.contiguous().numpy(),
            keep=job.space.kept_in_float,
        )
        checked = parity(network, onnx, images=inputs, precision=job.shipped)
        checked.require()
    return Built(arch=arch, network=network, onnx=onnx, parity=checked, predicted=job.seconds(arch))


def compared(job: Job, built: Built) -> Built:
    """Hold the export against PyTorch on the images that accuracy is measured on, if there are any.

    Raises:
        EdgenasError: the export is not the network.
    """
    judged = job.material.judged
    if judged is None:
        return built
    count = min(MORE_PARITY_IMAGES, len(judged))
    # Evenly spaced: folders are read class by class.
    some = judged.pixels[torch.linspace(0, len(judged) - 1, count).long()]
    inputs = job.trained.preprocessing.prepare(some, resolution=built.arch.resolution)
    checked = parity(built.network, built.onnx, images=inputs, precision=job.shipped)
    checked.require()
    return replace(built, parity=checked)


def timed(job: Job, built: Built, *, settings: Settings) -> Built:
    """The same network, measured on the device, at the speed that its table was measured at.

    A shared processor or a warm board may run slower for a while, and steadily so: the clock alone
    cannot tell. Then the measurement is repeated, and the one at the highest speed counts.
    """
    clock, full = job.latency.clock, job.latency.canary
    assert clock is not None

    def measured() -> Measurement:
        return measure_network(
            built.onnx, target=job.latency.target, settings=settings, clock=clock
        )

    found = measured()
    while full and found.canary > settings.gate * full and len(job.waits) < REPEATS:
        slower = f"the machine is {found.canary / full - 1:.0%} slower than its table"
        job.tell("waiting for full speed", len(job.waits), REPEATS, slower)
        job.waits.append(PAUSE)
        time.sleep(PAUSE)
        found = min(found, measured(), key=lambda m: m.canary)
    return replace(built, measured=found)
