"""Operators that multiply: convs, matrix products, recurrent cells, attention and ``Einsum``.

Each function gives the convs and linears that an operator is made of, so that their
multiply-accumulates are those of the operator. A batch lies in the height of what goes through.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from onnx import NodeProto

from edgenas.onnx_graph.graph import Graph, Shape, attribute, elements
from edgenas.onnx_graph.rules import attributes_of, fused_product, is_channels_last
from edgenas.space.layer import Primitive


class UnpricedError(Exception):
    """Why an operator has no price."""


# Where the weight of a conv is.
_WEIGHT_AT = {
    "Conv": 1, "ConvTranspose": 1, "QLinearConv": 3, "ConvInteger": 1, "FusedConv": 1,
    "NhwcFusedConv": 1, "NhwcConv": 1, "DeformConv": 1,
}  # fmt: skip
CONVS = frozenset(_WEIGHT_AT)
# Where both factors of a matrix product are.
_FACTORS_AT = {
    "Gemm": (0, 1), "MatMul": (0, 1), "QLinearMatMul": (0, 3), "MatMulInteger": (0, 1),
    "FusedMatMul": (0, 1), "TransposeMatMul": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3),
    "MatMulIntegerToFloat": (0, 1), "DynamicQuantizeMatMul": (0, 1),
}  # fmt: skip
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}


def image(shape: Shape) -> tuple[int, tuple[int, int]]:
    """Channels and (height, width) of a tensor, whose batch lies in the height.

    What is no image has width 1.
    """
    if len(shape) == 4:
        return shape[1], (shape[0] * shape[2], shape[3])
    if len(shape) <= 2:
        return elements(shape), (1, 1)
    return shape[1], (elements(shape) // max(1, shape[1]), 1)


def two(values: Sequence[int]) -> tuple[int, int]:
    """A window of one or two dimensions as height and width.

    Raises:
        UnpricedError: it has more.
    """
    if len(values) > 2:
        raise UnpricedError(f"its window {tuple(values)} has more than two dimensions")
    return (int(values[0]), int(values[1])) if len(values) == 2 else (int(values[0]), 1)


def convolution(graph: Graph, node: NodeProto) -> list[Primitive]:
    """A conv, or a transposed one."""
    given, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    weight = graph.shape(node.input[_WEIGHT_AT[node.op_type]])
    if is_channels_last(node) and len(given) > 2:
        given, out = ((s[0], s[-1], *s[1:-1]) for s in (given, out))
    groups, turned = int(attribute(node, "group", 1)), node.op_type == "ConvTranspose"
    if len(weight) != len(given) or len(weight) < 3 or len(given) < 3 or groups < 1:
        raise UnpricedError(f"its weight {weight} does not fit its input {given}")
    inputs, outputs = weight[1] * groups, weight[0]
    if turned:
        inputs, outputs = weight[0], weight[1] * groups
    blocked = node.domain.endswith("nchwc")
    if (inputs != given[1:][0] and not blocked) or inputs % groups or outputs % groups:
        raise UnpricedError(
            f"its weight {weight} in {groups} groups does not fit its input {given}"
        )
    strides = attribute(node, "strides", [1])
    conv = Primitive(
        op="conv",
        inputs=inputs,
        outputs=outputs,
        kernel=two(weight[2:]),
        stride=int(max(strides)),
        groups=groups,
        in_size=image(given)[1],
        out_size=image(out)[1],
        bias=len(node.input) > (8 if node.op_type == "QLinearConv" else 2),
    )
    if not turned:
        return [conv]
    # Every input pixel meets every weight: a conv at the size of the input, whose larger
    # output is then written.
    channels, size = image(out)
    copy = Primitive(op="copy", inputs=channels, outputs=channels, in_size=size, out_size=size)
    return [dataclasses.replace(conv, stride=1, out_size=conv.in_size), copy]


def product(graph: Graph, node: NodeProto) -> list[Primitive]:
    """A matrix product of any spelling."""
    first, second = (node.input[i] for i in _FACTORS_AT[node.op_type])
    a, b = graph.shape(first), graph.shape(second)
    if "Gemm" in node.op_type:
        a = a[::-1] if attribute(node, "transA", 0) else a
        b = b[::-1] if attribute(node, "transB", 0) else b
    elif node.op_type in ("FusedMatMul", "TransposeMatMul"):
        a, b = (tuple(e or 0 for e in s) for s in fused_product(a, b, attributes_of(node)))
    out = graph.shape(node.output[0])
    if not a or not b:
        raise UnpricedError("one of its factors is a single number")
    bias = len(node.input) > 2 and node.op_type in ("Gemm", "FusedGemm")
    fixed = (first in graph.constants, second in graph.constants)
    made = multiplied(a, b, elements(out), fixed=fixed)
    return [dataclasses.replace(one, bias=bias) for one in made]


def multiplied(
    a: Shape, b: Shape, written: int, *, fixed: tuple[bool, bool] = (False, False)
) -> list[Primitive]:
    """The product of two stacks of matrices: (..., rows, inner) and (..., inner, columns).

    Args:
        a: the left factor; a vector is a single row.
        b: the right factor; a vector is a single column.
        written: elements of the result.
        fixed: whether each of them is a weight.
    """
    inner = b[-2:][0]
    columns = b[-1] if len(b) > 1 else 1
    if inner != a[-1]:
        raise UnpricedError(f"its factors {a} and {b} do not fit each other")
    heads = elements(b[:-2])
    if fixed[0] and not fixed[1]:
        # The weight stands on the left: the same with rows and columns exchanged.
        heads, columns = elements(a[:-2]), a[-2] if len(a) > 1 else 1
    if not (written and inner and heads and columns):
        return []
    rows = written // (heads * columns)
    if heads > 1 or (len(b) > 2 and not any(fixed)):
        # Each of the leading extents is a group: attention, or a weight for each head.
        return [stacked("conv", heads * inner, heads * columns, rows=rows, groups=heads)]
    return [stacked("linear" if rows == 1 else "conv", inner, columns, rows=rows)]


def stacked(op: str, inputs: int, outputs: int, *, rows: int, groups: int = 1) -> Primitive:
    """A matrix product as a conv of 1x1 over its rows."""
    size = (rows, 1)
    return Primitive(
        op=op, inputs=inputs, outputs=outputs, groups=groups, in_size=size, out_size=size
    )


def packed_product(graph: Graph, node: NodeProto) -> list[Primitive]:
    """A product with a weight of a few bits, whose shape only the attributes tell."""
    inner, columns = int(attribute(node, "K", 0)), int(attribute(node, "N", 0))
    given = graph.shape(node.input[0])
    if inner < 1 or columns < 1 or not given or given[-1] != inner:
        raise UnpricedError(
            f"its attributes K = {inner} and N = {columns} do not fit its input {given}"
        )
    return multiplied(given, (inner, columns), elements(given) // inner * columns)


def recurrent(graph: Graph, node: NodeProto) -> list[Primitive]:
    """A recurrent cell: what it does with its inputs, and with its own state, turn by turn."""
    given, weight = graph.shape(node.input[0]), graph.shape(node.input[1])
    recurrence = graph.shape(node.input[2])
    packed = node.op_type == "DynamicQuantizeLSTM"
    if len(given) != 3 or len(weight) != 3 or len(recurrence) != 3:
        raise UnpricedError(f"its input {given} or its weight {weight} is not of three extents")
    directions, units = weight[0], recurrence[1 if packed else 2]
    inputs, steps = given[2], given[0] * given[1]
    wide = _GATES[node.op_type] * units
    if weight[1 if packed else 2] != inputs or weight[2 if packed else 1] != wide:
        raise UnpricedError(f"its weight {weight} does not fit its input {given}")
    if not (steps and units and inputs):
        return []
    return [
        stacked("conv", inputs, directions * wide, rows=steps),
        *[stacked("conv", units, wide, rows=steps)] * directions,
    ]


def einsum(graph: Graph, node: NodeProto) -> list[Primitive]:
    """A sum of products: every combination of its letters is one multiply-accumulate.

    Raises:
        UnpricedError: it has three factors or more, or repeats a letter inside one.
    """
    text = attribute(node, "equation", b"").decode("utf-8", "replace").replace(" ", "")
    left, _, right = text.partition("->")
    terms, shapes = left.split(","), [graph.shape(name) for name in node.input]
    if len(terms) > 2 or len(terms) != len(shapes):
        raise UnpricedError("it multiplies more than two factors")
    sizes: dict[str, int] = {}
    spelt: list[str] = []
    for term, shape in zip(terms, shapes, strict=True):
        letters = _letters(term, len(shape))
        if len(set(letters)) != len(letters):
            raise UnpricedError("it repeats a letter inside a factor")
        for letter, extent in zip(letters, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), extent) if extent else 0
        spelt.append(letters)
    once = "".join(c for c in sorted(set(left)) if c.isalpha() and left.count(c) == 1)
    kept = right if "->" in text else ("..." if "..." in left else "") + once
    out = _letters(kept, len(graph.shape(node.output[0])))
    if len(terms) == 1:
        channels, size = image(shapes[0])
        return [
            Primitive(op="copy", inputs=channels, outputs=channels, in_size=size, out_size=size)
        ]
    first, second = (set(letters) for letters in spelt)
    if node.input[0] in graph.constants and node.input[1] not in graph.constants:
        first, second = second, first

    def sized(letters: set[str]) -> int:
        return math.prod(sizes[letter] for letter in letters)

    if not sized(first | second):
        return []
    heads = sized(first & second & set(out))
    inner = sized((first | second) - set(out))
    columns = sized((second - first) & set(out))
    rows = sized((first - second) & set(out))
    return [stacked("conv", heads * inner, heads * columns, rows=rows, groups=heads)]


def _letters(term: str, rank: int) -> str:
    """The letters of a factor; the extents of an ellipsis get digits, from the right."""
    named = term.replace("...", "")
    more = "".join(map(str, range(rank - len(named)))) if "..." in term else ""
    letters = term.replace("...", more[::-1])
    if len(letters) != rank or rank - len(named) > 10:
        raise UnpricedError("its equation does not fit its factors")
    return letters


def attention(graph: Graph, node: NodeProto) -> list[Primitive]:
    """Attention in one operator: a product of queries and keys, and one with the values.

    Those of ONNX Runtime that take the input itself (``Attention``, ``QAttention``) multiply it
    by the weights of all three first.
    """
    if node.domain == "":
        return _standard_attention(graph, node)
    given = graph.shape(node.input[0])
    heads = int(attribute(node, "num_heads", 0))
    if len(given) != 3 or heads < 1:
        raise UnpricedError(f"its input {given} does not have three extents, or it has no heads")
    batch, queries, units = given
    made: list[Primitive] = []
    if node.op_type in ("Attention", "QAttention"):
        past_at = 8 if node.op_type == "QAttention" else 4
        weight = graph.shape(node.input[1])
        sizes = attribute(node, "qkv_hidden_sizes", None) or [weight[-1] // 3] * 3
        made += multiplied(given, weight, batch * queries * weight[-1])
        keys, units, values = queries, int(sizes[0]), int(sizes[2])
        if len(node.input) > past_at and node.input[past_at]:
            keys += graph.shape(node.input[past_at])[3]
    else:
        if len(node.input) < 3 or not node.input[1] or not node.input[2]:
            raise UnpricedError("its keys and values are packed into its query")
        if any(node.input[6:8]):
            raise UnpricedError("it reads a past")
        key, value = graph.shape(node.input[1]), graph.shape(node.input[2])
        keys = key[1] if len(key) == 3 else key[2]
        values = value[-1] if len(value) == 3 else value[1] * value[3]
    groups = batch * heads
    return made + _attended(groups, queries, keys, units // heads, values // heads)


def _attended(groups: int, queries: int, keys: int, units: int, values: int) -> list[Primitive]:
    if not (groups and queries and keys):
        return []
    size = (queries, 1)
    return [
        stacked("conv", groups * units, groups * keys, rows=queries, groups=groups),
        Primitive(
            op="act", activation="softmax", inputs=groups * keys, outputs=groups * keys,
            in_size=size, out_size=size,
        ),
        stacked("conv", groups * keys, groups * values, rows=queries, groups=groups),
    ]  # fmt: skip


def _standard_attention(graph: Graph, node: NodeProto) -> list[Primitive]:
    shapes = [graph.shape(name) for name in node.input[:3]]
    if len(shapes) < 3:
        raise UnpricedError("it lacks a key or a value")
    q, k, v = shapes
    if len(q) == 4:
        heads, queries, units, keys, values = q[1], q[2], q[3], k[2], v[3]
    else:
        heads = int(attribute(node, "q_num_heads", 0))
        behind = int(attribute(node, "kv_num_heads", 0))
        if len(q) != 3 or heads < 1 or behind < 1:
            raise UnpricedError(
                f"its query {q} does not have three or four extents, or it has no heads"
            )
        queries, units, keys, values = q[1], q[2] // heads, k[1], v[2] // behind
    if len(node.input) > 4 and node.input[4]:
        keys += graph.shape(node.input[4])[2]
    return _attended(q[0] * heads, queries, keys, units, values)


PRODUCTS: dict[str, Callable[[Graph, NodeProto], list[Primitive]]] = {
    **dict.fromkeys(CONVS, convolution),
    **dict.fromkeys(_FACTORS_AT, product),
    **dict.fromkeys(_GATES, recurrent),
    "MatMulNBits": packed_product,
    "Einsum": einsum,
    "Attention": attention,
    "QAttention": attention,
    "MultiHeadAttention": attention,
}
