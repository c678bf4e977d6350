"""From ONNX operators to primitives, one node after the other.

A graph means the same network however it was exported, so spellings of one thing become one
primitive: batch norms fold into the conv before, ``x * sigmoid(x)`` is a SiLU,
``x * clip(x + 3, 0, 6) / 6`` a hard swish, quantisation around an operator is free.
"""

import dataclasses
from collections import Counter

from onnx import NodeProto

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.file import shown
from edgenas.onnx_graph.graph import Graph, attribute, elements
from edgenas.onnx_graph.order import called, inner
from edgenas.onnx_graph.products import (
    CONVS,
    PRODUCTS,
    UnpricedError,
    image,
    two,
)
from edgenas.onnx_graph.rules import BLOCKED, MICROSOFT, is_channels_last
from edgenas.onnx_graph.spellings import gates
from edgenas.space.layer import Primitive

_DOMAINS = ("", "ai.onnx", MICROSOFT, BLOCKED)
_ACTIVATIONS = {
    "Relu": "relu", "HardSwish": "hswish", "HardSigmoid": "hsigmoid", "Sigmoid": "sigmoid",
    "Swish": "silu", "Softmax": "softmax", "LogSoftmax": "softmax", "LRN": "lrn", "Tanh": "tanh",
    "Gelu": "gelu", "Erf": "erf", "Exp": "exp", "Log": "exp", "Softplus": "exp", "Mish": "exp",
    "Elu": "exp", "Selu": "exp", "Celu": "exp", "Pow": "exp", "LeakyRelu": "leaky",
    "PRelu": "leaky", "ThresholdedRelu": "leaky", "Abs": "plain", "Neg": "plain", "Sqrt": "plain",
    "Reciprocal": "plain", "Floor": "plain", "Ceil": "plain", "Round": "plain", "Sign": "plain",
    "Not": "plain", "FastGelu": "gelu", "BiasGelu": "gelu", "QuickGelu": "silu",
    "Hardmax": "softmax",
    "QLinearSigmoid": "sigmoid", "QLinearLeakyRelu": "leaky", "QLinearSoftmax": "softmax",
    "BiasSoftmax": "softmax", "Sin": "exp", "Cos": "exp", "Tan": "exp", "Asin": "exp",
    "Acos": "exp", "Atan": "exp", "Sinh": "exp", "Cosh": "exp", "Asinh": "exp", "Acosh": "exp",
    "Atanh": "exp", "Softsign": "plain", "Shrink": "plain", "IsNaN": "plain", "IsInf": "plain",
    "BitwiseNot": "plain", "CumSum": "plain", "CumProd": "plain",
}  # fmt: skip
# Only look at a tensor in another way, or do not exist at inference.
_FREE = frozenset(
    "Reshape Flatten Squeeze Unsqueeze Identity Dropout Cast CastLike QuantizeLinear "
    "DequantizeLinear DynamicQuantizeLinear Shape Size BiasDropout".split()
)
_COPIES = frozenset(
    "Transpose Pad Resize Upsample Gather Expand Tile DepthToSpace SpaceToDepth Where "
    "GatherElements GatherND ReorderInput ReorderOutput ScatterND ScatterElements Scatter Trilu "
    "CenterCropPad ReverseSequence OneHot Col2Im EyeLike Range ConstantOfShape QLinearWhere "
    "TensorScatter RandomNormalLike RandomUniformLike RandomNormal RandomUniform Bernoulli".split()
)
_SLICES = frozenset(("Slice", "Split", "Chunk"))
_BINARY = frozenset(
    "Add Sub Mul Div Max Min Sum Equal Less Greater And Or LessOrEqual GreaterOrEqual Mod Xor Mean "
    "BitShift BitwiseAnd BitwiseOr BitwiseXor QLinearAdd QLinearMul BiasAdd".split()
)
_NORMS = frozenset(
    "LayerNormalization InstanceNormalization GroupNormalization BatchNormalization GroupNorm "
    "SkipGroupNorm SkipLayerNormalization SimplifiedLayerNormalization RMSNormalization "
    "SkipSimplifiedLayerNormalization LpNormalization MeanVarianceNormalization "
    "EmbedLayerNormalization RotaryEmbedding".split()
)
_REDUCTIONS = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceProd ReduceSumSquare "
    "ReduceLogSum ReduceLogSumExp ArgMax ArgMin GlobalAveragePool GlobalMaxPool GlobalLpPool TopK "
    "QLinearGlobalAveragePool QLinearReduceMean".split()
)
_POOLS = {
    "MaxPool": "maxpool", "NhwcMaxPool": "maxpool", "AveragePool": "avgpool", "LpPool": "avgpool",
    "QLinearAveragePool": "avgpool",
}  # fmt: skip
_CONCATS = frozenset(("Concat", "QLinearConcat"))
# Read their input in windows or at places of their own, but multiply no weights.
_SAMPLERS = frozenset(("RoiAlign", "GridSample", "MaxRoiPool", "MaxUnpool"))
# What they give depends on the values that they read, so its extents are not known before.
_COUNTED = frozenset(("NonMaxSuppression", "NonZero", "Compress", "Unique"))
_PRICED = (
    frozenset(_ACTIVATIONS) | frozenset(_POOLS) | _FREE | _COPIES | _SLICES | _BINARY | _NORMS
    | _REDUCTIONS | _CONCATS | _SAMPLERS | _COUNTED | {"Clip"}
)  # fmt: skip


