"""From a network of the search to a checked model, and to its time on the device."""

import time
from dataclasses import dataclass, replace

import torch

from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.energy import MeasuredEnergy
from edgenas.clock.measure import DEFAULT, Measurement
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.request import Percentile
from edgenas.model.calibration import calibrate
from edgenas.model.export import Parity, parity, to_onnx
from edgenas.model.network import Network
from edgenas.model.threads import limit_threads
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.profiling.rebuilding import BUILDS, mean_of_builds, spread_in
from edgenas.profiling.tables import measure_network
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.runtime.registry import form_of
from edgenas.space.arch import Arch
from edgenas.space.cost import total

# The gate that every built network passes, and the one for what is delivered.
PARITY_IMAGES, MORE_PARITY_IMAGES = 100, 1000
# A machine may be slower than its table for a while: measure so often again in all, and wait so
# many seconds before each.
REPEATS, PAUSE = 4, 5.0
QUANTISATION_IMAGES = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltNetwork:
    """A network of the search, made real.

    Args:
        arch: the network.
        network: its module, calibrated.
        onnx: the file that ships.
        parity: how the file agrees with the module.
        predicted: latency in seconds.
        measured: latency on the device; None where it was not measured.
        repeats: how often it was measured again because the machine was slower than its table.
        builds: of engines that the measured latency is the mean of; 0: nothing was built.
        above: by which factor a further build may be slower than that mean.
        energy: of one run on the device; None: it was not metered.
    """

    arch: Arch
    network: Network
    onnx: bytes
    parity: Parity
    predicted: float
    measured: Measurement | None = None
    repeats: int = 0
    builds: int = 0
    above: float = 1.0
    energy: MeasuredEnergy | None = None

    def seconds(self, percentile: Percentile) -> float:
        """The measured number that the budget is held to; infinite where nothing was measured."""
        if self.measured is None:
            return float("inf")
        measured = self.measured.median if percentile == "p50" else self.measured.wall_p95
        return measured * self.above


def build(prepared: Prepared, arch: Arch, *, network: Network) -> BuiltNetwork:
    """Calibrate a network, export it in the form for the target, and hold that against PyTorch.

    Args:
        prepared: the target and the images.
        arch: the network.
        network: its module with the weights that it ships with; it is calibrated in place.

    Raises:
        EdgenasError: the export is not the network.
    """
    trained, target, images = prepared.trained, prepared.latency.target, prepared.images
    macs = total(prepared.space, arch).macs
    network = network.to(memory_format=torch.channels_last)
    with limit_threads(macs * len(images.calibration)):
        calibrate(network, images.calibration, preprocessing=trained.preprocessing)
    onnx = to_onnx(network, preprocessing=trained.preprocessing.to_json(), batch=target.batch)
    pixels = images.calibration[:PARITY_IMAGES]
    inputs = trained.preprocessing.prepare(pixels, resolution=arch.resolution)
    with limit_threads(macs * len(inputs)):
        agreement = parity(network, onnx, images=inputs)
    agreement.require()
    precision = prepared.shipped_precision
    if precision != "fp32":
        pixels = images.calibration[:QUANTISATION_IMAGES]
        samples = trained.preprocessing.prepare(pixels, resolution=arch.resolution)
        onnx = convert_to_form(
            onnx,
            form=form_of(target.runtime, target.precision),
            images=samples.contiguous().numpy(),
            keep=prepared.space.kept_in_float,
        )
        agreement = parity(network, onnx, images=inputs, precision=precision)
        agreement.require()
    fitted = _fit_version(onnx, runtime=target.runtime, version=prepared.latency.version)
    if fitted != onnx:
        onnx, agreement = fitted, parity(network, fitted, images=inputs, precision=precision)
        agreement.require()
    return BuiltNetwork(
        arch=arch,
        network=network,
        onnx=onnx,
        parity=agreement,
        predicted=prepared.predict_seconds(arch),
    )


def _fit_version(onnx: bytes, *, runtime: str, version: str) -> bytes:
    """Write a graph so that the runtime of the target reads it, in the version that it has."""
    known = runtimes.find(runtime)
    if known is None or known.fit_version is None:
        return onnx
    return known.fit_version(onnx, version)


def compare_on_evaluation_images(prepared: Prepared, built: BuiltNetwork) -> BuiltNetwork:
    """Hold the export against PyTorch on evaluation images, if there are any.

    Raises:
        EdgenasError: the export is not the network.
    """
    images = prepared.images.evaluation
    if images is None:
        return built
    count = min(MORE_PARITY_IMAGES, len(images))
    # Evenly spaced: folders are read class by class.
    pixels = images.pixels[torch.linspace(0, len(images) - 1, count).long()]
    inputs = prepared.trained.preprocessing.prepare(pixels, resolution=built.arch.resolution)
    agreement = parity(
        built.network, built.onnx, images=inputs, precision=prepared.shipped_precision
    )
    agreement.require()
    return replace(built, parity=agreement)


def time_builds(
    prepared: Prepared, built: BuiltNetwork, *, clock: TrtexecClock, builds: int
) -> BuiltNetwork:
    """Build a network into engines on the device, and time each.

    One build is quick, with what is known from earlier builds. Several are made as a user makes
    them, without that.

    Args:
        prepared: the target.
        built: the network.
        clock: where it is built and timed.
        builds: how many engines.
    """
    target = prepared.latency.target
    at = clock.built_afresh() if builds > 1 else clock
    measured = [
        measure_network(built.onnx, target=target, settings=DEFAULT, clock=at)
        for _ in range(builds)
    ]
    spread = prepared.latency.spread or spread_in({})
    if builds > 1:
        spread = spread.join([measurement.median for measurement in measured])
    return replace(
        built,
        measured=mean_of_builds(measured),
        builds=builds,
        above=spread.above(BUILDS),
    )


def time_on_device(
    prepared: Prepared,
    built: BuiltNetwork,
    *,
    clock: Clock,
    settings: TimingSettings,
    patience: int,
) -> BuiltNetwork:
    """Measure a network on the device, at the speed that its table was measured at.

    A shared processor or a warm board may run slower for a while, and steadily so: the clock alone
    cannot tell. Then the measurement is repeated, and the one at the highest speed counts.

    Args:
        prepared: the target.
        built: the network.
        clock: where it is timed.
        settings: of the clock.
        patience: how often it may be measured again.
    """
    full_speed = prepared.latency.canary

    def measure_once() -> Measurement:
        return measure_network(
            built.onnx, target=prepared.latency.target, settings=settings, clock=clock
        )

    measurement, repeats = measure_once(), 0
    while full_speed and measurement.canary > settings.gate * full_speed and repeats < patience:
        slowdown = measurement.canary / full_speed - 1
        message = f"the machine is {slowdown:.0%} slower than its table"
        prepared.progress("waiting for full speed", repeats, patience, message)
        repeats += 1
        time.sleep(PAUSE)
        measurement = min(measurement, measure_once(), key=lambda m: m.canary)
    return replace(built, measured=measurement, repeats=built.repeats + repeats)
