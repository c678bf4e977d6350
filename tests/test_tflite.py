"""ONNX graphs become .tflite files that compute the same."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import store_weights_in_half
from edgenas.space.presets import PRESETS

pytest.importorskip("ai_edge_litert", reason="LiteRT is not here")

from edgenas.clock.board import litert_cpu as board
from edgenas.runtime.tflite.convert import convert, draft
from edgenas.runtime.tflite.file import why_not

TOLERANCE = 1e-4  # of the largest logit: both sum float32 in other orders, seen up to 2e-6


def graph(nodes, *, shape, constants=(), outputs=("y",)) -> bytes:
    """A model with the input x of a shape."""
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    for value in made.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(made, ir_version=10, opset_imports=opsets).SerializeToString()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def onnx_answers(onnx: bytes, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def litert_answers(
    tflite: bytes, x: np.ndarray, *, delegate=board.XNNPACK, turned: bool = False
) -> list[np.ndarray]:
    """The outputs, images as ONNX has them; ``turned`` inputs have their channels last already."""
    interpreter = board.open_interpreter(tflite, threads=1, delegate=delegate)
    (one,) = interpreter.get_input_details()
    if x.ndim == 4 and not turned:
        x = x.transpose(0, 2, 3, 1)
    interpreter.set_tensor(one["index"], np.ascontiguousarray(x))
    interpreter.invoke()
    outputs = [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]
    return [y.transpose(0, 3, 1, 2) if y.ndim == 4 else y for y in outputs]


def operators(tflite: bytes) -> list[str]:
    plain = board.open_interpreter(tflite, threads=1, delegate=board.NO_DELEGATE)
    return [one["op_name"] for one in plain._get_ops_details()]


def check_parity(onnx: bytes, x: np.ndarray) -> None:
    tflite = convert(onnx, batch=len(x))
    expected = onnx_answers(onnx, x)
    for delegate in (board.XNNPACK, board.NO_DELEGATE):
        for y, z in zip(expected, litert_answers(tflite, x, delegate=delegate), strict=True):
            assert z.shape == y.shape
            np.testing.assert_allclose(z, y, rtol=0, atol=TOLERANCE * max(np.abs(y).max(), 1e-3))


# Networks of our own


def check_network(onnx: bytes, *, batch: int) -> None:
    tflite = convert(onnx, batch=batch)
    shape = onnxruntime.InferenceSession(onnx).get_inputs()[0].shape
    x = normal(batch, *shape[1:])
    (y,), (z,) = onnx_answers(onnx, x), litert_answers(tflite, x)
    np.testing.assert_allclose(z, y, rtol=0, atol=TOLERANCE * np.abs(y).max())
    interpreter = board.open_interpreter(tflite, threads=1, delegate=board.XNNPACK)
    assert board.count_delegates(interpreter) == 1
    assert board.find_operators_outside(interpreter) == []
    assert "TRANSPOSE" not in operators(tflite)


def random_archs(space, count):
    return space.decode(space.sample(count, rng=np.random.default_rng(0), by="gene"))


@pytest.mark.parametrize("name", ["tiny", "mbv3-cifar", "ofa-proxyless-w1.3"])
def test_a_random_network_computes_the_same_in_one_delegate(name):
    space = PRESETS[name]()
    (arch,) = random_archs(space, 1)
    check_network(network_graph(space, arch), batch=1)


@pytest.mark.slow
# Of the cells of DARTS some max-pools need a margin of their own, outside of the delegate.
@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"darts"}))
def test_random_networks_of_all_spaces_compute_the_same_in_one_delegate(name):
    space = PRESETS[name]()
    for seed, arch in enumerate(random_archs(space, 20)):
        check_network(network_graph(space, arch, seed=seed), batch=1)


@pytest.mark.parametrize("onnx_batch", [3, "N"])
def test_a_batch_computes_the_same(onnx_batch):
    space = PRESETS["tiny"]()
    (arch,) = random_archs(space, 1)
    check_network(network_graph(space, arch, batch=onnx_batch), batch=3)


def test_the_same_graph_gives_the_same_bytes():
    space = PRESETS["tiny"]()
    (arch,) = random_archs(space, 1)
    onnx = network_graph(space, arch)
    assert convert(onnx) == convert(onnx)


def test_tensors_keep_their_names_and_a_signature_tells_them():
    space = PRESETS["tiny"]()
    (arch,) = random_archs(space, 1)
    interpreter = board.open_interpreter(
        convert(network_graph(space, arch)), threads=1, delegate=board.XNNPACK
    )
    signature = interpreter.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["image"], "outputs": ["logits"]}
    assert [one["name"] for one in interpreter.get_output_details()] == ["logits"]


def test_hard_sigmoids_between_convs_cost_no_operator():
    space = PRESETS["mbv3-cifar"]()
    for arch in random_archs(space, 3):
        drawn = draft(network_graph(space, arch))
        codes = [one.code for one in drawn.operators]
        # Each MUL is the product of squeeze-and-excitation, behind one global mean.
        assert codes.count("MUL") == codes.count("MEAN") - 1
        assert "LOGISTIC" not in codes


# Operators that others bring


def node(kind, reads, writes="y", **attributes):
    return helper.make_node(kind, list(reads), [writes], f"{kind}_of_{writes}", **attributes)


def one_conv(size, weight, **attributes):
    """A conv of images of a size, with a bias."""
    channels = weight[1] * attributes.get("group", 1)
    constants = [("w", normal(*weight)), ("b", normal(weight[0]))]
    return graph(
        [node("Conv", "xwb", **attributes)], shape=[1, channels, *size], constants=constants
    ), normal(1, channels, *size)


@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 2, 0]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
    ],
    ids=["valid", "around", "odd", "upper", "lower", "dilated"],
)
def test_convs_of_every_padding_compute_the_same(size, stride, given):
    check_parity(*one_conv(size, (4, 3, 3, 3), strides=[stride] * 2, **given))


@pytest.mark.parametrize(("weight", "group"), [((6, 1, 3, 3), 6), ((12, 1, 5, 5), 6)])
def test_depthwise_convs_compute_the_same(weight, group):
    onnx, x = one_conv((8, 8), weight, group=group, pads=[1, 1, 1, 1])
    check_parity(onnx, x)
    assert "DEPTHWISE_CONV_2D" in operators(convert(onnx))


def test_grouped_convs_compute_the_same():
    check_parity(*one_conv((8, 8), (6, 4, 3, 3), group=2, pads=[1, 1, 1, 1]))


POOLS = [
    ("MaxPool", {"strides": [2, 2]}),
    ("MaxPool", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", {"strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {"pads": [1, 0, 1, 0]}),
]


@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
@pytest.mark.parametrize(
    ("kind", "given"), POOLS, ids=[f"{k}-{i}" for i, (k, _) in enumerate(POOLS)]
)
@pytest.mark.parametrize("kernel", [2, 3])
def test_pools_compute_the_same(size, kind, given, kernel):
    onnx = graph([node(kind, "x", kernel_shape=[kernel, kernel], **given)], shape=[1, 4, *size])
    check_parity(onnx, normal(1, 4, *size) - 2)  # where padding with zeros would show


def test_a_pool_behind_a_rectifier_stays_in_the_delegate():
    onnx = graph(
        [
            node("Relu", "x", "r"),
            node("MaxPool", "r", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        ],
        shape=[1, 4, 8, 8],
    )
    check_parity(onnx, normal(1, 4, 8, 8))
    interpreter = board.open_interpreter(convert(onnx), threads=1, delegate=board.XNNPACK)
    assert board.find_operators_outside(interpreter) == []


W, B = ("w", normal(5, 4, 1, 1)), ("b", normal(5))
CHAINS = {
    "residual behind a hard swish": (
        [
            node("Conv", "xw", "c"), node("HardSwish", "c", "h"), node("Conv", "hv", "d"),
            node("Add", "hd"),
        ],
        [W, ("v", normal(5, 5, 1, 1))],
    ),
    "a hard sigmoid with the slope of ONNX": (
        [node("Conv", "xwb", "c"), node("HardSigmoid", "c", "h"), node("Conv", "hv")],
        [W, B, ("v", normal(3, 5, 1, 1))],
    ),
    "a hard sigmoid that is an output": (
        [node("HardSigmoid", "x", "y", alpha=0.3, beta=0.4)], [],
    ),
    "a gate that two read": (
        [
            node("HardSigmoid", "x", "g", alpha=1 / 6, beta=0.5), node("Mul", "xg", "m"),
            node("Clip", ["m", "low", "six"], "r"), node("Add", "rg"),
        ],
        [("low", np.float32(0)), ("six", np.float32(6))],
    ),
    "a hard swish spelt out": (
        [node("HardSigmoid", "x", "g", alpha=1 / 6, beta=0.5), node("Mul", "gx")], [],
    ),
    "a SiLU": ([node("Sigmoid", "x", "s"), node("Mul", "xs")], []),
    "clips": (
        [node("Clip", ["x", "low", "high"], "c"), node("Clip", ["c", "", "zero"])],
        [("low", np.float32(-0.5)), ("high", np.float32(0.7)), ("zero", np.float32(0.2))],
    ),
    "sums and products with constants": (
        [
            node("Mul", "xs", "m"), node("Sub", "mt", "n"), node("Div", "nu", "d"),
            node("Sub", "vd", "e"), node("Max", "ex", "f"), node("Min", "fs"),
        ],
        [("s", normal(4, 1, 1)), ("t", normal(1)), ("u", normal(1, 4, 1, 1) + 5),
         ("v", normal(4, 8, 6))],
    ),
    "a batch norm alone": (
        [node("Relu", "x", "r"), node("BatchNormalization", ["r", "s", "t", "m", "v"])],
        [("s", normal(4)), ("t", normal(1, 4)[0]), ("m", normal(2, 4)[1]),
         ("v", np.abs(normal(4)) + 1)],
    ),
    "a join of nine": (
        [node("Relu", "x", "r"), node("Concat", "xrxrxrxrx", axis=1)], [],
    ),
    "vectors of pixels": (
        [node("Flatten", "x", "f"), node("Relu", "f", "r"), node("Gemm", "rwb", transB=1)],
        [("w", normal(5, 4 * 8 * 6)), B],
    ),
    "a matrix product and a sum": (
        [
            node("ReduceMean", ["x", "axes"], "p", keepdims=0), node("MatMul", "pw", "m"),
            node("Add", "bm", "a"), node("Softmax", "a", axis=-1),
        ],
        [("axes", np.array([-2, -1])), ("w", normal(4, 5)), B],
    ),
    "a margin": (
        [node("Pad", ["x", "pads", "fill"])],
        [("pads", np.array([0, 0, 1, 2, 0, 0, 3, 0])), ("fill", np.float32(0.5))],
    ),
    "two outputs of one value": ([node("Relu", "x", "y"), node("Identity", "y", "z")], []),
    "other activations": (
        [node("Tanh", "x", "t"), node("Elu", "t", "e"), node("Sigmoid", "e")], [],
    ),
    "shapes back and forth": (
        [
            node("GlobalAveragePool", "x", "p"), node("Squeeze", ["p", "axes"], "s"),
            node("Unsqueeze", ["s", "axes"], "u"), node("Mul", "xu"),
        ],
        [("axes", np.array([2, 3]))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_operators_compute_the_same(name):
    nodes, constants = CHAINS[name]
    outputs = ["y", "z"] if name.startswith("two outputs") else ["y"]
    onnx = graph(nodes, shape=[1, 4, 8, 6], constants=constants, outputs=outputs)
    check_parity(onnx, 2 * normal(1, 4, 8, 6))


def test_images_that_come_channels_last_stay_so():
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "tw", "c")]
    onnx = graph(
        [*nodes, node("Transpose", "c", perm=[0, 2, 3, 1])],
        shape=[1, 8, 6, 4],
        constants=[("w", normal(5, 4, 1, 1))],
    )
    x = normal(1, 8, 6, 4)
    (y,), tflite = onnx_answers(onnx, x), convert(onnx)
    (z,) = litert_answers(tflite, x, turned=True)
    np.testing.assert_allclose(z.transpose(0, 2, 3, 1), y, rtol=0, atol=1e-5)
    assert operators(tflite) == ["CONV_2D"]


def test_weights_in_fp16_take_half_the_space_and_stay_in_the_delegate():
    space = PRESETS["mbv3-cifar"]()
    (arch,) = random_archs(space, 1)
    onnx = network_graph(space, arch)
    half = store_weights_in_half(onnx)
    whole, small = convert(onnx), convert(half)
    assert len(small) < 0.6 * len(whole)
    interpreter = board.open_interpreter(small, threads=1, delegate=board.XNNPACK)
    assert (board.count_delegates(interpreter), board.find_operators_outside(interpreter)) == (
        1,
        [],
    )
    x = normal(1, 3, *space.input_size(arch.resolution))
    for exact in (onnx, half):
        (y,), (z,) = onnx_answers(exact, x), litert_answers(small, x)
        # Weights have 11 bits; those that take a sixth are rounded once more. Seen: 5e-4.
        assert np.abs(z - y).max() < 0.01 * np.abs(y).max()


# Refusals


REFUSED = [
    ([node("Erf", "x")], r"Erf 'Erf_of_y' is not known to it"),
    ([node("Conv", "xx")], r"Conv 'Conv_of_y' reads weights, sizes or axes that are computed"),
    ([node("ReduceMean", "x")], r"ReduceMean .* is not a mean over height and width"),
    ([node("Softmax", "x")], r"Softmax .* is not over the last axis of vectors"),
    ([node("Transpose", "x", perm=[0, 1, 3, 2])], r"Transpose .* is no change between channels"),
    ([node("Reshape", ["x", "sizes"])], r"Reshape .* makes \[1, 4, 6, 8\] of \[1, 4, 8, 6\]"),
    ([node("Pad", ["x", "less"])], r"Pad .* cuts off what it reads"),
    ([node("MatMul", ["x", "square"])], r"MatMul .* does not read vectors"),
    (
        [node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])],
        r"MaxPool .* is dilated",
    ),
]


@pytest.mark.parametrize(("nodes", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_has_no_counterpart_is_refused_by_name(nodes, message):
    constants = [
        ("sizes", np.array([1, 4, 6, 8])), ("less", np.array([0, 0, -1, 0, 0, 0, 0, 0])),
        ("square", normal(6, 6)), ("w", normal(4, 2, 1, 1)),
    ]  # fmt: skip
    with pytest.raises(EdgenasError, match=r"litert refuses the model: .*" + message):
        convert(graph(nodes, shape=[1, 4, 8, 6], constants=constants))


def test_inputs_of_other_types_are_refused():
    made = helper.make_graph(
        [node("Identity", "x")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, 2])],
    )
    with pytest.raises(EdgenasError, match="its input x must be float32, found int64"):
        convert(helper.make_model(made, ir_version=10).SerializeToString())


def test_without_litert_nothing_is_written(monkeypatch):
    import sys

    onnx, _ = one_conv((4, 4), (2, 2, 1, 1))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    assert "pip install 'edgenas[litert]'" in (why_not() or "")
    with pytest.raises(EdgenasError, match=r"no \.tflite file can be written here: ai_edge_litert"):
        convert(onnx)
