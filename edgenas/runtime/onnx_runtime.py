"""ONNX Runtime on the CPU. `edgenas.runtime.onnx_runtime_gpu` has its other providers."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.temporary import scratch_folder
from edgenas.clock.board.onnx_runtime import NUMPY_TYPES, import_onnxruntime, open_session
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.runs import make_inputs, memory_file
from edgenas.runtime.checks import (
    Array,
    check_batch,
    check_inputs,
    check_precision,
    check_used,
    find_origins,
    node_names,
    read_graph,
)
from edgenas.runtime.contract import ExportFormat, Kernel, Runtime

NAME = "onnxruntime"

_PROFILED_RUNS = 20

_FLOAT_CONVS = ("Conv", "FusedConv", "Gemm", "FusedGemm")
_INTEGER_CONVS = ("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger")


def available() -> str | None:
    """None, or why ONNX Runtime cannot be used here."""
    try:
        import_onnxruntime()
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}); pip install onnxruntime"
    return None


class OrtSession:
    """A graph on one provider, which its facts name."""

    def __init__(
        self,
        session: Any,
        *,
        onnx: bytes,
        batch: int,
        facts: dict[str, str],
        provider_options: dict[str, str] | None = None,
    ) -> None:
        self._session, self._onnx, self._batch, self._facts = session, onnx, batch, facts
        self._options = provider_options
        kinds = {name: np.dtype(kind) for name, kind in NUMPY_TYPES.items()}
        self._inputs = {v.name: (tuple(v.shape), kinds[v.type]) for v in session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        check_inputs(inputs, expected=self._inputs)
        return list(self._session.run(None, dict(inputs)))

    def facts(self) -> dict[str, str]:
        """See `Session`."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. From the runtime's own profile."""
        events = self.events(runs=_PROFILED_RUNS)
        nodes = node_names(self._onnx)
        runs_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in events:
            runs_of[event["name"].removesuffix("_kernel_time")].append(event)
        return [
            Kernel(
                name=name,
                nodes=find_origins(name, nodes),
                kind=runs[0]["args"]["op_name"],
                precision=_precision_of_kernel(runs[0]["args"]),
                seconds=statistics.median(run["dur"] for run in runs) * 1e-6,
            )
            for name, runs in runs_of.items()
        ]

    def events(self, *, runs: int) -> list[dict[str, Any]]:
        """The operators that ran, from the runtime's own profile of some runs."""
        inputs = make_inputs([(n, s, kind.name) for n, (s, kind) in self._inputs.items()])
        with scratch_folder() as folder:
            session = open_session(
                self._onnx,
                threads=int(self._facts["threads"]),
                batch=self._batch,
                profile=str(folder / "profile"),
                provider=self._facts["provider"],
                provider_options=self._options,
            )
            for _ in range(runs):
                session.run(None, inputs)
            profile = json.loads(Path(session.end_profiling()).read_bytes())
        return [
            event
            for event in profile
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        ]


def _precision_of_kernel(event: dict[str, Any]) -> str:
    """An operator computes in integers if it is one of those, or if all it touches are integers."""
    if event["op_name"] in _INTEGER_CONVS:
        return "int8"
    touched = {kind for value in event["output_type_shape"] for kind in value}
    if touched <= {"uint8", "int8"}:
        return "int8"
    return "fp16" if "float16" in touched else "fp32"


def compile_graph(onnx: bytes, *, precision: str | None, threads: int, batch: int) -> OrtSession:
    """See `Runtime`. Sessions are those that the clock times."""
    if precision is not None:
        check_precision(precision, runtime=NAME, precisions=RUNTIME.precisions)
    why_not = available()
    if why_not:
        raise EdgenasError(f"runtime {NAME} is not available here: {why_not}")
    with memory_file() as path:
        try:
            session = open_session(onnx, threads=threads, batch=batch, optimized=path)
        except UnitError as error:
            raise EdgenasError(f"onnxruntime refuses the model: {error}") from error
        used = precision_of(Path(path))
    if precision is not None:
        check_used(used, asked=precision, runtime=NAME)
    check_batch(read_graph(onnx, runtime=NAME), batch=batch)
    (provider,) = session.get_providers()
    facts = {
        "runtime": NAME,
        "version": import_onnxruntime().__version__,
        "provider": provider,
        "precision": used,
        "threads": str(session.get_session_options().intra_op_num_threads),
    }
    return OrtSession(session, onnx=onnx, batch=batch, facts=facts)


def precision_of(path: Path) -> str:
    """The precision of most convs and matrix products of an optimised graph.

    Where the processor has no fp16 kernels, the weights of an fp16 graph are fp32 by then.
    """
    from onnx import TensorProto

    from edgenas.onnx_graph.model import loads

    graph = loads(path.read_bytes(), where=str(path)).proto.graph
    floats = sum(node.op_type in _FLOAT_CONVS for node in graph.node)
    integers = sum(node.op_type in _INTEGER_CONVS for node in graph.node)
    if any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in graph.initializer):
        return "fp16"
    if integers == 0 and any(node.op_type == "DequantizeLinear" for node in graph.node):
        return "fp32 between quantise and dequantise operators"
    return "int8" if integers > floats else "fp32"


def fit_version(onnx: bytes, version: str) -> bytes:
    """Write a graph so that a version of ONNX Runtime reads it.

    What has no older form stays as it is, and ONNX Runtime's own message tells what it lacks.

    Args:
        onnx: the graph.
        version: as ``1.17.3``; empty: not known, and the graph stays as it is.
    """
    from edgenas.onnx_graph.older import NoOlderFormError, fit_reader
    from edgenas.onnx_graph.readers import find_reader

    try:
        return fit_reader(onnx, find_reader(NAME, version)) if version else onnx
    except NoOlderFormError:
        return onnx


RUNTIME = Runtime(
    name=NAME,
    # No fp16: the CPU provider computes such graphs in fp32 between casts.
    forms={"fp32": "fp32", "int8": "int8-integer"},
    available=available,
    compile=compile_graph,
    method="copies",
    part="edgenas.clock.board.onnx_runtime:PART",
    fit_version=fit_version,
    exports=(
        ExportFormat("onnx", "fp32", "fp32", "ONNX Runtime and others"),
        ExportFormat("onnx-fp16", "fp16", "fp16", "GPUs and TensorRT", runs_here=False),
        ExportFormat("onnx-int8", "int8", "int8-integer", "ONNX Runtime"),
        ExportFormat("onnx-int8-signed", "int8", "int8-signed", "TensorRT", runs_here=False),
    ),
)
