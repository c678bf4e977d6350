"""An ONNX graph as a PyTorch module, operator by operator.

For the operators of our own graphs, and of networks of convs as others export them. (onnx2torch has
more operators, but none that came after 2022, such as the average pool of our residual networks.)
What is not known is refused by name.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgenas.basics.errors import EdgenasError

Attributes = Mapping[str, Any]
Function = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """One operator.

    Args:
        name: of the node.
        kind: of operator, in ONNX's words.
        reads: names of values; empty where an input is left out.
        writes: the name of its value.
        function: from what it reads to what it writes.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: str
    function: Function


class OnnxModule(nn.Module):
    """The module of a graph. Its constants are buffers, in their order called ``constant_0`` ....

    Args:
        model: the graph.
        runtime: in whose name it is refused.

    Raises:
        EdgenasError: an operator, or an attribute of one, is not known.
    """

    def __init__(self, model: ModelProto, *, runtime: str) -> None:
        super().__init__()
        graph, self._places = model.graph, dict[str, str]()
        whole: dict[str, tuple[int, ...]] = {}
        for i, (name, tensor) in enumerate(_constants(model).items()):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if value.is_floating_point():
                self._places[name] = f"constant_{i}"
                self.register_buffer(f"constant_{i}", value)
            else:  # sizes of reshapes, axes of means
                whole[name] = tuple(value.flatten().tolist())
        self.inputs = [v.name for v in graph.input if v.name not in self._places | whole]
        self.outputs = [value.name for value in graph.output]
        nodes = [node for node in graph.node if node.output[0] not in self._places | whole]
        self.steps = [make_step(node, whole, runtime=runtime) for node in nodes]

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs, in the order of the graph.

        Args:
            inputs: the tensors by name, all of the type of the constants.
        """
        return self._walk(inputs, lambda name: contextlib.nullcontext())

    def named(self, *inputs: Tensor) -> list[Tensor]:
        """As ``forward``, with each operator under its node's name in a profile of torch."""
        return self._walk(inputs, torch.profiler.record_function)

    def _walk(
        self, inputs: Sequence[Tensor], around: Callable[[str], contextlib.AbstractContextManager]
    ) -> list[Tensor]:
        values = dict(zip(self.inputs, inputs, strict=True))
        values |= {name: getattr(self, place) for name, place in self._places.items()}
        for step in self.steps:
            with around(step.name):
                given = [values[name] if name else None for name in step.reads]
                values[step.writes] = step.function(*given)
        return [values[name] for name in self.outputs]


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    """The constants of a graph, by name; some exporters write them as operators."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def make_step(node: NodeProto, whole: Mapping[str, tuple[int, ...]], *, runtime: str) -> Step:
    """A node as a function of tensors.

    Args:
        node: the operator.
        whole: the constants of whole numbers in its graph, by name.
        runtime: in whose name it is refused.

    Raises:
        EdgenasError: the operator, or an attribute of it, is not known.
    """
    if node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx"):
        raise EdgenasError(f"{runtime} refuses the model: no operator {node.op_type} is known")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    # Operands of whole numbers are part of the operator here.
    fixed = [whole.get(name) for name in node.input]
    try:
        function = _OPERATORS[node.op_type]({**attributes, "whole": fixed})
    except _NotKnownError as error:
        raise EdgenasError(
            f"{runtime} refuses the model: {node.op_type} {node.name} {error}"
        ) from None
    reads = tuple(name for name in node.input if name not in whole)
    name = node.name or node.output[0]
    return Step(name, node.op_type, reads, node.output[0], function)


class _NotKnownError(Exception):
    """An attribute that has no counterpart here."""


def _only(attributes: Attributes, **usual: Any) -> None:
    for name, value in usual.items():
        found = attributes.get(name, value)
        if found not in (value, list(value) if isinstance(value, tuple) else value):
            raise _NotKnownError(f"has the {name} {found}")


def _pads(attributes: Attributes) -> tuple[list[int], list[int] | None]:
    """Padding as convs and pools take it, and what must be put around before: top, left ...."""
    _only(attributes, auto_pad=b"NOTSET")
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if len(pads) != 4:
        raise _NotKnownError("is not of two dimensions")
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return [top, left], None
    return [0, 0], [left, right, top, bottom]


def _conv(attributes: Attributes) -> Function:
    padding, around = _pads(attributes)
    given = {
        "stride": tuple(attributes.get("strides", (1, 1))),
        "dilation": tuple(attributes.get("dilations", (1, 1))),
        "groups": attributes.get("group", 1),
        "padding": tuple(padding),
    }

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x if around is None else F.pad(x, around), weight, bias, **given)

    return conv


def _max_pool(attributes: Attributes) -> Function:
    padding, around = _pads(attributes)
    _only(attributes, dilations=(1, 1), ceil_mode=0)
    kernel, stride = attributes["kernel_shape"], attributes.get("strides", (1, 1))

    def pool(x: Tensor) -> Tensor:
        x = x if around is None else F.pad(x, around, value=-math.inf)
        return F.max_pool2d(x, tuple(kernel), tuple(stride), tuple(padding))

    return pool


def _average_pool(attributes: Attributes) -> Function:
    padding, around = _pads(attributes)
    _only(attributes, dilations=(1, 1))
    if around is not None:
        raise _NotKnownError("is padded more on one side")
    given = {
        "stride": tuple(attributes.get("strides", (1, 1))),
        "padding": tuple(padding),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
        "count_include_pad": bool(attributes.get("count_include_pad", 0)),
    }
    return lambda x: F.avg_pool2d(x, tuple(attributes["kernel_shape"]), **given)


def _gemm(attributes: Attributes) -> Function:
    _only(attributes, alpha=1.0, beta=1.0, transA=0)
    transposed = bool(attributes.get("transB", 0))

    def gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight if transposed else weight.t(), bias)

    return gemm


def _clip(attributes: Attributes) -> Function:
    def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        return torch.clamp(x, low, high)

    return clip


def _hard_sigmoid(attributes: Attributes) -> Function:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _batch_norm(attributes: Attributes) -> Function:
    epsilon = attributes.get("epsilon", 1e-5)

    def norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, weight, bias, eps=epsilon)

    return norm


def _flatten(attributes: Attributes) -> Function:
    _only(attributes, axis=1)
    return lambda x: torch.flatten(x, 1)


def _reshape(attributes: Attributes) -> Function:
    _only(attributes, allowzero=0)
    sizes = attributes["whole"][1]
    if sizes is None:
        raise _NotKnownError("takes a size that is computed")
    return lambda x: x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


def _slice(attributes: Attributes) -> Function:
    given = attributes["whole"][1:]
    if len(given) < 3 or None in given:
        raise _NotKnownError("takes places that are computed, or names no axes")
    steps = given[3] if len(given) > 3 else (1,) * len(given[2])
    if min(steps) < 1:
        raise _NotKnownError("goes backwards")
    parts = {axis: slice(*part) for axis, *part in zip(given[2], *given[:2], steps, strict=True)}
    return lambda x: x[
        tuple(parts.get(a, parts.get(a - x.ndim, slice(None))) for a in range(x.ndim))
    ]


def _mean(attributes: Attributes) -> Function:
    given = attributes.get("axes", (attributes["whole"] + [None])[1])
    if given is None:
        raise _NotKnownError("takes axes that are computed")
    axes, keep = tuple(given), bool(attributes.get("keepdims", 1))
    return lambda x: x.mean(axes, keepdim=keep)


def _plain(function: Function) -> Callable[[Attributes], Function]:
    return lambda attributes: function


_OPERATORS: dict[str, Callable[[Attributes], Function]] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda a: lambda *parts: torch.cat(parts, a["axis"]),
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(lambda x: x.mean((2, 3), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "ReduceMean": _mean,
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Sub": _plain(torch.sub),
}


def numpy_of(value: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """An output as users get it: float32, on the processor."""
    return value.detach().float().cpu().numpy()
