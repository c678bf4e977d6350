"""Latency of networks on devices that nobody here has measured: an estimated device model.

The model has a page, `docs/concepts/devices.md`: a network's time is what it is made of times
prices (`edgenas.latency.features`), which are fitted to published whole-network latencies together
with the effects of families of networks (`edgenas.latency.hierarchy`). The interval of a network
holds four doubts: about the prices that it spends its time on, about the effect of its family,
about how far it lies outside of what was published, and the noise of a measurement. Every number of
this module is *estimated*; say so.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields
from edgenas.basics.units import count, milliseconds
from edgenas.latency.bound import check_confidence, student_quantile
from edgenas.latency.device import FORMER, MODEL, Device, Estimate, PublishedRow, Target
from edgenas.latency.features import AT, NAMES, WORDS, Array, Kernels, Prices, features, vector
from edgenas.latency.hints import advise_measuring, name_in_command
from edgenas.space.layer import Layer, Primitive
from edgenas.space.primitives import primitives

DEGREES = 5  # of Student's t distribution of log(measured / estimated)
OUTSIDE = 0.05  # standard deviation for each factor of e outside of what was published
FAR = 1.33  # half width of the 90% interval, as a factor, because of distance alone
_NEW = ("general", "plain")  # prices that the former model did not have
_NO_DOUBT = 1e-9  # about a family, beyond that about its prices


def quantile(probability: float) -> float:
    """How many standard deviations of log seconds a bound lies above the estimate."""
    return student_quantile(probability, DEGREES)


def factors(parts: Array, *, covariance: Array, further: Array, deviations: float) -> Array:
    """By which factor times lie above their estimates at so many standard deviations.

    This is exp(deviations * standard deviation), with the standard deviation of log seconds to
    first order in the prices. Above e it goes on along its tangent: an exponential would fall so
    fast where known work dilutes a great doubt that a larger network had the smaller bound.

    Args:
        parts: seconds of n networks by price, shape (n, d).
        covariance: of the logarithms of the prices, shape (d, d).
        further: variance of log seconds for other reasons, shape (n,).
        deviations: below zero for a lower bound, which lies as far below.

    Returns:
        Shape (n,).
    """
    shares = parts / parts.sum(axis=1, keepdims=True)
    variance = np.maximum(0.0, (shares @ covariance * shares).sum(axis=1)) + further
    reach = abs(deviations) * np.sqrt(variance)
    factor = np.exp(np.minimum(reach, 1)) * np.maximum(reach, 1)
    return factor if deviations >= 0 else 1 / factor


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEstimate:
    """The estimated latency of one network.

    Args:
        parts: seconds by price, shape (15,).
        covariance: of the logarithms of the prices, shape (15, 15).
        size: variance of log seconds because of the size of the network.
        family: variance because of the effect of its family.
        noise: variance of one measurement.
        version: variance because the version of the runtime is not known.
        reason: what most of the doubt is, a clause in words.
    """

    parts: Array
    covariance: Array
    size: float
    family: float
    noise: float
    version: float = 0.0
    reason: str

    @property
    def seconds(self) -> float:
        """The estimate."""
        return float(self.parts.sum())

    @property
    def spread(self) -> float:
        """Standard deviation of log(measured / estimated), to first order."""
        return math.sqrt(self.distance**2 + self.family + self.noise + self.version)

    @property
    def distance(self) -> float:
        """The part of it that grows with how far the network is from what was published."""
        shares = self.parts / self.seconds
        return math.sqrt(max(0.0, float(shares @ self.covariance @ shares)) + self.size)

    @property
    def _further(self) -> float:
        """The variance of log seconds for other reasons than the prices."""
        return self.size + self.family + self.noise + self.version

    def _factor(self, deviations: float, *, further: float) -> float:
        return float(
            factors(
                self.parts[None],
                covariance=self.covariance,
                further=np.array([further]),
                deviations=deviations,
            )[0]
        )

    def interval(self, *, confidence: float = 0.9) -> tuple[float, float]:
        """The interval in seconds that holds the true latency with a given confidence."""
        check_confidence(confidence)
        wide = quantile((1 + confidence) / 2)
        low, high = (self._factor(sign * wide, further=self._further) for sign in (-1, 1))
        return self.seconds * low, self.seconds * high

    def upper(self, *, confidence: float = 0.9) -> float:
        """The latency that the true one does not exceed with a given confidence (one-sided)."""
        check_confidence(confidence)
        return self.seconds * self._factor(quantile(confidence), further=self._further)

    @property
    def extrapolated(self) -> bool:
        """Whether the distance from what was published alone leaves a doubt of a third."""
        return self._factor(quantile(0.95), further=self.size) > FAR

    @property
    def factor_once_timed(self) -> float:
        """Half width of the 90% interval, as a factor, after the network itself was timed once."""
        unknown = self.spread**2 - self.noise
        square = unknown * self.noise / max(self.spread**2, 1e-12) + self.noise
        return math.exp(quantile(0.95) * math.sqrt(square))

    @property
    def words(self) -> str:
        """The interval and what it is wide for, for people."""
        low, high = self.interval()
        return f"90% between {milliseconds(low)} and {milliseconds(high)}; {self.reason}"


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """The estimated model of one target.

    Args:
        target: the device and the way it is used.
        prices: of that target.
        kernels: how the runtime cuts a network into kernels.
        covariance: of the logarithms of the prices, shape (15, 15).
        evidence: where they come from and how far off they were.
        version: of the runtime, which the estimate holds for; empty: any, and the intervals allow
            for not knowing it.
    """

    target: Target
    prices: Prices
    kernels: Kernels
    covariance: Array
    evidence: Estimate
    version: str = ""

    @property
    def version_variance(self) -> float:
        """The variance of log seconds because the version of the runtime is not known."""
        return 0.0 if self.version else self.evidence.other_version**2

    @property
    def run_overhead(self) -> float:
        """Seconds of every run, whatever the network."""
        return self.prices.run

    def seconds(self, layer: Layer) -> float:
        """Estimated time of one layer, without the constant of a run."""
        return self.seconds_of(primitives(layer))

    def seconds_of(self, operators: Iterable[Primitive]) -> float:
        """Estimated time of a list of operators, without the constant of a run."""
        return float(features(operators, kernels=self.kernels) @ vector(self.prices))

    def count(self, operators: Iterable[Primitive]) -> Array:
        """What a whole network is made of, one run included: shape (15,)."""
        counts = features(operators, kernels=self.kernels)
        counts[AT["run"]] = 1
        return counts

    def upper_factors(self, counts: Array, *, confidence: float) -> Array:
        """Upper bound / estimate of networks.

        Args:
            counts: of n networks, shape (n, 15).
            confidence: of the bound.

        Returns:
            Shape (n,).
        """
        parts = counts * vector(self.prices)
        further = self._sizes(counts) + self.evidence.family**2 + self.evidence.noise**2
        further += self.version_variance
        deviations = quantile(confidence)
        return factors(parts, covariance=self.covariance, further=further, deviations=deviations)

    def for_family(self, family: str) -> "DeviceModel":
        """The model of one family of networks: with its effect, where the family was measured.

        The networks of a space are a family of the name of the space. A family that was not
        measured changes nothing: it pays for that in its intervals.
        """
        known = self.evidence.families.get(family)
        if known is None:
            return self
        factor = math.exp(known.effect)
        prices = Prices(**{name: factor * getattr(self.prices, name) for name in NAMES})
        if known.prices:
            # What the prices leave open the effect makes up for: the two are known together.
            along = np.array(known.prices)
            covariance = self.covariance + along[:, None] + along + known.doubt**2
            evidence = dataclasses.replace(self.evidence, family=_NO_DOUBT)
            return dataclasses.replace(
                self, prices=prices, covariance=covariance, evidence=evidence
            )
        doubt = math.hypot(known.doubt, self.evidence.family_own)
        evidence = dataclasses.replace(self.evidence, family=doubt)
        return dataclasses.replace(self, prices=prices, evidence=evidence)

    def describe(self, operators: Sequence[Primitive]) -> NetworkEstimate:
        """The estimate of a network with its interval, and the reason for the interval's width."""
        counts = self.count(operators)
        size = float(self._sizes(counts[None])[0])
        return NetworkEstimate(
            parts=counts * vector(self.prices),
            covariance=self.covariance,
            size=size,
            family=self.evidence.family**2,
            noise=self.evidence.noise**2,
            version=self.version_variance,
            reason=self._reason(counts, size=size),
        )

    def nearest(self, macs: float) -> PublishedRow:
        """The smallest or the largest row of the fit, whichever has nearer to so many MACs."""
        ends = (self.evidence.smallest, self.evidence.largest)
        return min(ends, key=lambda row: abs(math.log(max(macs, 1) / max(row.macs, 1))))

    def joules(self, seconds: float) -> float | None:
        """Energy of one run at the published wall power; None: no power was published."""
        power = self.evidence.power
        return None if power is None else seconds * power.value

    def _sizes(self, counts: Array) -> Array:
        """The variance because networks are larger or smaller than the published ones.

        The logarithm of the factor outside of the published counts, a mean by shares of time.
        """
        if not self.evidence.most:
            return np.zeros(len(counts))
        parts = counts * vector(self.prices)
        shares = parts / parts.sum(axis=1, keepdims=True)
        least, most = np.array(self.evidence.least), np.array(self.evidence.most)
        with np.errstate(divide="ignore", invalid="ignore"):
            above, below = np.log(counts / most), np.log(least / counts)
        # A thing that no row has is no matter of size: the doubt about its price is larger.
        met = (counts > 0) & (most > 0)
        outside = np.where(met, np.maximum(0, np.maximum(above, below)), 0)
        return (OUTSIDE * (shares * outside).sum(axis=1)) ** 2

    def _reason(self, counts: Array, *, size: float) -> str:
        """The largest part of the doubt about a network, in words."""
        parts_of_time = counts * vector(self.prices)
        shares = parts_of_time / parts_of_time.sum()
        evidence = self.evidence
        prices = shares * (self.covariance @ shares)
        worst = int(np.argmax(prices))
        rows = "measured" if evidence.measured else "published"
        parts = {
            f"the {rows} networks of this target say little about {WORDS[NAMES[worst]]}": float(
                prices[worst]
            ),
            f"it is of another size than the {rows} networks of this target": size,
            f"no network of its family was {rows} for this target": evidence.family**2,
            "single measurements on this target scatter as much": evidence.noise**2,
            f"this target names no version of {self.target.runtime}": self.version_variance,
        }
        reason = max(parts, key=lambda text: parts[text])
        further = size + evidence.family**2 + evidence.noise**2 + self.version_variance
        total = max(0.0, float(prices.sum())) + further
        much = "most" if 2 * parts[reason] > total else "the largest part"
        return f"{much} of the doubt is that {reason}"


