"""Whether ``predict --model`` counts the multiplications that ONNX Runtime really does.

    python -m tools.benchmarks.bench_foreign [--only NAME ...] [--out table.csv]

Eight kinds of producers: both exporters of torch (networks of torchvision with random weights,
and some of our own), static and dynamic quantisation, fp16 conversions, files that ONNX Runtime
optimised, the models in the test data of ``onnx``, and patterns of tf2onnx and paddle2onnx. Each
file is counted by `tools.benchmarks.foreign_oracle` and by edgenas, and the two must be equal. A
network with ten products or more is a whole one. A refusal is told, and is not equal.
"""

import argparse
import collections
import csv
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.price import read_network
from tools.benchmarks.foreign_oracle import counted
from tools.benchmarks.foreign_patterns import PATTERNS

TORCH = (
    "torch, TorchScript exporter", "torch, dynamo exporter", "quantize_static", "quantize_dynamic",
    "float16", "ONNX Runtime, optimised",
)  # fmt: skip
WHOLE = 10  # products that make a graph a whole network

# Small ones, so that hundreds of files take minutes: name and side of the image.
_BY_SCRIPT = {
    "densenet121": 64, "efficientnet_b0": 64, "efficientnet_b1": 64,
    "googlenet": 64, "inception_v3": 96, "mnasnet0_5": 64, "mnasnet0_75": 64, "mnasnet1_0": 64,
    "mobilenet_v2": 64, "mobilenet_v3_large": 64, "mobilenet_v3_small": 64, "regnet_x_400mf": 64,
    "regnet_x_800mf": 64, "regnet_y_400mf": 64, "regnet_y_800mf": 64, "resnet18": 64,
    "resnet34": 64, "resnet50": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64,
    "shufflenet_v2_x1_0": 64, "shufflenet_v2_x1_5": 64, "squeezenet1_0": 64, "squeezenet1_1": 64,
    "convnext_tiny": 64, "swin_t": 64, "lraspp_mobilenet_v3_large": 64,
}  # fmt: skip
_BY_DYNAMO = {
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "resnet18": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64, "efficientnet_b0": 64, "mnasnet0_5": 64, "regnet_y_400mf": 64,
}  # fmt: skip
_CONVERTED = (
    "mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1",
    "efficientnet_b0", "mnasnet0_5", "regnet_y_400mf", "googlenet", "bert", "vit", "classifier",
    "recurrent",
)  # fmt: skip


def networks(wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, bytes]]:
    """Producer, name and bytes of every file; conversions start from the exports of torch."""
    if wanted("onnx test data"):
        yield from from_onnx()
    for producer, made in PATTERNS.items():
        for name, make in made.items():
            yield producer, name, make()
    if not any(map(wanted, TORCH)):
        return
    held: dict[str, bytes] = {}
    for name, data in scripted():
        held[name] = data
        yield TORCH[0], name, data
    if any(map(wanted, TORCH[2:])):
        for name in _CONVERTED:
            if name in held:
                yield from converted(name, held[name])
    if wanted(TORCH[1]):
        for name, data in exported():
            yield TORCH[1], name, data


def from_onnx() -> Iterator[tuple[str, str, bytes]]:
    """The models in the test data of ``onnx``, with their own extents."""
    root = Path(onnx.__file__).parent / "backend/test/data"
    for path in sorted(root.glob("**/*.onnx")):
        yield "onnx test data", f"{path.parent.name}/{path.stem}", path.read_bytes()


def scripted() -> Iterator[tuple[str, bytes]]:
    """What the exporter on TorchScript writes."""
    import torch
    import torchvision

    from tools.benchmarks import foreign_modules

    for name, side in _BY_SCRIPT.items():
        more = {"weights_backbone": None} if "lraspp" in name else {}
        make = getattr(torchvision.models, name, None) or getattr(
            torchvision.models.segmentation, name
        )
        module = make(weights=None, **more)
        yield name, _script(module, (torch.zeros(1, 3, side, side),), {"x": {0: "batch"}})
    for name, (module, examples, axes) in foreign_modules.all_of_them().items():
        yield name, _script(module, examples, axes)


