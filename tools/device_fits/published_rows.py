"""Published latencies, each joined with the operators of its network.

The files are described in the README beside them. What its traps tell to leave out is left out
here and nowhere else.
"""

import csv
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.space.layer import Layer, Primitive
from edgenas.space.primitives import primitives
from tools.device_fits import published_nets


@dataclass(frozen=True, slots=True)
class Row:
    """One published measurement, batch 1.

    Args:
        group: device and the way it was measured (its harness); rows of one group compare.
        network: name@resolution.
        family: networks that are left out together.
        operators: of one image.
        seconds: latency.
        watts: mean wall power; 0: not published.
        source: repository:path@commit.
    """

    group: str
    network: str
    family: str
    operators: tuple[Primitive, ...]
    seconds: float
    watts: float
    source: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(operator.macs for operator in self.operators)


def _read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def sweeps(folder: Path, *, precision: str) -> list[Row]:
    """MLPerf width x resolution sweeps of the MobileNets on CPUs; flagged rows left out."""
    return [row for row in _sweeps(folder) if row.group.endswith(f" / {precision}")]


def contradictory(rows: Sequence[Row]) -> bool:
    """Whether a larger image of one network took less than 0.7 of the time of a smaller one.

    Such a log was measured at two speeds of the machine, and nothing tells which row had which.
    """
    networks: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        model, size = row.network.split("@")
        networks.setdefault(model, []).append((int(size), row.seconds))
    return any(
        large[1] < 0.7 * small[1]
        for sizes in networks.values()
        for small in sizes
        for large in sizes
        if large[0] > small[0]
    )


@functools.cache
def _sweeps(folder: Path) -> tuple[Row, ...]:
    found: list[Row] = []
    for raw in _read(folder / "cpu_sweeps.csv"):
        if raw["flag"] or raw["batch"] != "1":
            continue
        size = int(raw["input_resolution"])
        operators = published_nets.operators(raw["model"], (size, size))
        assert operators is not None, raw["model"]
        found.append(
            Row(
                group=f"{raw['device']} / {raw['runtime']} / {raw['precision']}",
                network=f"{raw['model']}@{size}",
                family=published_nets.family(raw["model"]),
                operators=operators,
                seconds=float(raw["latency_ms"]) / 1e3,
                watts=float(raw["power_w"] or 0),
                source=raw["source"],
            )
        )
    return tuple(found)


# A user report or a busy loop around a camera is no measurement of a network; TF-TRT adds the
# session of TensorFlow to every run.
_HARNESSES = {
    "NVIDIA-AI-IOT/torch2trt": "torch2trt",
    "NVIDIA-AI-IOT/tf_to_trt_image_classification": "TensorRT 3",
    "open-mmlab/mmdeploy": "mmdeploy",
    "kentaroy47/benchmark-FP32-FP16-INT8-with-TensorRT": "torch2trt, 256x256",
    "ultralytics/ultralytics": "ultralytics",
}
# Networks made of concatenations, channel shuffles and batch norms that no conv absorbs: what
# TensorRT makes of those differs by version, and no space of ours has them.
FOREIGN = {"densenet", "shufflenet_v2"}


def tensorrt(folder: Path, *, precision: str, foreign: bool = False) -> list[Row]:
    """TensorRT on Jetson, measured by one of the named harnesses.

    Args:
        folder: of the published rows.
        precision: ``fp16`` or ``fp32``.
        foreign: whether networks come along whose operators no space here has.
    """
    found: list[Row] = []
    for raw in _read(folder / "jetson_tensorrt.csv"):
        harness = _HARNESSES.get(raw["source"].split(":")[0])
        wanted = (
            raw["precision"] == precision and raw["batch"] == "1" and "TensorRT" in raw["runtime"]
        )
        family = published_nets.family(raw["model"])
        if harness is None or not wanted or (family in FOREIGN and not foreign):
            continue
        size = int(raw["input_resolution"])
        operators = published_nets.operators(raw["model"], (size, size))
        if operators is None:
            continue
        found.append(
            Row(
                group=f"{raw['device']} / {harness}",
                network=f"{raw['model']}@{size}",
                family=family,
                operators=operators,
                seconds=float(raw["latency_ms"]) / 1e3,
                watts=0.0,
                source=raw["source"],
            )
        )
    return found


_NCNN_NAMES = {
    "mobilenet_v1": "mobilenet",
    "squeezenet1_1": "squeezenet",
    "mobilenet_v3_large": "mobilenet_v3",
    "regnety_400mf": "regnety_400m",
    "shufflenet_v2_x1_0": "shufflenet_v2",
}


