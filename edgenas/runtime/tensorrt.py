"""The runtimes TensorRT and TensorRT-RTX, and the engines that ``edgenas export`` writes.

`edgenas.runtime.trt` builds and runs engines, `edgenas.runtime.engines` keeps them on disk.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.basics.errors import EdgenasError
from edgenas.runtime.contract import ExportFormat, Runtime
from edgenas.runtime.engines import engine_for
from edgenas.runtime.trt import TENSORRT_BUILDER, TENSORRT_RTX_BUILDER, TensorRT

if TYPE_CHECKING:
    from edgenas.onnx_graph.forms import Form

_FILES = ("model.onnx", "model.engine", "model.engine.json")


def choose_builder() -> TensorRT:
    """The library that builds engines: TensorRT, or TensorRT-RTX where only that is here.

    Raises:
        EdgenasError: neither is here.
    """
    missing = TENSORRT_BUILDER.why_not_build()
    if missing is None:
        return TENSORRT_BUILDER
    if TENSORRT_RTX_BUILDER.why_not_build() is None:
        return TENSORRT_RTX_BUILDER
    raise EdgenasError(
        f"no engine can be built here: {missing}", hint="see docs/guides/tensorrt.md"
    )


def save_export(
    onnx: bytes, folder: Path, *, precision: str, batches: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write a graph and the engine that is built of it, see `SaveExport`."""
    builder = choose_builder()
    (folder / "model.onnx").write_bytes(onnx)
    engine_for(
        folder / "model.engine", runtime=builder, onnx=onnx, precision=precision, batches=batches
    )
    notes = [f"engine of {builder.name} {builder.version()}"]
    if builder is TENSORRT_RTX_BUILDER:
        notes.append("TensorRT is not here; an engine of TensorRT-RTX never runs on a Jetson")
    if why_not := builder.available():
        notes.append(why_not)
    return tuple(notes)


def _make_format(kind: str, precision: str, form: "Form") -> ExportFormat:
    return ExportFormat(
        kind,
        precision,
        form,
        "this machine's GPU",
        runs_here=False,
        files=_FILES,
        save=save_export,
        choose_form=lambda: choose_builder().choose_form(precision),
    )


def fit_version(onnx: bytes, version: str) -> bytes:
    """Write a graph so that a version of TensorRT reads it.

    The parser looks at no opset, it fails at single operators. So what has no older form goes to it
    as it is, and its own message tells what it lacks. TensorRT 8.x chooses the precision of each
    layer itself, where ``--fp16`` allows it, and so it gets the types that people give it: float32.

    Args:
        onnx: the graph.
        version: as ``8.2.1``; empty: not known, and every version since 8.0 is to read it.
    """
    from edgenas.onnx_graph.forms import widen_half
    from edgenas.onnx_graph.older import NoOlderFormError, fit_reader
    from edgenas.onnx_graph.readers import find_reader

    if version.startswith("8."):
        onnx = widen_half(onnx)
    try:
        return fit_reader(onnx, find_reader("tensorrt", version))
    except NoOlderFormError:
        return onnx


TENSORRT = Runtime(
    name=TENSORRT_BUILDER.name,
    forms=TENSORRT_BUILDER.forms,
    available=TENSORRT_BUILDER.available,
    compile=TENSORRT_BUILDER.compile,
    choose_form=TENSORRT_BUILDER.choose_form,
    method="networks",
    on_gpu=True,
    built_by_tool=True,
    fit_version=fit_version,
    exports=(
        _make_format("trt", "fp32", "fp32"),
        _make_format("trt-fp16", "fp16", "fp16"),
        _make_format("trt-int8", "int8", "int8-signed"),
    ),
)
TENSORRT_RTX = Runtime(
    name=TENSORRT_RTX_BUILDER.name,
    forms=TENSORRT_RTX_BUILDER.forms,
    available=TENSORRT_RTX_BUILDER.available,
    compile=TENSORRT_RTX_BUILDER.compile,
    choose_form=TENSORRT_RTX_BUILDER.choose_form,
    on_gpu=True,
    timing_hint="time the engines of TensorRT itself: --runtime tensorrt",
)
