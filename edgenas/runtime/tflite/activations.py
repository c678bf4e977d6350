"""How activations are written."""

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from edgenas.onnx_graph.rules import attributes_of
from edgenas.runtime.tflite.draft import Draft, Ending, NotKnownError, hard_sigmoid, times
from edgenas.runtime.tflite.file import Steps
from edgenas.runtime.tflite.source import ROUND
from edgenas.runtime.tflite.windows import is_integer

_LOGISTIC_STEPS = Steps((1 / 256,), (-128,))  # the only ones that LiteRT allows


def unary(code: str, draft: Draft, node: NodeProto, *, table: str = "") -> None:
    """An operator of one value, in float32."""
    value = draft.real(node.input[0])
    ending = draft.ending(node.output[0])
    if ending.activation != "NONE":
        ending = Ending(node.output[0])
    draft.finish(code, (value.tensor,), value, ending=ending, table=table)


def relu(draft: Draft, node: NodeProto) -> None:
    """A rectifier that no operator before it could take."""
    _clipped(draft, node, "RELU")


def _clipped(draft: Draft, node: NodeProto, code: str) -> None:
    value = draft.value(node.input[0])
    ending = draft.ending(node.output[0])
    if ending.activation != "NONE":
        ending = Ending(node.output[0])
    if value.steps is not None:
        ending = Ending(node.output[0], steps=times(value.steps, value.times))
    if code != "RELU" and value.times != 1.0:
        value = draft.plain(node.input[0])
    draft.finish(code, (value.tensor,), value, ending=ending, table="")


def clip(draft: Draft, node: NodeProto) -> None:
    """A clip that no operator before it could take."""
    low, high = draft.limits(node)
    if (low, high) == (0.0, 6.0):
        _clipped(draft, node, "RELU6")
        return
    if low == 0.0 and np.isinf(high):
        _clipped(draft, node, "RELU")
        return
    value = draft.real(node.input[0])
    for code, limit, last in (("MAXIMUM", low, np.isinf(high)), ("MINIMUM", high, True)):
        if np.isinf(limit):
            continue
        name = node.output[0] if last else f"{node.output[0]}/least"
        made = replace(value, tensor=draft.fresh(name))
        number = draft.number(limit, integer=False)
        draft.operator(code, (value.tensor, number), made, table="MaximumMinimumOptions")
        value = made
    draft.values[node.output[0]] = value


def hard_swish(draft: Draft, node: NodeProto) -> None:
    """A hard swish. On integers it is ``x * relu6(x + 3)``, whose sixth is left to multiply.

    LiteRT's own operator for integers runs outside of XNNPACK.
    """
    value = draft.value(node.input[0])
    ending = draft.ending(node.output[0])
    if ending.activation != "NONE" or not is_integer(value, ending):
        unary("HARD_SWISH", draft, node)
        return
    value = draft.plain(node.input[0])
    assert value.steps is not None
    # The steps of the value itself make the sum exact. They reach far enough, unless the value has
    # many integers below -3.
    (step,), (zero,) = value.steps.scales, value.steps.zero_points
    scale = max(step, min(6.0, step * (127 - zero) + 3) / 255)
    gate = replace(value, tensor=draft.fresh(f"{ending.name}/gate"), steps=Steps((scale,), (-128,)))
    three = draft.number(3.0, integer=True)
    draft.operator(
        "ADD", (value.tensor, three), gate, table="AddOptions", fusedActivationFunction="RELU6"
    )
    draft.finish(
        "MUL", (value.tensor, gate.tensor), replace(value, times=1 / 6), ending=ending,
        table="MulOptions",
    )  # fmt: skip


def write_hard_sigmoid(draft: Draft, node: NodeProto) -> None:
    """A hard sigmoid that no conv before it could take: a sixth of ``relu6(6 a x + 6 b)``."""
    slope, shift = hard_sigmoid(node)
    product = draft.source.sole_reader(node.output[0])
    if product is not None and _is_hard_swish(node, product):
        draft.done.add(id(product))
        swish = NodeProto(op_type="HardSwish", name=product.name)
        swish.input.append(node.input[0])
        swish.output.extend(product.output)
        hard_swish(draft, swish)
        return
    ending = draft.ending(node.output[0], factor=1 / 6)
    value = draft.value(node.input[0])
    integer = is_integer(value, ending) and slope == 1 / 6 and ending.activation == "NONE"
    value = draft.plain(node.input[0]) if integer else draft.floats(node.input[0])
    factor = 6 * slope * value.times
    if factor != 1.0:
        scaled = replace(value, tensor=draft.fresh(f"{node.output[0]}/scaled"), times=1.0)
        number = draft.number(factor, integer=False)
        draft.operator("MUL", (value.tensor, number), scaled, table="MulOptions")
        value = scaled
    number = draft.number(6 * shift, integer=integer)
    draft.finish(
        "ADD", (value.tensor, number), replace(value, times=1 / 6),
        ending=replace(ending, activation="NONE") if ending.activation == "RELU" else ending,
        table="AddOptions", fusedActivationFunction="RELU6",
    )  # fmt: skip


def _is_hard_swish(gate: NodeProto, product: NodeProto) -> bool:
    """Whether a hard sigmoid and a product are a hard swish that an exporter spelt out."""
    read = sorted(product.input) == sorted((gate.input[0], gate.output[0]))
    return product.op_type == "Mul" and read and hard_sigmoid(gate) == (1 / 6, 0.5)


def sigmoid(draft: Draft, node: NodeProto) -> None:
    """A sigmoid, also on integers."""
    value, ending = draft.value(node.input[0]), draft.ending(node.output[0])
    if ending.activation == "NONE" and is_integer(value, ending):
        value = draft.plain(node.input[0])
        draft.finish(
            "LOGISTIC", (value.tensor,), value, ending=replace(ending, steps=_LOGISTIC_STEPS),
            table="",
        )  # fmt: skip
        return
    unary("LOGISTIC", draft, node)


def softmax(draft: Draft, node: NodeProto) -> None:
    """A softmax over the last axis of vectors."""
    value, axis = draft.real(node.input[0]), attributes_of(node).get("axis", -1)
    if value.channels_last or axis not in (-1, len(value.shape) - 1):
        raise NotKnownError("is not over the last axis of vectors")
    ending = replace(draft.ending(node.output[0]), activation="NONE")
    if ending.nodes and any(one.op_type != ROUND for one in ending.nodes):
        ending = Ending(node.output[0])
    draft.finish("SOFTMAX", (value.tensor,), value, ending=ending, table="SoftmaxOptions", beta=1.0)
