"""Latency of layers on devices nobody here has measured: an estimated device model.

A network is a list of kernels: convs and linears with the operators a runtime fuses into them, and
the operators it runs on their own. Its time is linear in thirteen prices,

    seconds = run + sum over kernels of
        kernel + macs * (price of its kind) + elements moved * (price of an element),

so it is a sum over layers plus a constant, as every latency table here is. The prices are fitted
to published whole-network latencies on the log scale, with a Gaussian prior on their logarithms
(partial pooling, Gelman & Hill 2007, chapter 12: a device with few rows leans on its relatives).
What prices cannot say (tiling, caches, clocks) is in the interval, which comes from published rows
that the fit had not seen. Every number of this module is *estimated*; say so.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields
from edgenas.latency.device import Device, Estimate, PublishedRow, Target
from edgenas.space.plan import Layer, Primitive, plan, primitives
from edgenas.space.space import Space

MODEL = "prices/1"

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Seconds for one unit of each thing a network is made of.

    Args:
        run: one run: input and output copies, synchronising, the caller's own code.
        kernel: starting one kernel.
        dense: one MAC of a conv with a kernel above 1x1 and no groups.
        winograd: the same, for 3x3 with stride 1, which fast algorithms exist for.
        pointwise: one MAC of a 1x1 conv or a linear layer.
        depthwise: one MAC of a conv with fewer than 16 channels in a group.
        activation: one element that a conv reads or writes.
        weight: one weight of a conv that is read.
        vector_weight: one weight of a linear layer or of a conv on a single pixel.
        elementwise: one element that any other operator reads or writes.
        window: one element that a pooling window reads.
        exponential: one element that goes through an exponential (sigmoid, SiLU, softmax).
        patch: one element of the unfolded input of a dense conv (im2col); 0 where the runtime
            unfolds nothing.
    """

    run: float
    kernel: float
    dense: float
    winograd: float
    pointwise: float
    depthwise: float
    activation: float
    weight: float
    vector_weight: float
    elementwise: float
    window: float
    exponential: float
    patch: float


