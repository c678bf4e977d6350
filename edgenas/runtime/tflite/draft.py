"""A .tflite graph while it is written: values, and the operators that give them.

A value of ONNX is a tensor of the file, which may differ from it in three ways. Images have their
channels last. A tensor may hold integers. And a value may be a multiple of its tensor, which
spares an operator: a hard sigmoid is a sixth of ``relu6(x + 3)``, and the weights of the conv that
reads it take the sixth.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgenas.onnx_graph.rules import attributes_of
from edgenas.runtime.tflite.file import Operator, Steps, Tensor, TfliteGraph
from edgenas.runtime.tflite.source import ROUND, Constant, Source

Array = NDArray[Any]
Shape = tuple[int, ...]

TO_LAST = (0, 2, 3, 1)  # from images of ONNX to images of LiteRT
_LEAST, _MOST = -128, 127


class NotKnownError(Exception):
    """A node, or an attribute of it, that has no counterpart in the file."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the ONNX graph as a tensor of the file.

    Args:
        tensor: the name of the tensor.
        shape: of the value, in ONNX's order.
        channels_last: whether the tensor has the order of LiteRT's images.
        flattened: channels, height and width of the images that a vector lists pixel by pixel,
            where ONNX lists it channel by channel; None: both have the same order.
        times: the value is so many times the tensor.
        steps: of the tensor's integers; None: it holds float32.
    """

    tensor: str
    shape: Shape
    channels_last: bool = False
    flattened: Shape | None = None
    times: float = 1.0
    steps: Steps | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What an operator does beside its own work: an activation behind it, a rounding to integers.

    Args:
        name: the value that it gives then.
        activation: in the words of the schema.
        slope: what its result is multiplied with first; a hard sigmoid has one.
        shift: what is added then.
        times: the value is so many times what comes out.
        steps: of the integers that it gives; None: it is not rounded.
        nodes: those that are done by it.
    """

    name: str
    activation: str = "NONE"
    slope: float = 1.0
    shift: float = 0.0
    times: float = 1.0
    steps: Steps | None = None
    nodes: tuple[NodeProto, ...] = ()


