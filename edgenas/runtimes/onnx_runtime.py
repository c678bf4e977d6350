"""ONNX Runtime on the CPU."""

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, load

from edgenas import board
from edgenas.errors import EdgenasError
from edgenas.runtimes import Array, check_inputs, check_precision

NAME = "onnxruntime"
# No fp16: the CPU provider computes such graphs in fp32 between casts.
PRECISIONS = ("fp32", "int8")

_FLOAT_CONVS = ("Conv", "FusedConv", "Gemm", "FusedGemm")
_INTEGER_CONVS = ("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger")


def available() -> str | None:
    """None, or why ONNX Runtime cannot be used here."""
    try:
        importlib.import_module("onnxruntime")
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}); pip install onnxruntime"
    return None


class CpuSession:
    """A graph on the CPU provider. Made by `compile`."""

    def __init__(self, session: Any, *, facts: dict[str, str]) -> None:
        self._session, self._facts = session, facts
        kinds = {name: np.dtype(kind) for name, kind in board.NUMPY_TYPES.items()}
        self._inputs = {v.name: (tuple(v.shape), kinds[v.type]) for v in session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `edgenas.runtimes.Session`."""
        check_inputs(inputs, expected=self._inputs)
        return list(self._session.run(None, dict(inputs)))

    def facts(self) -> dict[str, str]:
        """See `edgenas.runtimes.Session`."""
        return dict(self._facts)


def compile(onnx: bytes, *, precision: str, threads: int, batch: int) -> CpuSession:
    """See `edgenas.runtimes.Runtime`. Sessions are those that `edgenas.board` times."""
    check_precision(precision, runtime=NAME, known=PRECISIONS)
    why_not = available()
    if why_not:
        raise EdgenasError(f"runtime {NAME} is not available here: {why_not}")
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            session = board.onnxruntime_session(
                onnx, threads=threads, batch=batch, optimized=str(path)
            )
        except board.UnitError as error:
            raise EdgenasError(f"onnxruntime refuses the model: {error}") from error
        used = precision_of(path)
    if used != precision:
        raise EdgenasError(
            f"the model runs in {used} on {NAME}, not in {precision}",
            hint="give a model of that precision, or ask for the precision of the model",
        )
    for value in session.get_inputs():
        if value.shape and value.shape[0] != batch:
            raise EdgenasError(
                f"batch must be {value.shape[0]}, which the model was made for, found {batch}"
            )
    (provider,) = session.get_providers()
    facts = {
        "runtime": NAME,
        "version": importlib.import_module("onnxruntime").__version__,
        "provider": provider,
        "precision": used,
        "threads": str(session.get_session_options().intra_op_num_threads),
    }
    return CpuSession(session, facts=facts)


def precision_of(path: Path) -> str:
    """The precision of most convs and matrix products of an optimised graph.

    Where the processor has no fp16 kernels, the weights of an fp16 graph are fp32 by then.
    """
    graph = load(path).graph
    floats = sum(node.op_type in _FLOAT_CONVS for node in graph.node)
    integers = sum(node.op_type in _INTEGER_CONVS for node in graph.node)
    if any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in graph.initializer):
        return "fp16"
    if integers == 0 and any(node.op_type == "DequantizeLinear" for node in graph.node):
        return "fp32 between quantise and dequantise operators"
    return "int8" if integers > floats else "fp32"
