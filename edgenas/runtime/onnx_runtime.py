"""ONNX Runtime on the CPU. `edgenas.runtime.onnx_runtime_gpu` has its other providers."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, load, load_from_string

from edgenas.basics.errors import EdgenasError
from edgenas.basics.temporary import scratch_folder
from edgenas.clock import board
from edgenas.runtime.registry import (
    Array,
    Form,
    Kernel,
    check_batch,
    check_inputs,
    check_precision,
    check_used,
    node_names,
    origins,
    read_graph,
)

NAME = "onnxruntime"
# No fp16: the CPU provider computes such graphs in fp32 between casts.
PRECISIONS = ("fp32", "int8")
FORMS: Mapping[str, Form] = {"fp32": "fp32", "int8": "int8-integer"}

_PROFILED_RUNS = 20

_FLOAT_CONVS = ("Conv", "FusedConv", "Gemm", "FusedGemm")
_INTEGER_CONVS = ("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger")


def available() -> str | None:
    """None, or why ONNX Runtime cannot be used here."""
    try:
        board.onnxruntime()
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}); pip install onnxruntime"
    return None


class OrtSession:
    """A graph on one provider. Made by `compile`; ``facts`` name the provider."""

    def __init__(self, session: Any, *, onnx: bytes, batch: int, facts: dict[str, str]) -> None:
        self._session, self._onnx, self._batch, self._facts = session, onnx, batch, facts
        kinds = {name: np.dtype(kind) for name, kind in board.NUMPY_TYPES.items()}
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
        known = node_names(load_from_string(self._onnx).graph)
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in events:
            found[event["name"].removesuffix("_kernel_time")].append(event)
        return [
            Kernel(
                name=name,
                nodes=origins(name, known),
                kind=runs[0]["args"]["op_name"],
                precision=_precision_of_kernel(runs[0]["args"]),
                seconds=statistics.median(run["dur"] for run in runs) * 1e-6,
            )
            for name, runs in found.items()
        ]

    def events(self, *, runs: int) -> list[dict[str, Any]]:
        """What the runtime's profile of some runs says of each operator that ran."""
        inputs = board.made_up([(n, s, kind.name) for n, (s, kind) in self._inputs.items()])
        with scratch_folder() as folder:
            session = board.onnxruntime_session(
                self._onnx,
                threads=int(self._facts["threads"]),
                batch=self._batch,
                profile=str(folder / "profile"),
                provider=self._facts["provider"],
                precision=self._facts["precision"],
            )
            for _ in range(runs):
                session.run(None, inputs)
            found = json.loads(Path(session.end_profiling()).read_text())
        return [
            event
            for event in found
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


def compile(onnx: bytes, *, precision: str | None, threads: int, batch: int) -> OrtSession:
    """See `Runtime`. Sessions are those that `edgenas.clock.board` times."""
    if precision is not None:
        check_precision(precision, runtime=NAME, known=PRECISIONS)
    why_not = available()
    if why_not:
        raise EdgenasError(f"runtime {NAME} is not available here: {why_not}")
    with board.memory_file() as path:
        try:
            session = board.onnxruntime_session(onnx, threads=threads, batch=batch, optimized=path)
        except board.UnitError as error:
            raise EdgenasError(f"onnxruntime refuses the model: {error}") from error
        used = precision_of(Path(path))
    if precision is not None:
        check_used(used, asked=precision, runtime=NAME)
    check_batch(read_graph(onnx, runtime=NAME), batch=batch)
    (provider,) = session.get_providers()
    facts = {
        "runtime": NAME,
        "version": board.onnxruntime().__version__,
        "provider": provider,
        "precision": used,
        "threads": str(session.get_session_options().intra_op_num_threads),
    }
    return OrtSession(session, onnx=onnx, batch=batch, facts=facts)


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
