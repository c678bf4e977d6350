"""From ONNX operators to primitives: one small function an operator, and what has no price said.

A graph means the same network however it was exported, so spellings of one thing become one
primitive: batch norms fold into the conv before, ``x * sigmoid(x)`` is a SiLU,
``x * clip(x + 3, 0, 6) / 6`` a hard swish, quantisation around an operator is free.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import NodeProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.foreign import Graph, Shape, elements, read_graph
from edgenas.space.plan import Primitive

_ACTIVATIONS = {
    "Relu": "relu", "HardSwish": "hswish", "HardSigmoid": "hsigmoid", "Sigmoid": "sigmoid",
    "Swish": "silu", "Softmax": "softmax", "LogSoftmax": "softmax", "LRN": "lrn", "Tanh": "tanh",
    "Gelu": "gelu", "Erf": "erf", "Exp": "exp", "Log": "exp", "Softplus": "exp", "Mish": "exp",
    "Elu": "exp", "Selu": "exp", "Celu": "exp", "Pow": "exp", "LeakyRelu": "leaky",
    "PRelu": "leaky", "ThresholdedRelu": "leaky", "Abs": "plain", "Neg": "plain", "Sqrt": "plain",
    "Reciprocal": "plain", "Floor": "plain", "Ceil": "plain", "Round": "plain", "Sign": "plain",
    "Not": "plain",
}  # fmt: skip
# Only look at a tensor in another way, or do not exist at inference.
_FREE = {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "QuantizeLinear",
    "DequantizeLinear",
}  # fmt: skip
_COPIES = {
    "Transpose", "Pad", "Resize", "Upsample", "Gather", "Expand", "Tile", "DepthToSpace",
    "SpaceToDepth", "Where", "GatherElements", "GatherND", "CastLike",
}  # fmt: skip
_SLICES = {"Slice", "Split", "Chunk"}
_BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Equal", "Less", "Greater", "And", "Or"}
_NORMS = {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"}
_REDUCTIONS = {
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "ArgMax",
    "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip
_WEIGHT_AT = {"Conv": 1, "ConvTranspose": 1, "QLinearConv": 3, "ConvInteger": 1}
_CONVS = frozenset(_WEIGHT_AT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignNetwork:
    """A network that is known by its ONNX graph alone.

    Args:
        operators: of one image, in order of execution.
        unknown: operators without a price, and how often they occur.
        unknown_share: their part of all elements that operators read and write.
        inputs: shapes of the inputs.
    """

    operators: tuple[Primitive, ...]
    unknown: Mapping[str, int]
    unknown_share: float
    inputs: Mapping[str, Shape]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image; those of unknown operators are not in it."""
        return sum(p.macs for p in self.operators)

    @property
    def weights(self) -> int:
        """Weights of convs and matrix products, without biases."""
        return sum(p.weights for p in self.operators)

    def cautions(self) -> list[str]:
        """What a reader of numbers about it should know, one line each."""
        if not self.unknown:
            return []
        named = ", ".join(f"{n} {kind}" for kind, n in sorted(self.unknown.items()))
        return [
            f"{sum(self.unknown.values())} operators have no price ({named}): they read and write "
            f"{self.unknown_share:.1%} of all elements; their MACs and their time are not in the "
            "numbers"
        ]


def read_network(path: Path, *, size: tuple[int, int] | None = None) -> ForeignNetwork:
    """The operators of an ONNX file.

    Args:
        path: the file.
        size: height and width of the image, where the file leaves them open.

    Raises:
        EdgenasError: as ``read_graph``, or no operator of it has a price.
    """
    graph = read_graph(path, size=size)
    reader = _Reader(graph)
    for node in graph.nodes:
        reader.read(node)
    if not reader.operators:
        kinds = ", ".join(sorted(reader.unknown))
        raise EdgenasError(f"{path} has no operator with a price, found {kinds or 'none'}")
    total = reader.known_elements + reader.unknown_elements
    return ForeignNetwork(
        operators=tuple(reader.operators),
        unknown=dict(reader.unknown),
        unknown_share=reader.unknown_elements / total,
        inputs=graph.inputs,
    )


