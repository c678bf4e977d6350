"""How each operator of ONNX is written; convs, pools and activations have files of their own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto

from edgenas.onnx_graph.rules import attributes_of
from edgenas.runtime.tflite.activations import (
    clip,
    hard_swish,
    relu,
    sigmoid,
    softmax,
    unary,
    write_hard_sigmoid,
)
from edgenas.runtime.tflite.draft import (
    TO_LAST,
    Array,
    Draft,
    Ending,
    NotKnownError,
    Shape,
    Value,
    in_file,
)
from edgenas.runtime.tflite.source import ROUND
from edgenas.runtime.tflite.windows import (
    average_pool,
    conv,
    ending_of,
    is_integer,
    max_pool,
    pad,
    weights,
)

Rule = Callable[[Draft, NodeProto], None]

_MOST_JOINED = 4  # tensors that XNNPACK joins at a time


def _product(draft: Draft, node: NodeProto) -> None:
    """Gemm and MatMul of a value with weights."""
    given = attributes_of(node)
    gemm = node.op_type == "Gemm"
    if gemm and (given.get("alpha", 1.0), given.get("beta", 1.0)) != (1.0, 1.0):
        raise NotKnownError("multiplies with alpha or beta")
    if given.get("transA", 0):
        raise NotKnownError("turns what it reads")
    weight = draft.constant_of(node.input[1])
    if weight.values.ndim != 2:
        raise NotKnownError("reads weights that are no matrix")
    turned = bool(given.get("transB", 0))
    value = draft.value(node.input[0])
    if value.channels_last or len(value.shape) != 2:
        raise NotKnownError("does not read vectors")
    bias_node = None if gemm else _bias_behind(draft, node)
    name = node.output[0] if bias_node is None else bias_node.output[0]
    weight = weight if turned else _transposed(weight)
    names = [node.input[1], *(node.input[2:3] if bias_node is None else _added(draft, bias_node))]
    ending = ending_of(draft, name, names, weight, value)
    integer = is_integer(value, ending) and weight.integers is not None
    if weight.steps is not None and any(weight.steps.zero_points):
        integer = False
    if not integer:
        value = draft.floats(node.input[0])
    if value.flattened is not None:
        weight = _reordered(weight, value.flattened)
    filters, bias = weights(
        draft, names, weight, value, ending=ending, order=(0, 1), axis=0, integer=integer
    )
    if bias_node is not None:
        draft.done.add(id(bias_node))
    made = Value("", (value.shape[0], weight.values.shape[0]), steps=value.steps)
    draft.finish(
        "FULLY_CONNECTED", (value.tensor, filters, bias), made, ending=ending,
        table="FullyConnectedOptions", fusedActivationFunction=ending.activation,
    )  # fmt: skip


def _transposed(weight: Any) -> Any:
    steps = weight.steps and replace(weight.steps, axis=1 - weight.steps.axis)
    integers = None if weight.integers is None else weight.integers.T
    return replace(weight, values=weight.values.T, integers=integers, steps=steps)


def _reordered(weight: Any, sizes: Shape) -> Any:
    """Weights of a vector that lists images pixel by pixel, not channel by channel."""

    def turned(values: Array) -> Array:
        return values.reshape(len(values), *sizes).transpose(TO_LAST).reshape(len(values), -1)

    integers = None if weight.integers is None else turned(weight.integers)
    return replace(weight, values=turned(weight.values), integers=integers)


def _bias_behind(draft: Draft, node: NodeProto) -> NodeProto | None:
    """The addition of a constant vector that alone reads a matrix product."""
    reader = draft.source.sole_reader(node.output[0])
    if reader is None or reader.op_type != "Add":
        return None
    (name, *_) = _added(draft, reader) or [""]
    bias = draft.source.constants.get(name)
    count = draft.source.shapes[node.output[0]][-1]
    return reader if bias is not None and bias.values.shape == (count,) else None


def _added(draft: Draft, node: NodeProto) -> list[str]:
    return [name for name in node.input if name in draft.source.constants]


_BINARY: Mapping[str, tuple[str, str]] = {
    "Add": ("ADD", "AddOptions"),
    "Sub": ("SUB", "SubOptions"),
    "Mul": ("MUL", "MulOptions"),
    "Div": ("DIV", "DivOptions"),
    "Max": ("MAXIMUM", "MaximumMinimumOptions"),
    "Min": ("MINIMUM", "MaximumMinimumOptions"),
}
_ON_INTEGERS = ("Add", "Mul")


def _binary(draft: Draft, node: NodeProto) -> None:
    """An operator of two values, or of a value and a constant."""
    code, table = _BINARY[node.op_type]
    if len(node.input) != 2:
        raise NotKnownError("does not read two values")
    names = [name for name in node.input if name not in draft.source.constants]
    if not names:
        raise NotKnownError("reads constants alone")
    held = [draft.value(name) for name in names]
    if len({value.channels_last for value in held}) > 1 or any(v.flattened for v in held):
        raise NotKnownError("joins values of different layouts")
    factor = 1.0
    if node.op_type == "Mul":
        factor = float(np.prod([value.times for value in held]))
    ending = draft.ending(node.output[0], factor=factor)
    integer = (
        node.op_type in _ON_INTEGERS
        and len(held) == 2
        and all(is_integer(value, ending) for value in held)
    )
    if node.op_type == "Mul":
        held = held if integer else [draft.floats(name) for name in names]
    else:
        held = [draft.plain(name) if integer else draft.real(name) for name in names]
    known = dict(zip(names, held, strict=True))
    reads = tuple(
        known[name].tensor if name in known else _beside(draft, name, held[0])
        for name in node.input
    )
    made = replace(held[0], shape=draft.source.shapes[node.output[0]], times=factor)
    # Only sums and products have an activation of their own.
    options = (
        {} if table == "MaximumMinimumOptions" else {"fusedActivationFunction": ending.activation}
    )
    draft.finish(code, reads, made, ending=ending, table=table, **options)


def _beside(draft: Draft, name: str, value: Value) -> str:
    """A constant in the layout of the value that it is joined with."""
    values = draft.constant_of(name).values
    if values.dtype != np.float32:
        raise NotKnownError("reads a constant that is not float32")
    rank = len(value.shape)
    if value.channels_last and values.ndim <= rank:
        values = values.reshape((1,) * (rank - values.ndim) + values.shape).transpose(TO_LAST)
    return draft.constant(name, values)


def _mean(draft: Draft, node: NodeProto) -> None:
    """A mean over height and width."""
    given, value = attributes_of(node), draft.value(node.input[0])
    axes, keep = (2, 3), True
    if node.op_type == "ReduceMean":
        keep = bool(given.get("keepdims", 1))
        told = given.get("axes")
        if told is None and len(node.input) > 1 and node.input[1]:
            told = draft.constant_of(node.input[1]).values.tolist()
        axes = tuple(sorted(axis % len(value.shape) for axis in told or ()))
    if not value.channels_last or axes != (2, 3):
        raise NotKnownError("is not a mean over height and width of images")
    ending = draft.ending(node.output[0])
    if ending.activation != "NONE":
        ending = Ending(node.output[0])
    if not is_integer(value, ending):
        value = draft.floats(node.input[0])
    where = draft.constant("height_and_width", np.array([1, 2], np.int32))
    shape = value.shape[:2] + ((1, 1) if keep else ())
    made = replace(value, shape=shape, channels_last=keep)
    draft.finish(
        "MEAN", (value.tensor, where), made, ending=ending, table="ReducerOptions", keepDims=keep
    )


def _view(draft: Draft, node: NodeProto) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: the same numbers in another shape."""
    value = draft.value(node.input[0])
    shape = draft.source.shapes[node.output[0]]
    if shape == value.shape:
        draft.values[node.output[0]] = value
        return
    small = value.channels_last and value.shape[2:] == (1, 1)
    flattened, last = None, False
    if value.channels_last and shape == (value.shape[0], int(np.prod(value.shape[1:]))):
        flattened = None if small else value.shape[1:]
    elif value.channels_last or value.flattened is not None:
        raise NotKnownError(f"makes {list(shape)} of {list(value.shape)}")
    elif len(shape) == 4 and shape[:2] == value.shape:
        last = True
    elif len(shape) > 3:
        raise NotKnownError(f"makes {list(shape)} of {list(value.shape)}")
    made = replace(
        value, tensor=draft.fresh(node.output[0]), shape=shape, channels_last=last,
        flattened=flattened,
    )  # fmt: skip
    rows = in_file(shape) if last else shape
    sizes = draft.constant("shape_" + "_".join(map(str, rows)), np.array(rows, np.int32))
    draft.operator("RESHAPE", (value.tensor, sizes), made)
    draft.values[node.output[0]] = made


