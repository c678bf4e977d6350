import io
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgenas.clock.board.onnx_runtime import open_session
from edgenas.model.network import Network
from edgenas.onnx_graph.build import (
    INPUT,
    OUTPUT,
    READERS,
    copies_graph,
    layer_graph,
    network_graph,
    operators_graph,
)
from edgenas.space.cost import total
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan
from edgenas.space.presets import mbv3_cifar, tiny
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

RESNET = Space(
    name="resnet",
    resolutions=(33,),
    stages=(
        StageSpace(kind="conv", widths=(8,), stride=2, depths=(2,), pool=2),
        StageSpace(kind="bottleneck", widths=(16,), depths=(1, 2), expands=(0.5,)),
        StageSpace(kind="bottleneck", widths=(32,), depths=(2,), expands=(0.25,), stride=2),
    ),
    activation="relu",
    mix=16,
)
MOBILENET2 = Space(
    name="mobilenet2",
    resolutions=(32,),
    stages=(
        StageSpace(kind="conv", widths=(8,), stride=2, activation="relu6"),
        StageSpace(kind="mbconv", widths=(16,), kernels=(3, 7), activation="relu6"),
        StageSpace(kind="mbconv", widths=(16,), depths=(2,), expands=(3,), activation="relu6"),
    ),
    activation="relu6",
    final=64,
)
WIDE = replace(RESNET, name="wide", resolutions=(21,), aspect=(3, 5))
TALL = replace(tiny(), name="tall", resolutions=(16, 20), aspect=(2, 1))
SPACES = [tiny(), mbv3_cifar(), RESNET, MOBILENET2, WIDE, TALL]


def each(spaces):
    return [pytest.param(space, id=space.name) for space in spaces]


def archs(space: Space, n: int = 2):
    return space.decode(space.sample(n, rng=np.random.default_rng(0)))


def parsed(data: bytes) -> onnx.GraphProto:
    """The graph with all shapes, after a full check."""
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True).graph


def shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    values = [*graph.input, *graph.value_info, *graph.output]
    found = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return found | {t.name: list(t.dims) for t in graph.initializer}


def macs(graph: onnx.GraphProto) -> int:
    """Counted from the shapes of the graph alone."""
    shape, count = shapes(graph), 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            count += np.prod(shape[node.output[0]]) * np.prod(shape[node.input[1]][1:])
    return int(count)


def run(data: bytes, size: list[int]) -> np.ndarray:
    session = open_session(data, threads=1, batch=1)
    x = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    return session.run([OUTPUT], {INPUT: x})[0]


@pytest.mark.parametrize("space", each(SPACES))
def test_a_network_has_the_macs_and_constants_of_its_plan(space):
    for arch in archs(space):
        graph, cost = parsed(network_graph(space, arch)), total(space, arch)
        assert macs(graph) == cost.macs
        constants = sum(int(np.prod(t.dims)) for t in graph.initializer if t.dims)
        assert constants == cost.weights


@pytest.mark.parametrize("space", each(SPACES))
@pytest.mark.parametrize("batch", [1, 2])
def test_a_network_runs_and_its_numbers_stay_in_bounds(space, batch):
    (arch,) = archs(space, 1)
    size = [batch, space.inputs, *space.input_size(arch.resolution)]
    data = network_graph(space, arch, batch=batch)
    graph = parsed(data)
    assert shapes(graph)[INPUT] == size
    # Every value on the way counts, not the last alone.
    model = onnx.load_model_from_string(data)
    model.graph.output.extend(onnx.ValueInfoProto(name=n.output[0]) for n in graph.node[:-1])
    session = open_session(model.SerializeToString(), threads=1, batch=1)
    x = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    first, *others = session.run(None, {INPUT: x})
    assert first.shape == (batch, space.classes)
    for value in (first, *others):
        sizes = np.abs(value[value != 0])
        assert np.isfinite(value).all()
        assert sizes.size > 0
        assert sizes.max() < 60000  # fp16 holds it too
        assert sizes.min() > np.finfo(np.float32).tiny  # no denormal numbers


@pytest.mark.parametrize("space", each(SPACES))
def test_a_network_is_what_torch_exports(space):
    (arch,) = archs(space, 1)
    network, stream = Network(space, arch).eval(), io.BytesIO()
    x = torch.zeros(1, space.inputs, *space.input_size(arch.resolution))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), stream, dynamo=False, opset_version=20)
    theirs = parsed_any(stream.getvalue())
    assert outline(parsed(network_graph(space, arch))) == outline(theirs)


def parsed_any(data: bytes) -> onnx.GraphProto:
    return onnx.load_model_from_string(data).graph


