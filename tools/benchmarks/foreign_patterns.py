"""Networks as tf2onnx and paddle2onnx write them, rebuilt by hand with random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


class Sketch:
    """A graph that grows operator by operator; the last output is the graph's."""

    def __init__(self, shape: list, *, kind: int = FLOAT, constants_as_nodes: bool = False) -> None:
        self.inputs = [helper.make_tensor_value_info("x", kind, shape)]
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.as_nodes = constants_as_nodes
        self.rng = np.random.default_rng(0)
        self.count = 0

    def constant(self, values: object, kind: type = np.float32) -> str:
        """Store a constant; its name."""
        self.count += 1
        tensor = numpy_helper.from_array(np.asarray(values, kind), f"c{self.count}")
        if self.as_nodes:
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            self.held.append(tensor)
        return tensor.name

    def weight(self, *shape: int) -> str:
        """Store random weights; their name."""
        return self.constant(self.rng.standard_normal(shape) * 0.1)

    def whole(self, *values: int) -> str:
        """Store whole numbers; their name."""
        return self.constant(values, np.int64)

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add an operator; the name of its first output."""
        self.count += 1
        names = [f"t{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def model(self, last: str, *, opset: int = 15) -> bytes:
        """The file, whose output is a tensor."""
        ends = [helper.make_empty_tensor_value_info(last)]
        graph = helper.make_graph(self.nodes, "made", self.inputs, ends, self.held)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


# tf2onnx: channels last outside, transposes, SAME paddings, shapes by casts and slices


def _tf_conv(s: Sketch, x: str, inputs: int, outputs: int, *, kernel: int, stride: int) -> str:
    same = {"auto_pad": "SAME_UPPER", "strides": [stride] * 2, "kernel_shape": [kernel] * 2}
    out = s.add("Conv", x, s.weight(outputs, inputs, kernel, kernel), s.weight(outputs), **same)
    return s.add("Clip", out, s.constant(0.0), s.constant(6.0))


def tf_mobile(size: int, width: int) -> bytes:
    """MobileNet: depthwise weights that a reshape turns, a mean for the pool."""
    s = Sketch([None, size, size, 3])
    x = s.add("Transpose", "x", perm=[0, 3, 1, 2])
    x, channels = _tf_conv(s, x, 3, width, kernel=3, stride=2), width
    for stride, outputs in ((1, width), (2, 2 * width), (1, 2 * width), (2, 4 * width)):
        turned = s.add("Reshape", s.weight(3, 3, channels, 1), s.whole(3, 3, 1, channels))
        depthwise = s.add("Transpose", turned, perm=[3, 2, 0, 1])
        x = s.add("Conv", x, depthwise, group=channels, strides=[stride] * 2, auto_pad="SAME_UPPER")
        x = s.add("Relu", x)
        x, channels = _tf_conv(s, x, channels, outputs, kernel=1, stride=1), outputs
    x = s.add("Squeeze", s.add("ReduceMean", x, axes=[2, 3]), s.whole(2, 3))
    x = s.add("Add", s.add("MatMul", x, s.weight(channels, 10)), s.weight(10))
    return s.model(s.add("Softmax", x))


def tf_flattened(size: int, units: int) -> bytes:
    """A classifier whose reshape is computed from the shape by casts, slices and a concat."""
    s = Sketch(["unk__6", size, size, 1])
    x = s.add("Reshape", "x", s.whole(-1, 1, size, size))
    for inputs, outputs in ((1, 8), (8, 16)):
        x = _tf_conv(s, x, inputs, outputs, kernel=3, stride=1)
        x = s.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = s.add("Transpose", x, perm=[0, 2, 3, 1])
    shape = s.add("Cast", s.add("Shape", x), to=TensorProto.INT32)
    first = s.add("Slice", shape, s.whole(0), s.whole(1), s.whole(0))
    target = s.add("Concat", first, s.constant([16 * (size // 4) ** 2], np.int32), axis=0)
    x = s.add("Reshape", x, s.add("Cast", target, to=TensorProto.INT64))
    x = s.add("Relu", s.add("MatMul", x, s.weight(16 * (size // 4) ** 2, units)))
    return s.model(s.add("MatMul", x, s.weight(units, 10)))


def tf_upsampling(size: int, width: int) -> bytes:
    """A decoder that doubles images by a scale computed from their shape."""
    s = Sketch([1, size, size, width])
    x = s.add("Transpose", "x", perm=[0, 3, 1, 2])
    for _ in range(3):
        shape = s.add("Slice", s.add("Shape", x), s.whole(2), s.whole(4), s.whole(0))
        twice = s.add("Mul", shape, s.whole(2, 2))
        ratio = s.add("Div", s.add("Cast", twice, to=FLOAT), s.add("Cast", shape, to=FLOAT))
        scales = s.add("Concat", s.constant([1.0, 1.0]), ratio, axis=0)
        x = s.add("Resize", x, "", scales, mode="linear")
        x = _tf_conv(s, x, width, width, kernel=3, stride=1)
        x = _tf_conv(s, x, width, width, kernel=1, stride=1)
        x = s.add("ConvTranspose", x, s.weight(width, width, 2, 2), strides=[1, 1])
    return s.model(s.add("Transpose", x, perm=[0, 2, 3, 1]))


def tf_attention(length: int, units: int) -> bytes:
    """Keras' multi-head attention: einsums on both sides, twice."""
    s = Sketch([None, length, units])
    heads, each, x = 4, units // 4, "x"
    for _ in range(3):
        q, k, v = (
            s.add("Einsum", x, s.weight(units, heads, each), equation="abc,cde->abde")
            for _ in range(3)
        )
        scores = s.add("Einsum", k, q, equation="aecd,abcd->acbe")
        mixed = s.add("Einsum", s.add("Softmax", scores), v, equation="acbe,aecd->abcd")
        out = s.add("Einsum", mixed, s.weight(heads, each, units), equation="abcd,cde->abe")
        x = s.add("Add", x, out)
        hidden = s.add("Relu", s.add("MatMul", x, s.weight(units, 2 * units)))
        x = s.add("Add", x, s.add("MatMul", hidden, s.weight(2 * units, units)))
    return s.model(x)


