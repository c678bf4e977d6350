"""An ONNX graph as the writer of .tflite files reads it: nodes, shapes, constants, integers.

A pair of quantise and dequantise operators is one step, which rounds a value: what stands before
and behind it may then be one operator on integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.onnx_runtime import open_session
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.runs import memory_file, read_bytes
from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.order import called
from edgenas.onnx_graph.values import of_constant
from edgenas.onnx_graph.walk import infer
from edgenas.runtime.checks import check_batch, read_graph
from edgenas.runtime.tflite.file import Steps

Array = NDArray[Any]

ROUND = "Round"  # stands for a pair of quantise and dequantise operators

_BYTE = 128  # from unsigned to signed integers


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant of the graph.

    Args:
        values: as real numbers.
        integers: int8 or int32, which the real numbers are read from; None: they are plain.
        steps: of the integers.
        half: whether they are stored in fp16.
    """

    values: Array
    integers: Array | None = None
    steps: Steps | None = None
    half: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A graph to be written.

    Args:
        nodes: in order; a pair of quantise and dequantise operators is one node `ROUND`.
        constants: by name.
        shapes: of values, by name.
        rounds: the steps of what each node `ROUND` writes.
        readers: the nodes that read a value.
        inputs: names of the inputs.
        outputs: names of the outputs.
        metadata: of the model, by name.
    """

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, Constant]
    shapes: Mapping[str, tuple[int, ...]]
    rounds: Mapping[str, Steps]
    readers: Mapping[str, tuple[NodeProto, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]

    def sole_reader(self, name: str) -> NodeProto | None:
        """The node that alone reads a value; None: there are others, or it is an output."""
        readers = self.readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def read(onnx_bytes: bytes, *, batch: int, known: frozenset[str], runtime: str) -> Source:
    """A graph with all that the writer asks.

    Args:
        onnx_bytes: the graph.
        batch: what an open batch becomes.
        known: the operators that the writer knows. Where a graph has others, or computes with
            constants, ONNX Runtime folds what it can first.
        runtime: in whose name it is refused.

    Raises:
        EdgenasError: it is no graph, is made for another batch, or has inputs that are not float32.
    """
    model = read_graph(onnx_bytes, runtime=runtime)
    check_batch(model, batch=batch)
    closed = model.closed(batch=batch)
    for one in closed.inputs:
        if one.kind != "float32":
            raise EdgenasError(
                f"{runtime} refuses the model: its input {one.name} must be float32, "
                f"found {one.kind or 'another type'}"
            )
    if _can_be_folded(closed.proto, known):
        folded = loads(_folded(closed.serialized()), where="it")
        closed = folded.closed(batch=batch)
    graph = infer(closed)
    constants = _constants(closed.proto)
    nodes, rounds = _rounded(closed.proto, constants, runtime=runtime)
    outputs = tuple(value.name for value in closed.proto.graph.output)
    readers: dict[str, tuple[NodeProto, ...]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.input):
            readers[name] = (*readers.get(name, ()), node)
    return Source(
        nodes=tuple(nodes),
        constants=constants,
        shapes=graph.shapes,
        rounds=rounds,
        readers=readers,
        inputs=tuple(one.name for one in closed.inputs),
        outputs=outputs,
        metadata={one.key: one.value for one in model.proto.metadata_props},
    )


def _can_be_folded(model: ModelProto, known: frozenset[str]) -> bool:
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        given = [name for name in node.input if name]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            continue
        fixed = bool(given) and all(name in constants for name in given)
        if node.op_type not in known or node.op_type == "BatchNormalization" or fixed:
            return True
    return False


def _folded(onnx_bytes: bytes) -> bytes:
    """The graph with constants computed and batch norms folded into convs, by ONNX Runtime.

    A graph that it refuses stays as it is: the writer tells which operator it does not know.
    """
    with memory_file() as path:
        try:
            open_session(onnx_bytes, threads=1, batch=1, optimized=path, level="BASIC")
        except UnitError:
            return onnx_bytes
        return read_bytes(path) or onnx_bytes


def _constants(model: ModelProto) -> dict[str, Constant]:
    """The constants of a graph, by name; those behind a dequantise operator with their integers."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and (tensor := of_constant(node)) is not None:
            tensors[node.output[0]] = tensor
    constants = {name: Constant(numpy_helper.to_array(tensor)) for name, tensor in tensors.items()}
    for node in model.graph.node:
        held = constants.get(node.input[0]) if node.input else None
        if node.op_type == "Cast" and held is not None and held.values.dtype == np.float16:
            constants[node.output[0]] = Constant(held.values.astype(np.float32), half=True)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            integers = constants[node.input[0]].values
            steps = _steps(node, constants)
            if integers.dtype == np.uint8:
                integers = (integers.astype(np.int16) - _BYTE).astype(np.int8)
            constants[node.output[0]] = Constant(_real(integers, steps), integers, steps)
    return constants


def _steps(node: NodeProto, constants: Mapping[str, Constant]) -> Steps:
    """The steps of a quantise or dequantise operator, for signed integers."""
    scales = np.atleast_1d(constants[node.input[1]].values)
    held = constants.get(node.input[0])  # has the type of a zero point that is not given
    zero = np.zeros(scales.shape, np.uint8 if held is None else held.values.dtype)
    if len(node.input) > 2 and node.input[2]:
        zero = np.atleast_1d(constants[node.input[2]].values)
    shift = _BYTE if zero.dtype == np.uint8 else 0
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    points = tuple(int(value) - shift for value in zero)
    return Steps(tuple(float(s) for s in scales), points, axis if len(scales) > 1 else 0)


def _real(integers: Array, steps: Steps) -> Array:
    shape = [1] * integers.ndim
    if len(steps.scales) > 1:
        shape[steps.axis] = len(steps.scales)
    scales = np.array(steps.scales, np.float32).reshape(shape)
    points = np.array(steps.zero_points, np.int32).reshape(shape)
    return (integers.astype(np.float32) - points) * scales


def _rounded(
    model: ModelProto, constants: Mapping[str, Constant], *, runtime: str
) -> tuple[list[NodeProto], dict[str, Steps]]:
    """The nodes with pairs of quantise and dequantise operators as one node `ROUND`.

    Raises:
        EdgenasError: a quantise operator has no dequantise operator behind it, or has several
            scales.
    """
    integers: dict[str, NodeProto] = {}
    nodes: list[NodeProto] = []
    rounds: dict[str, Steps] = {}
    for node in model.graph.node:
        if node.op_type == "Constant" or node.output[0] in constants:
            continue
        if node.op_type == "QuantizeLinear":
            integers[node.output[0]] = node
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        writer, steps = integers.get(node.input[0]), _steps(node, constants)
        if writer is None or _steps(writer, constants) != steps or len(steps.scales) > 1:
            raise EdgenasError(
                f"{runtime} refuses the model: {called(node)} does not read what a quantise "
                "operator of the same scale gives"
            )
        made = NodeProto(op_type=ROUND, name=writer.name)
        made.input.append(writer.input[0])
        made.output.append(node.output[0])
        nodes.append(made)
        rounds[node.output[0]] = steps
    if left := [one for one in model.graph.output if one.name in integers]:
        raise EdgenasError(f"{runtime} refuses the model: its output {left[0].name} is quantised")
    return nodes, rounds
