"""PyTorch as a runtime: graphs become modules and programs here; a GPU runs them."""

import dataclasses
import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.torch_cuda import load_program, load_torch_cuda, make_tensor
from edgenas.model.export import compared
from edgenas.onnx_graph.build import INPUT, network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.profiling.networks import random_archs
from edgenas.runtime import registry as runtimes
from edgenas.runtime import torch_cuda
from edgenas.runtime.checks import read_graph
from edgenas.runtime.torch_graph import OnnxModule
from edgenas.space import presets as spaces

TINY = spaces.tiny()
GRAPH = network_graph(TINY, TINY.smallest())
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def on_processor(graph: bytes, *, precision: str = "fp32", batch: int = 1):
    """What a GPU would run, here: the same program on another device of PyTorch."""
    return torch_cuda.open_session(
        graph, precision=precision, batch=batch, device="cpu", provider="this processor"
    )


def wanted_of(graph: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def same(graph: bytes, x: np.ndarray) -> None:
    wanted = wanted_of(graph, x)
    module = OnnxModule(read_graph(graph, runtime="test").proto, runtime="test")
    with torch.inference_mode():
        (found,) = module(torch.from_numpy(x))
    # Measured with kernels for SSE4.1, AVX2 and AVX-512: a tenth of it at most. A sum of 1,000
    # products and its order are worth 30 roundings of 2**-24, and there are some ten layers.
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)


# Graphs as modules


@pytest.mark.parametrize("name", spaces.PRESETS)
def test_the_smallest_network_of_every_space_is_the_same(name):
    space = spaces.load_space(name)
    arch = space.smallest()
    same(network_graph(space, arch), normal(1, space.inputs, arch.resolution, arch.resolution))


@pytest.mark.parametrize(("aspect", "resolution"), [((3, 5), 24), ((2, 1), 32)])
def test_networks_of_inputs_that_are_no_squares_are_the_same(aspect, resolution):
    space = dataclasses.replace(spaces.tiny(), resolutions=(resolution,), aspect=aspect)
    x = normal(2, 3, *space.input_size(resolution))
    same(network_graph(space, space.largest(), batch=2), x)


@pytest.mark.parametrize("name", ["tiny", "mbv3-cifar"])
def test_random_networks_are_the_same(name):
    space = spaces.load_space(name)
    for arch in random_archs(space, 4, seed=3):
        x = normal(3, space.inputs, arch.resolution, arch.resolution)
        same(network_graph(space, arch, batch=3), x)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_networks_that_others_export_are_the_same(name):
    network = getattr(torchvision.models, name)().eval()
    for module in network.modules():  # fresh networks end in numbers of no size
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.5)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, torch.zeros(1, 3, 64, 64), stream, dynamo=False)
    same(stream.getvalue(), normal(1, 3, 64, 64))


def one(kind: str, shape: list[int], *constants: np.ndarray, **attributes) -> bytes:
    names = [f"c{i}" for i in range(len(constants))]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], "node", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True)],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


PLANES, VECTORS = [2, 4, 7, 5], [2, 6]