def cautions_of(model: DeviceModel, operators: Sequence[Primitive], *, file: str) -> list[str]:
    """What a reader of an estimate should know of its interval, one line each.

    Args:
        model: of the target.
        operators: of the network.
        file: of the network, which somebody could time.
    """
    network = model.describe(operators)
    text = f"estimated {milliseconds(network.seconds)}, {network.words}"
    after = f"timing {file} on the board would narrow that to x/÷ {network.factor_once_timed:.2f}"
    lines = [f"{text}; {after}"]
    if model.version and model.evidence.other_version:
        low, high = dataclasses.replace(model, version="").describe(operators).interval()
        lines.append(
            f"this holds for {model.target.runtime} {model.version}; with another version 90% "
            f"between {milliseconds(low)} and {milliseconds(high)}"
        )
    elif model.evidence.other_version:
        lines.append(
            f"this target names no version of {model.target.runtime}; the interval allows for any"
        )
    if network.extrapolated:
        macs = sum(p.macs for p in operators)
        near = model.nearest(macs)
        lines.append(
            f"extrapolated: it is far from the published networks of this target; the nearest in "
            f"MACs ({count(macs)}) is {near.network} ({count(near.macs)} MACs, "
            f"{milliseconds(near.seconds)}, {near.source})"
        )
    return lines


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
        command = f"edgenas profile --device {name_in_command(device)} --runtime {target.runtime} "
        command += f"--precision {target.precision} --space SPACE"
        hint = known + advise_measuring(device, command)
        raise EdgenasError(f"no estimate for {target}: {why}", hint=hint)
    where = f"{device.path}: estimate of {target.slug}"
    return model_of(use.estimate, target, version=use.version, where=where)


