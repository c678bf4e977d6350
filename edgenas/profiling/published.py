"""What others published for a device, beside a time that was measured on it.

Nobody published times of every network. A device profile knows some whole networks with their
sources, and a model that was fitted to them and to those of its relatives. So a measured time
stands beside the estimate of that model with its interval, and beside the published network that is
nearest in multiply-accumulates. One with exactly as many is most likely the same network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import count, milliseconds
from edgenas.latency.device import Device, PublishedRow, Target
from edgenas.latency.estimate import DeviceModel, device_model
from edgenas.onnx_graph.price import read_network

_CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTimes:
    """What there is to compare a measured time with.

    Args:
        seconds: estimated for this network.
        low: of the interval that holds the true one at 90%.
        high: its other end.
        evidence: how many networks of which target the estimate rests on, in words.
        nearest: the published network nearest in multiply-accumulates.
        same: whether that has exactly as many, and so is most likely the same.
    """

    seconds: float
    low: float
    high: float
    evidence: str
    nearest: PublishedRow
    same: bool

    def compare(self, measured: float) -> str:
        """A measured time beside it, for people."""
        inside = "within" if self.low <= measured <= self.high else "outside of"
        near = self.nearest
        what = "the published network with as many MACs" if self.same else "nearest in MACs"
        own = f" ({measured / near.seconds:.2f} of it)" if self.same else ""
        return (
            f"estimated from {self.evidence}: {milliseconds(self.seconds)}, measured is "
            f"{measured / self.seconds:.2f} of it, {inside} its 90% interval "
            f"{milliseconds(self.low)} to {milliseconds(self.high)}; {what}: {near.network}, "
            f"{count(near.macs)} MACs, {milliseconds(near.seconds)}{own}, {near.source}"
        )


def find_published(
    path: Path,
    *,
    device: Device,
    target: Target,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> PublishedTimes | str:
    """What was published for a device, to stand beside a time of a model there.

    Args:
        path: the ONNX file.
        device: of the time.
        target: of the time.
        shapes: of inputs by name, where the file leaves them open.

    Returns:
        The comparison, or why there is none, in words.
    """
    try:
        # Published times are of one image; a run of more is priced with the same prices.
        model = device_model(device, Target(target.device, target.runtime, target.precision))
        network = read_network(path, batch=target.batch, shapes=shapes)
    except EdgenasError as error:
        return f"nothing to compare with: {error.message}"
    described = model.describe(network.operators)
    low, high = described.interval(confidence=_CONFIDENCE)
    nearest = model.nearest(network.macs)
    return PublishedTimes(
        seconds=described.seconds,
        low=low,
        high=high,
        evidence=_evidence_of(model, device),
        nearest=nearest,
        same=nearest.macs == network.macs,
    )


def _evidence_of(model: DeviceModel, device: Device) -> str:
    version = f", {model.version}" if model.version else ""
    own = model.evidence.own
    return f"{own} and its relatives ({device.title}, {model.target.precision}{version})"
