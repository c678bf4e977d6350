"""Foreign ONNX graphs: equal to our own plan, to counts of others, and honest about the rest."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_export import residual

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.price import ForeignNetwork, read_network
from edgenas.space.cost import total
from edgenas.space.layer import Primitive
from edgenas.space.plan import plan
from edgenas.space.presets import PRESETS
from edgenas.space.primitives import primitives

SPACES = {name: make() for name, make in PRESETS.items()} | {"residual": residual()}


def shaped(p: Primitive) -> tuple:
    """What an operator is, however its bias and norm are spelt."""
    shape = (p.inputs, p.outputs, p.kernel, p.stride, p.groups, p.in_size, p.out_size)
    return (p.op, p.activation, *shape)


def kinds(network: ForeignNetwork) -> list[str]:
    return [p.activation or p.op for p in network.operators]


class Made:
    """A small graph, made operator by operator; the last output is the graph's."""

    def __init__(self, shape: tuple = (1, 8, 6, 6)) -> None:
        self.shape, self.last = shape, "image"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, *shape: int, value: float = 1.0, kind: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.full(shape, value, kind), name))
        return name

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        self.last = names[0]
        return self.last

    def conv(self, source: str, inputs: int, outputs: int, kernel: int = 1, **attributes) -> str:
        weight = self.constant(outputs, inputs, kernel, kernel)
        return self.add("Conv", source, weight, pads=[kernel // 2] * 4, **attributes)

    def model(self) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(self.shape))
        out = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "made", [image], [out], self.weights)
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def read(self, folder: Path, **options) -> ForeignNetwork:
        path = folder / "made.onnx"
        path.write_bytes(self.model().SerializeToString())
        return read_network(path, **options)


# Equal to what we know


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(sorted(SPACES)), seed=st.integers(0, 1000))
def test_networks_of_ours_read_as_their_plan(tmp_path_factory, name: str, seed: int):
    space = SPACES[name]
    (arch,) = space.decode(space.sample(1, rng=np.random.default_rng(seed)))
    path = tmp_path_factory.mktemp("made") / "net.onnx"
    path.write_bytes(network_graph(space, arch))
    found = read_network(path)
    planned = [p for _, layer in plan(space, arch) for p in primitives(layer)]
    # The norm that stands alone at the head of cells is a Mul and an Add in the graph.
    ours, theirs = (
        [p for p in ops if p.macs or not space.head_norm] for ops in (planned, found.operators)
    )
    assert [shaped(p) for p in theirs] == [shaped(p) for p in ours]
    assert (found.macs, found.unknown) == (total(space, arch).macs, {})
    assert found.weights == sum(p.weights for p in planned)


@pytest.mark.slow
def test_an_exported_network_has_the_macs_that_were_published(tmp_path: Path):
    torch = pytest.importorskip("torch")
    zoo = pytest.importorskip("torchvision").models
    from torch.utils.flop_counter import FlopCounterMode

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    module, image = zoo.shufflenet_v2_x0_5(weights=None).eval(), torch.zeros(1, 3, 224, 224)
    path = tmp_path / "net.onnx"
    torch.onnx.export(module, (image,), str(path), dynamo=True, verbose=False)
    found = read_network(path)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image)
    assert 2 * found.macs == counter.get_total_flops()
    # arXiv 1807.11164, table 8
    assert found.macs / 1e6 == pytest.approx(41, abs=1)
    assert not found.unknown


# One thing, many spellings


def sigmoid_times(made: Made, x: str) -> None:
    made.add("Mul", made.add("Sigmoid", x), x)


def hard_sigmoid_times(made: Made, x: str) -> None:
    made.add("Mul", x, made.add("HardSigmoid", x, alpha=1 / 6))


def clipped(made: Made, x: str) -> str:
    plus = made.add("Add", x, made.constant(value=3.0))
    return made.add("Clip", plus, made.constant(), made.constant(value=6.0))


def divided_last(made: Made, x: str) -> None:
    made.add("Div", made.add("Mul", x, clipped(made, x)), made.constant(value=6.0))


def divided_first(made: Made, x: str) -> None:
    made.add("Mul", x, made.add("Div", clipped(made, x), made.constant(value=6.0)))


@pytest.mark.parametrize(
    ("spell", "activation"),
    [
        (lambda made, x: made.add("Relu", x), "relu"),
        (lambda made, x: made.add("HardSwish", x), "hswish"),
        (sigmoid_times, "silu"),
        (hard_sigmoid_times, "hswish"),
        (divided_last, "hswish"),
        (divided_first, "hswish"),
    ],
)
def test_an_activation_is_one_operator_however_it_is_spelt(
    spell: Callable[[Made, str], None], activation: str, tmp_path: Path
):
    made = Made()
    spell(made, made.conv("image", 8, 8))
    assert kinds(made.read(tmp_path)) == ["conv", activation]