def model_of(evidence: Estimate, target: Target, *, version: str = "", where: str) -> DeviceModel:
    """The model of an estimate as a profile holds it.

    Args:
        evidence: the estimate.
        target: what it is of.
        version: of the runtime, which it holds for; empty: it is not known.
        where: it stands, for messages.

    Raises:
        EdgenasError: it is of another model, or its numbers do not fit together.
    """
    if evidence.model not in (MODEL, FORMER):
        raise EdgenasError(
            f"{where}: model must be {MODEL!r} or {FORMER!r}, found {evidence.model!r}",
            hint="this profile is of another edgenas version",
        )
    names = NAMES if evidence.model == MODEL else tuple(n for n in NAMES if n not in _NEW)
    check_fields(evidence.parameters, required=names, where=where)
    if [len(row) for row in evidence.covariance] != [len(names)] * len(names):
        raise EdgenasError(f"{where}: covariance must have {len(names)} rows of {len(names)}")
    for what, numbers in (("least", evidence.least), ("most", evidence.most)):
        if len(numbers) not in (0, len(NAMES)) or len(evidence.least) != len(evidence.most):
            raise EdgenasError(f"{where}: {what} must have {len(NAMES)} numbers")
    for family, known in evidence.families.items():
        if len(known.prices) not in (0, len(NAMES)):
            raise EdgenasError(f"{where}: prices of {family} must have {len(NAMES)} numbers")
    values = dict.fromkeys(NAMES, 0.0)
    values |= {name: parameter.value for name, parameter in evidence.parameters.items()}
    places = [AT[name] for name in names]
    covariance = np.zeros((len(NAMES), len(NAMES)))
    covariance[np.ix_(places, places)] = np.array(evidence.covariance)
    kernels = Kernels(
        fused=frozenset(evidence.fused),
        tile=evidence.tile,
        per_group=evidence.per_group,
        vectors=evidence.vectors,
        fast3x3=evidence.fast3x3,
        rows=evidence.row_threads,
        plain=frozenset(evidence.plain),
    )
    if evidence.model == FORMER:
        evidence = _with_noise(evidence)
    return DeviceModel(target, Prices(**values), kernels, covariance, evidence, version)


def _with_noise(evidence: Estimate) -> Estimate:
    """The former model made its interval of the errors; what prices do not explain is noise."""
    square = sum(error**2 for error in evidence.residuals) / len(evidence.residuals)
    doubt = evidence.doubt or 0.0
    noise = math.sqrt(max(square - doubt**2, square / 4))
    return dataclasses.replace(evidence, noise=noise)
