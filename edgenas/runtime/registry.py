"""The runtimes by their names. Each file is imported when its runtime is asked for.

A file imports the library of its runtime only when it uses it, so listing runtimes works without
any of them.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.runtime.contract import ExportFormat, Runtime

if TYPE_CHECKING:
    from edgenas.onnx_graph.forms import Form

# The file and the value of each runtime.
FILES = {
    "litert": "edgenas.runtime.litert_cpu:RUNTIME",
    "ncnn": "edgenas.runtime.ncnn_cpu:RUNTIME",
    "onnxruntime": "edgenas.runtime.onnx_runtime:RUNTIME",
    "onnxruntime-cuda": "edgenas.runtime.onnx_runtime_gpu:CUDA",
    "onnxruntime-tensorrt": "edgenas.runtime.onnx_runtime_gpu:TENSORRT",
    "openvino": "edgenas.runtime.openvino_cpu:RUNTIME",
    "tensorrt": "edgenas.runtime.tensorrt:TENSORRT",
    "tensorrt-rtx": "edgenas.runtime.tensorrt:TENSORRT_RTX",
    "tflite": "edgenas.runtime.litert_cpu:WITHOUT_DELEGATE",
    "torch-cuda": "edgenas.runtime.torch_cuda:RUNTIME",
}
# What runs graphs where nobody asks for a runtime, and where a runtime is not here.
DEFAULT = "onnxruntime"


def names() -> list[str]:
    """The names of all runtimes, whether their libraries are here or not."""
    return sorted(FILES)


def get(name: str) -> Runtime:
    """The runtime of a name; its library need not be here.

    Raises:
        EdgenasError: there is no such runtime.
    """
    if name not in FILES:
        raise unknown_name("runtime", name, names=FILES, listing="edgenas list runtimes")
    module, _, value = FILES[name].partition(":")
    return getattr(importlib.import_module(module), value)


def find(name: str) -> Runtime | None:
    """The runtime of a name; None where a device uses one that edgenas does not have."""
    return get(name) if name in FILES else None


def can_be_timed(name: str) -> bool:
    """Whether the clock can time a runtime; False where there is no such runtime."""
    return name in FILES and (bool(get(name).part) or get(name).built_by_tool)


def is_built_by_tool(name: str) -> bool:
    """Whether a tool on the device builds an engine of each graph of a runtime, and times it."""
    return name in FILES and get(name).built_by_tool


def timed_names() -> list[str]:
    """The names of the runtimes that the clock can time."""
    return [name for name in names() if can_be_timed(name)]


def form_of(name: str, precision: str) -> "Form":
    """The form of graph that a runtime wants for a precision.

    Raises:
        EdgenasError: the runtime is unknown or lacks the precision.
    """
    runtime = get(name)
    if precision not in runtime.precisions:
        raise EdgenasError(
            f"precision of {name} must be one of {', '.join(runtime.precisions)}, "
            f"found {precision!r}"
        )
    return runtime.form_of(precision)


def convert_for_clock(
    name: str, onnx: bytes | Path, *, batch: int, version: str = ""
) -> bytes | Path:
    """What the clock loads on a runtime: the graph as that version reads it, or in its own format.

    Args:
        name: the name of the runtime.
        onnx: the graph in the form for the precision.
        batch: images a run.
        version: of the runtime where it is timed; empty: not known.

    Raises:
        EdgenasError: the graph cannot be converted, or not here.
    """
    runtime = get(name)
    if runtime.fit_version is not None and version:
        fitted = runtime.fit_version(_bytes_of(onnx), version)
        onnx = onnx if fitted == _bytes_of(onnx) else fitted
    return onnx if runtime.convert is None else runtime.convert(_bytes_of(onnx), batch=batch)


def _bytes_of(onnx: bytes | Path) -> bytes:
    return onnx.read_bytes() if isinstance(onnx, Path) else onnx


def why_not_for_clock(name: str) -> str | None:
    """None, or why no graph can be brought here into the form that the clock loads."""
    explain = get(name).why_not_convert
    return None if explain is None else explain()


def export_formats() -> Mapping[str, tuple[Runtime, ExportFormat]]:
    """The formats of all runtimes by their kind, each with the runtime that brings it."""
    runtimes = [get(name) for name in names()]
    return {made.kind: (runtime, made) for runtime in runtimes for made in runtime.exports}
