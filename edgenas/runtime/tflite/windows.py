"""Operators that look at an image through a window, as LiteRT has them: convs and pools.

LiteRT pads in one of two ways: not at all, or as much as gives ``ceil(extent / stride)`` windows,
the odd pixel behind. What ONNX pads in another way gets an operator of its own before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from edgenas.onnx_graph.rules import attributes_of
from edgenas.runtime.tflite.draft import (
    Array,
    Draft,
    Ending,
    NotKnownError,
    Shape,
    Value,
    times,
)
from edgenas.runtime.tflite.file import Steps
from edgenas.runtime.tflite.source import Constant

_STRIDES = ("strideH", "strideW")
_FURTHEST = 255  # that an integer of eight bits lies from its zero point


@dataclass(frozen=True, slots=True)
class Window:
    """How an operator looks at an image.

    Args:
        kernel: height and width.
        strides: downwards and to the right.
        dilations: between the pixels that it looks at.
        pads: top, left, bottom and right.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]


def conv(draft: Draft, node: NodeProto) -> None:
    """A conv: CONV_2D, or DEPTHWISE_CONV_2D where each channel has filters of its own."""
    image = _image(draft, node)
    weight = draft.constant_of(node.input[1])
    if weight.values.ndim != 4:
        raise NotKnownError("is not of two dimensions")
    given = attributes_of(node)
    window = _window(given, tuple(weight.values.shape[2:]), image.shape)
    depthwise = given.get("group", 1) == image.shape[1] > 1
    ending = ending_of(draft, node.output[0], node.input[1:3], weight, image)
    integer = is_integer(image, ending) and _is_symmetric(weight)
    shape = _written(draft, node)
    if not integer:
        image = _float_image(draft, node)
    padding, image = _padded(draft, image, window, shape=shape, fill=0.0)
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    filters, bias = weights(
        draft, node.input[1:3], weight, image, ending=ending, order=order,
        axis=order.index(0), integer=integer,
    )  # fmt: skip
    options: dict[str, Any] = {
        "padding": padding,
        **dict(zip(_STRIDES, window.strides, strict=True)),
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": ending.activation,
    }
    if depthwise:
        options["depthMultiplier"] = shape[1] // image.shape[1]
    code, table = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else _CONV
    made = Value("", shape, channels_last=True, steps=image.steps if integer else None)
    draft.finish(code, (image.tensor, filters, bias), made, ending=ending, table=table, **options)


_CONV = ("CONV_2D", "Conv2DOptions")


def max_pool(draft: Draft, node: NodeProto) -> None:
    """A max pool. What is padded is zero where nothing is negative, and the least number else."""
    image, given = _image(draft, node), attributes_of(node)
    if len(node.output) > 1:
        raise NotKnownError("tells where the largest values are")
    window = _window(given, tuple(given["kernel_shape"]), image.shape)
    if window.dilations != (1, 1):
        raise NotKnownError("is dilated")
    shape = _written(draft, node)
    window = _reaching(window, image.shape, shape)
    if image.steps is not None and image.steps.zero_points[0] == -128:
        least = True  # what is padded has the least integer
        ending = Ending(node.output[0], steps=times(image.steps, image.times))
    else:
        least = is_never_negative(draft, node.input[0])
        image = _float_image(draft, node)
        ending = draft.ending(node.output[0], factor=image.times)
    padding, image = _padded(draft, image, window, shape=shape, fill=0.0 if least else -math.inf)
    _pool(draft, "MAX_POOL_2D", image, window, padding=padding, shape=shape, ending=ending)


def average_pool(draft: Draft, node: NodeProto) -> None:
    """An average pool, over the pixels that there are."""
    image, given = _float_image(draft, node), attributes_of(node)
    window = _window(given, tuple(given["kernel_shape"]), image.shape)
    if window.dilations != (1, 1):
        raise NotKnownError("is dilated")
    shape, ending = _written(draft, node), draft.ending(node.output[0], factor=image.times)
    if same_pads(image.shape, window, shape) and not given.get("count_include_pad", 0):
        _pool(draft, "AVERAGE_POOL_2D", image, window, padding="SAME", shape=shape, ending=ending)
        return
    if given.get("ceil_mode", 0) and _counted(image.shape, window) != shape[2:]:
        raise NotKnownError("has a ceil_mode and pads")
    inside = any(window.pads) and not given.get("count_include_pad", 0)
    padding, padded = _padded(draft, image, window, shape=shape, fill=0.0, same=False)
    if not inside:
        _pool(draft, "AVERAGE_POOL_2D", padded, window, padding=padding, shape=shape, ending=ending)
        return
    sums = replace(padded, tensor=draft.fresh(f"{node.output[0]}/padded"), shape=shape)
    draft.operator(
        "AVERAGE_POOL_2D", (padded.tensor,), sums, table="Pool2DOptions",
        **_pool_options(window, padding="VALID"),
    )  # fmt: skip
    factor = draft.constant(f"{node.output[0]}/counts", _shares(image.shape, window, shape))
    draft.finish(
        "MUL", (sums.tensor, factor), sums, ending=ending, table="MulOptions",
        fusedActivationFunction=ending.activation,
    )  # fmt: skip


