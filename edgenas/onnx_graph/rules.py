"""Shapes of operators that are not in ONNX: those that ONNX Runtime writes into optimised files.

Each rule rewrites its operator as one that ONNX knows and whose output has the same shape, or tells
the shape itself. Shapes are those in ``ContribOperators.md`` of ONNX Runtime.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto, TensorProto, helper

Extents = tuple[int | None, ...]
Shapes = Sequence[Extents | None]
Made = tuple[int, Extents | None]  # element type and shape of an output

MICROSOFT, BLOCKED = "com.microsoft", "com.microsoft.nchwc"
FLOAT = TensorProto.FLOAT

# Operators whose output is like an input: its number.
_LIKE = {
    "Gelu": 0, "FastGelu": 0, "BiasGelu": 0, "QuickGelu": 0, "QLinearSigmoid": 0, "BiasAdd": 0,
    "QLinearLeakyRelu": 0, "QLinearSoftmax": 0, "BiasSoftmax": 0, "SkipLayerNormalization": 0,
    "SimplifiedLayerNormalization": 0, "SkipSimplifiedLayerNormalization": 0, "GroupNorm": 0,
    "SkipGroupNorm": 0, "RotaryEmbedding": 0, "BiasDropout": 0, "Trilu": 0, "Inverse": 0,
    "LayerNormalization": 0,
}  # fmt: skip
# Operators that have the shape of one of ONNX, and which of their inputs that one reads.
_AS: dict[str, tuple[str, tuple[int, ...]]] = {
    "FusedConv": ("Conv", (0, 1)), "NhwcFusedConv": ("Conv", (0, 1)), "NhwcConv": ("Conv", (0, 1)),
    "QLinearConv": ("Conv", (0, 3)), "Conv": ("Conv", (0, 1)), "NhwcMaxPool": ("MaxPool", (0,)),
    "FusedGemm": ("Gemm", (0, 1)), "QGemm": ("Gemm", (0, 3)), "MaxPool": ("MaxPool", (0,)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)), "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "QLinearAdd": ("Add", (0, 3)), "QLinearMul": ("Mul", (0, 3)),
    "AveragePool": ("AveragePool", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)), "GlobalMaxPool": ("GlobalMaxPool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)), "QLinearWhere": ("Where", (0, 1, 4)),
    "GlobalAveragePool": ("GlobalAveragePool", (0,)), "QLinearReduceMean": ("ReduceMean", (0,)),
    "QLinearConcat": ("Concat", ()), "DynamicQuantizeLSTM": ("LSTM", (0, 1, 2)),
}  # fmt: skip
_FLOATS_OUT = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_KEPT = frozenset(
    "auto_pad ceil_mode count_include_pad dilations group kernel_shape pads strides transA transB "
    "axis axes keepdims direction hidden_size layout storage_order".split()
)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type}


def is_channels_last(node: NodeProto) -> bool:
    """Whether images come with the channels last."""
    return node.op_type.startswith("Nhwc") or bool(attributes_of(node).get("channels_last", 0))


def substitute(node: NodeProto) -> tuple[NodeProto, tuple[int, ...]] | None:
    """An operator of ONNX (opset 13) whose output has the shape of this one's.

    Returns:
        The operator, which reads ``i0``, ``i1`` ..., and the numbers of the inputs that these are;
        None: there is no such operator.
    """
    if node.domain not in (MICROSOFT, BLOCKED) or node.op_type not in _AS:
        return None
    kind, read = _AS[node.op_type]
    if kind == "Concat":
        read = tuple(range(2, len(node.input), 3))
    kept = {name: v for name, v in attributes_of(node).items() if name in _KEPT}
    if kind in ("MatMul", "Add", "Mul", "Where"):
        kept = {}
    names = [f"i{i}" for i in range(len(read))]
    outputs = ["Y", "Y_h", "Y_c"] if kind == "LSTM" else ["o"]
    return helper.make_node(kind, names, outputs[: max(1, len(node.output))], **kept), read


def element_of(node: NodeProto, elements: Sequence[int]) -> int:
    """The type of the first output of an operator that ``substitute`` knows."""
    if node.op_type in _FLOATS_OUT:
        return FLOAT
    return elements[1 if node.op_type == "QLinearWhere" else 2 if "Concat" in node.op_type else 0]


def made(node: NodeProto, shapes: Shapes, elements: Sequence[int]) -> list[Made] | None:
    """Types and shapes of the outputs of an operator that has a rule of its own.

    Args:
        node: the operator.
        shapes: of its inputs; None: not known.
        elements: types of its inputs.
    """
    if node.domain not in (MICROSOFT, BLOCKED):
        return None
    if node.op_type in _LIKE and node.domain == MICROSOFT:
        like = (elements[0], shapes[0])
        rows = (FLOAT, None)
        # What comes second and third are statistics; the last is the sum before the norm.
        return [like if i in (0, 3) else rows for i in range(len(node.output))]
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None:
        return None
    return rule(attributes_of(node), shapes, elements)


def _rest(shape: Extents | None) -> Extents:
    return shape or ()


def _quantized(
    attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]
) -> list[Made]:
    return [(elements[2] if len(elements) > 2 else TensorProto.UINT8, shapes[0])]


def _dequantized(
    attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]
) -> list[Made]:
    return [(elements[1], shapes[0])]


def fused_product(a: Extents, b: Extents, attributes: Mapping[str, Any]) -> tuple[Extents, Extents]:
    """The shapes of both factors of a ``FusedMatMul``, turned as its attributes say."""

    def turned(shape: Extents, last: bool, batch: bool) -> Extents:
        if batch and len(shape) > 2:
            # The first extent changes places with the last but one.
            shape = (*shape[1:-1], shape[0], shape[-1])
        return (*shape[:-2], shape[-1], shape[-2]) if last and len(shape) > 1 else shape

    get = attributes.get
    return (
        turned(a, bool(get("transA", 0)), bool(get("transBatchA", 0))),
        turned(b, bool(get("transB", 0)), bool(get("transBatchB", 0))),
    )


def _fused(attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]) -> list[Made]:
    if shapes[0] is None or shapes[1] is None:
        return [(elements[0], None)]
    a, b = fused_product(shapes[0], shapes[1], attributes)
    if len(a) < 2 or len(b) < 2:
        return [(elements[0], None)]
    lead: list[int | None] = []
    for i in range(max(len(a), len(b)) - 2, 0, -1):
        x = a[-2 - i] if len(a) > 1 + i else 1
        y = b[-2 - i] if len(b) > 1 + i else 1
        lead.append(None if x is None or y is None else max(x, y))
    return [(elements[0], (*lead, a[-2], b[-1]))]


def _packed(attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]) -> list[Made]:
    if shapes[0] is None:
        return [(elements[0], None)]
    return [(elements[0], (*shapes[0][:-1], int(attributes["N"])))]


def _embedded(attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]) -> list[Made]:
    if shapes[0] is None or shapes[2] is None:
        return [(elements[2], None)] * 3
    whole = (*shapes[0], shapes[2][-1])
    return [(elements[2], whole), (TensorProto.INT32, shapes[0][:1]), (elements[2], whole)]


def _attended(attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]) -> list[Made]:
    if shapes[0] is None or shapes[1] is None:
        return [(FLOAT, None)] * 2
    sizes = attributes.get("qkv_hidden_sizes")
    units = sizes[2] if sizes else (shapes[1][-1] or 0) // 3
    return [
        (FLOAT if elements[0] != TensorProto.FLOAT16 else elements[0], (*shapes[0][:-1], units))
    ]


def _many_heads(
    attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]
) -> list[Made]:
    values = shapes[2] if len(shapes) > 2 else None
    if shapes[0] is None or len(shapes[0]) != 3 or values is None:
        return [(elements[0], None)]
    units = values[-1] if len(values) == 3 else (values[1] or 0) * (values[3] or 0)
    return [(elements[0], (*shapes[0][:2], units))]


def _reordered(
    attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]
) -> list[Made]:
    if shapes[0] is None or len(shapes[0]) != 4:
        return [(elements[0], None)]
    last = attributes.get("channels_last", 0)
    if "channels" not in attributes:  # into blocks: few channels more, where they fill no block
        batch, *rest = shapes[0]
        return [(elements[0], (batch, rest[2], rest[0], rest[1]) if last else shapes[0])]
    batch, _, height, width = shapes[0]
    channels = int(attributes["channels"])
    shape = (batch, height, width, channels) if last else (batch, channels, height, width)
    return [(elements[0], shape)]


def _upsampled(
    attributes: Mapping[str, Any], shapes: Shapes, elements: Sequence[int]
) -> list[Made]:
    scales = attributes.get("scales", ())
    if shapes[0] is None or len(scales) != len(shapes[0]):
        return [(elements[0], None)]
    grown = tuple(None if e is None else e * s for e, s in zip(shapes[0], scales, strict=True))
    return [(elements[0], grown)]


_RULES: dict[tuple[str, str], Callable[[Mapping[str, Any], Shapes, Sequence[int]], list[Made]]] = {
    (MICROSOFT, "QuantizeLinear"): _quantized,
    (MICROSOFT, "DequantizeLinear"): _dequantized,
    (MICROSOFT, "FusedMatMul"): _fused,
    (MICROSOFT, "TransposeMatMul"): _fused,
    (MICROSOFT, "MatMulNBits"): _packed,
    (MICROSOFT, "EmbedLayerNormalization"): _embedded,
    (MICROSOFT, "Attention"): _attended,
    (MICROSOFT, "QAttention"): _attended,
    (MICROSOFT, "MultiHeadAttention"): _many_heads,
    (BLOCKED, "ReorderInput"): _reordered,
    (BLOCKED, "ReorderOutput"): _reordered,
    (BLOCKED, "Upsample"): _upsampled,
}
