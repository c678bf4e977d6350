"""ONNX graphs to time and to ship: one layer alone, or a whole planned network.

Built node by node in a millisecond, where exporting a module takes a second. The operators are
those of a network whose batch norms are folded into its convs. `edgenas.export` fills the same
graph with trained weights, so what was timed is what ships; graphs to time have random ones.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgenas.arch import Arch
from edgenas.plan import Layer, Primitive, plan, primitives
from edgenas.space import Space

# Read by every runtime in use; the defaults of the onnx package are ahead of some.
IR_VERSION = 10
OPSET = 20
INPUT, OUTPUT = "image", "logits"

# The constants of a conv or linear: its weight, and its bias where one is deployed. Asked for in
# the order of the primitives; the number is the gain that keeps random activations near one.
Weights = Callable[[Primitive, float], Sequence[NDArray[np.float32]]]


def layer_graph(layer: Layer, *, batch: int = 1, seed: int = 0) -> bytes:
    """The ONNX graph of one layer alone.

    Args:
        layer: its input has shape (batch, inputs, size, size).
        batch: images a run.
        seed: of the random weights.
    """
    return _graph([layer], batch=batch, weights=random_weights(seed))


def network_graph(
    space: Space, arch: Arch, *, batch: int | str = 1, weights: Weights | None = None, seed: int = 0
) -> bytes:
    """The ONNX graph of a whole network.

    Args:
        space: the space of the arch.
        arch: its input has shape (batch, space.inputs, resolution, resolution).
        batch: images a run, or the name of an open dimension.
        weights: where its constants come from; None: random ones, which take as long.
        seed: of the random weights.
    """
    layers = [layer for _, layer in plan(space, arch)]
    return _graph(layers, batch=batch, weights=weights or random_weights(seed))


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
    return [weight, (part.outputs,)] if part.bias or part.norm else [weight]


def _graph(layers: list[Layer], *, batch: int | str, weights: Weights) -> bytes:
    builder = _Builder(weights)
    x = INPUT
    for layer in layers:
        x = _append(builder, layer, x)
    builder.nodes[-1].output[0] = OUTPUT
    first, last = layers[0], layers[-1]
    inputs = [batch, first.inputs, first.size, first.size]
    outputs = [batch, last.outputs, last.out_size, last.out_size]
    if last.kind == "head":
        outputs = outputs[:2]
    graph = helper.make_graph(
        builder.nodes,
        "edgenas",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, outputs)],
        builder.constants,
    )
    model = helper.make_model(
        graph,
        producer_name="edgenas",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    return model.SerializeToString()


def _append(builder: "_Builder", layer: Layer, x: str) -> str:
    """Append a layer's operators behind value ``x``; the name of its output."""
    parts = primitives(layer)
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

    def weights(self, part: Primitive, *, gain: float) -> list[str]:
        values = self._weights(part, gain)
        assert [value.shape for value in values] == _shapes(part), f"other weights than of {part}"
        return [self.constant(value) for value in values]

    def operator(self, part: Primitive, x: str, *, gain: float = 1.0) -> str:
        """The nodes of a primitive that has one input; padding is half the kernel."""
        sizes = {"kernel_shape": list(part.kernel), "strides": [part.stride] * 2}
        pads = [part.kernel[0] // 2, part.kernel[1] // 2] * 2
        match part.op, part.activation:
            case "conv", _:
                weights = self.weights(part, gain=gain)
                return self.node("Conv", x, *weights, group=part.groups, pads=pads, **sizes)
            case "linear", _:
                flat = self.node("Flatten", x, axis=1)
                return self.node("Gemm", flat, *self.weights(part, gain=gain), transB=1)
            case "maxpool", _:
                return self.node("MaxPool", x, pads=pads, **sizes)
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
            case "act", "hsigmoid":
                return self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
            case _:
                raise AssertionError(f"no ONNX operator for {part}")