def exported() -> Iterator[tuple[str, bytes]]:
    """What the exporter on torch.export writes."""
    import torch
    import torchvision

    from tools.benchmarks import foreign_modules

    some = {
        name: (getattr(torchvision.models, name)(weights=None), (torch.zeros(1, 3, s, s),))
        for name, s in _BY_DYNAMO.items()
    }
    made = {n: (m, e) for n, (m, e, _) in foreign_modules.all_of_them().items() if n != "nms"}
    for name, (module, examples) in (some | made).items():
        with tempfile.TemporaryDirectory() as folder, _silence():
            path = Path(folder) / "m.onnx"
            try:
                torch.onnx.export(
                    module.eval(),
                    examples,
                    str(path),
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                print(f"  {name} is not exported: {type(error).__name__}", flush=True)
                continue
            yield name, path.read_bytes()


def _script(module: Any, examples: tuple, axes: dict) -> bytes:
    import torch

    with tempfile.TemporaryDirectory() as folder, _silence():
        path = Path(folder) / "m.onnx"
        torch.onnx.export(
            module.eval(), examples, str(path), dynamo=False, opset_version=17,
            input_names=list(axes) or None, dynamic_axes=axes or None,
        )  # fmt: skip
        return path.read_bytes()


def _silence() -> warnings.catch_warnings:
    logging.disable(logging.WARNING)
    silenced = warnings.catch_warnings()
    warnings.simplefilter("ignore")
    return silenced


def converted(name: str, data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """A file after quantisation, in fp16, and as ONNX Runtime optimised it."""
    with tempfile.TemporaryDirectory() as text, _silence():
        folder = Path(text)
        source, made = folder / "m.onnx", folder / "out.onnx"
        source.write_bytes(data)
        quantize_dynamic(source, made)
        yield "quantize_dynamic", name, made.read_bytes()
        for kind in (QuantFormat.QDQ, QuantFormat.QOperator):
            try:
                quantize_static(source, made, _Once(source), quant_format=kind)
            except AttributeError as error:  # the library wants every bias stored
                print(f"  {name}: {kind.name} is not made: {error}", flush=True)
                continue
            yield "quantize_static", f"{name} {kind.name}", made.read_bytes()
        half = convert_float_to_float16(onnx.load(source), keep_io_types=True)
        yield "float16", name, half.SerializeToString()
        levels = ort.GraphOptimizationLevel
        for level in (levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL):
            options = ort.SessionOptions()
            options.graph_optimization_level, options.log_severity_level = level, 4
            options.optimized_model_filepath = str(made)
            ort.InferenceSession(data, options)
            yield "ONNX Runtime, optimised", f"{name} {level.name}", made.read_bytes()


class _Once(CalibrationDataReader):
    """Calibrates with one made-up input."""

    def __init__(self, path: Path) -> None:
        ends = ort.InferenceSession(path).get_inputs()
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        self.left = iter(
            [
                {
                    end.name: np.ones(
                        [e if isinstance(e, int) else 1 for e in end.shape], kinds[end.type]
                    )
                    for end in ends
                }
            ]
        )

    def get_next(self) -> dict:
        """The next input; empty: there is none."""
        return next(self.left, {})


def compared(data: bytes, folder: Path) -> tuple[int, int, int | None, str]:
    """Multiplications of a run, products, those that edgenas counts, and why it refuses."""
    path = folder / "m.onnx"
    path.write_bytes(data)
    real, products = counted(data)
    declared = {}
    for value in onnx.load_from_string(data).graph.input:
        dims = value.type.tensor_type.shape.dim
        if any(dim.dim_value <= 0 for dim in dims):
            declared[value.name] = tuple(max(1, dim.dim_value) for dim in dims)
    held = {t.name for t in onnx.load_from_string(data).graph.initializer}
    given = {name: shape for name, shape in declared.items() if name not in held}
    try:
        first = next(
            (v for v in onnx.load_from_string(data).graph.input if v.name not in held), None
        )
        dims = first.type.tensor_type.shape.dim if first is not None else []
        batch = dims[0].dim_value or None if dims else None
        return real, products, read_network(path, batch=batch, shapes=given).macs, ""
    except EdgenasError as error:
        return real, products, None, error.message.replace(str(path), "")


def main() -> None:
    """Print a line for each file that differs, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="producers, by a part of their names")
    parser.add_argument("--out", type=Path, help="CSV of every file")
    options = parser.parse_args()
    rows: list[tuple[str, str, int, int, str, str]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as text:

        def wanted(producer: str) -> bool:
            return not options.only or any(word in producer for word in options.only)

        for producer, name, data in networks(wanted):
            if not wanted(producer):
                continue
            try:
                real, products, found, why = compared(data, Path(text))
            except Exception as error:  # noqa: BLE001  ONNX Runtime does not run it: no oracle
                print(f"  {producer}: {name}: no run ({type(error).__name__})", flush=True)
                continue
            if not products:
                continue
            rows.append((producer, name, products, real, "" if found is None else str(found), why))
            if found != real:
                print(f"  {producer}: {name}: {real} in a run, {found} counted {why}", flush=True)
    if options.out:
        with options.out.open("w", newline="") as file:
            csv.writer(file).writerows(
                [("producer", "name", "products", "run", "counted", "why"), *rows]
            )
    _print(rows)
    print(f"{time.perf_counter() - began:.0f} s")


def _print(rows: list[tuple[str, str, int, int, str, str]]) -> None:
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for producer, _, products, real, found, why in rows:
        equal, whole = found == str(real), products >= WHOLE
        for line in (producer, "all"):
            table[line]["graphs"] += 1
            table[line]["whole"] += whole
            table[line]["equal"] += equal
            table[line]["whole equal"] += equal and whole
            table[line]["refused"] += bool(why)
    words = ("graphs", "whole", "equal", "whole equal", "refused")
    print(f"{'producer':30}" + "".join(f"{word:>13}" for word in words))
    for line, counts in sorted(table.items(), key=lambda item: item[0] == "all"):
        print(f"{line:30}" + "".join(f"{counts[word]:13}" for word in words))


if __name__ == "__main__":
    main()