def _concat(draft: Draft, node: NodeProto) -> None:
    values = [draft.value(name) for name in node.input]
    axis = attributes_of(node)["axis"] % len(values[0].shape)
    last = values[0].channels_last
    if any(value.channels_last != last or value.flattened for value in values):
        raise NotKnownError("joins values of different layouts")
    values = [draft.real(name) for name in node.input]
    at = TO_LAST.index(axis) if last else axis
    ending = draft.ending(node.output[0])
    if ending.activation != "NONE":
        ending = Ending(node.output[0])
    while len(values) > _MOST_JOINED:
        values = [_joined(draft, values[:_MOST_JOINED], axis, at, node), *values[_MOST_JOINED:]]
    draft.finish(
        "CONCATENATION", tuple(value.tensor for value in values),
        replace(values[0], shape=draft.source.shapes[node.output[0]]), ending=ending,
        table="ConcatenationOptions", axis=at,
    )  # fmt: skip


def _slice(draft: Draft, node: NodeProto) -> None:
    """A part of an image or a vector, without steps."""
    value = draft.real(node.input[0])
    given = [draft.constant_of(name).values.tolist() for name in node.input[1:]]
    steps = {step for some in given[3:] for step in some} - {1}
    if len(given) < 3 or value.flattened is not None or steps:
        raise NotKnownError("has steps or no axes, or cuts vectors of pixels")
    begin, shape = [0] * len(value.shape), draft.source.shapes[node.output[0]]
    for start, axis in zip(given[0], given[2], strict=True):
        extent = value.shape[axis]
        begin[axis] = min(start, extent) if start >= 0 else max(start + extent, 0)
    order = TO_LAST if value.channels_last else range(len(begin))
    read = [
        draft.constant("slice_" + "_".join(map(str, numbers)), np.array(numbers, np.int32))
        for numbers in ([numbers[i] for i in order] for numbers in (begin, shape))
    ]
    made = replace(value, tensor=draft.fresh(f"{node.output[0]}/part"), shape=shape)
    draft.operator("SLICE", (value.tensor, *read), made, table="SliceOptions")
    draft.values[node.output[0]] = made