class Draft:
    """A growing graph.

    Args:
        source: the ONNX graph.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.values: dict[str, Value] = {}
        self._made: dict[str, Value] = {}
        self.done: set[int] = set()
        self.node = ""
        self._tensors: dict[str, Tensor] = {}
        self._operators: list[Operator] = []

    def graph(self) -> TfliteGraph:
        """What was written, with the outputs of the ONNX graph."""
        outputs = {name: self.real(name).tensor for name in self.source.outputs}
        return TfliteGraph(
            tensors=dict(self._tensors),
            operators=tuple(self._operators),
            inputs={name: name for name in self.source.inputs},
            outputs=outputs,
            metadata=self.source.metadata,
            turned=frozenset(
                name
                for name in (*self.source.inputs, *self.source.outputs)
                if self.values[name].channels_last
            ),
        )

    # Tensors

    def fresh(self, name: str) -> str:
        """A name like this one that no tensor has."""
        free, i = name, 1
        while free in self._tensors or (i > 1 and free in self.source.shapes):
            free, i = f"{name}_{i}", i + 1
        return free

    def input(self, name: str, value: Value) -> None:
        """An input of the graph."""
        shape = in_file(value.shape) if value.channels_last else value.shape
        self._tensors[name] = Tensor(name, shape)
        self.values[name] = value

    def constant(self, name: str, values: Array, steps: Steps | None = None) -> str:
        """A constant; the name of its tensor."""
        kept = np.ascontiguousarray(values)
        known = self._tensors.get(name)
        if known is not None and known.values is not None and known.steps == steps:
            same = known.values.dtype == kept.dtype and np.array_equal(known.values, kept)
            if same:
                return name
        name = self.fresh(name)
        self._tensors[name] = Tensor(name, kept.shape, kept.dtype.name, kept, steps)
        return name

    def weights(self, name: str, values: Array, *, half: bool) -> str:
        """Weights, perhaps stored in fp16; the name of the tensor that holds them in float32."""
        if not half:
            return self.constant(name, values)
        stored = self.constant(f"{name}/half", values.astype(np.float16))
        made = Value(self.fresh(name), values.shape)
        self._aside("DEQUANTIZE", (stored,), made)
        return made.tensor

    def number(self, value: float, *, integer: bool) -> str:
        """A constant of one number, as integers where the operator computes in them."""
        if not integer:
            return self.constant(f"number_{value:.9g}", np.array([value], np.float32))
        # It is the end of a range that begins with 0, so that nothing is lost.
        ends = (_LEAST, _MOST) if value > 0 else (_MOST, _LEAST)
        steps = Steps((abs(value) / (_MOST - _LEAST),), (ends[0],))
        return self.constant(f"integer_{value:.9g}", np.array([ends[1]], np.int8), steps)

    def operator(
        self,
        code: str,
        reads: tuple[str, ...],
        writes: Value,
        *,
        table: str = "",
        **options: int | float | bool | str,
    ) -> None:
        """An operator that writes the tensor of a value."""
        shape = in_file(writes.shape) if writes.channels_last else writes.shape
        kind = "float32" if writes.steps is None else "int8"
        assert writes.tensor not in self._tensors, f"{writes.tensor} is written twice"
        self._tensors[writes.tensor] = Tensor(writes.tensor, shape, kind, None, writes.steps)
        self._operators.append(Operator(code, reads, writes.tensor, options, table, self.node))

    def _aside(self, code: str, reads: tuple[str, ...], writes: Value, *, table: str = "") -> None:
        """An operator that stems from no node."""
        node, self.node = self.node, ""
        self.operator(code, reads, writes, table=table)
        self.node = node

    # Values

    def value(self, name: str) -> Value:
        """What a name of the ONNX graph stands for.

        Raises:
            NotKnownError: it is a constant where the operator wants a value.
        """
        if name not in self.values:
            raise NotKnownError("reads a constant where only values are known")
        return self.values[name]

    def constant_of(self, name: str) -> Constant:
        """A constant of the ONNX graph.

        Raises:
            NotKnownError: it is computed.
        """
        if name not in self.source.constants:
            raise NotKnownError("reads weights, sizes or axes that are computed")
        return self.source.constants[name]

    def floats(self, name: str) -> Value:
        """A value as float32, perhaps with something left to multiply."""
        return self._dequantized(name, self.value(name))

    def real(self, name: str) -> Value:
        """A value as float32, with nothing left to multiply."""
        return self._stored(f"{name}/real", self.floats(name))

    def plain(self, name: str) -> Value:
        """A value with nothing left to multiply, perhaps as integers."""
        return self._stored(name, self.value(name))

    def _dequantized(self, name: str, value: Value) -> Value:
        if value.steps is None:
            return value
        known = self._made.get(f"{name}/float")
        if known is None:
            known = replace(value, tensor=self.fresh(f"{name}/float"), steps=None)
            self._aside("DEQUANTIZE", (value.tensor,), known)
            self._made[f"{name}/float"] = known
        return known

    def _stored(self, name: str, value: Value) -> Value:
        if value.times == 1.0:
            return value
        known = self._made.get(f"{name}/whole")
        if known is None:
            steps = None if value.steps is None else times(value.steps, value.times)
            known = replace(value, tensor=self.fresh(f"{name}/whole"), times=1.0, steps=steps)
            factor = self.number(value.times, integer=steps is not None)
            self._aside("MUL", (value.tensor, factor), known, table="MulOptions")
            self._made[f"{name}/whole"] = known
        return known

    # Endings

    def ending(self, name: str, *, gate: bool = False, factor: float = 1.0) -> Ending:
        """What may be done by the operator that gives a value.

        Args:
            name: of the value.
            gate: whether the operator can also do a hard sigmoid.
            factor: the value is so many times what the operator gives, which then clips at no six.
        """
        rounded = self._rounding(Ending(name))
        node = self.source.sole_reader(rounded.name)
        if node is None:
            return rounded
        active = self._activation(node, gate=gate)
        if active is None or (factor != 1.0 and active.activation == "RELU6"):
            return rounded
        whole = self._rounding(active)
        if rounded.steps is not None and whole.steps is None:
            return rounded
        return replace(whole, nodes=(*rounded.nodes, node, *whole.nodes))

    def _rounding(self, ending: Ending) -> Ending:
        node = self.source.sole_reader(ending.name)
        if node is None or node.op_type != ROUND:
            return ending
        written = node.output[0]
        return replace(ending, name=written, steps=self.source.rounds[written], nodes=(node,))

    def _activation(self, node: NodeProto, *, gate: bool) -> Ending | None:
        name = node.output[0]
        if node.op_type == "Relu":
            return Ending(name, "RELU")
        if node.op_type == "Clip" and self.limits(node) in ((0.0, 6.0), (0.0, math.inf)):
            return Ending(name, "RELU6" if self.limits(node)[1] == 6 else "RELU")
        if node.op_type == "HardSigmoid" and gate:
            slope, shift = hard_sigmoid(node)
            return Ending(name, "RELU6", 6 * slope, 6 * shift, 1 / 6)
        return None

    def limits(self, node: NodeProto) -> tuple[float, float]:
        """The least and the largest value of a Clip.

        Raises:
            NotKnownError: they are computed.
        """
        ends = [-math.inf, math.inf]
        given = attributes_of(node)
        for i, word in enumerate(("min", "max")):
            if word in given:  # before opset 11
                ends[i] = float(given[word])
            elif len(node.input) > i + 1 and node.input[i + 1]:
                ends[i] = self.constant_of(node.input[i + 1]).values.item()
        return ends[0], ends[1]

    def finish(
        self,
        code: str,
        reads: tuple[str, ...],
        value: Value,
        *,
        ending: Ending,
        table: str,
        **options: int | float | bool | str,
    ) -> None:
        """An operator with its ending.

        Args:
            code: the operator.
            reads: the names of tensors.
            value: what it gives before its ending. Where it has steps, the operator computes in
                integers.
            ending: of the operator.
            table: of its options.
            options: its options.
        """
        self.done.update(map(id, ending.nodes))
        whole = value.times * ending.times
        if value.steps is None and ending.steps is not None:  # floats are rounded afterwards
            real = replace(value, tensor=self.fresh(f"{ending.name}/float"), times=whole)
            self.operator(code, reads, real, table=table, **options)
            self.round(ending.name, real, ending.steps)
            return
        steps = None if ending.steps is None else times(ending.steps, 1 / whole)
        made = replace(value, tensor=self.fresh(ending.name), times=whole, steps=steps)
        self.operator(code, reads, made, table=table, **options)
        self.values[ending.name] = made

    def round(self, name: str, value: Value, steps: Steps) -> None:
        """Give a value, rounded to integers, a name of the ONNX graph."""
        stored = times(steps, 1 / value.times)
        if value.steps is not None and is_near(value.steps, stored):
            self.values[name] = value
            return
        made = replace(value, tensor=self.fresh(name), steps=stored)
        self.operator("QUANTIZE", (value.tensor,), made)
        self.values[name] = made


def in_file(shape: Shape) -> Shape:
    """The shape of ONNX's images in the order of LiteRT."""
    return tuple(shape[i] for i in TO_LAST)


def times(steps: Steps, factor: float) -> Steps:
    """The steps of a multiple of a value, whose integers are the same."""
    if factor == 1.0:
        return steps
    return replace(steps, scales=tuple(scale * factor for scale in steps.scales))


def is_near(one: Steps, other: Steps) -> bool:
    """Whether two steps are the same but for rounding."""
    near = np.allclose(one.scales, other.scales, rtol=1e-6, atol=0)
    return one.zero_points == other.zero_points and bool(near)


def hard_sigmoid(node: NodeProto) -> tuple[float, float]:
    """Slope and shift of a hard sigmoid; a slope that is a sixth in float32 is a sixth."""
    given = attributes_of(node)
    slope, shift = float(given.get("alpha", 0.2)), float(given.get("beta", 0.5))
    return (1 / 6 if abs(slope - 1 / 6) < 1e-7 else slope), shift