class Reader:
    """Reads node after node; knows who made which tensor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {name: node for node in graph.nodes for name in node.output}
        self.operators: list[Primitive] = []
        self.unknown: Counter[str] = Counter()
        self.gates = gates(graph, self.maker)

    def read(self, node: NodeProto) -> None:
        """Add the primitives of a node.

        Raises:
            EdgenasError: it has no price; says which node, and why.
        """
        kind, known = node.op_type, self.graph.shapes
        if node.domain not in _DOMAINS:
            raise self._refused(node, "operators of this domain have no price")
        if kind in ("If", "Loop", "Scan"):
            self._unfollowed(node)
            return
        priced = kind in PRODUCTS or kind in _PRICED
        if not priced:
            raise self._refused(node, "this operator has no price")
        around = (*self.graph.varying(node), *filter(None, node.output[:1]))
        missing = [name for name in around if name not in known]
        if missing and kind in PRODUCTS:
            raise self._unshaped(node, missing[0])
        if missing:
            self.unknown[kind] += 1
            return
        empty = [name for name in around if min(known[name], default=1) < 1]
        if empty and kind in PRODUCTS:
            shape = known[empty[0]]
            raise self._refused(node, f"{shown(empty[0], most=40)!r} of shape {shape} is empty")
        try:
            self.operators.extend(self._primitives(node))
        except UnpricedError as why:
            raise self._refused(node, str(why)) from why
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            why = "its inputs or attributes are not those of its kind"
            raise self._refused(node, why) from error

    def _refused(self, node: NodeProto, why: str) -> EdgenasError:
        """The error that names a node and why it has no price."""
        return EdgenasError(
            f"{self.graph.where}: {called(node)} cannot be priced: {why}",
            hint="a part of a model is no price of the whole: measure it, with edgenas bench",
        )

    def _unshaped(self, node: NodeProto, name: str) -> EdgenasError:
        """A product whose shapes depend on data, or come out of an operator that nobody knows."""
        maker = self.maker.get(name)
        behind = (
            f", which {called(maker)} gives," if maker is not None and maker is not node else ""
        )
        return self._refused(
            node, f"the shape of {shown(name, most=40)!r}{behind} is not known before it runs"
        )

    def _unfollowed(self, node: NodeProto) -> None:
        """A branch or a loop whose course is not known: without a price unless nothing is in it."""
        waiting = [node]
        while waiting:
            one = waiting.pop()
            for graph in inner(one):
                for part in graph.node:
                    if part.op_type in PRODUCTS or part.domain not in _DOMAINS:
                        raise self._refused(
                            node, f"how often {called(part)} runs depends on the data"
                        )
                    waiting.append(part)
        self.unknown[node.op_type] += 1

    def _primitives(self, node: NodeProto) -> list[Primitive]:
        """The primitives of a node whose shapes are known."""
        kind = node.op_type
        if kind in _FREE or id(node) in self.gates:
            spelt = self.gates.get(id(node))
            return [self._act(node, spelt)] if spelt else []
        if kind in PRODUCTS:
            made = PRODUCTS[kind](self.graph, node)
            return made + self._fused(node)
        if kind in _ACTIVATIONS:
            return [self._act(node, _ACTIVATIONS[kind])]
        if kind == "Clip":
            return [self._act(node, "relu6")]
        if kind in _POOLS:
            return [self._pool(node)]
        if kind in _REDUCTIONS:
            return [self._reduction(node)]
        if kind in _BINARY:
            return self._binary(node)
        if kind in _NORMS:
            return [] if self._folds(node) else [self._pointwise(node, "mul")]
        if kind in _SLICES:
            return [self._simple(node, "slice", output=name) for name in node.output if name]
        if kind in _CONCATS:
            return [self._pointwise(node, "concat")]
        return [self._pointwise(node, "copy")]

    def _fused(self, node: NodeProto) -> list[Primitive]:
        """The activation, and the sum, that an optimised operator has taken in."""
        name = attribute(node, "activation", b"")
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else ""
        made: list[Primitive] = []
        conv = node.op_type in ("FusedConv", "NhwcFusedConv") or node.domain == BLOCKED
        if conv and len(node.input) > 3 and node.input[3]:
            made.append(self._pointwise(node, "add"))
        if text and node.op_type in ("FusedConv", "NhwcFusedConv", "FusedGemm", "Conv"):
            activation = "relu6" if text == "Clip" else _ACTIVATIONS.get(text)
            if activation is None:
                raise UnpricedError(f"its activation {text[:30]!r} has no price")
            made.append(self._act(node, activation))
        return made

    # One function each

    def _pool(self, node: NodeProto) -> Primitive:
        kernel = two(tuple(attribute(node, "kernel_shape", [1])))
        shape, out = self.graph.shape(node.input[0]), self.graph.shape(node.output[0])
        if is_channels_last(node) and len(shape) > 2:
            shape, out = ((s[0], s[-1], *s[1:-1]) for s in (shape, out))
        size = (1, *shape[2:])[-2:]
        if kernel == (size if len(shape) == 4 else size[::-1]) and elements(out[2:]) == 1:
            return self._simple(node, "globalpool")
        op = _POOLS[node.op_type]
        stride = int(max(attribute(node, "strides", [1])))
        return dataclasses.replace(self._simple(node, op), kernel=kernel, stride=stride)

    def _reduction(self, node: NodeProto) -> Primitive:
        channels, size = image(self.graph.shape(node.input[0]))
        return Primitive(
            op="globalpool", inputs=channels, outputs=channels, in_size=size, out_size=(1, 1)
        )

    def _binary(self, node: NodeProto) -> list[Primitive]:
        varying = self.graph.varying(node)
        if node.op_type.startswith("QLinear"):
            varying = [node.input[i] for i in (0, 3) if node.input[i] not in self.graph.constants]
        if len(varying) == 1:
            before = self.maker.get(varying[0])
            constant = next((n for n in node.input if n in self.graph.constants), "")
            last = self.graph.shape(node.output[0])[-1:]
            per_channel = elements(self.graph.shapes.get(constant, ())) in (1, *last)
            if node.op_type == "Add" and before is not None and before.op_type == "MatMul":
                return [] if per_channel else [self._pointwise(node, "mul")]  # its bias
            return [self._pointwise(node, "mul")]
        shapes = [self.graph.shape(name) for name in varying]
        sums = node.op_type in ("Add", "Sub", "Sum", "QLinearAdd")
        same = sums and len(set(shapes)) == 1
        return [self._pointwise(node, "add" if same else "mul")] * (len(varying) - 1)

    def _folds(self, node: NodeProto) -> bool:
        """Whether a batch norm becomes part of the conv before it."""
        before = self.maker.get(node.input[0])
        return (
            node.op_type == "BatchNormalization"
            and before is not None
            and before.op_type in CONVS
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
