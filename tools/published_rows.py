"""Published latencies, each joined with the operators of its network.

The files are described in the README beside them. What its traps tell to leave out is left out
here and nowhere else.
"""

import csv
import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import published_nets

from edgenas.plan import Primitive


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


def sweeps(folder: Path, *, device: str, runtime: str, precision: str) -> list[Row]:
    """MLPerf width x resolution sweeps of the MobileNets on CPUs; flagged rows left out."""
    return [
        row
        for row in _sweeps(folder)
        if row.group == f"{device} / {runtime} / {precision}" and row.operators
    ]


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
_FOREIGN = {"densenet", "shufflenet_v2"}


def tensorrt(folder: Path, *, precision: str) -> list[Row]:
    """TensorRT on Jetson, measured by one of the named harnesses."""
    found: list[Row] = []
    for raw in _read(folder / "jetson_tensorrt.csv"):
        harness = _HARNESSES.get(raw["source"].split(":")[0])
        wanted = (
            raw["precision"] == precision and raw["batch"] == "1" and "TensorRT" in raw["runtime"]
        )
        family = published_nets.family(raw["model"])
        if harness is None or not wanted or family in _FOREIGN:
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
    """One code base on many boards and phones. ``int8`` rows are left out: six nets each."""
    nets = _ncnn_nets(folder)
    found: list[Row] = []
    for raw in _read(folder / "ncnn.csv"):
        if raw["runtime"] != runtime or raw["precision"] == "int8":
            continue
        if float(raw["latency_ms"]) > 1.5 * float(raw["lat_min_ms"]):
            continue  # the board did something else meanwhile
        precision = raw["precision"].split("(")[0]
        found.append(
            Row(
                group=f"{raw['device']} / {runtime} {precision} / {raw['threads']}",
                network=f"{raw['model']}@{raw['input_resolution']}",
                family=raw["model"],
                operators=nets[_NCNN_NAMES.get(raw["model"], raw["model"])],
                seconds=float(raw["latency_ms"]) / 1e3,
                watts=0.0,
                source=raw["source"],
            )
        )
    return found


@functools.cache
def _ncnn_nets(folder: Path) -> dict[str, tuple[Primitive, ...]]:
    nets: dict[str, list[Primitive]] = defaultdict(list)
    for raw in _read(folder / "ncnn_model_layers.csv"):
        if raw["op"] in ("Reshape", "Slice"):
            continue  # views
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
        "Reduction": "globalpool",
        "Concat": "concat",
        "ShuffleChannel": "copy",
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
