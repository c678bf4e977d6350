"""A network that computes as its int8 graph does, and whose weights can learn nevertheless.

Quantisation-aware training (arXiv 1712.05877, section 3): the weights stay in float and are rounded
each time they are used. Gradients pass through a rounding as if it were not there, and vanish where
a value was cut off. Batch norms are folded into their convs by statistics that stay as they are
(arXiv 1806.08342, section 3.2.2: frozen).

What is rounded, and to which integers, is read from the int8 graph that would ship. It is run here
operator by operator, on the real numbers that its integers stand for. So every form of a graph has
its imitation, without a second list of what is fused with what.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, helper
from torch import Tensor, nn

from edgenas.model.depthwise import depthwise_conv2d
from edgenas.model.folding import fold_network
from edgenas.model.network import Network
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.integers import (
    LARGEST_WEIGHT,
    PRODUCTS,
    Product,
    Rounding,
    constants_of,
    products_of,
    rounding_of,
    weight_scales,
)
from edgenas.onnx_graph.model import loads
from edgenas.runtime.torch_graph import make_step

_NAME = "quantisation-aware training"  # that refuses an operator


@dataclass(frozen=True, slots=True)
class _Integers:
    """Integers as the real numbers that they stand for."""

    real: Tensor
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class _Node:
    """A node of the graph: what it reads, by name, and its function of that."""

    reads: tuple[str, ...]
    writes: str
    function: Callable[..., Any]


class FakeQuantised(nn.Module):
    """A network in the integers of its int8 graph.

    Args:
        network: with calibrated batch norms. It is used as it is, and learns where this does.
        int8: its graph in the form of the target, see `edgenas.onnx_graph.forms`.

    Raises:
        EdgenasError: the graph has an operator that is not known.
    """

    def __init__(self, network: Network, *, int8: bytes) -> None:
        super().__init__()
        self.network = network
        model = loads(int8).proto
        plain = loads(network_graph(network.space, network.arch)).proto
        self._order = [node.name for node in plain.graph.node if node.op_type in PRODUCTS]
        self._products = products_of(model)
        constants = constants_of(model)
        self._constants = {
            name: torch.from_numpy(value.copy())
            for name, value in constants.items()
            if value.dtype == np.float32
        }
        self._input, self._output = model.graph.input[0].name, model.graph.output[0].name
        self._nodes = list(_read_nodes(list(model.graph.node), constants))

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, inputs, height, width) -> logits (n, classes)."""
        values: dict[str, Any] = {
            **self._constants,
            **self._rounded_weights(),
            self._input: x.contiguous(memory_format=torch.channels_last),
        }
        for node in self._nodes:
            values[node.writes] = node.function(*(values.get(name) for name in node.reads))
        return values[self._output]

    def _rounded_weights(self) -> dict[str, Tensor]:
        """Weights and biases of the products as the graph uses them, by name."""
        values: dict[str, Tensor] = {}
        for name, (_, weight, bias) in zip(self._order, fold_network(self.network), strict=True):
            weight, bias = weight.float(), None if bias is None else bias.float()
            weight, bias = _round_weight(weight, bias, product=self._products[name])
            values[f"{name}.weight"] = weight.contiguous(memory_format=_layout(weight))
            if bias is not None:
                values[f"{name}.bias"] = bias
        return values


def _layout(weight: Tensor) -> torch.memory_format:
    return torch.channels_last if weight.ndim == 4 else torch.contiguous_format


def _round_weight(
    weight: Tensor, bias: Tensor | None, *, product: Product
) -> tuple[Tensor, Tensor | None]:
    """The real numbers that the integers of a weight and a bias stand for."""
    if not product.rounds_weight:
        return weight, bias
    largest = weight.detach().abs().flatten(1).amax(1).numpy()
    given = None if bias is None else bias.detach().numpy()
    scales = weight_scales(largest, given, bias_step=product.bias_step)
    weight = torch.fake_quantize_per_channel_affine(
        weight,
        torch.from_numpy(scales),
        torch.zeros(len(scales), dtype=torch.int32),
        0,
        -LARGEST_WEIGHT - 1,
        LARGEST_WEIGHT,
    )
    if bias is not None and product.bias_step:
        steps = torch.from_numpy(np.float32(product.bias_step) * scales).double()
        rounded = (bias.detach().double() / steps).round() * steps
        bias = bias + (rounded - bias.detach()).float()
    return weight, bias


def _read_nodes(nodes: list[NodeProto], constants: dict[str, Any]) -> Iterator[_Node]:
    """The nodes of an int8 graph but those that round weights."""
    whole = {
        name: tuple(value.flatten().tolist())
        for name, value in constants.items()
        if value.dtype.kind in "iu"
    }
    of_weights = set(constants)
    for node in nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            rounding = None if node.input[0] in of_weights else rounding_of(node, constants)
            if rounding is None:
                of_weights.add(node.output[0])
                continue
            make = _quantise if node.op_type == "QuantizeLinear" else _dequantise
            yield _Node((node.input[0],), node.output[0], make(rounding))
        elif node.op_type in PRODUCTS:
            weights = [f"{node.name}.{part}" for part in ("weight", "bias")]
            reads = (node.input[0], *weights[: len(node.input) - 1])
            yield _Node(reads, node.output[0], _wide(node) or _plain(node))
        elif node.op_type == "Clip" and len(node.input) > 2 and node.input[2] in whole:
            yield _Node((node.input[0],), node.output[0], _cap(whole[node.input[2]][0]))
        else:
            step = make_step(node, whole, runtime=_NAME)
            yield _Node(step.reads, step.writes, step.function)


def _plain(node: NodeProto) -> Callable[..., Any]:
    return make_step(node, {}, runtime=_NAME).function


def _wide(node: NodeProto) -> Callable[..., Any] | None:
    """A depthwise conv with fast gradients; None: another product."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pads, strides = set(values.get("pads", [0])), set(values.get("strides", [1]))
    spread = set(values.get("dilations", [1])) != {1}
    if values.get("group", 1) == 1 or len(pads) > 1 or len(strides) > 1 or spread:
        return None
    (pad,), (stride,) = pads, strides
    plain = _plain(node)

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.shape[1] > 1:
            return plain(x, weight, bias)
        made = depthwise_conv2d(x, weight, stride=stride, pad=pad)
        return made if bias is None else made + bias[:, None, None]

    return conv


def _quantise(rounding: Rounding) -> Callable[[Tensor], _Integers]:
    def quantise(x: Tensor) -> _Integers:
        real = torch.fake_quantize_per_tensor_affine(
            x, rounding.scale, rounding.zero_point, rounding.least, rounding.most
        )
        return _Integers(real, rounding)

    return quantise


def _cap(most: int) -> Callable[[_Integers], _Integers]:
    def cap(x: _Integers) -> _Integers:
        largest = (most - x.rounding.zero_point) * x.rounding.scale
        return _Integers(x.real.clamp(max=largest), x.rounding)

    return cap


def _dequantise(rounding: Rounding) -> Callable[[_Integers], Tensor]:
    def dequantise(x: _Integers) -> Tensor:
        if x.rounding == rounding:
            return x.real
        # The same integers, read with another scale: a factor of a hard swish.
        factor = rounding.scale / x.rounding.scale
        offset = (x.rounding.zero_point - rounding.zero_point) * rounding.scale
        return x.real * factor + offset

    return dequantise
