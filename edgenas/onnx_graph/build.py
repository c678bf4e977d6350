"""ONNX graphs to time and to ship: one layer alone, or a whole planned network.

Built node by node in a millisecond, where exporting a module takes a second. The operators are
those of a network whose batch norms are folded into its convs. `edgenas.model.export` fills the
same graph with trained weights, so what was timed is what ships; graphs to time have random ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgenas.space.arch import Arch
from edgenas.space.layer import Layer, Primitive, divide_size
from edgenas.space.plan import PlannedLayer, follow, walk
from edgenas.space.primitives import primitives
from edgenas.space.space import Space

# Read by every runtime in use; the defaults of the onnx package are ahead of some.
IR_VERSION = 10
OPSET = 20
INPUT, OUTPUT = "image", "logits"
_IMAGE = 4  # up to so many channels, an input is an image: no runtime keeps it in blocks
_PIXEL = 16  # channels of the conv that reads one pixel of a copy
READERS = 4  # of pixels, whatever the number of copies

# The constants of a conv or linear: its weight, and its bias where one is deployed. Asked for in
# the order of the primitives; the number is the gain that keeps random activations near one.
Weights = Callable[[Primitive, float], Sequence[NDArray[np.float32]]]


def layer_graph(layer: Layer, *, batch: int = 1, seed: int = 0) -> bytes:
    """The ONNX graph of one layer alone.

    Args:
        layer: its input has shape (batch, inputs, height, width).
        batch: images a run.
        seed: of the random weights.
    """
    return row_graph([layer], batch=batch, seed=seed)


def row_graph(row: Sequence[Layer], *, batch: int = 1, seed: int = 0) -> bytes:
    """The ONNX graph of layers one behind the other, each with weights of its own.

    Args:
        row: the output of each has the shape of the next one's input.
        batch: images a run.
        seed: of the random weights.
    """
    names = ["", *map(str, range(len(row)))]
    steps = [
        PlannedLayer(name, layer, (source,) * max(1, layer.terms))
        for name, layer, source in zip(names[1:], row, names[:-1], strict=True)
    ]
    return _graph(steps, batch=batch, weights=random_weights(seed))


def copies_graph(layer: Layer, copies: int, *, batch: int = 1, seed: int = 0) -> bytes:
    """Copies of one layer side by side in one graph, each with weights of its own.

    What more copies take longer than fewer is the time of the layer as it is inside a network:
    the run's overhead and the change of layout at both ends of a graph are in both and cancel. A
    1x1 conv before the copies leaves their input in the runtime's own layout; 1x1 convs behind
    them read a single pixel each, so that no copy is optimised away and none is converted back.
    There are as many readers whatever the number of copies, in turn: they and the outputs of the
    graph, half a microsecond each, cancel as well.

    Args:
        layer: its input has shape (batch, inputs, height, width).
        copies: how many, at least 1 and at most READERS.
        batch: images a run.
        seed: of the random weights.
    """
    builder = _Builder(random_weights(seed))
    x = INPUT
    if layer.inputs > _IMAGE:
        x = builder.operator(_pointwise(layer.inputs, layer.inputs, size=layer.in_size), x)
    sources = (x,) * max(1, layer.terms)
    outputs = [_append(builder, layer, *sources) for _ in range(copies)]
    if layer.kind != "head":
        stride = max(layer.out_size)
        pixel = _pointwise(layer.outputs, _PIXEL, size=layer.out_size, stride=stride)
        outputs = [builder.operator(pixel, outputs[i % copies]) for i in range(READERS)]
    shape = [batch, layer.outputs] if layer.kind == "head" else [batch, _PIXEL, 1, 1]
    return _model(
        builder,
        inputs={INPUT: [batch, layer.inputs, *layer.in_size]},
        outputs=dict.fromkeys(outputs, shape),
    )


def operators_graph(parts: Sequence[Primitive], *, batch: int = 1, seed: int = 0) -> bytes:
    """Operators alone, in a row, to compare sums of them: docs/results/latency.md.

    Args:
        parts: each takes the output of the one before; ``add`` and ``mul`` take it twice.
        batch: images a run.
        seed: of the random weights.
    """
    builder = _Builder(random_weights(seed))
    x, first, last = INPUT, parts[0], parts[-1]
    for part in parts:
        twice = {"add": "Add", "mul": "Mul"}.get(part.op)
        x = builder.operator(part, x) if twice is None else builder.node(twice, x, x)
    shape = [batch, last.outputs, *last.out_size]
    return _model(
        builder,
        inputs={INPUT: [batch, first.inputs, *first.in_size]},
        outputs={x: shape[:2] if last.op == "linear" else shape},
    )


def _pointwise(inputs: int, outputs: int, *, size: tuple[int, int], stride: int = 1) -> Primitive:
    return Primitive(
        op="conv",
        inputs=inputs,
        outputs=outputs,
        stride=stride,
        in_size=size,
        out_size=divide_size(size, stride),
        bias=True,
    )


def network_graph(
    space: Space, arch: Arch, *, batch: int | str = 1, weights: Weights | None = None, seed: int = 0
) -> bytes:
    """The ONNX graph of a whole network.

    Args:
        space: the space of the arch.
        arch: its input has shape (batch, space.inputs, height, width).
        batch: images a run, or the name of an open dimension.
        weights: where its constants come from; None: random ones, which take as long.
        seed: of the random weights.
    """
    return _graph(walk(space, arch), batch=batch, weights=weights or random_weights(seed))


def random_weights(seed: int) -> Weights:
    """Weights, and a bias where one is deployed, that keep activations near one.

    Normal with variance gain / fan-in (He et al., arXiv 1502.01852, section 2.2). Neither
    overflows nor denormal numbers arise, which some processors take a hundred times as long for.
    """
    rng = np.random.default_rng(seed)

    def weights(part: Primitive, gain: float) -> Sequence[NDArray[np.float32]]:
        weight, *bias = _shapes(part)
        deviation = np.float32(math.sqrt(gain / math.prod(weight[1:])))
        values = [rng.standard_normal(weight, np.float32) * deviation]
        return values + [rng.standard_normal(b, np.float32) * np.float32(0.1) for b in bias]

    return weights


def _shapes(part: Primitive) -> list[tuple[int, ...]]:
    """Of the constants of a conv or linear: weight, and bias where one is deployed."""
    kernel = part.kernel if part.op == "conv" else ()
    weight = (part.outputs, part.inputs // part.groups, *kernel)
    if part.op == "scale":
        return [(1, part.outputs, 1, 1)] * 2
    return [weight, (part.outputs,)] if part.bias or part.norm else [weight]


def _graph(steps: Sequence[PlannedLayer], *, batch: int | str, weights: Weights) -> bytes:
    builder = _Builder(weights)
    follow(steps, INPUT, lambda step, *xs: _append(builder, step.layer, *xs))
    builder.nodes[-1].output[0] = OUTPUT
    first, last = steps[0].layer, steps[-1].layer
    inputs = [batch, first.inputs, *first.in_size]
    outputs = [batch, last.outputs, *last.out_size]
    if last.kind == "head":
        outputs = outputs[:2]
    return _model(builder, inputs={INPUT: inputs}, outputs={OUTPUT: outputs})


Shape = Sequence[int | str]


def _model(
    builder: "_Builder", *, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]
) -> bytes:
    def values(shapes: Mapping[str, Shape]) -> list[ValueInfoProto]:
        kind = TensorProto.FLOAT
        return [helper.make_tensor_value_info(n, kind, list(s)) for n, s in shapes.items()]

    graph = helper.make_graph(
        builder.nodes, "edgenas", values(inputs), values(outputs), builder.constants
    )
    model = helper.make_model(
        graph,
        producer_name="edgenas",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    return model.SerializeToString()


def _append(builder: "_Builder", layer: Layer, x: str, *others: str) -> str:
    """Append a layer's operators behind value ``x``; the name of its output.

    A sum and a concat take ``others`` too; a sum without terms is zeros.
    """
    parts = primitives(layer)
    if layer.kind == "sum":
        for other in others:
            x = builder.node("Add", x, other)
        if layer.terms:
            return x
        for part in parts[:-1]:
            x = builder.operator(part, x)
        return builder.node("Mul", x, builder.constant(0.0))
    if layer.kind == "concat":
        return builder.node("Concat", x, *others, axis=1)
    if layer.kind == "factorised":
        activation, even, _, odd, _ = parts
        x = builder.operator(activation, x)
        one = builder.operator(even, x)
        # All but the first row and column.
        ends = (builder.indices([v, v]) for v in (1, 2**31 - 1))
        shifted = builder.node("Slice", x, *ends, builder.indices([2, 3]))
        return builder.node("Concat", one, builder.operator(odd, shifted), axis=1)
    activated = [after.op == "act" for after in parts[1:]] + [False]
    # Only the branches are wired here; what there is, and its shapes, the primitives say.
    on_shortcut = (1 + (layer.stride > 1)) if layer.downsample else 0
    shortcut = excited = y = x
    for i, part in enumerate(parts):
        if part.op == "globalpool":
            excited = y
        if i < on_shortcut:
            shortcut = builder.operator(part, shortcut)
        elif part.op == "add":
            y = builder.node("Add", shortcut, y)
        elif part.op == "mul":
            y = builder.node("Mul", excited, y)
        else:
            y = builder.operator(part, y, gain=2.0 if activated[i] else 1.0)
    return y


class _Builder:
    """A growing graph. A value has the name of the node that makes it."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._weights = weights

    def node(self, operator: str, *inputs: str, **attributes: float | list[int]) -> str:
        name = f"{operator}_{len(self.nodes)}"
        made = helper.make_node(operator, list(inputs), [name], name)
        made.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(made)
        return name

    def constant(self, value: ArrayLike) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def indices(self, values: list[int]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def weights(self, part: Primitive, *, gain: float) -> list[str]:
        values = self._weights(part, gain)
        assert [value.shape for value in values] == _shapes(part), f"other weights than of {part}"
        return [self.constant(value) for value in values]

    def operator(self, part: Primitive, x: str, *, gain: float = 1.0) -> str:
        """The nodes of a primitive that has one input."""
        sizes = {"kernel_shape": list(part.kernel), "strides": [part.stride] * 2}
        if part.dilation > 1:
            sizes["dilations"] = [part.dilation] * 2
        pads = list(part.pads)
        match part.op, part.activation:
            case "conv", _:
                weights = self.weights(part, gain=gain)
                return self.node("Conv", x, *weights, group=part.groups, pads=pads, **sizes)
            case "linear", _:
                flat = self.node("Flatten", x, axis=1)
                return self.node("Gemm", flat, *self.weights(part, gain=gain), transB=1)
            case "maxpool", _:
                return self.node("MaxPool", x, pads=pads, **sizes)
            case "scale", _:
                factor, summand = self.weights(part, gain=gain)
                return self.node("Add", self.node("Mul", x, factor), summand)
            case "avgpool", _ if part.kernel[0] != part.stride:
                return self.node("AveragePool", x, pads=pads, **sizes)
            case "avgpool", _:
                # The last window of an odd size sticks out: it averages what there is.
                return self.node("AveragePool", x, ceil_mode=1, **sizes)
            case "globalpool", _:
                return self.node("GlobalAveragePool", x)
            case "act", "relu":
                return self.node("Relu", x)
            case "act", "relu6":
                return self.node("Clip", x, self.constant(0.0), self.constant(6.0))
            case "act", "hswish":
                return self.node("HardSwish", x)
            case "act", "sigmoid":
                return self.node("Sigmoid", x)
            case "act", "silu":
                return self.node("Mul", x, self.node("Sigmoid", x))
            case "act", "hsigmoid":
                return self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
            case _:
                raise AssertionError(f"no ONNX operator for {part}")
