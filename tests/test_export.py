"""What ships is what was trained: parity, folding, counts, metadata."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgenas.basics.errors import EdgenasError
from edgenas.model.export import (
    TOLERANCE,
    Parity,
    count,
    folded,
    operator_counts,
    parity,
    read_metadata,
    run_onnx,
    to_onnx,
)
from edgenas.model.network import Network
from edgenas.onnx_graph.build import network_graph
from edgenas.space.arch import Arch
from edgenas.space.cost import total
from edgenas.space.plan import plan
from edgenas.space.presets import mbv3_cifar, tiny
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

PREPROCESSING = {"stored": 20, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def residual() -> Space:
    """Everything that `tiny` lacks: bottlenecks, pools, a mix, shortcuts of plain convs."""
    return Space(
        name="residual",
        resolutions=(22, 32),
        stages=(
            StageSpace(kind="conv", widths=(8,), depths=(1, 2), stride=2, activation="relu6"),
            StageSpace(kind="conv", widths=(8, 16), pool=2),
            StageSpace(kind="bottleneck", widths=(24, 32), depths=(1, 2), expands=(0.25, 0.5)),
            StageSpace(
                kind="bottleneck", widths=(48,), depths=(1, 2), expands=(0.25, 0.5), stride=2
            ),
        ),
        final=40,
        mix=24,
        activation="relu",
        classes=7,
        epsilon=1e-3,
    )


def wide() -> Space:
    """Inputs that are no squares, through everything."""
    return replace(residual(), name="wide", resolutions=(21, 33), aspect=(3, 5))


def mixed() -> Space:
    """Blocks of all kinds beside each other, and nothing at all."""
    return Space(
        name="mixed",
        resolutions=(16,),
        stages=(
            StageSpace(kind="rep", widths=(16,), kernels=(3, 5), stride=2),
            StageSpace(kind="rep", widths=(16,), depths=(1, 2), activation="hswish"),
            StageSpace(
                kind="mbconv",
                widths=(24,),
                depths=(5,),
                blocks=("none", "3x2", "3x2-hswish-se4", "fused:3x2-relu6", "uib:0x2", "uib:5+3x2"),
            ),
            StageSpace(kind="fused", widths=(24,), depths=(1, 2), activation="silu"),
        ),
        mix=24,
        mix_norm=True,
    )


SPACES = {space.name: space for space in (tiny(), residual(), wide(), mixed(), mbv3_cifar())}


def trained(space: Space, arch: Arch, *, seed: int) -> Network:
    """A network as training leaves it: no batch norm is the identity, no bias is zero."""
    network, generator = Network(space, arch).eval(), torch.Generator().manual_seed(seed)

    def between(tensor: torch.Tensor, low: float, high: float) -> None:
        with torch.no_grad():
            tensor.uniform_(low, high, generator=generator)

    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            between(part.weight, 0.5, 1.5)
            between(part.bias, -0.5, 0.5)
            between(part.running_mean, -0.5, 0.5)
            between(part.running_var, 0.3, 2.0)
        elif isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None:
            between(part.bias, -0.5, 0.5)
    return network


def some_arch(space: Space, seed: int) -> Arch:
    return space.decode(space.sample(1, rng=np.random.default_rng(seed), by="gene"))[0]


def images(network: Network, n: int, *, seed: int = 0) -> torch.Tensor:
    size = network.space.input_size(network.arch.resolution)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, network.space.inputs, *size, generator=generator)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_the_file_computes_what_the_network_computes(name: str, seed: int):
    space = SPACES[name]
    network = trained(space, some_arch(space, seed), seed=seed)
    data = to_onnx(network, preprocessing=PREPROCESSING)
    found = parity(network, data, images=images(network, 3, seed=seed))
    found.require()
    assert found.n == found.same_top1 == 3
    assert found.max_abs_difference < TOLERANCE / 5


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_what_is_counted_in_the_file_is_what_the_cost_model_says(name: str, seed: int):
    space = SPACES[name]
    arch = some_arch(space, seed)
    costs = total(space, arch)
    for batch in (1, 3):
        found = count(network_graph(space, arch, batch=batch))
        assert (found.macs, found.weights) == (costs.macs, costs.weights)
    parts = [p for _, layer in plan(space, arch) for p in primitives(layer) if p.weights]
    each = operator_counts(network_graph(space, arch))
    assert [(c.macs, c.weights) for c in each] == [(p.macs, p.folded) for p in parts]


def test_the_graph_that_ships_is_the_graph_that_is_timed():
    space, arch = tiny(), tiny().largest()
    shipped = onnx.load_from_string(
        to_onnx(trained(space, arch, seed=0), preprocessing=PREPROCESSING)
    )
    timed = onnx.load_from_string(network_graph(space, arch))
    assert shipped.graph.node == timed.graph.node
    assert shipped.graph.input == timed.graph.input
    assert shipped.graph.output == timed.graph.output
    sizes = [[(t.name, t.data_type, t.dims) for t in m.graph.initializer] for m in (shipped, timed)]
    assert sizes[0] == sizes[1]


def test_the_file_says_what_it_is():
    arch = tiny().smallest()
    data = to_onnx(
        trained(tiny(), arch, seed=0), preprocessing=PREPROCESSING, metadata={"target": "host"}
    )
    model, told = onnx.load_from_string(data), read_metadata(data)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    assert [v.name for v in model.graph.input] == ["image"]
    assert [v.name for v in model.graph.output] == ["logits"]
    assert told["space"] == "tiny"
    assert told["arch_id"] == arch.id
    assert Arch.from_json(json.loads(told["arch"])) == arch
    assert told["classes"] == "10"
    assert json.loads(told["preprocessing"]) == PREPROCESSING
    assert told["target"] == "host"
    assert told["edgenas"]


def test_the_same_network_gives_the_same_file():
    network = trained(tiny(), tiny().smallest(), seed=0)
    first, again = (to_onnx(network, preprocessing=PREPROCESSING) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("batch", [1, 4, None])
def test_any_batch_computes_the_same(batch: int | None):
    network = trained(tiny(), tiny().smallest(), seed=1)
    x = images(network, 6)
    data = to_onnx(network, preprocessing=PREPROCESSING, batch=batch)
    shape = onnx.load_from_string(data).graph.input[0].type.tensor_type.shape.dim[0]
    assert (shape.dim_value or shape.dim_param) == (batch or "batch")
    assert count(data) == count(to_onnx(network, preprocessing=PREPROCESSING))
    with torch.no_grad():
        # Measured with kernels for SSE4.1, AVX2 and AVX-512: a fiftieth of it.
        np.testing.assert_allclose(run_onnx(data, x.numpy()), network(x).numpy(), atol=1e-5)


def test_the_network_stays_as_it_was():
    network = trained(tiny(), tiny().smallest(), seed=2).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    data = to_onnx(network, preprocessing=PREPROCESSING)
    parity(network, data, images=images(network, 2)).require()
    assert network.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_folding_is_exact_where_float32_is_not():
    """A large mean over a small variance: folded in float64, each constant is rounded once."""
    network = trained(tiny(), tiny().smallest(), seed=3)
    unit = network.get_submodule("stages.0.0.unit")
    with torch.no_grad():
        unit.bn.running_mean.fill_(3000.0)
        unit.bn.running_var.fill_(1e-4)
        unit.bn.bias.copy_(3000.0 * unit.bn.weight / (1e-4 + unit.bn.eps) ** 0.5)
    (_, bias), *_ = folded(network)
    norm: nn.BatchNorm2d = unit.bn
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    exact = norm.bias.double() - 3000.0 * scale
    np.testing.assert_array_equal(bias, exact.detach().float().numpy())


def test_numbers_too_small_to_be_quick_become_zero():
    network = trained(tiny(), tiny().smallest(), seed=3)
    classifier: nn.Linear = network.head.classifier
    with torch.no_grad():
        classifier.weight[0, :2] = torch.tensor([1e-40, 1e-30])
    *_, (weight, _) = folded(network)
    assert weight[0, 0] == 0
    assert weight[0, 1] == np.float32(1e-30)


def test_damaged_weights_are_refused():
    network = trained(tiny(), tiny().smallest(), seed=4)
    with torch.no_grad():
        next(network.get_submodule("stages.1.0.project").parameters())[0] = float("nan")
    with pytest.raises(EdgenasError, match=r"found nan in stages.1.0.project") as caught:
        to_onnx(network, preprocessing=PREPROCESSING)
    assert "train or import it again" in caught.value.hint


# The gate


def test_the_gate_refuses_other_logits():
    network = trained(tiny(), tiny().smallest(), seed=5)
    data = to_onnx(network, preprocessing=PREPROCESSING)
    with torch.no_grad():
        network.head.classifier.bias[0] += 0.01
    found = parity(network, data, images=images(network, 2))
    assert found.max_abs_difference == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(EdgenasError, match=r"must be within 0.0001 of PyTorch's, found a diff"):
        found.require()


@pytest.mark.parametrize("difference", [float("nan"), float("inf"), 1.1e-4])
def test_the_gate_refuses_differences_above_its_tolerance(difference: float):
    with pytest.raises(EdgenasError, match="must be within"):
        Parity(max_abs_difference=difference, same_top1=9, n=9).require()


def test_the_gate_refuses_another_class():
    with pytest.raises(EdgenasError, match="on all 9 inputs, found 1 others"):
        Parity(max_abs_difference=1e-6, same_top1=8, n=9).require()


# Files of others


def graph_of(*nodes: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bytes:
    constants = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]
    ).SerializeToString()


def test_matrix_products_of_others_are_counted():
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    found = count(graph_of(product, shapes={"w": (6, 5)}))
    assert (found.macs, found.weights) == (30, 30)
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    found = count(graph_of(gemm, shapes={"w": (6, 5), "b": (5,)}))
    assert (found.macs, found.weights) == (30, 35)


def test_what_cannot_be_counted_is_refused():
    node = helper.make_node("Einsum", ["x", "w"], ["y"], "odd", equation="ij,jk->ik")
    with pytest.raises(EdgenasError, match=r"cannot count the MACs of the operator Einsum \(odd\)"):
        count(graph_of(node, shapes={"w": (6, 5)}))


def test_shapes_that_do_not_fit_are_refused():
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(EdgenasError, match="shapes of the ONNX model do not fit"):
        count(graph_of(product, shapes={"w": (7, 5)}))


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a", bytes(range(256))])
def test_what_is_no_model_is_refused(data: bytes):
    for read in (count, read_metadata):
        with pytest.raises(EdgenasError, match="damaged or no ONNX file"):
            read(data)


def test_images_of_another_size_are_refused():
    data = network_graph(tiny(), tiny().smallest())
    with pytest.raises(EdgenasError, match="image"):
        run_onnx(data, np.zeros((1, 3, 9, 9), np.float32))
