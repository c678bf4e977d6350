"""The board parts of LiteRT (TensorFlow Lite) on the CPU: with its delegate XNNPACK, and without.

They load .tflite files and need numpy and ``ai_edge_litert`` alone.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import BoardPart, UnitError
from edgenas.clock.board.runs import make_inputs, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

XNNPACK = "XNNPACK"
# LiteRT's own kernels, whose matrix products are Ruy's.
NO_DELEGATE = "none (Ruy)"
_DELEGATED = "DELEGATE"
_WITH_MACS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_PRECISIONS = {"int8": "int8", "uint8": "int8"}


def open_interpreter(source: bytes | str, *, threads: int, delegate: str) -> Any:
    """An interpreter of LiteRT, ready to run.

    Args:
        source: the .tflite file's bytes or path.
        threads: threads of one operator.
        delegate: ``XNNPACK`` or ``NO_DELEGATE``.

    Raises:
        UnitError: LiteRT refuses the file, in its words.
    """
    library: Any = importlib.import_module("ai_edge_litert.interpreter")
    kinds = library.OpResolverType
    without = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = library.Interpreter(
            model_content=read_bytes(source),
            num_threads=threads,
            experimental_op_resolver_type=without if delegate != XNNPACK else kinds.BUILTIN,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UnitError(" ".join(str(error).split()) or "LiteRT does not say why") from error
    return interpreter


def resize_batch(interpreter: Any, *, batch: int, strict: bool = True) -> None:
    """Give the inputs of an interpreter a batch, where the file leaves it open.

    Args:
        interpreter: of `open_interpreter`.
        batch: images of a run.
        strict: whether a file that was made for another batch is refused.

    Raises:
        UnitError: the file was made for another batch.
    """
    resized = False
    for one in interpreter.get_input_details():
        signature = [int(extent) for extent in one["shape_signature"]]
        if signature and signature[0] == -1:
            interpreter.resize_tensor_input(one["index"], [batch, *one["shape"][1:]])
            resized = True
        elif strict and signature and signature[0] != batch:
            raise UnitError(f"it was made for a batch of {signature[0]}, not {batch}")
    if resized:
        interpreter.allocate_tensors()


def find_operators_outside(interpreter: Any) -> list[str]:
    """The kinds of the operators that run outside of delegates, in no order.

    LiteRT lists all operators, also those that a delegate took over. Those that run are found from
    the outputs backwards: a delegate stands for all operators whose results it gives.
    """
    writers: dict[int, Any] = {}
    for one in interpreter._get_ops_details():
        for tensor in one["outputs"]:
            known = writers.get(int(tensor))
            if known is None or one["op_name"] == _DELEGATED:
                writers[int(tensor)] = one
    left = [int(one["index"]) for one in interpreter.get_output_details()]
    seen: set[int] = set()
    outside: list[str] = []
    while left:
        writer = writers.get(left.pop())
        if writer is None or writer["index"] in seen:
            continue
        seen.add(writer["index"])
        if writer["op_name"] != _DELEGATED:
            outside.append(str(writer["op_name"]))
        left += [int(tensor) for tensor in writer["inputs"]]
    return outside


def count_delegates(interpreter: Any) -> int:
    """How many parts of a graph delegates run."""
    return sum(one["op_name"] == _DELEGATED for one in interpreter._get_ops_details())


def find_precision(interpreter: Any) -> str:
    """What most convs and matrix products of a file compute in: by the type of what they read."""
    kinds = {int(one["index"]): one["dtype"].__name__ for one in interpreter.get_tensor_details()}
    used: dict[str, int] = {"fp32": 0}
    for one in interpreter._get_ops_details():
        if one["op_name"] in _WITH_MACS:
            kind = _PRECISIONS.get(kinds.get(int(one["inputs"][0]), ""), "fp32")
            used[kind] = used.get(kind, 0) + 1
    return max(used, key=lambda kind: used[kind])


def set_random_inputs(interpreter: Any) -> None:
    """Give all inputs of an interpreter fixed random values."""
    wanted = interpreter.get_input_details()
    inputs = make_inputs(
        [
            (str(one["index"]), [int(n) for n in one["shape"]], one["dtype"].__name__)
            for one in wanted
        ]
    )
    for one in wanted:
        interpreter.set_tensor(one["index"], inputs[str(one["index"])])


def load_litert(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32", delegate: str
) -> Callable[[], Any]:
    """One run of a .tflite file, with fixed random inputs.

    Args:
        source: the file's bytes or path.
        threads: threads of one operator.
        batch: images a run.
        precision: a unit is refused where the file computes in another one.
        delegate: see `open_interpreter`. Where operators would run outside of it, the run is still
            what users get; edgenas checks its own files before.
    """
    interpreter = open_interpreter(source, threads=threads, delegate=delegate)
    resize_batch(interpreter, batch=batch)
    used = find_precision(interpreter)
    if used != precision:
        raise UnitError(f"it would run in {used}, not in {precision}")
    set_random_inputs(interpreter)
    interpreter.invoke()
    return interpreter.invoke


LITERT = BoardPart(
    runtime="litert", library="ai_edge_litert", load=partial(load_litert, delegate=XNNPACK)
)
TFLITE = BoardPart(
    runtime="tflite", library="ai_edge_litert", load=partial(load_litert, delegate=NO_DELEGATE)
)
