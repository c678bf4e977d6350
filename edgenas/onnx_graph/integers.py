"""The integers of a quantised graph as values, and other weights in the same graph.

An int8 graph of `edgenas.onnx_graph.quantize` says itself what is rounded: each of its quantise
operators has a scale and a zero point. Whoever imitates integers while a network learns, or writes
such a graph for another runtime, reads them here. So there is one place that decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgenas.onnx_graph.model import loads

Array = NDArray[Any]

PRODUCTS = ("Conv", "Gemm", "MatMul")
LARGEST_WEIGHT = 127  # as an integer: weights are symmetric in every style
_LARGEST_BIAS = np.iinfo(np.int32).max / 1.0001
_LIMITS = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How the real numbers x of one tensor become 8-bit integers.

    They are ``clip(round(x / scale) + zero_point, least, most)``, and are read back as
    ``(integer - zero_point) * scale`` (arXiv 1712.05877, section 2.1).

    Args:
        scale: what one step is worth.
        zero_point: the integer that stands for 0.
        least: 0 of unsigned integers, -128 of signed ones.
        most: 255, or 127.
    """

    scale: float
    zero_point: int
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a conv or matrix product multiplies with.

    Args:
        name: of its node, as in the fp32 graph.
        rounds_weight: whether its weight becomes signed integers, with a scale for each output.
        bias_step: the scale of its input, where its bias becomes 32-bit integers; each is worth
            that scale times the scale of its weight. 0: the bias stays in float.
    """

    name: str
    rounds_weight: bool
    bias_step: float


def rounding_of(node: NodeProto, constants: Mapping[str, Array]) -> Rounding | None:
    """The rounding of a quantise or dequantise operator of 8-bit activations; None: of weights.

    Args:
        node: the operator.
        constants: of its graph, by name.
    """
    scale, zero_point = (constants[name] for name in node.input[1:3])
    kind = helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    if scale.ndim or kind not in _LIMITS or node.input[0] in constants:
        return None
    least, most = _LIMITS[kind]
    return Rounding(scale=float(scale), zero_point=int(zero_point), least=least, most=most)


def constants_of(model: ModelProto) -> dict[str, Array]:
    """The constants of a graph, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def products_of(model: ModelProto) -> dict[str, Product]:
    """The convs and matrix products of an int8 graph, by the name of their node."""
    writers = {output: node for node in model.graph.node for output in node.output}
    constants = constants_of(model)
    products: dict[str, Product] = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        read, weight, *bias = (writers.get(name) for name in node.input)
        whole = bool(bias) and bias[0] is not None and read is not None
        products[node.name] = Product(
            name=node.name,
            rounds_weight=weight is not None,
            bias_step=float(constants[read.input[1]]) if whole and read is not None else 0.0,
        )
    return products


def weight_scales(largest: Array, bias: Array | None, *, bias_step: float) -> Array:
    """The scales of a weight: the largest value of each output becomes the largest integer.

    Where the weights of an output are next to nothing, its bias would not fit into 32 bits. Then
    the scale is so large that it does.

    Args:
        largest: absolute weight of each output.
        bias: of each output; None: there is none.
        bias_step: see ``Product``.
    """
    scales = largest.astype(np.float64) / LARGEST_WEIGHT
    if bias is not None and bias_step:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (bias_step * _LARGEST_BIAS))
    scales = np.where(scales < np.finfo(np.float32).tiny, 1.0, scales)
    return scales.astype(np.float32)


def with_weights(int8_bytes: bytes, fp32_bytes: bytes) -> bytes:
    """An int8 graph with the weights of another fp32 graph; all that is rounded stays as it is.

    Args:
        int8_bytes: made of a graph of the same network by `edgenas.onnx_graph.forms`.
        fp32_bytes: the graph whose weights are taken.
    """
    model = loads(int8_bytes).proto
    writers = {output: node for node in model.graph.node for output in node.output}
    plain = loads(fp32_bytes).proto
    real, known = constants_of(plain), products_of(model)
    new: dict[str, Array] = {}
    for node in plain.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        product = known[node.name]
        mine = next(one for one in model.graph.node if one.name == node.name)
        weight, *bias = (real[name] for name in node.input[1:])
        if not product.rounds_weight:
            new |= dict(zip(mine.input[1:], [weight, *bias], strict=True))
            continue
        read = writers[mine.input[1]]
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
        scales = weight_scales(largest, bias[0] if bias else None, bias_step=product.bias_step)
        new[read.input[1]] = scales
        before = writers.get(read.input[0])
        if before is not None:  # the float weight is kept, and rounded when the graph is read
            new[before.input[0]] = weight
        else:
            steps = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)))
            new[read.input[0]] = np.clip(steps, -128, 127).astype(np.int8)
        if bias and product.bias_step:
            small = writers[mine.input[2]]
            steps = (np.float32(product.bias_step) * scales).astype(np.float32)
            new[small.input[1]] = steps
            new[small.input[0]] = np.rint(bias[0].astype(np.float64) / steps).astype(np.int32)
        elif bias:
            new[mine.input[2]] = bias[0]
    for tensor in model.graph.initializer:
        if tensor.name in new:
            assert list(tensor.dims) == list(new[tensor.name].shape), tensor.name
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)