def test_a_gate_of_another_tensor_is_no_activation(tmp_path: Path):
    made = Made()
    x = made.conv("image", 8, 8)
    pooled = made.add("GlobalAveragePool", x)
    made.add("Mul", x, made.add("Sigmoid", made.conv(pooled, 8, 8)))
    found = made.read(tmp_path)
    assert kinds(found) == ["conv", "globalpool", "conv", "sigmoid", "mul"]
    assert found.operators[3].output_elements == 8
    assert found.operators[4].output_elements == 8 * 36


def test_batch_norms_fold_into_the_conv_before_alone(tmp_path: Path):
    made = Made()
    norm = [made.constant(8) for _ in range(4)]
    first = made.add("BatchNormalization", "image", *norm)
    made.add("BatchNormalization", made.conv(first, 8, 8), *norm)
    assert kinds(made.read(tmp_path)) == ["mul", "conv"]
    shared = Made()
    norm = [shared.constant(8) for _ in range(4)]
    x = shared.conv("image", 8, 8)
    shared.add("Add", x, shared.add("BatchNormalization", x, *norm))
    assert kinds(shared.read(tmp_path)) == ["conv", "mul", "add"]


def test_pools_over_everything_are_global_ones(tmp_path: Path):
    for kind, attributes in (
        ("GlobalAveragePool", {}),
        ("AveragePool", {"kernel_shape": [6, 6]}),
        ("GlobalMaxPool", {}),
    ):
        made = Made()
        made.add(kind, "image", **attributes)
        (pool,) = made.read(tmp_path).operators
        assert (pool.op, pool.kernel, pool.in_size, pool.out_size) == (
            "globalpool",
            (1, 1),
            (6, 6),
            (1, 1),
        )
    made = Made()
    made.add("MaxPool", "image", kernel_shape=[3, 3], strides=[2, 2])
    (pool,) = made.read(tmp_path).operators
    assert (pool.op, pool.kernel, pool.stride, pool.out_size) == ("maxpool", (3, 3), 2, (2, 2))


def test_matrix_products_are_linears_convs_of_one_pixel_or_groups(tmp_path: Path):
    made = Made((1, 8))
    made.add("Gemm", "image", made.constant(5, 8), made.constant(5), transB=1)
    (linear,) = made.read(tmp_path).operators
    assert (linear.op, linear.macs, linear.bias) == ("linear", 40, True)
    made = Made((1, 7, 8))
    made.add("Add", made.add("MatMul", "image", made.constant(8, 5)), made.constant(5))
    (rows,) = made.read(tmp_path).operators
    assert (rows.op, rows.macs, rows.weights, rows.out_size) == ("conv", 7 * 8 * 5, 40, (7, 1))
    made = Made((1, 2, 7, 8))
    turned = made.add("Transpose", "image", perm=[0, 1, 3, 2])
    made.add("MatMul", "image", turned)
    copy, heads = made.read(tmp_path).operators
    assert (copy.op, heads.groups, heads.macs) == ("copy", 2, 2 * 7 * 8 * 7)


def test_quantised_graphs_read_as_what_they_compute(tmp_path: Path):
    made = Made()
    scale, zero = made.constant(value=0.1), made.constant(value=0, kind=np.uint8)
    weight = made.constant(4, 8, 3, 3, value=1, kind=np.uint8)
    whole = made.add("DequantizeLinear", weight, scale, zero)
    image = made.add("DequantizeLinear", made.add("QuantizeLinear", "image", scale, zero), scale)
    made.nodes[-1].input.append(zero)
    made.add("Relu", made.add("Conv", image, whole, pads=[1] * 4))
    found = made.read(tmp_path)
    assert kinds(found) == ["conv", "relu"]
    assert found.macs == 36 * 4 * 8 * 9


def test_a_transposed_conv_meets_every_weight_at_every_input_pixel(tmp_path: Path):
    made = Made()
    made.add("ConvTranspose", "image", made.constant(8, 4, 2, 2), strides=[2, 2])
    conv, written = made.read(tmp_path).operators
    assert conv.macs == 36 * 8 * 4 * 4
    assert written.output_elements == 4 * 12 * 12


