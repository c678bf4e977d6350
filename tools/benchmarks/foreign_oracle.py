"""Multiplications of an ONNX file, counted from the shapes that it has while ONNX Runtime runs it.

Nothing here is taken from edgenas. The tensors that products read and write become outputs of the
graph, ONNX Runtime runs it without optimising it, and each product is counted from the arrays that
came out: the second opinion on what ``edgenas predict --model`` says.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, inliner

# Where the two factors of a product are; the second is the weight of a conv or a cell.
FACTORS = {
    "Conv": (0, 1), "ConvTranspose": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3),
    "FusedConv": (0, 1), "NhwcFusedConv": (0, 1), "DeformConv": (0, 1), "Gemm": (0, 1),
    "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "FusedMatMul": (0, 1),
    "FusedGemm": (0, 1), "QGemm": (0, 3), "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1), "LSTM": (0, 1), "GRU": (0, 1), "RNN": (0, 1),
    "DynamicQuantizeLSTM": (0, 1), "Einsum": (0, 1), "Attention": (0, 1),
    "MultiHeadAttention": (0, 1),
}  # fmt: skip
_ENDS = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8, "tensor(bool)": np.bool_,
}  # fmt: skip


def counted(
    source: bytes | Path, *, inputs: Mapping[str, np.ndarray] | None = None
) -> tuple[int, int]:
    """Multiply-accumulates of one run, and how many nodes they are in.

    Args:
        source: the file or its bytes.
        inputs: arrays; those that are absent are made up, open extents are one.
    """
    model = onnx.load(source) if isinstance(source, Path) else onnx.load_from_string(source)
    model = inliner.inline_local_functions(model) if model.functions else model
    nodes = [node for node in varying(model) if node.op_type in FACTORS]
    arrays = observed(model, nodes, dict(inputs or {}))
    found = 0
    for node in nodes:
        shapes = [arrays[name].shape if name in arrays else None for name in node.input]
        out = arrays[node.output[0]].shape
        found += macs(node, shapes, out)
    return found, len(nodes)


def varying(model: ModelProto) -> list[NodeProto]:
    """The nodes that depend on an input."""
    held = {tensor.name for tensor in model.graph.initializer}
    moving = {value.name for value in model.graph.input} - held
    left, found = list(model.graph.node), []
    while True:
        more = [node for node in left if moving & set(node.input) or _captures(node, moving)]
        if not more:
            break
        for node in more:
            moving.update(node.output)
        taken = {id(node) for node in more}
        left = [node for node in left if id(node) not in taken]
        found += more
    return found


def _captures(node: NodeProto, moving: set[str]) -> bool:
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            if any(moving & set(one.input) or _captures(one, moving) for one in graph.node):
                return True
    return False


def observed(
    model: ModelProto, nodes: list[NodeProto], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the nodes read and write in a run, by name; weights too."""
    import onnxruntime as ort

    watched = ModelProto()
    watched.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    wanted = {name for node in nodes for name in (*node.input, node.output[0]) if name in made}
    present = {value.name for value in model.graph.output}
    watched.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in sorted(wanted - present)
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(watched.SerializeToString(), options)
    rng = np.random.default_rng(0)
    for value in session.get_inputs():
        if value.name not in inputs:
            shape = [e if isinstance(e, int) and e > 0 else 1 for e in value.shape or []]
            values = rng.random(shape)
            inputs[value.name] = values.astype(_ENDS[value.type])
    names = sorted(wanted)
    ran: list[Any] = list(session.run(names, inputs)) if names else []
    arrays: dict[str, np.ndarray] = dict(zip(names, ran, strict=True))
    weights = {t.name: np.empty(tuple(t.dims), np.uint8) for t in model.graph.initializer}
    found: dict[str, np.ndarray] = {**weights, **inputs, **arrays}
    return found


def macs(node: NodeProto, shapes: list[Any], out: tuple[int, ...]) -> int:
    """Multiply-accumulates of a node, from real shapes."""
    first, second = (shapes[i] for i in FACTORS[node.op_type])
    get = {a.name: helper.get_attribute_value(a) for a in node.attribute}.get
    kind = node.op_type
    if kind == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if "Conv" in kind:
        return math.prod(out) * math.prod(second[1:])
    if "Gemm" in kind:
        return math.prod(out) * first[0 if get("transA", 0) else 1]
    if kind == "FusedMatMul" and get("transA", 0):
        return math.prod(out) * first[-2]
    if "MatMul" in kind:
        return math.prod(out) * first[-1]
    if kind in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        directions, wide, inputs = second
        if kind == "DynamicQuantizeLSTM":
            wide, inputs = inputs, wide
        units = get("hidden_size", 0)
        return first[0] * first[1] * directions * wide * (inputs + units)
    if kind == "Einsum":
        return _einsum(get("equation", b"").decode(), shapes)
    return _attention(node, shapes, get)


def _einsum(equation: str, shapes: list[Any]) -> int:
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        letters = list(term.replace("...", ""))
        more = [f".{i}" for i in range(len(shape) - len(letters))][::-1]
        at = term.find("...")
        spelt = letters if at < 0 else [*letters[:at], *more, *letters[at:]]
        for letter, extent in zip(spelt, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), extent)
    return math.prod(sizes.values())


def _attention(node: NodeProto, shapes: list[Any], get: Any) -> int:
    query = shapes[0]
    if node.domain == "com.microsoft" and node.op_type == "Attention":
        batch, length, width = query
        units = shapes[1][1]
        each = get("qkv_hidden_sizes") or [units // 3] * 3
        return batch * length * width * units + batch * length * length * (each[0] + each[2])
    key, value = shapes[1], shapes[2]
    if len(query) == 4:
        heads = query[0] * query[1]
        return heads * query[2] * key[2] * (query[3] + value[3])
    if node.op_type == "MultiHeadAttention":
        return query[0] * query[1] * key[1] * (query[2] + value[2])
    heads, kept = get("q_num_heads"), get("kv_num_heads")
    return query[0] * query[1] * key[1] * (query[2] + value[2] // kept * heads)