def _pool(
    draft: Draft,
    code: str,
    image: Value,
    window: Window,
    *,
    padding: str,
    shape: Shape,
    ending: Ending,
) -> None:
    draft.finish(
        code, (image.tensor,), replace(image, shape=shape), ending=ending, table="Pool2DOptions",
        fusedActivationFunction=ending.activation, **_pool_options(window, padding=padding),
    )  # fmt: skip


def _pool_options(window: Window, *, padding: str) -> dict[str, Any]:
    return {
        "padding": padding,
        **dict(zip(_STRIDES, window.strides, strict=True)),
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
    }


def weights(
    draft: Draft,
    names: Sequence[str],
    weight: Constant,
    value: Value,
    *,
    ending: Ending,
    order: tuple[int, ...],
    axis: int,
    integer: bool,
) -> tuple[str, str]:
    """The weights and the bias of a conv or matrix product, as tensors of the file.

    Args:
        draft: the graph.
        names: of the weights and perhaps of the bias, in the ONNX graph.
        weight: the weights, filters first.
        value: the tensor that it reads; what is left to multiply goes into the weights.
        ending: of the operator; what a hard sigmoid multiplies and adds goes into them too.
        order: of the weights in the file.
        axis: of the filters in the file.
        integer: whether the operator computes in integers.
    """
    bias_name = names[1] if len(names) > 1 and names[1] else f"{names[0]}/bias"
    bias = _bias(draft, names, weight, ending=ending)
    factor = value.times * ending.slope
    if not integer:
        filters = weight.values.transpose(order) * np.float32(factor)
        return (
            draft.weights(names[0], filters.astype(np.float32), half=weight.half),
            draft.constant(bias_name, bias.astype(np.float32)),
        )
    assert weight.integers is not None
    assert weight.steps is not None
    assert value.steps is not None
    steps = replace(times(weight.steps, factor), axis=axis)
    filters = draft.constant(names[0], weight.integers.transpose(order), steps)
    # Integers of a sum stand for multiples of the product of both scales.
    scales = np.array(steps.scales, np.float64) * value.steps.scales[0]
    limit = np.iinfo(np.int32)
    rounded = np.clip(np.rint(bias / scales), limit.min, limit.max).astype(np.int32)
    bias_steps = Steps(tuple(scales.tolist()), (0,) * len(scales))
    return filters, draft.constant(bias_name, rounded, bias_steps)


def ending_of(
    draft: Draft, name: str, names: Sequence[str], weight: Constant, value: Value
) -> Ending:
    """The ending of a conv or matrix product; a hard sigmoid only where its shift has room.

    Integers of the bias stand for multiples of the product of both scales. Where what is read is
    nearly zero, three of a hard sigmoid are more of them than 32 bits hold.

    Args:
        draft: the graph.
        name: of the value that it gives.
        names: of the weights and perhaps of the bias.
        weight: the weights, filters first.
        value: what it reads.
    """
    ending = draft.ending(name, gate=True)
    if ending.shift == 0.0 or not is_integer(value, ending):
        return ending
    if weight.integers is None or weight.steps is None or value.steps is None:
        return ending
    scales = np.array(times(weight.steps, value.times * ending.slope).scales, np.float64)
    bias = _bias(draft, names, weight, ending=ending) / (scales * value.steps.scales[0])
    products = np.abs(weight.integers.astype(np.int64)).reshape(len(bias), -1).sum(1) * _FURTHEST
    fits = bool((np.abs(bias) + products <= np.iinfo(np.int32).max).all())
    return ending if fits else draft.ending(name)


def _bias(draft: Draft, names: Sequence[str], weight: Constant, *, ending: Ending) -> Array:
    """The bias with what a hard sigmoid multiplies and adds, for each filter."""
    bias = np.zeros(1, np.float32)
    if len(names) > 1 and names[1]:
        bias = draft.constant_of(names[1]).values.reshape(-1)
    bias = np.broadcast_to(bias, weight.values.shape[0])
    return bias * np.float32(ending.slope) + np.float32(ending.shift)


def is_integer(value: Value, ending: Ending) -> bool:
    """Whether an operator between a value and its ending can compute in integers."""
    return value.steps is not None and ending.steps is not None


def _is_symmetric(weight: Constant) -> bool:
    return weight.integers is not None and not any(weight.steps.zero_points if weight.steps else ())


def is_never_negative(draft: Draft, name: str) -> bool:
    """Whether the operator that gives a value, or its activation, gives nothing below zero."""
    for node in draft.source.nodes:
        if name in node.output:
            if node.op_type == "Clip":
                return draft.limits(node)[0] >= 0
            if node.op_type in ("MaxPool", "AveragePool", "GlobalAveragePool", "Round"):
                return is_never_negative(draft, node.input[0])
            if node.op_type == "Concat":
                return all(is_never_negative(draft, one) for one in node.input)
            return node.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
    return False


