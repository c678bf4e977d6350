"""Integers of .tflite files where 32 bits are few, held against ONNX Runtime's."""

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not here")

from test_tflite import graph, litert_answers, node, normal, onnx_answers, operators

from edgenas.clock.board import litert_cpu as board
from edgenas.runtime.tflite.convert import convert


def rounded(source: str, name: str, scale: float, zero: int):
    """A pair of quantise and dequantise operators, with its constants."""
    ends = [f"{name}_scale", f"{name}_zero"]
    nodes = [
        node("QuantizeLinear", [source, *ends], f"{name}_integers"),
        node("DequantizeLinear", [f"{name}_integers", *ends], name),
    ]
    return nodes, [(ends[0], np.float32(scale)), (ends[1], np.uint8(zero))]


def gate(kind: str, *, read: float, weight: float) -> tuple[bytes, np.ndarray]:
    """A hard sigmoid behind a conv or matrix product of these scales, and what it reads."""
    shape, integers = [1, 4], np.arange(-60, 60, 10, np.int8).reshape(3, 4)
    if kind == "Conv":
        shape, integers = [1, 4, 2, 2], integers[:, :, None, None]
    bias = np.rint(np.array([-0.6, 0.1, 0.6]) / (read * weight)).astype(np.int32)
    given = {"transB": 1} if kind == "Gemm" else {}
    first, ends = rounded("x", "read", read, 0)
    middle, more = rounded("sum_real", "sum", 6 / 254, 127)
    last, most = rounded("gate_real", "gate", 1 / 255, 0)
    nodes = [
        *first,
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], "weights"),
        node("DequantizeLinear", ["b", "b_scale", "b_zero"], "bias"),
        node(kind, ["read", "weights", "bias"], "sum_real", **given),
        *middle,
        node("HardSigmoid", ["sum"], "gate_real", alpha=1 / 6, beta=0.5),
        *last,
    ]
    constants = [("w", integers), ("w_scale", np.float32(weight))]
    constants += [("b", bias), ("b_scale", np.float32(read * weight)), *ends, *more, *most]
    constants += [("w_zero", np.int8(0)), ("b_zero", np.int32(0))]
    x = np.abs(normal(*shape)) * np.float32(100 * read)
    return graph(nodes, shape=shape, constants=constants, outputs=("gate",)), x


@pytest.mark.parametrize("delegate", [board.XNNPACK, board.NO_DELEGATE])
@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
@pytest.mark.parametrize(("read", "weight", "folded"), [(0.01, 0.01, True), (2e-4, 4e-6, False)])
def test_the_shift_of_a_hard_sigmoid_fits_into_32_bits(kind, read, weight, folded, delegate):
    # The small scales multiply to 8e-10, and the three of a hard sigmoid is 3.75e9 times that.
    onnx, x = gate(kind, read=read, weight=weight)
    made = convert(onnx)
    (expected,), (answer,) = onnx_answers(onnx, x), litert_answers(made, x, delegate=delegate)
    # Off by a step of the gate, and one of the sum, which is rounded only where it stands alone.
    assert np.abs(answer - expected).max() < 2.01 / 255
    assert ("ADD" not in operators(made)) == folded


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_zero_point_that_is_not_given_has_the_type_of_the_integers(kind):
    weights = np.arange(8).reshape(2, 4, 1, 1) * 9
    onnx = graph(
        [node("DequantizeLinear", ["w", "scale"], "weights"), node("Conv", ["x", "weights"])],
        shape=[1, 4, 3, 3],
        constants=[("w", weights.astype(kind)), ("scale", np.float32(0.01))],
    )
    x = normal(1, 4, 3, 3)
    (expected,), (answer,) = onnx_answers(onnx, x), litert_answers(convert(onnx), x)
    assert np.abs(answer - expected).max() < 1e-4 * np.abs(expected).max()