@pytest.mark.parametrize(
    "graph",
    [
        one("Conv", PLANES, normal(8, 2, 3, 2), normal(8), group=2, strides=[2, 1]),
        one("Conv", PLANES, normal(8, 4, 3, 3), pads=[0, 0, 1, 1], strides=[2, 2]),
        one("Conv", PLANES, normal(8, 4, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
        one("MaxPool", PLANES, kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2]),
        one("AveragePool", PLANES, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        one("AveragePool", PLANES, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        one("AveragePool", PLANES, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        one("ReduceMean", PLANES, np.array([2, 3]), keepdims=0),
        one("Reshape", PLANES, np.array([0, -1])),
        one("Flatten", PLANES),
        one("Concat", PLANES, normal(2, 3, 7, 5), axis=1),
        one("Clip", PLANES, np.float32(-0.5), np.float32(1)),
        one("Clip", PLANES, np.float32(0.1)),
        one("HardSigmoid", PLANES),
        one("HardSigmoid", PLANES, alpha=1 / 6, beta=0.5),
        one("BatchNormalization", PLANES, normal(4), normal(4), normal(4), normal(4) ** 2 + 1),
        one("Gemm", VECTORS, normal(6, 3), normal(3)),
        one("Gemm", VECTORS, normal(3, 6), transB=1),
        one("MatMul", VECTORS, normal(6, 3)),
    ],
    ids=lambda graph: read_graph(graph, runtime="").proto.graph.node[0].op_type,
)
def test_one_operator_is_the_same(graph):
    shape = read_graph(graph, runtime="").proto.graph.input[0].type.tensor_type.shape
    same(graph, normal(*(dim.dim_value for dim in shape.dim)))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (one("Softplus", PLANES), "no operator Softplus is known"),
        (one("Gemm", VECTORS, normal(6, 3), alpha=2.0), "Gemm node has the alpha 2.0"),
        (one("MaxPool", PLANES, kernel_shape=[2, 2], ceil_mode=1), "has the ceil_mode 1"),
        (
            one("Conv", PLANES, normal(8, 4, 3, 3), auto_pad="SAME_UPPER"),
            "Conv node has the auto_pad b'SAME_UPPER'",
        ),
        (
            one("AveragePool", PLANES, kernel_shape=[3, 3], pads=[0, 0, 1, 1]),
            "AveragePool node is padded more on one side",
        ),
        (one("Flatten", PLANES, axis=2), "Flatten node has the axis 2"),
        (convert_to_form(GRAPH, form="int8-unsigned"), "no operator DequantizeLinear is known"),
        (b"no model", "no ONNX file"),
    ],
)
def test_what_is_not_known_is_refused_by_name(graph, message):
    with pytest.raises(EdgenasError, match=f"torch-cuda refuses the model: .*{message}"):
        torch_cuda.convert(graph)


# Programs


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_program_gives_the_logits_of_onnx_runtime(precision):
    graph = network_graph(TINY, TINY.largest(), batch=2)
    x = normal(2, 3, TINY.largest().resolution, TINY.largest().resolution)
    made = on_processor(graph, precision=precision, batch=2)
    facts = made.facts()
    assert (facts["precision"], facts["tf32"], made.precision) == (precision, "off", precision)
    (found,) = made.run({INPUT: x})
    wanted = wanted_of(graph, x)
    assert found.dtype == np.float32
    compared(found, wanted, precision=precision).require()
    assert (precision == "fp32") == bool(np.abs(found - wanted).max() < 1e-5)


def test_a_program_is_channels_last_and_without_tf32():
    torch.backends.cudnn.allow_tf32 = True
    module, inputs = load_program(torch_cuda.convert(GRAPH), device="cpu", precision="fp32")
    assert inputs == [(INPUT, (1, 3, 12, 12))]
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    convs = [value for value in module.buffers() if value.dim() == 4]
    assert convs
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in convs)
    x = make_tensor(normal(1, 3, 12, 12), device="cpu", precision="fp32")
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_free_batch_becomes_the_batch_asked_for():
    graph = network_graph(TINY, TINY.smallest(), batch="n")
    made = on_processor(graph, batch=3)
    assert made.run({INPUT: normal(3, 3, 12, 12)})[0].shape == (3, 10)
    with pytest.raises(EdgenasError, match="batch must be 2, which the model was made for"):
        torch_cuda.convert(network_graph(TINY, TINY.smallest(), batch=2), batch=3)


def test_kernels_are_the_operators_of_the_graph():
    kernels = on_processor(GRAPH).kernels()
    assert [k.kind for k in kernels] == [
        n.op_type for n in read_graph(GRAPH, runtime="").proto.graph.node
    ]
    assert all(k.nodes == (k.name,) for k in kernels)
    assert all(k.seconds > 0 for k in kernels)


@pytest.mark.parametrize("source", [b"", b"no program", GRAPH])
def test_the_clock_refuses_what_is_no_program(source):
    with pytest.raises(UnitError, match="no program that PyTorch can read"):
        load_program(source, device="cpu", precision="fp32")


# Without a GPU


def test_where_it_cannot_run_the_reason_is_given():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert runtimes.get("torch-cuda") is torch_cuda.RUNTIME
    assert "CUDA" in torch_cuda.available() or "no NVIDIA GPU" in torch_cuda.available()
    with pytest.raises(EdgenasError, match="runtime torch-cuda is not available here: "):
        torch_cuda.compile_graph(GRAPH, precision="fp32", threads=1, batch=1)
    with pytest.raises(UnitError, match="torch finds no NVIDIA GPU here"):
        load_torch_cuda(b"", threads=1, batch=1)


# On a GPU


@pytest.fixture
def gpu() -> None:
    if why_not := torch_cuda.available():
        pytest.skip(why_not)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_gives_the_logits_of_onnx_runtime(gpu, precision):
    made = torch_cuda.compile_graph(GRAPH, precision=precision, threads=1, batch=1)
    x = normal(1, 3, 12, 12)
    found = compared(made.run({INPUT: x})[0], wanted_of(GRAPH, x), precision=precision)
    assert found.max_abs_difference <= found.tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_captured_graph_is_timed_by_the_gpu(gpu, precision):
    program = torch_cuda.convert(GRAPH)
    run = load_torch_cuda(program, threads=1, batch=1, precision=precision)
    assert isinstance(run(), int)
    assert run() > 0
    settings = TimingSettings(**{**vars(QUICK), "precision": precision})
    (found,) = measure.measure([("unit", program)], runtime=torch_cuda.RUNTIME, settings=settings)
    assert found.n >= 6