def test_arithmetic_on_shapes_costs_nothing(tmp_path: Path):
    made = Made()
    x = made.conv("image", 8, 4)
    sizes = made.add("Shape", x)
    batch = made.add("Gather", sizes, made.constant(1, value=0, kind=np.int64))
    rest = made.constant(1, value=-1, kind=np.int64)
    flat = made.add("Reshape", x, made.add("Concat", batch, rest, axis=0))
    made.add("Gemm", flat, made.constant(144, 3))
    found = made.read(tmp_path)
    assert kinds(found) == ["conv", "linear"]
    assert found.macs == 36 * 32 + 144 * 3


def test_concatenations_splits_and_copies_are_told_apart(tmp_path: Path):
    made = Made()
    made.add("Split", "image", outputs=2, axis=1, num_outputs=2)
    first, second = made.nodes[-1].output
    joined = made.add("Concat", first, second, axis=1)
    made.add("Resize", joined, "", made.constant(4, value=1.0))
    assert kinds(made.read(tmp_path)) == ["slice", "slice", "concat", "copy"]


# What is not known is said


def test_an_operator_without_a_price_is_refused_by_name(tmp_path: Path):
    made = Made()
    x = made.conv("image", 8, 8)
    made.add("Relu", made.add("Fancy", x, domain="com.example"))
    made.nodes[-2].domain = "com.example"
    made.nodes[-2].name = "head/fancy"
    with pytest.raises(EdgenasError, match=r"com\.example\.Fancy 'head/fancy' cannot be priced"):
        made.read(tmp_path)
    only = Made((8, 8))
    only.add("Det", "image")
    with pytest.raises(EdgenasError, match="Det 't0_0' cannot be priced: this operator has no"):
        only.read(tmp_path)


def test_a_conv_that_writes_nothing_is_refused_by_name(tmp_path: Path):
    made = Made((1, 8, 2, 16))
    made.add("Conv", "image", made.constant(4, 8, 3, 3))
    with pytest.raises(
        EdgenasError, match=r"Conv '.*' cannot be priced: '.*' of shape .* is empty"
    ):
        made.read(tmp_path)


def test_what_is_counted_at_run_time_is_named_and_never_multiplied(tmp_path: Path):
    made = Made()
    x = made.conv("image", 8, 4)
    made.add("Transpose", made.add("NonZero", x), perm=[1, 0])
    found = made.read(tmp_path)
    assert (found.macs, found.unknown) == (36 * 32, {"NonZero": 1, "Transpose": 1})
    (caution,) = found.cautions()
    assert "2 operators without multiplications (1 NonZero, 1 Transpose)" in caution
    made.add("MatMul", made.add("Cast", made.last, to=1), made.constant(4, 3))
    with pytest.raises(EdgenasError, match="MatMul 't4_0' cannot be priced: the shape of 't3_0'"):
        made.read(tmp_path)


def test_open_sizes_are_asked_for_and_an_open_batch_is_one_image(tmp_path: Path):
    made = Made(("n", 3, "height", "width"))
    made.conv("image", 3, 4, 3)
    with pytest.raises(EdgenasError, match="leaves its size open") as refused:
        made.read(tmp_path)
    assert "--size 224" in refused.value.hint
    found = made.read(tmp_path, size=(10, 20))
    assert found.inputs == {"image": (1, 3, 10, 20)}
    assert found.macs == 200 * 3 * 4 * 9
    fixed = Made((8, 3, 6, 6))
    fixed.conv("image", 3, 4)
    with pytest.raises(EdgenasError, match="holds 8 images"):
        fixed.read(tmp_path)


def test_another_size_than_the_files_is_computed_anew(tmp_path: Path):
    made = Made((1, 3, 32, 32))
    made.conv("image", 3, 4, 3, strides=[2, 2])
    assert made.read(tmp_path, size=(64, 64)).macs == 4 * made.read(tmp_path).macs
    last = Made((1, 32, 32, 3))
    made.shape = (1, 32, 32, 3)
    turned = last.add("Transpose", "image", perm=[0, 3, 1, 2])
    last.conv(turned, 3, 4)
    assert last.read(tmp_path, size=(16, 8)).inputs == {"image": (1, 16, 8, 3)}


def test_a_network_that_is_bound_to_its_size_says_so(tmp_path: Path):
    made = Made((1, 3, 8, 8))
    flat = made.add("Flatten", made.conv("image", 3, 4))
    made.add("Gemm", flat, made.constant(256, 10))
    with pytest.raises(EdgenasError, match="do not fit"):
        made.read(tmp_path, size=(16, 16))


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=200))
def test_what_is_no_network_is_refused(tmp_path_factory, data: bytes):
    path = tmp_path_factory.mktemp("bytes") / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(EdgenasError, match="damaged or no ONNX file"):
        read_network(path)
    with pytest.raises(EdgenasError, match="there is no file"):
        read_network(path.with_name("y.onnx"))