NAMES = tuple(field.name for field in dataclasses.fields(Prices))
_AT = {name: i for i, name in enumerate(NAMES)}
_EXPONENTIAL = frozenset("sigmoid silu swish softmax lrn tanh gelu erf exp".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """How a runtime cuts a network into kernels.

    Args:
        fused: what it folds into the kernel before: names of activations, ``add``, or any other
            operator that costs nothing there (``concat``).
        tile: side of the output tiles of its fast 3x3 convs (Winograd), which compute whole
            tiles; 1: it has none.
        per_group: whether a grouped conv that is not depthwise is a kernel for each group.
        vectors: whether operators on a single pixel start a kernel: on a CPU they are over before
            threads would be.
    """

    fused: frozenset[str] = frozenset()
    tile: int = 1
    per_group: bool = False
    vectors: bool = True


def features(operators: Iterable[Primitive], *, kernels: Kernels) -> Array:
    """How many of each thing a list of operators has, in the order of ``Prices``; ``run`` is 0.

    Args:
        operators: in order of execution.
        kernels: of the runtime.

    Returns:
        Shape (13,): counts of kernels, MACs and elements of one image.
    """
    counts = np.zeros(len(NAMES))
    started = False
    for p in operators:
        starts = int(kernels.vectors or p.in_size != (1, 1) or p.out_size != (1, 1))
        if p.op in ("conv", "linear"):
            if kernels.per_group and 1 < p.groups < p.inputs:
                starts *= p.groups
            _count_conv(p, counts, kernels)
        elif started and (p.activation if p.op == "act" else p.op) in kernels.fused:
            if p.op == "add":
                counts[_AT["activation"]] += p.output_elements  # the second input is still read
            continue
        elif p.kernel != (1, 1):
            counts[_AT["window"]] += p.output_elements * p.kernel[0] * p.kernel[1]
        elif p.activation in _EXPONENTIAL:
            counts[_AT["exponential"]] += p.output_elements
        else:
            reads = 2 * p.input_elements if p.op == "add" else p.input_elements
            counts[_AT["elementwise"]] += reads + p.output_elements
        counts[_AT["kernel"]] += starts
        started = True
    return counts


def _count_conv(p: Primitive, counts: Array, kernels: Kernels) -> None:
    pixels = p.out_size[0] * p.out_size[1]
    taps = p.kernel[0] * p.kernel[1]
    each = p.inputs // p.groups
    if pixels == 1:
        counts[_AT["pointwise"]] += p.macs
        counts[_AT["vector_weight"]] += p.weights
        return
    counts[_AT["weight"]] += p.weights
    counts[_AT["activation"]] += p.input_elements + p.output_elements
    depthwise = each == 1 if kernels.per_group else each < 16
    if depthwise and p.groups > 1:
        counts[_AT["depthwise"]] += p.macs
    elif taps == 1:
        counts[_AT["pointwise"]] += p.macs
    else:
        if p.kernel == (3, 3) and p.stride == 1:
            tiles = [-(-size // kernels.tile) * kernels.tile for size in p.out_size]
            counts[_AT["winograd"]] += p.macs * (tiles[0] * tiles[1] / pixels)
        else:
            counts[_AT["dense"]] += p.macs
        counts[_AT["patch"]] += pixels * p.inputs * taps


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """The estimated model of one target.

    Args:
        target: the device and the way it is used.
        prices: of that target.
        kernels: how the runtime cuts a network into kernels.
        evidence: where they come from and how far off they were.
        doubt: added to the intervals: standard deviation of log(seconds) because of prices that
            the published rows say less about than about their own networks; see ``for_space``.
    """

    target: Target
    prices: Prices
    kernels: Kernels
    evidence: Estimate
    doubt: float = 0.0

    def seconds(self, layer: Layer) -> float:
        """Estimated time of one layer, without the constant of a run."""
        return self.seconds_of(primitives(layer))

    def seconds_of(self, operators: Iterable[Primitive]) -> float:
        """Estimated time of a list of operators, without the constant of a run."""
        return float(features(operators, kernels=self.kernels) @ vector(self.prices))

    @property
    def run_overhead(self) -> float:
        """Seconds of every run, whatever the network."""
        return self.prices.run

    def for_network(self, operators: Iterable[Primitive]) -> "DeviceModel":
        """This model with intervals that fit one network."""
        return self._widened([features(operators, kernels=self.kernels)])

    def for_space(self, space: Space) -> "DeviceModel":
        """This model with intervals wide enough for the networks of a space.

        Where they spend their time on what no published row has (3x3 convs on a board that only
        MobileNets were measured on), the doubt about those prices goes into the intervals: the
        largest of the smallest, the largest and 30 random networks.
        """
        sampled = space.decode(space.sample(30, rng=np.random.default_rng(0)))
        found: dict[Layer, Array] = {}
        networks: list[Array] = []
        for arch in (space.smallest(), space.largest(), *sampled):
            layers = [layer for _, layer in plan(space, arch)]
            for layer in layers:
                if layer not in found:
                    found[layer] = features(primitives(layer), kernels=self.kernels)
            networks.append(np.sum([found[layer] for layer in layers], axis=0))
        return self._widened(networks)

    def _widened(self, networks: Iterable[Array]) -> "DeviceModel":
        covariance = np.array(self.evidence.covariance)
        most = 0.0
        for counts in networks:
            parts = counts * vector(self.prices)
            parts[_AT["run"]] = self.prices.run
            most = max(most, doubt(parts, covariance))
        return dataclasses.replace(self, doubt=further(most, known=self.evidence.doubt))

    def interval(self, seconds: float, *, confidence: float = 0.9) -> tuple[float, float]:
        """The interval that holds the true latency of a network with a given confidence.

        Args:
            seconds: estimated time of a whole network, ``run_overhead`` included.
            confidence: between 0.5 and 0.999.

        Returns:
            Lower and upper end in seconds. The same factor both ways: the conformal quantile of
            the errors on rows the fit had not seen (Vovk et al. 2005, section 4.2) where at
            least three of them lie beyond it, else Student's t about zero.
        """
        wide = half_width(self.evidence.residuals, extra=self.doubt, confidence=confidence)
        return seconds * math.exp(-wide), seconds * math.exp(wide)

    def upper(self, seconds: float, *, confidence: float = 0.9) -> float:
        """The latency that the true one does not exceed with a given confidence (one-sided)."""
        wide = _bound(self.evidence.residuals, confidence=confidence, tail=confidence)
        extra = NormalDist().inv_cdf(confidence) * self.doubt
        return seconds * math.exp(math.hypot(wide, extra))

    def extrapolated(self, macs: float) -> PublishedRow | None:
        """The nearest published row, where the fit saw none within a factor of four in MACs."""
        if macs < self.evidence.smallest.macs / 4:
            return self.evidence.smallest
        if macs > self.evidence.largest.macs * 4:
            return self.evidence.largest
        return None

    def joules(self, seconds: float) -> float | None:
        """Energy of one run at the published wall power; None: no power was published."""
        power = self.evidence.power
        return None if power is None else seconds * power.value


# Of networks of families that no fit had, in none of its forms: how many lay in the intervals that
# say 90%. 116 published rows of both runtimes together; docs/concepts/devices.md.
_COVERED = {"tflite": 0.56, "ncnn": 0.82}


def unlike_the_fit(target: Target) -> str:
    """What the confidence of a bound is worth for a network of a new family; empty: not tried."""
    covered = _COVERED.get(target.runtime)
    if covered is None:
        return ""
    return (
        f"the bound is for networks like the published ones; of networks of other families the "
        f"90% intervals of {target.runtime} held {covered:.0%}, see docs/concepts/devices.md"
    )


def device_model(device: Device, target: Target) -> DeviceModel:
    """The estimated model of a target.

    Raises:
        EdgenasError: the profile has no estimate for this target, with the reason.
    """
    use = device.use(target)
    if use is None or use.estimate is None:
        listed = [str(u.target.slug) for u in device.uses if u.estimate is not None]
        known = f"estimates there are: {', '.join(listed)}; " if listed else ""
        why = use.no_estimate if use else f"{device.title} has none published"
        measuring = "measure it on the board itself"
        if device.reach == "local":
            measuring = f"measure it: edgenas profile --device {device.name} "
            measuring += f"--runtime {target.runtime} --precision {target.precision}"
        raise EdgenasError(f"no estimate for {target}: {why}", hint=known + measuring)
    evidence = use.estimate
    where = f"{device.path}: estimate of {target.slug}"
    if evidence.model != MODEL:
        raise EdgenasError(
            f"{where}: model must be {MODEL!r}, found {evidence.model!r}",
            hint="this profile is of another edgenas version",
        )
    check_fields(evidence.parameters, required=NAMES, where=where)
    if [len(row) for row in evidence.covariance] != [len(NAMES)] * len(NAMES):
        raise EdgenasError(f"{where}: covariance must have {len(NAMES)} rows of {len(NAMES)}")
    values = {name: parameter.value for name, parameter in evidence.parameters.items()}
    kernels = Kernels(
        fused=frozenset(evidence.fused),
        tile=evidence.tile,
        per_group=evidence.per_group,
        vectors=evidence.vectors,
    )
    return DeviceModel(target, Prices(**values), kernels, evidence)


def doubt(parts: Array, covariance: Array) -> float:
    """Standard deviation of log(seconds) because the prices are not known (first order).

    Args:
        parts: seconds of a network by price, shape (d,).
        covariance: of the log prices, shape (d, d).
    """
    share = parts / parts.sum()
    return math.sqrt(max(0.0, float(share @ covariance @ share)))


def further(doubt: float, *, known: float) -> float:
    """The doubt about a network beyond the ``known`` one that left-out errors already hold."""
    return math.sqrt(max(0.0, doubt**2 - known**2))


def half_width(residuals: Sequence[float], *, extra: float, confidence: float) -> float:
    """Half of the interval of log(seconds) that holds a new network with a given confidence.

    Args:
        residuals: log(measured / predicted) of rows that their fits had not seen.
        extra: standard deviation, see ``further``.
        confidence: between 0.5 and 0.999.
    """
    tail = (1 + confidence) / 2
    errors = [abs(residual) for residual in residuals]
    within = _bound(errors, confidence=confidence, tail=tail)
    return math.hypot(within, NormalDist().inv_cdf(tail) * extra)


def vector(prices: Prices) -> Array:
    """The prices in the order of ``NAMES``, shape (13,)."""
    return np.array([getattr(prices, name) for name in NAMES])


# -- fitting --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of the logarithms of the prices before a row is seen.

    Args:
        mean: shape (d,).
        covariance: shape (d, d).
    """

    mean: Array
    covariance: Array


@dataclass(frozen=True, slots=True)
class Fit:
    """Logarithms of the prices, shape (d,), and their covariance, shape (d, d)."""

    logs: Array
    covariance: Array


def fit(counts: Array, seconds: Array, *, prior: Prior, noise: float) -> Fit:
    """The most probable prices for measured networks: a robust fit on the log scale.

    Errors of log(seconds) follow Student's t with four degrees of freedom (Lange, Little & Taylor
    1989), so that a row with a slip does not bend the fit.

    Args:
        counts: features of the networks, shape (n, d); column ``run`` holds 1.
        seconds: their latencies, shape (n,).
        prior: of the log prices.
        noise: standard deviation of log(seconds) about a perfect fit.
    """
    return fit_many([(counts, seconds)], prior=prior, noise=noise)[0]


def fit_many(devices: Sequence[tuple[Array, Array]], *, prior: Prior, noise: float) -> list[Fit]:
    """``fit`` for several devices at once, each on its own rows."""
    height = max(len(seconds) for _, seconds in devices)
    width = len(prior.mean)
    # Devices with fewer rows are filled up with rows of weight 0.
    counts = np.ones((len(devices), height, width))
    target = np.zeros((len(devices), height))
    present = np.zeros((len(devices), height))
    for i, (own, seconds) in enumerate(devices):
        counts[i, : len(own)], target[i, : len(own)] = own, np.log(seconds)
        present[i, : len(own)] = 1
    sharp = np.linalg.inv(prior.covariance)

    def look(logs: Array) -> tuple[Array, Array, Array]:
        parts = counts * np.exp(logs)[:, None, :]
        total = parts.sum(axis=2)
        z = (np.log(total) - target) / noise
        apart = logs - prior.mean
        loss = (present * 2.5 * np.log1p(z**2 / 4)).sum(axis=1)
        loss += 0.5 * np.einsum("gi,ij,gj->g", apart, sharp, apart)
        return loss, z, parts / total[:, :, None] / noise

    def slopes(logs: Array, z: Array, jacobian: Array) -> tuple[Array, Array]:
        weighted = jacobian * (present * 5 / (4 + z**2))[:, :, None]
        gradient = np.einsum("gni,gn->gi", weighted, z) + (logs - prior.mean) @ sharp
        return weighted.transpose(0, 2, 1) @ jacobian + sharp, gradient

    # Levenberg-Marquardt, every device with its own damping; the prior keeps the systems regular.
    logs = np.tile(prior.mean, (len(devices), 1))
    damping = np.full(len(devices), 1e-3)
    loss, z, jacobian = look(logs)
    for _ in range(100):
        normal, gradient = slopes(logs, z, jacobian)
        damped = normal * (1 + damping[:, None, None] * np.eye(width))
        step = -np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        tried = look(logs + step)
        better = tried[0] < loss
        logs = np.where(better[:, None], logs + step, logs)
        loss = np.where(better, tried[0], loss)
        z = np.where(better[:, None], tried[1], z)
        jacobian = np.where(better[:, None, None], tried[2], jacobian)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, 1e9)
        if np.abs(step).max() < 1e-4:
            break
    covariance = np.linalg.inv(slopes(logs, z, jacobian)[0])
    return [Fit(at, doubt) for at, doubt in zip(logs, covariance, strict=True)]


@functools.lru_cache(maxsize=256)
def _student(tail: float, degrees: int) -> float:
    return float(stdtrit(degrees, tail))


def _bound(errors: Sequence[float], *, confidence: float, tail: float) -> float:
    """The bound of a new error: conformal where the errors suffice, else Student's t about 0."""
    if not 0.5 <= confidence <= 0.999:
        raise EdgenasError(f"confidence must lie between 0.5 and 0.999, found {confidence!r}")
    n = len(errors)
    rank = math.ceil((n + 1) * confidence)
    if rank <= n - 3:
        return max(0.0, sorted(errors)[rank - 1])
    spread = math.sqrt(sum(error**2 for error in errors) / n)
    return _student(tail, n) * spread * math.sqrt(1 + 1 / n)