def outline(graph: onnx.GraphProto) -> list[tuple]:
    """Operators in order, with the shapes of their constants and the attributes that matter."""
    constants = {t.name: tuple(t.dims) for t in graph.initializer}
    names = ("group", "strides", "pads", "kernel_shape", "ceil_mode", "axis", "alpha", "transB")
    usual = {"ceil_mode": 0, "pads": [0, 0, 0, 0], "alpha": 1.0}
    found = []
    for node in graph.node:
        if node.op_type == "Identity":  # torch shares equal constants
            constants[node.output[0]] = constants[node.input[0]]
        if node.op_type in ("Constant", "Identity"):
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        told = {
            name: attributes[name]
            for name in names
            if name in attributes and attributes[name] != usual.get(name)
        }
        weights = [constants[name] for name in node.input if constants.get(name)]
        found.append((node.op_type, told, weights))
    return found


@pytest.mark.parametrize("space", each(SPACES))
def test_layers_alone_have_the_shapes_of_their_text(space):
    every = layers(space)
    for layer in every[:: max(1, len(every) // 12)]:
        data = layer_graph(layer, batch=2)
        graph = parsed(data)
        y = run(data, [2, layer.inputs, *layer.in_size])
        spatial = () if layer.kind == "head" else layer.out_size
        assert y.shape == (2, layer.outputs, *spatial)
        assert macs(graph) == 2 * sum(part.macs for part in primitives(layer))


@pytest.mark.parametrize("space", each(SPACES))
def test_more_copies_have_the_operators_of_the_layer_more_often(space):
    """Beside those, as many readers of a pixel; and nothing is shared or left out."""
    for layer in layers(space)[:: max(1, len(layers(space)) // 8)]:
        data = [copies_graph(layer, n, batch=2) for n in (1, 3)]
        one, three = (parsed(d) for d in data)
        own = sum(part.macs for part in primitives(layer))
        assert macs(three) - macs(one) == 2 * 2 * own
        own_nodes = len(outline(parsed(layer_graph(layer))))
        assert len(outline(three)) - len(outline(one)) == 2 * own_nodes
        session = open_session(data[1], threads=1, batch=2)
        x = np.ones([2, layer.inputs, *layer.in_size], np.float32)
        outputs = session.run(None, {INPUT: x})
        assert len(outputs) == (3 if layer.kind == "head" else READERS)
        if layer.kind != "head":
            assert {y.shape[2:] for y in outputs} == {(1, 1)}, "a pixel is read"
        assert all(np.isfinite(y).all() for y in outputs)
        assert not np.allclose(outputs[0], outputs[1]), "copies have weights of their own"


@pytest.mark.parametrize("space", each(SPACES))
def test_operators_alone_have_their_own_shapes(space):
    for part in {part for layer in layers(space)[::5] for part in primitives(layer)}:
        data = operators_graph([part], batch=2)
        assert macs(parsed(data)) == 2 * part.macs
        size = [2, part.inputs, *part.in_size]
        session = open_session(data, threads=1, batch=2)
        (y,) = session.run(None, {INPUT: np.ones(size, np.float32)})
        assert y.shape == (2, part.outputs, *(() if part.op == "linear" else part.out_size))


@pytest.mark.parametrize("space", each(SPACES))
def test_the_layers_of_a_network_make_up_its_operators(space):
    (arch,) = archs(space, 1)
    whole = outline(parsed(network_graph(space, arch)))
    parts = [outline(parsed(layer_graph(layer))) for _, layer in plan(space, arch)]
    assert [node for part in parts for node in part] == whole


def test_graphs_are_the_seeds():
    layer = Layer(kind="mbconv", inputs=8, outputs=8, size=8, mid=16, kernel=3, squeeze=8)
    assert layer_graph(layer, seed=1) == layer_graph(layer, seed=1)
    assert layer_graph(layer, seed=1) != layer_graph(layer, seed=2)


def test_excitation_multiplies_what_was_squeezed():
    """An mbconv with squeeze-and-excitation and shortcut, computed again in numpy."""
    layer = Layer(
        kind="mbconv",
        inputs=4,
        outputs=4,
        size=6,
        mid=8,
        squeeze=8,
        activation="hswish",
        residual=True,
    )
    graph = parsed(layer_graph(layer))
    w = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    convs = [[w[name] for name in node.input[1:]] for node in graph.node if node.op_type == "Conv"]
    x = np.random.default_rng(1).standard_normal([1, 4, 6, 6]).astype(np.float32)

    def point(value, k):
        return np.einsum("oi,nihw->nohw", convs[k][0][:, :, 0, 0], value) + column(k)

    def column(k):
        return convs[k][1].reshape(1, -1, 1, 1)

    def hswish(value):
        return value * np.clip(value / 6 + 0.5, 0, 1)

    y = hswish(point(x, 0))
    y = hswish(y * convs[1][0][:, :, 0, 0].reshape(1, -1, 1, 1) + column(1))
    gate = np.maximum(point(y.mean((2, 3), keepdims=True), 2), 0)
    y = y * np.clip(point(gate, 3) / 6 + 0.5, 0, 1)
    expected = x + point(y, 4)
    np.testing.assert_allclose(run(layer_graph(layer), [1, 4, 6, 6]), expected, atol=1e-5)
