"""``predict``: the latency of a network on a device, its bound, and where they come from."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import count
from edgenas.latency import device as devices
from edgenas.latency.device import Device, Target
from edgenas.latency.hints import advise_measuring, name_in_command
from edgenas.latency.request import PredictRequest
from edgenas.space.arch import Arch
from edgenas.space.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCosts:
    """What an ONNX file is, as far as its price goes.

    Args:
        path: of the file.
        inputs: the shape of each input, by name.
        macs: of one image.
        weights: how many.
        unknown: the operators without a price, and how often each occurs.
    """

    path: Path
    inputs: Mapping[str, tuple[int, ...]]
    macs: int
    weights: int
    unknown: Mapping[str, int]

    def __str__(self) -> str:
        inputs = ", ".join("x".join(map(str, shape)) or "scalar" for shape in self.inputs.values())
        return f"input {inputs}, {count(self.macs)} MACs, {count(self.weights)} weights"

    def to_json(self) -> dict[str, Any]:
        """Fields of the JSON object of a prediction."""
        return {
            "model": str(self.path),
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "macs": self.macs,
            "weights": self.weights,
            "unknown_operators": dict(self.unknown),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The predicted energy of one run.

    Args:
        joules: of it.
        watts: mean power while the network runs.
        source: where the power is published, or what was measured.
        provenance: ``estimated`` from a published power, or ``measured``: predicted from networks
            whose energy was measured.
    """

    joules: float
    watts: float
    source: str
    provenance: str = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A predicted latency.

    Args:
        target: that it belongs to.
        network: an arch of a space, or an ONNX file.
        seconds: of one run.
        upper: seconds that it does not exceed, at the confidence.
        confidence: of the bound, a fraction.
        bound: what the bound rests on, in words.
        provenance: of the numbers behind it: ``measured``, ``published`` or ``estimated``.
        source: the table or the device model, in words.
        energy: where the power of the device is published, or energies of its networks were
            measured; otherwise None.
        notes: what a reader should know.
    """

    target: Target
    network: Arch | ModelCosts
    seconds: float
    upper: float
    confidence: float
    bound: str
    provenance: str
    source: str
    energy: Energy | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first; latencies in milliseconds."""
        head: dict[str, Any] = {"schema": "edgenas.prediction/1", "target": str(self.target)}
        tail: dict[str, Any] = {
            "provenance": self.provenance,
            "source": self.source,
            "notes": list(self.notes),
        }
        if isinstance(self.network, ModelCosts):
            head |= self.network.to_json()
            joules = None if self.energy is None else self.energy.joules * 1e3
            tail = {"energy_mj": joules, **tail}
        else:
            head["arch_id"] = self.network.id
            if self.energy is not None:
                tail = {"energy_mj": self.energy.joules * 1e3, **tail}
        return {
            **head,
            "latency_ms": self.seconds * 1e3,
            "latency_upper_ms": self.upper * 1e3,
            "confidence": self.confidence,
            "bound": self.bound,
            **tail,
        }


def predict(request: PredictRequest) -> Prediction:
    """Predict the latency of a network on a device.

    Raises:
        EdgenasError: the device, the space or the runtime is unknown, a file cannot be read, or
            nothing is known of the target.
    """
    request.check()
    device = devices.load(request.device)
    predict_file = _predict_arch if request.model is None else _predict_model
    return predict_file(request.file, request, device)


def _predict_arch(path: Path, request: PredictRequest, device: Device) -> Prediction:
    """Predict a network of a space, from a table or a device model."""
    from edgenas.delivery.latency import check_runtime, find_latency
    from edgenas.space.arch import load_arch
    from edgenas.space.presets import load_space

    if not path.is_file():
        raise EdgenasError(f"there is no file {path}", hint="give an arch.json: bundles have one")
    arch = load_arch(path)
    space = load_space(request.space) if request.space is not None else _space_of(arch)
    space.check(arch)
    if request.classes is not None:
        space = space.with_classes(request.classes)
    if request.runtime is not None:
        check_runtime(request.runtime)
    target = device.target(
        runtime=request.runtime,
        precision=request.precision,
        threads=request.threads,
        batch=request.batch,
    )
    latency = find_latency(space, device=device, target=target)
    rows = space.encode([arch])
    seconds, energy = float(latency.predictor.predict(rows)[0]), None
    if latency.energy is not None and latency.energy.error is not None:
        joules, error = float(latency.energy.predict(rows)[0]), latency.energy.error
        energy = Energy(
            joules=joules,
            watts=joules / seconds,
            source=f"expected error {error.error:.1%}, as on {error.n} {error.method}",
            provenance="measured",
        )
    return Prediction(
        target=target,
        network=arch,
        seconds=seconds,
        upper=float(latency.upper(request.confidence)(rows)[0]),
        confidence=request.confidence,
        bound=latency.bound_words(request.confidence),
        provenance=latency.predictor.provenance,
        source=latency.source,
        energy=energy,
        notes=tuple(latency.cautions(arch, space=space)),
    )


def _space_of(arch: Arch) -> Space:
    """The shipped space that holds a network.

    Raises:
        EdgenasError: none does, or several do.
    """
    from edgenas.space.presets import LARGER, PRESETS, load_space

    names = [name for name, make in (PRESETS | LARGER).items() if make().contains(arch)]
    if len(names) != 1:
        are = f"it is in {', '.join(names)}" if names else "no shipped space holds it"
        raise EdgenasError(
            f"--space must be given for the network {arch.id}: {are}",
            hint="see them all with: edgenas list spaces",
        )
    return load_space(names[0])


def _predict_model(path: Path, request: PredictRequest, device: Device) -> Prediction:
    """Predict any ONNX file from the estimated model of the device."""
    from edgenas.latency.estimate import cautions_of, device_model
    from edgenas.onnx_graph.inputs import parse_shape, parse_size
    from edgenas.onnx_graph.price import read_network

    target = device.target(
        runtime=request.runtime,
        precision=request.precision,
        threads=request.threads,
        batch=request.batch,
    )
    # The model is of a run of one image. A run of more images is priced with the same prices.
    model = device_model(device, replace(target, batch=1))
    shapes = dict(parse_shape(text) for text in request.shape)
    network = read_network(path, size=parse_size(request.size), batch=request.batch, shapes=shapes)
    target = replace(target, batch=network.batch)
    described = model.describe(network.operators)
    seconds = described.seconds
    notes = [*network.cautions(), *cautions_of(model, network.operators, file=str(path))]
    command = f"edgenas bench {shlex.quote(str(path))} --device {name_in_command(device)}"
    notes.append(f"the latency is estimated, not measured; {advise_measuring(device, command)}")
    joules, power = model.joules(seconds), model.evidence.power
    energy = None
    if joules is not None and power is not None:
        energy = Energy(joules=joules, watts=power.value, source=power.source)
    return Prediction(
        target=target,
        network=ModelCosts(
            path=path,
            inputs=network.inputs,
            macs=network.macs,
            weights=network.weights,
            unknown=network.unknown,
        ),
        seconds=seconds,
        upper=described.upper(confidence=request.confidence),
        confidence=request.confidence,
        bound="bound from published networks that the model had not seen",
        provenance="estimated",
        source=f"device model of {device.title}, {model.evidence.own}",
        energy=energy,
        notes=tuple(notes),
    )
