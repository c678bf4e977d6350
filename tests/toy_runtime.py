"""A whole runtime in one file: the reference implementation of ONNX, which computes with numpy.

The file is its own board part. So it needs Python >= 3.8 and the standard library alone when it is
imported, and imports everything else inside functions.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import BoardPart
from edgenas.clock.board.runs import make_inputs, read_bytes
from edgenas.runtime.contract import ExportFormat, Kernel, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgenas.runtime.contract import Array


def available() -> str | None:
    """None, or why the reference implementation is not here."""
    try:
        importlib.import_module("onnx.reference")
    except ImportError as error:
        return f"onnx cannot be imported ({error}); pip install onnx"
    return None


class ToySession:
    """A graph in the reference implementation."""

    def __init__(self, onnx: bytes, *, shapes: dict[str, Any], facts: dict[str, str]) -> None:
        reference: Any = importlib.import_module("onnx.reference")
        model: Any = importlib.import_module("onnx").load_from_string(onnx)
        self._evaluator = reference.ReferenceEvaluator(model)
        self._shapes, self._facts = shapes, facts

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        from edgenas.runtime.checks import check_inputs

        check_inputs(inputs, expected=self._shapes)
        return list(self._evaluator.run(None, dict(inputs)))

    def facts(self) -> dict[str, str]:
        """See `Session`."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. Node by node."""
        wanted = [(name, shape, kind.name) for name, (shape, kind) in self._shapes.items()]
        values = {"": None, **make_inputs(wanted), **self._evaluator.rt_inits_}
        kernels: list[Kernel] = []
        for node in self._evaluator.rt_nodes_:
            start = time.perf_counter()
            outputs = node.run(*[values[name] for name in node.input])
            seconds = time.perf_counter() - start
            values.update(zip(node.output, outputs))
            name = node.onnx_node.name or node.output[0]
            kernels.append(Kernel(name, (name,), node.onnx_node.op_type, "fp32", seconds))
        return kernels


def compile_graph(onnx: bytes, *, precision: str | None, threads: int, batch: int) -> ToySession:
    """See `Runtime`."""
    import numpy

    from edgenas.runtime.checks import check_batch, check_precision, check_used, read_graph

    model = read_graph(onnx, runtime="toy")
    used = model.precision()
    check_precision(precision or used, runtime="toy", precisions=RUNTIME.precisions)
    check_used(used, asked=precision or used, runtime="toy")
    check_batch(model, batch=batch)
    closed = model.closed(batch=batch)
    shapes = {one.name: (tuple(one.shape), numpy.dtype(one.kind)) for one in closed.inputs}
    facts = {
        "runtime": "toy",
        "version": importlib.import_module("onnx").__version__,
        "provider": "numpy",
        "precision": used,
        "threads": str(threads),
    }
    return ToySession(closed.serialized(), shapes=shapes, facts=facts)


def save_export(
    onnx: bytes, folder: Path, *, precision: str, batches: tuple[int, int, int]
) -> tuple[str, ...]:
    """See `SaveExport`."""
    (folder / "model.toy").write_bytes(onnx)
    return (f"a toy of {precision}",)


def load(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of a graph, for the clock."""
    model: Any = importlib.import_module("onnx").load_from_string(read_bytes(source))
    reference: Any = importlib.import_module("onnx.reference")
    evaluator = reference.ReferenceEvaluator(model)
    wanted = [
        (
            value.name,
            [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim],
            "float32",
        )
        for value in model.graph.input
    ]
    inputs = make_inputs(wanted)
    return lambda: evaluator.run(None, inputs)


PART = BoardPart(runtime="toy", library="onnx", load=load)
RUNTIME = Runtime(
    name="toy",
    forms={"fp32": "fp32"},
    available=available,
    compile=compile_graph,
    part=f"{__name__}:PART",
    exports=(ExportFormat("toy", "fp32", "fp32", "toys", files=("model.toy",), save=save_export),),
)