def _joined(draft: Draft, values: list[Value], axis: int, at: int, node: NodeProto) -> Value:
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    made = replace(values[0], tensor=draft.fresh(f"{node.output[0]}/part"), shape=tuple(shape))
    reads = tuple(value.tensor for value in values)
    draft.operator("CONCATENATION", reads, made, table="ConcatenationOptions", axis=at)
    return made


def _pad(draft: Draft, node: NodeProto) -> None:
    given, value = attributes_of(node), draft.real(node.input[0])
    if given.get("mode", b"constant") != b"constant" or (len(node.input) > 3 and node.input[3]):
        raise NotKnownError("pads with other than a number, or some axes alone")
    pads = given.get("pads")
    pads = draft.constant_of(node.input[1]).values.tolist() if pads is None else pads
    fill = given.get("value", 0.0)
    if len(node.input) > 2 and node.input[2]:
        fill = draft.constant_of(node.input[2]).values.item()
    rank = len(value.shape)
    if value.flattened is not None or min(pads) < 0:
        raise NotKnownError("cuts off what it reads, or pads vectors of pixels")
    around = tuple((pads[i], pads[i + rank]) for i in range(rank))
    draft.values[node.output[0]] = pad(draft, value, around, fill=fill)


def _batch_norm(draft: Draft, node: NodeProto) -> None:
    """A batch norm that no conv before it could take."""
    value = draft.real(node.input[0])
    scale, shift, mean, variance = (draft.constant_of(name).values for name in node.input[1:5])
    factor = scale / np.sqrt(variance + attributes_of(node).get("epsilon", 1e-5))
    if not value.channels_last and len(value.shape) != 2:
        raise NotKnownError("does not read images or vectors")
    product = replace(value, tensor=draft.fresh(f"{node.output[0]}/scaled"))
    names = (f"{node.output[0]}/scale", f"{node.output[0]}/shift")
    constants = [
        draft.constant(name, one.astype(np.float32))
        for name, one in zip(names, (factor, shift - mean * factor), strict=True)
    ]
    draft.operator("MUL", (value.tensor, constants[0]), product, table="MulOptions")
    ending = draft.ending(node.output[0])
    draft.finish(
        "ADD", (product.tensor, constants[1]), product, ending=ending, table="AddOptions",
        fusedActivationFunction=ending.activation,
    )  # fmt: skip


def _transpose(draft: Draft, node: NodeProto) -> None:
    """A change of layout, which the file has already."""
    value, shape = draft.value(node.input[0]), draft.source.shapes[node.output[0]]
    order = tuple(attributes_of(node).get("perm", ()))
    if value.channels_last and order == TO_LAST:
        draft.values[node.output[0]] = replace(value, shape=shape, channels_last=False)
    elif not value.channels_last and order == (0, 3, 1, 2):
        draft.values[node.output[0]] = replace(value, shape=shape, channels_last=True)
    else:
        raise NotKnownError("is no change between channels first and last")


def _same(draft: Draft, node: NodeProto) -> None:
    draft.values[node.output[0]] = draft.value(node.input[0])


def _round(draft: Draft, node: NodeProto) -> None:
    steps = draft.source.rounds[node.output[0]]
    draft.round(node.output[0], draft.value(node.input[0]), steps)


RULES: dict[str, Rule] = {
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": clip,
    "Concat": _concat,
    "Conv": conv,
    "Dropout": _same,
    "Elu": partial(unary, "ELU"),
    "Flatten": _view,
    "Gemm": _product,
    "GlobalAveragePool": _mean,
    "HardSigmoid": write_hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": _same,
    "MatMul": _product,
    "MaxPool": max_pool,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": relu,
    "Reshape": _view,
    "Sigmoid": sigmoid,
    "Slice": _slice,
    "Softmax": softmax,
    "Squeeze": _view,
    "Tanh": partial(unary, "TANH"),
    "Transpose": _transpose,
    "Unsqueeze": _view,
    ROUND: _round,
    **dict.fromkeys(_BINARY, _binary),
}