def ncnn(folder: Path, *, runtime: str = "ncnn-cpu") -> list[Row]:
    """One code base on many boards and phones. ``int8`` rows are left out: six nets each.

    A group is one log: the same board, precision and threads reported again is another group, for
    under one name there are different boards, clocks and cooling.
    """
    nets = _ncnn_nets(folder)
    found: list[Row] = []
    logs: dict[tuple[str, ...], list[set[str]]] = {}
    for raw in _read(folder / "ncnn.csv"):
        if raw["runtime"] != runtime or raw["precision"] == "int8":
            continue
        precision = raw["precision"].split("(")[0]
        name = f"{raw['device']} / {runtime} {precision} / {raw['threads']}"
        seen = logs.setdefault((name, raw["hardware_detail"], _settings(raw["note"])), [set()])
        if raw["model"] in seen[-1]:
            seen.append(set())
        seen[-1].add(raw["model"])
        earlier = [key for key in logs if key[0] == name]
        number = earlier.index((name, raw["hardware_detail"], _settings(raw["note"])))
        found.append(
            Row(
                group=f"{name} / log {number + 1}.{len(seen)}",
                network=f"{raw['model']}@{raw['input_resolution']}",
                family=raw["model"],
                operators=nets[_NCNN_NAMES.get(raw["model"], raw["model"])],
                seconds=float(raw["latency_ms"]) / 1e3,
                watts=0.0,
                source=raw["source"],
            )
        )
    return found


def _settings(note: str) -> str:
    """A note of a row without its line number: the settings of the log."""
    return "; ".join(part for part in note.split("; ") if not part.startswith("line "))


@functools.cache
def _ncnn_nets(folder: Path) -> dict[str, tuple[Primitive, ...]]:
    nets: dict[str, list[Primitive]] = defaultdict(list)
    for raw in _read(folder / "ncnn_model_layers.csv"):
        if raw["op"] == "Reshape":
            continue  # a view
        nets[raw["model"]].append(_ncnn_operator(raw))
    return {name: tuple(operators) for name, operators in nets.items()}


def _ncnn_operator(raw: dict[str, str]) -> Primitive:
    number = {
        name: int(raw[name] or 0)
        for name in (
            "in_w",
            "in_h",
            "in_c",
            "out_w",
            "out_h",
            "out_c",
            "kernel",
            "stride",
            "groups",
        )
    }
    in_size = (max(1, number["in_h"]), max(1, number["in_w"]))
    out_size = (max(1, number["out_h"]), max(1, number["out_w"]))
    side = max(1, number["kernel"])
    ops = {
        "Convolution": "conv",
        "ConvolutionDepthWise": "conv",
        "InnerProduct": "linear",
        "Pooling": "maxpool",
        "Reduction": "reduce",
        "Concat": "concat",
        "ShuffleChannel": "copy",
        "Slice": "slice",
        "BinaryOp": "mul",
        "Eltwise": "add",
    }
    op = ops.get(raw["op"], "act")
    inputs = number["in_c"]
    if op == "linear":
        # Weights are inputs x outputs; the file gives the shape before flattening.
        inputs = int(raw["macs"]) // number["out_c"]
        in_size = out_size = (1, 1)
    return Primitive(
        op=op,
        inputs=inputs,
        outputs=number["out_c"],
        kernel=(side, side),
        stride=max(1, number["stride"]),
        groups=max(1, number["groups"]),
        in_size=in_size,
        out_size=out_size,
        activation=raw["op"].lower() if op == "act" else "",
    )


def specialized(folder: Path, *, device: str) -> list[tuple[Row, int, int]]:
    """Released once-for-all networks with the latency that was reported for each.

    Returns:
        Rows with their batch and the MACs that were published with them.
    """
    found: list[tuple[Row, int, int]] = []
    for raw in _read(folder / "ofa_specialized_nets.csv"):
        if raw["device"] != device:
            continue
        layers = list(_specialized_layers(raw))
        row = Row(
            group=f"{device} / batch {raw['batch']}",
            network=f"{raw['net']}@{raw['resolution']}",
            family=raw["net"],
            operators=tuple(p for layer in layers for p in primitives(layer)),
            seconds=float(raw["latency_ms"]) / 1e3,
            watts=0.0,
            source=raw["source"],
        )
        found.append((row, int(raw["batch"]), int(raw["macs"])))
    return found


def _specialized_layers(raw: dict[str, str]) -> Iterator[Layer]:
    """A first conv, blocks like ``24:96:32:k3:s2:se0:relu6``, a 1x1 conv and a classifier."""
    size, channels = int(raw["resolution"]), int(raw["first_conv_c"])
    first = Layer(kind="conv", inputs=3, outputs=channels, size=size, kernel=3, stride=2)
    yield dataclasses.replace(first, activation="relu6")
    size, _ = first.out_size
    for text in raw["blocks"].split():
        _, mid, outputs, kernel, stride, squeeze, activation = text.split(":")
        assert squeeze == "se0", text
        block = Layer(
            kind="mbconv",
            inputs=channels,
            outputs=int(outputs),
            size=size,
            kernel=int(kernel[1:]),
            stride=int(stride[1:]),
            mid=int(mid),
            activation=activation,
            residual=stride == "s1" and channels == int(outputs),
        )
        yield block
        size, channels = block.out_size[0], block.outputs
    assert not raw["final_expand"]
    mix = int(raw["feature_mix"])
    yield Layer(
        kind="head", inputs=channels, outputs=1000, size=size, activation="relu6", final=mix
    )
