"""The board part of OpenVINO on the CPU."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import BoardPart, UnitError
from edgenas.clock.board.runs import make_inputs, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

# An int8 graph says itself what is int8; the hint is for the rest of it.
OPENVINO_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}


def compile_model(
    source: bytes | str, *, threads: int, batch: int, precision: str, profile: bool = False
) -> Any:
    """A graph compiled by OpenVINO for the CPU, in the precision asked for.

    The default of OpenVINO is the fastest precision of the processor: bf16 on new ones.

    Args:
        source: the ONNX file's bytes or path.
        threads: threads of one operator.
        batch: the value of the free dimensions of inputs.
        precision: a key of `OPENVINO_HINTS`.
        profile: whether OpenVINO times each operator, which slows it down.

    Raises:
        UnitError: the runtime refuses the graph, in the runtime's words.
    """
    openvino: Any = importlib.import_module("openvino")
    options = {
        "INFERENCE_PRECISION_HINT": OPENVINO_HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the clock pins
        "PERF_COUNT": profile,
    }
    core = openvino.Core()
    try:
        model = core.read_model(read_bytes(source))
        if model.is_dynamic():
            free = {
                port: [batch if size.is_dynamic else size for size in port.partial_shape]
                for port in model.inputs
            }
            model.reshape(free)
        return core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        # "Exception from FILE:LINE:" comes once for each level of calls; the cause comes last.
        lines = [line.strip() for line in str(error).splitlines()]
        said = [line for line in lines if line and not line.startswith("Exception from")]
        raise UnitError(" ".join(said) or "OpenVINO does not say why") from error


def load_openvino(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of an ONNX graph on OpenVINO's CPU plugin, with fixed random inputs."""
    openvino: Any = importlib.import_module("openvino")
    model = compile_model(source, threads=threads, batch=batch, precision=precision)
    inputs = make_inputs(
        [(p.any_name, p.shape, str(p.element_type.to_dtype())) for p in model.inputs]
    )
    request = model.create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    return lambda _=inputs: request.infer(share_outputs=True)


PART = BoardPart(runtime="openvino", library="openvino", load=load_openvino)