def tf_cells(length: int, units: int) -> bytes:
    """Two recurrent layers between transposes and squeezes."""
    s = Sketch([None, length, 6])
    x, inputs = s.add("Transpose", "x", perm=[1, 0, 2]), 6
    for kind, gates in (("LSTM", 4), ("GRU", 3)):
        weights = s.weight(1, gates * units, inputs), s.weight(1, gates * units, units)
        x = s.add("Squeeze", s.add(kind, x, *weights, hidden_size=units), s.whole(1))
        inputs = units
    x = s.add("Gather", x, s.constant(-1, np.int64), axis=0)
    return s.model(s.add("MatMul", x, s.weight(units, 4)))


# paddle2onnx: constants are nodes, batch norms stay, biases are added after a reshape


def _paddle_conv(
    s: Sketch, x: str, inputs: int, outputs: int, *, kernel: int, stride: int = 1, group: int = 1
) -> str:
    weight = s.weight(outputs, inputs // group, kernel, kernel)
    pads: dict[str, Any] = {
        "pads": [kernel // 2] * 4,
        "kernel_shape": [kernel] * 2,
        "dilations": [1, 1],
    }
    x = s.add("Conv", x, weight, strides=[stride] * 2, group=group, **pads)
    norm = [s.constant(np.full(outputs, 0.5)) for _ in range(4)]
    return s.add("BatchNormalization", x, *norm, epsilon=1e-5, momentum=0.9)


def paddle_lcnet(size: int, width: int) -> bytes:
    """PP-LCNet: depthwise blocks with hard swishes, squeeze and excitation at the end."""
    s = Sketch([-1, 3, size, size], constants_as_nodes=True)
    x, channels = _paddle_conv(s, "x", 3, width, kernel=3, stride=2), width
    for stride, outputs in ((1, 2 * width), (2, 2 * width), (1, 4 * width), (2, 4 * width)):
        x = _paddle_conv(s, x, channels, channels, kernel=5, stride=stride, group=channels)
        x = s.add("Mul", x, s.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))
        gate = s.add("GlobalAveragePool", x)
        for inputs, units in ((channels, channels // 4), (channels // 4, channels)):
            gate = s.add("Conv", gate, s.weight(units, inputs, 1, 1))
            bias = s.add("Reshape", s.weight(units), s.whole(1, -1, 1, 1))
            gate = s.add("Relu", s.add("Add", gate, bias))
        x = s.add("Mul", x, gate)
        x, channels = _paddle_conv(s, x, channels, outputs, kernel=1), outputs
    x = s.add("Flatten", s.add("GlobalAveragePool", x))
    return s.model(s.add("MatMul", x, s.weight(channels, 10)))


def paddle_text(height: int, width: int) -> bytes:
    """A text recogniser: the shape is taken apart and put together before the last product."""
    s = Sketch([-1, 3, height, width], constants_as_nodes=True)
    x, channels = "x", 3
    for outputs in (8, 16, 16, 32):
        x = s.add("Relu", _paddle_conv(s, x, channels, outputs, kernel=3))
        x = s.add("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1])
        channels = outputs
    shape = s.add("Shape", x)
    batch, columns = (s.add("Slice", shape, s.whole(i), s.whole(i + 1), s.whole(0)) for i in (0, 3))
    depth = s.whole(channels * (height // 16))
    x = s.add("Reshape", x, s.add("Concat", batch, depth, columns, axis=0))
    x = s.add("Transpose", x, perm=[0, 2, 1])
    units = channels * (height // 16)
    for outputs in (48, 48, 97):
        x, units = (
            s.add("Add", s.add("MatMul", x, s.weight(units, outputs)), s.weight(outputs)),
            outputs,
        )
    return s.model(s.add("Softmax", x, axis=2))


def paddle_detector(size: int, width: int) -> bytes:
    """A detector with a top-down path: sizes of the resize come from a shape and a cast."""
    s = Sketch([1, 3, size, size], constants_as_nodes=True)
    levels, x, channels = [], "x", 3
    for outputs in (width, 2 * width, 4 * width):
        x = s.add("Relu", _paddle_conv(s, x, channels, outputs, kernel=3, stride=2))
        levels.append((x, outputs))
        channels = outputs
    top = s.add("Relu", _paddle_conv(s, levels[-1][0], levels[-1][1], width, kernel=1))
    heads = []
    for x, outputs in levels[:-1][::-1]:
        side = _paddle_conv(s, x, outputs, width, kernel=1)
        size_of = s.add("Slice", s.add("Shape", side), s.whole(2), s.whole(4), s.whole(0))
        lead = s.add("Slice", s.add("Shape", top), s.whole(0), s.whole(2), s.whole(0))
        target = s.add("Concat", lead, s.add("Cast", size_of, to=TensorProto.INT64), axis=0)
        grown = s.add("Resize", top, "", "", target, mode="nearest")
        top = s.add("Add", side, grown)
        head = _paddle_conv(s, top, width, 5 * 4, kernel=3)
        flat = s.add("Reshape", head, s.whole(0, 20, -1))
        heads.append(s.add("Transpose", flat, perm=[0, 2, 1]))
    return s.model(s.add("Concat", *heads, axis=1))


PATTERNS: dict[str, dict[str, Callable[[], bytes]]] = {
    "tf2onnx": {
        "mobile-32": lambda: tf_mobile(32, 8),
        "mobile-49": lambda: tf_mobile(49, 12),
        "mobile-64": lambda: tf_mobile(64, 16),
        "flattened-16": lambda: tf_flattened(16, 32),
        "flattened-28": lambda: tf_flattened(28, 64),
        "upsampling-5": lambda: tf_upsampling(5, 8),
        "upsampling-8": lambda: tf_upsampling(8, 12),
        "attention-9": lambda: tf_attention(9, 16),
        "attention-20": lambda: tf_attention(20, 32),
        "cells-12": lambda: tf_cells(12, 10),
    },
    "paddle2onnx": {
        "lcnet-32": lambda: paddle_lcnet(32, 8),
        "lcnet-47": lambda: paddle_lcnet(47, 8),
        "lcnet-64": lambda: paddle_lcnet(64, 16),
        "text-32": lambda: paddle_text(32, 40),
        "text-48": lambda: paddle_text(48, 100),
        "detector-32": lambda: paddle_detector(32, 8),
        "detector-49": lambda: paddle_detector(49, 8),
        "detector-64": lambda: paddle_detector(64, 16),
    },
}  # fmt: skip
