"""Mutations of ONNX models: as objects, then as bytes."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.fuzz.raw import mutated_bytes
from tools.fuzz.trees import Unchanged

_WHOLE = (0, -1, 1, 2, 7, 2**31, 2**40, -(2**63), 2**63 - 1)
_NAMES = ("", "x" * 100_000, "\x1b[2J", "missing", "a/b", "input", "\u202e")
_OPERATORS = ("Conv", "Gemm", "Reshape", "Loop", "If", "Softmax", "NoSuchOperator", "Identity")


def models() -> list[onnx.ModelProto]:
    """Small models of the usual kinds: a CNN, one with open extents, one with a function."""
    return [_cnn(1), _cnn("batch"), _quantised(), _function()]


def _cnn(batch: int | str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "d": rng.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "f": rng.normal(size=(8, 4)).astype(np.float32),
        "shape": np.array([-1, 8], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "d"], ["c"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("GlobalAveragePool", ["c"], ["e"]),
        helper.make_node("Reshape", ["e", "shape"], ["g"]),
        helper.make_node("Gemm", ["g", "f"], ["output"]),
    ]
    return _model(nodes, weights, [batch, 3, 16, 16])


def _quantised() -> onnx.ModelProto:
    weights = {
        "s": np.array(0.1, np.float32),
        "z": np.array(3, np.uint8),
        "w": np.ones((8, 3, 3, 3), np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["output"], kernel_shape=[3, 3]),
    ]
    return _model(nodes, weights, [1, 3, 16, 16])


def _function() -> onnx.ModelProto:
    inner = [helper.make_node("Relu", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 20)]
    called = helper.make_function("own", "Twice", ["x"], ["y"], inner, opset)
    nodes = [
        helper.make_node("Twice", ["input"], ["a"], domain="own"),
        helper.make_node("Conv", ["a", "w"], ["output"]),
    ]
    model = _model(nodes, {"w": np.ones((8, 3, 3, 3), np.float32)}, [1, 3, 16, 16])
    model.functions.append(called)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def _model(nodes: Any, weights: dict[str, Any], shape: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def mutated_model(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """The bytes of a copy with one to three changes; a fifth of them are changed as bytes too."""
    if isinstance(rng, Unchanged):
        return model.SerializeToString()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    changes: list[Callable[[onnx.ModelProto, random.Random], None]] = [
        *(_names, _attribute, _attribute, _extents, _extents, _tensor, _tensor, _nodes, _nodes),
        *(_opset, _nested, _outside, _cycle, _huge, _empty),
    ]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(changes)(copy, rng)
    data = copy.SerializeToString()
    return mutated_bytes(data, rng) if rng.random() < 0.2 else data


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    if not model.graph.node:
        model.graph.node.add(op_type="Relu", input=["input"], output=["output"])
    return rng.choice(list(model.graph.node))


def _names(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    kind = rng.randrange(5)
    if kind == 0:
        node.op_type = rng.choice(_OPERATORS)
    elif kind == 1:
        node.domain = rng.choice(("own", "ai.onnx.ml", "com.microsoft", *_NAMES))
    elif kind == 2:
        node.name = rng.choice(_NAMES)
    elif kind == 3:
        node.input[:] = [*node.input, rng.choice(_NAMES)]
    elif node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_NAMES)


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    name = rng.choice(("strides", "pads", "dilations", "kernel_shape", "group", "axis", "other"))
    for attribute in list(node.attribute):
        if attribute.name == name:
            node.attribute.remove(attribute)
    value = rng.choice(
        (
            lambda: [rng.choice(_WHOLE)] * rng.choice((1, 2, 3, 4, 1000)),
            lambda: rng.choice(_WHOLE),
            lambda: float("nan"),
            lambda: "text",
            lambda: numpy_helper.from_array(np.zeros(3, np.float32)),
        )
    )()
    node.attribute.append(helper.make_attribute(name, value))


def _extents(model: onnx.ModelProto, rng: random.Random) -> None:
    kind = model.graph.input[0].type.tensor_type if model.graph.input else None
    if kind is None:
        return
    change = rng.randrange(5)
    if change == 0:
        kind.elem_type = rng.choice((0, 1, 6, 7, 8, 9, 10, 11, 14, 16, 99))
    elif change == 1:
        del kind.shape.dim[rng.randrange(len(kind.shape.dim) + 1) :]
    elif change == 2:
        kind.ClearField("shape")
    elif kind.shape.dim:
        one = rng.choice(list(kind.shape.dim))
        if change == 3:
            one.dim_value = rng.choice(_WHOLE)
        else:
            one.dim_param = rng.choice(_NAMES)


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(list(model.graph.initializer))
    kind = rng.randrange(6)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_WHOLE)
    elif kind == 1:
        tensor.dims[:] = [rng.choice(_WHOLE) for _ in range(rng.randrange(6))]
    elif kind == 2:
        tensor.data_type = rng.choice((0, 1, 7, 8, 9, 10, 15, 16, 17, 22, 99, 2**31 - 1))
    elif kind == 3:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 4:
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()
    else:
        model.graph.initializer.remove(tensor)


def _nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    kind = rng.randrange(4)
    if kind == 0:
        rng.shuffle(nodes)
    elif kind == 1 and nodes:
        del nodes[rng.randrange(len(nodes))]
    elif kind == 2 and nodes:
        nodes += [rng.choice(nodes)] * rng.choice((1, 500))
    elif nodes:
        rng.choice(nodes).output[:] = ["output"]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _opset(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.randrange(2) or not model.opset_import:
        model.ir_version = rng.choice((0, -1, 1, 3, 99, 2**40))
    else:
        del model.opset_import[rng.randrange(2) :]
        model.opset_import.append(helper.make_opsetid("", rng.choice((0, 1, 7, 99, 2**31, 2**40))))


def _nested(model: onnx.ModelProto, rng: random.Random) -> None:
    """Graphs in graphs, as deep as protobuf goes."""
    inner = helper.make_graph([helper.make_node("Relu", ["input"], ["y"])], "deepest", [], [])
    for depth in range(rng.choice((1, 10, 25))):
        node = helper.make_node("If", ["input"], [f"y{depth}"], then_branch=inner)
        inner = helper.make_graph([node], f"level{depth}", [], [])
    model.graph.node.extend(inner.node)


def _outside(model: onnx.ModelProto, rng: random.Random) -> None:
    """Weights that lie in another file, which may be anywhere."""
    if not model.graph.initializer:
        return
    tensor = rng.choice(list(model.graph.initializer))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("/etc/passwd", "../../secret", "/dev/zero", "missing.bin", "model.onnx", "", ".")
    tensor.external_data.add(key="location", value=rng.choice(places))
    tensor.external_data.add(key="offset", value=rng.choice(("0", "-1", "x", "9" * 30)))
    tensor.external_data.add(key="length", value=rng.choice(("0", "-5", "1e3", "9" * 15)))


def _cycle(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.functions and rng.randrange(2):  # a function that calls itself
        own = model.functions[0]
        own.node.append(helper.make_node(own.name, ["y"], ["again"], domain=own.domain))
        return
    node = _node(model, rng)
    if node.input and node.output:
        node.input[0] = node.output[0]


def _huge(model: onnx.ModelProto, rng: random.Random) -> None:
    """Few bytes that ask for much memory."""
    fill = numpy_helper.from_array(np.ones(1, np.float32))
    shape = numpy_helper.from_array(np.array([2**20, 2 ** rng.choice((4, 15, 30))]), "bomb")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["bomb"], ["big"], value=fill))


def _empty(model: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(
        (
            lambda: model.ClearField("graph"),
            lambda: model.graph.ClearField("input"),
            lambda: model.graph.ClearField("output"),
            lambda: model.graph.ClearField("node"),
            lambda: model.ClearField("opset_import"),
        )
    )()
