"""``predict --model``: the latency of any ONNX network by an estimated device model."""

import re
from dataclasses import replace
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.cli.console import print_json, print_line


def predict_model(
    model: Path,
    *,
    device: str,
    size: str | None,
    shape: list[str],
    runtime: str | None,
    precision: str | None,
    threads: int | None,
    batch: int | None,
    confidence: float,
    json: bool,
) -> None:
    """Print what the estimated model of a device says of an ONNX network.

    Raises:
        EdgenasError: no such file, device or estimate, or sizes are open; see ``read_network``.
    """
    from edgenas.basics.units import count, milliseconds
    from edgenas.latency import device as devices
    from edgenas.latency.estimate import device_model, unlike_the_fit
    from edgenas.onnx_graph.inputs import parse_shape
    from edgenas.onnx_graph.price import read_network

    profile = devices.load(device)
    target = profile.target(runtime=runtime, precision=precision, threads=threads, batch=batch)
    # What is estimated is a run of one image; a run of more is priced by the same prices.
    known = device_model(profile, replace(target, batch=1))
    shapes = dict(parse_shape(text) for text in shape)
    network = read_network(model, size=parse_size(size), batch=batch, shapes=shapes)
    target = replace(target, batch=network.batch)
    fitted = known.for_network(network.operators)
    seconds = fitted.run_overhead + fitted.seconds_of(network.operators)
    upper = fitted.upper(seconds, confidence=confidence)
    joules = fitted.joules(seconds)
    source = f"device model of {profile.title}, {fitted.evidence.own}"
    notes = network.cautions()
    if words := unlike_the_fit(target):
        notes.append(words)
    near = fitted.extrapolated(network.macs)
    if near:
        notes.append(
            f"extrapolated: {count(network.macs)} MACs are outside four times the range of the "
            f"published networks; the nearest is {near.network} ({count(near.macs)} MACs, "
            f"{milliseconds(near.seconds)}, {near.source})"
        )
    notes.append("the latency is estimated, not measured: measure it on the board itself")
    if json:
        print_json(
            {
                "schema": "edgenas.prediction/1",
                "target": str(target),
                "model": str(model),
                "inputs": {name: list(shape) for name, shape in network.inputs.items()},
                "macs": network.macs,
                "weights": network.weights,
                "unknown_operators": dict(network.unknown),
                "latency_ms": seconds * 1e3,
                "latency_upper_ms": upper * 1e3,
                "confidence": confidence,
                "bound": "bound from published networks that the model had not seen",
                "energy_mj": None if joules is None else joules * 1e3,
                "provenance": "estimated",
                "source": source,
                "notes": notes,
            }
        )
        return
    read = ", ".join("x".join(map(str, shape)) or "scalar" for shape in network.inputs.values())
    print_line(
        f"{model} on {target}: input {read}, {count(network.macs)} MACs, "
        f"{count(network.weights)} weights"
    )
    print_line(
        f"{milliseconds(seconds)} estimated, at most {milliseconds(upper)} at {confidence:.0%} "
        "confidence (bound from published networks that the model had not seen; from "
        f"{source})"
    )
    power = fitted.evidence.power
    if joules is not None and power is not None:
        print_line(f"{joules * 1e3:.3g} mJ estimated: {power.value:g} W ({power.source})")
    for text in notes:
        print_line(f"note: {text}")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of ``224`` or ``320x224``. Raises EdgenasError where it is neither."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if match is None:
        raise EdgenasError(
            f"--size must be pixels like 224, or 320x224 (height x width), found {text!r}"
        )
    return int(match[1]), int(match[2] or match[1])