def same_pads(image: Shape, window: Window, made: Shape) -> bool:
    """Whether LiteRT's padding ``SAME`` gives the windows of the graph."""
    before: list[int] = []
    for at in (0, 1):
        extent, stride = image[2 + at], window.strides[at]
        reach = (window.kernel[at] - 1) * window.dilations[at] + 1
        count = -(-extent // stride)
        if count != made[2 + at]:
            return False
        before.append(max((count - 1) * stride + reach - extent, 0) // 2)
    # As many windows that begin at the same pixel end at the same one.
    return tuple(before) == window.pads[:2]


def _reaching(window: Window, image: Shape, made: Shape) -> Window:
    """A window with as much padding behind as the last of them needs (``ceil_mode``)."""
    pads = list(window.pads)
    for at in (0, 1):
        end = (made[2 + at] - 1) * window.strides[at] + window.kernel[at]
        pads[at + 2] = max(pads[at + 2], end - image[2 + at] - pads[at])
    return replace(window, pads=tuple(pads))


def _counted(image: Shape, window: Window) -> Shape:
    """Height and width of the windows that fit."""
    sizes: list[int] = []
    for at in (0, 1):
        reach = (window.kernel[at] - 1) * window.dilations[at] + 1
        extent = image[2 + at] + window.pads[at] + window.pads[at + 2]
        sizes.append((extent - reach) // window.strides[at] + 1)
    return tuple(sizes)


def _shares(image: Shape, window: Window, made: Shape) -> Array:
    """What the mean over windows with pads is multiplied with: shape (1, height, width, 1)."""
    shares: list[Array] = []
    for at in (0, 1):
        starts = np.arange(made[2 + at]) * window.strides[at] - window.pads[at]
        ends = np.minimum(starts + window.kernel[at], image[2 + at])
        shares.append(window.kernel[at] / (ends - np.maximum(starts, 0)))
    return np.outer(*shares).astype(np.float32)[None, :, :, None]


def _window(given: Mapping[str, Any], kernel: tuple[int, ...], image: Shape) -> Window:
    if len(kernel) != 2:
        raise NotKnownError("is not of two dimensions")
    strides = tuple(given.get("strides", (1, 1)))
    dilations = tuple(given.get("dilations", (1, 1)))
    pads = tuple(given.get("pads", (0, 0, 0, 0)))
    auto = given.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        whole = [
            max((-(-image[2 + i] // strides[i]) - 1) * strides[i]
                + (kernel[i] - 1) * dilations[i] + 1 - image[2 + i], 0)
            for i in (0, 1)
        ]  # fmt: skip
        before = [(one + (auto == b"SAME_LOWER")) // 2 for one in whole]
        pads = (*before, *(one - first for one, first in zip(whole, before, strict=True)))
    return Window(kernel, strides, dilations, pads)


def _padded(
    draft: Draft, image: Value, window: Window, *, shape: Shape, fill: float, same: bool = True
) -> tuple[str, Value]:
    """The padding of an operator, and the image that it reads, padded where need be."""
    if same and same_pads(image.shape, window, shape):
        return "SAME", image
    if not any(window.pads):
        return "VALID", image
    top, left, bottom, right = window.pads
    return "VALID", pad(draft, image, ((0, 0), (0, 0), (top, bottom), (left, right)), fill=fill)


def pad(draft: Draft, image: Value, around: tuple[tuple[int, int], ...], *, fill: float) -> Value:
    """A value with a margin, of numbers or of the zeros that integers stand for.

    Args:
        draft: the graph.
        image: a value.
        around: how much is put before and behind, for each extent in ONNX's order.
        fill: the number in the margin.
    """
    shape = tuple(sum(ends, extent) for extent, ends in zip(image.shape, around, strict=True))
    rows = [around[i] for i in (0, 2, 3, 1)] if image.channels_last else list(around)
    amounts = draft.constant(
        "pads_" + "_".join(f"{a}_{b}" for a, b in rows), np.array(rows, np.int32)
    )
    made = replace(image, tensor=draft.fresh(f"{image.tensor}/padded"), shape=shape)
    if fill == 0.0:
        draft.operator("PAD", (image.tensor, amounts), made, table="PadOptions")
        return made
    if image.steps is not None:
        raise NotKnownError("pads integers with other numbers than zero")
    least = np.finfo(np.float32).min if math.isinf(fill) else fill / image.times
    number = draft.constant(f"number_{least:.9g}", np.array([least], np.float32))
    draft.operator("PADV2", (image.tensor, amounts, number), made, table="PadV2Options")
    return made


def _image(draft: Draft, node: NodeProto) -> Value:
    value = draft.value(node.input[0])
    if not value.channels_last:
        raise NotKnownError("does not read images")
    return value


def _float_image(draft: Draft, node: NodeProto) -> Value:
    _image(draft, node)
    return draft.floats(node.input[0])


def _written(draft: Draft, node: NodeProto) -> Shape:
    return draft.source.shapes[node.output[0]]