class _Reader:
    """Reads node after node; knows who made which tensor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {name: node for node in graph.nodes for name in node.output}
        self.operators: list[Primitive] = []
        self.unknown: Counter[str] = Counter()
        self.known_elements = 0
        self.unknown_elements = 0
        self.gates = _gates(graph, self.maker)

    def read(self, node: NodeProto) -> None:
        """Add the primitives of a node."""
        # What comes after an unknown operator may have no shape, and then has no price either.
        around = (*self.graph.varying(node), *filter(None, node.output))
        blind = bool(self.unknown) and not all(name in self.graph.shapes for name in around)
        found = None if blind else self._primitives(node)
        moved = sum(
            elements(self.graph.shapes.get(name, (0,)))
            for name in (*node.input, *node.output)
            if name
        )
        if found is None:
            domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
            self.unknown[domain + node.op_type] += 1
            self.unknown_elements += moved
        else:
            self.known_elements += moved
            self.operators.extend(found)

    def _primitives(self, node: NodeProto) -> list[Primitive] | None:
        """The primitives of a node; None: no price is known for it."""
        kind = node.op_type
        if node.domain not in ("", "ai.onnx") or kind in ("If", "Loop", "Scan"):
            return None
        if kind in _FREE or id(node) in self.gates:
            spelt = self.gates.get(id(node))
            return [self._act(node, spelt)] if spelt else []
        if kind in _CONVS:
            return self._conv(node)
        if kind in ("Gemm", "MatMul", "QLinearMatMul"):
            return self._product(node)
        if kind in _ACTIVATIONS:
            return [self._act(node, _ACTIVATIONS[kind])]
        if kind == "Clip":
            return [self._act(node, "relu6")]
        if kind in ("MaxPool", "AveragePool", "LpPool"):
            return [self._pool(node)]
        if kind in _REDUCTIONS:
            return [self._reduction(node)]
        if kind in _BINARY:
            return self._binary(node)
        if kind in _NORMS:
            return [] if self._folds(node) else [self._pointwise(node, "mul")]
        if kind in _COPIES or kind == "Concat":
            return [self._pointwise(node, "concat" if kind == "Concat" else "copy")]
        if kind in _SLICES:
            return [self._simple(node, "slice", output=name) for name in node.output if name]
        return None

    # One function each

    def _conv(self, node: NodeProto) -> list[Primitive]:
        given, out = self.graph.shape(node.input[0]), self.graph.shape(node.output[0])
        weight = self.graph.shape(node.input[_WEIGHT_AT[node.op_type]])
        groups = int(_attribute(node, "group", 1))
        kernel = _two(weight[2:])
        channels, size = image(given)
        outputs, out_size = image(out)
        strides = _attribute(node, "strides", [1])
        bias = len(node.input) > (8 if node.op_type == "QLinearConv" else 2)
        conv = Primitive(
            op="conv",
            inputs=channels,
            outputs=outputs,
            kernel=kernel,
            stride=int(max(strides)),
            groups=groups,
            in_size=size,
            out_size=out_size,
            bias=bias,
        )
        if node.op_type != "ConvTranspose":
            return [conv]
        # Every input pixel meets every weight: a conv at the size of the input, whose larger
        # output is then written.
        small = dataclasses.replace(conv, stride=1, out_size=size)
        return [small, self._simple(node, "copy", output=node.output[0])]

    def _product(self, node: NodeProto) -> list[Primitive]:
        second = node.input[3] if node.op_type == "QLinearMatMul" else node.input[1]
        a, b = self.graph.shape(node.input[0]), self.graph.shape(second)
        out = self.graph.shape(node.output[0])
        inner = b[-1] if node.op_type == "Gemm" and _attribute(node, "transB", 0) else b[-2:][0]
        columns = out[-1] if len(b) > 1 else 1
        if second not in self.graph.constants and len(b) > 2:
            # Activations times activations (attention), each of the leading extents a group.
            heads = elements(b[:-2])
            rows = elements(out) // (heads * columns)
            return [_product("conv", heads * inner, heads * columns, rows=rows, groups=heads)]
        rows = elements(a) // inner
        bias = len(node.input) > 2 and node.op_type == "Gemm"
        made = _product("linear" if rows == 1 else "conv", inner, columns, rows=rows)
        return [dataclasses.replace(made, bias=bias)]

    def _pool(self, node: NodeProto) -> Primitive:
        kernel = _two(tuple(_attribute(node, "kernel_shape", [1])))
        size = image(self.graph.shape(node.input[0]))[1]
        stride = int(max(_attribute(node, "strides", [1])))
        if kernel == size and image(self.graph.shape(node.output[0]))[1] == (1, 1):
            return self._simple(node, "globalpool")
        op = "maxpool" if node.op_type == "MaxPool" else "avgpool"
        return dataclasses.replace(self._simple(node, op), kernel=kernel, stride=stride)

    def _reduction(self, node: NodeProto) -> Primitive:
        channels, size = image(self.graph.shape(node.input[0]))
        return Primitive(
            op="globalpool", inputs=channels, outputs=channels, in_size=size, out_size=(1, 1)
        )

    def _binary(self, node: NodeProto) -> list[Primitive]:
        varying = self.graph.varying(node)
        if len(varying) == 1:
            before = self.maker.get(varying[0])
            constant = next((n for n in node.input if n in self.graph.constants), "")
            per_channel = elements(self.graph.shapes.get(constant, ())) in (
                1,
                self.graph.shape(node.output[0])[-1],
            )
            if node.op_type == "Add" and before is not None and before.op_type == "MatMul":
                return [] if per_channel else [self._pointwise(node, "mul")]  # its bias
            return [self._pointwise(node, "mul")]
        shapes = [self.graph.shape(name) for name in varying]
        same = node.op_type in ("Add", "Sub", "Sum") and len(set(shapes)) == 1
        return [self._pointwise(node, "add" if same else "mul")] * (len(varying) - 1)

    def _folds(self, node: NodeProto) -> bool:
        """Whether a batch norm becomes part of the conv before it."""
        before = self.maker.get(node.input[0])
        return (
            node.op_type == "BatchNormalization"
            and before is not None
            and before.op_type in _CONVS
            and self.graph.users[node.input[0]] == 1
        )

    def _act(self, node: NodeProto, activation: str) -> Primitive:
        return dataclasses.replace(self._pointwise(node, "act"), activation=activation)

    def _pointwise(self, node: NodeProto, op: str) -> Primitive:
        """Reads as much as it writes."""
        outputs, size = image(self.graph.shape(node.output[0]))
        return Primitive(op=op, inputs=outputs, outputs=outputs, in_size=size, out_size=size)

    def _simple(self, node: NodeProto, op: str, *, output: str = "") -> Primitive:
        outputs, out_size = image(self.graph.shape(output or node.output[0]))
        if op in ("slice", "copy"):
            return Primitive(
                op=op, inputs=outputs, outputs=outputs, in_size=out_size, out_size=out_size
            )
        channels, size = image(self.graph.shape(node.input[0]))
        return Primitive(op=op, inputs=channels, outputs=outputs, in_size=size, out_size=out_size)


def _product(op: str, inputs: int, outputs: int, *, rows: int, groups: int = 1) -> Primitive:
    """A matrix product as a conv of 1x1 over its rows."""
    size = (rows, 1)
    return Primitive(
        op=op, inputs=inputs, outputs=outputs, groups=groups, in_size=size, out_size=size
    )


def _gates(graph: Graph, maker: Mapping[str, NodeProto]) -> dict[int, str]:
    """Nodes that are part of an activation spelt out; the last of each holds its name."""
    found: dict[int, str] = {}
    for node in graph.nodes:
        factors = graph.varying(node)
        if node.op_type != "Mul" or len(factors) != 2:
            continue
        for x, name in (factors, factors[::-1]):
            gate = maker.get(name)
            if gate is None or graph.users[name] != 1:
                continue
            if gate.op_type in ("Sigmoid", "HardSigmoid") and gate.input[0] == x:
                found |= {id(gate): "", id(node): _GATED[gate.op_type]}
            chain = _ramp(graph, maker, name, x)
            if chain:
                last = _scaled(graph, node) if len(chain) == 2 else None
                found |= dict.fromkeys(map(id, (*chain, node)), "")
                found[id(last or node)] = "hswish"
    return found


_GATED = {"Sigmoid": "silu", "HardSigmoid": "hswish"}


def _ramp(graph: Graph, maker: Mapping[str, NodeProto], name: str, x: str) -> list[NodeProto]:
    """The nodes of ``clip(x + 3, 0, 6)``, with or without ``/ 6``, that end in a tensor."""
    chain: list[NodeProto] = []
    for kinds in (("Div", "Mul"), ("Clip",), ("Add",)):
        node = maker.get(name)
        if node is None or len(graph.varying(node)) != 1:
            return []
        if node.op_type in kinds:
            chain.append(node)
            name = graph.varying(node)[0]
        elif kinds != ("Div", "Mul"):
            return []
    return chain if name == x else []


def _scaled(graph: Graph, node: NodeProto) -> NodeProto | None:
    """The division by a constant that alone reads a node."""
    readers = [other for other in graph.nodes if node.output[0] in other.input]
    alone = len(readers) == 1 and graph.users[node.output[0]] == 1
    if alone and readers[0].op_type in ("Div", "Mul") and len(graph.varying(readers[0])) == 1:
        return readers[0]
    return None


def image(shape: Shape) -> tuple[int, tuple[int, int]]:
    """Channels and (height, width) of one image; what is none has width 1."""
    if len(shape) == 4:
        return shape[1] * shape[0], (shape[2], shape[3])
    if len(shape) <= 2:
        return elements(shape), (1, 1)
    return shape[1], (elements(shape) // max(1, shape[1]), 1)


def _two(values: Any) -> tuple[int, int]:
    values = tuple(values)
    if len(values) > 2:
        raise EdgenasError(
            f"convs and pools must be of one or two dimensions, found a window of {values}",
            hint="networks of volumes and videos have no estimate",
        )
    return (int(values[0]), int(values[1])) if len(values) == 2 else (int(values[0]), 1)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
