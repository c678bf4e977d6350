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


def _name_timing_command(precision: str) -> str:
    """TensorRT builds the engine where it runs, and times it there."""
    flag = " --fp16" if precision == "fp16" else ""
    return f"trtexec --onnx=model.onnx{flag} --saveEngine=model.engine"


_TIMING_HINT = "time its engines with trtexec, see docs/guides/tensorrt.md"
TENSORRT = Runtime(
    name=TENSORRT_BUILDER.name,
    forms=TENSORRT_BUILDER.forms,
    available=TENSORRT_BUILDER.available,
    compile=TENSORRT_BUILDER.compile,
    choose_form=TENSORRT_BUILDER.choose_form,
    on_gpu=True,
    timing_hint=_TIMING_HINT,
    timing_command=_name_timing_command,
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
    timing_hint=_TIMING_HINT,
)
