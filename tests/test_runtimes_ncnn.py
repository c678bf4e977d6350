"""ncnn: converted here, run for real, held against ONNX Runtime."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.verify import verify_bundle
from edgenas.clock import measure
from edgenas.clock.board.ncnn_cpu import OPTIONS, find_precision, load_network
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.runs import memory_file
from edgenas.clock.board.settings import TimingSettings
from edgenas.delivery import choosing
from edgenas.delivery import latency as latencies
from edgenas.delivery.evaluating import explain_absence
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.latency.device import Target
from edgenas.latency.predictor import LearnedPredictor
from edgenas.latency.table_file import table_path
from edgenas.model.calibration import calibrate
from edgenas.model.export import compared, run_onnx, to_onnx
from edgenas.model.saved import CALIBRATION_FILE, find_supernet, load_supernet, load_tensors
from edgenas.onnx_graph.build import INPUT, layer_graph, network_graph
from edgenas.profiling import run as profiling_run
from edgenas.profiling import work as profiling_work
from edgenas.profiling.check import check
from edgenas.profiling.networks import random_archs
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.profiling.tables import predictor_for, table_for
from edgenas.runtime import ncnn_cpu
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces
from edgenas.space.layer import Layer

if why_not := ncnn_cpu.available():
    pytest.skip(why_not, allow_module_level=True)

TINY = spaces.tiny()
TARGET = Target("host", "ncnn", "fp32")
BF16 = Target("host", "ncnn", "bf16")
# Everything passes such a gate: what is tested is the wiring, whatever the machine does meanwhile.
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(graph: bytes, x: np.ndarray, *, precision: str = "fp32", tolerance: float = 1e-5) -> None:
    """ncnn computes what ONNX Runtime does, up to a part of the largest output."""
    session = runtimes.get("onnxruntime").compile(graph, precision=None, threads=1, batch=len(x))
    (wanted,) = session.run({INPUT: x})
    made = ncnn_cpu.compile_graph(graph, precision=precision, threads=1, batch=len(x))
    (found,) = made.run({INPUT: x})
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


# Parity


@pytest.mark.slow
def test_subnets_of_the_shipped_supernet_give_the_logits_of_onnx_runtime():
    trained = load_supernet(find_supernet("mbv3-cifar10"))
    space, steps = trained.supernet.space, trained.preprocessing
    pixels = load_tensors(find_supernet("mbv3-cifar10") / CALIBRATION_FILE)["pixels"]
    for arch in (space.smallest(), space.largest(), *random_archs(space, 2, seed=1)):
        network = trained.supernet.extract(arch).to(memory_format=torch.channels_last)
        calibrate(network, pixels[:64], preprocessing=steps)
        onnx = to_onnx(network, preprocessing=steps.to_json())
        images = steps.prepare(pixels[:20], resolution=arch.resolution).contiguous().numpy()
        wanted = run_onnx(onnx, images)
        compared(run_onnx(onnx, images, runtime="ncnn"), wanted).require()
        if explain_absence(BF16) is None:
            found = run_onnx(onnx, images, runtime="ncnn", precision="bf16")
            compared(found, wanted, precision="bf16").require()


@pytest.mark.parametrize("name", ["tiny", "mbv3-photo", "ofa-proxyless-w1.3", "ofa-resnet50"])
def test_the_smallest_network_of_every_kind_of_space_is_the_same(name):
    space = spaces.load_space(name)
    arch = space.smallest()
    x = normal(1, space.inputs, arch.resolution, arch.resolution)
    same(network_graph(space, arch), x)


@pytest.mark.parametrize(("aspect", "resolution"), [((3, 5), 24), ((2, 1), 32)])
def test_inputs_that_are_no_squares_keep_height_and_width_apart(aspect, resolution):
    space = replace(TINY, resolutions=(resolution,), aspect=aspect)
    x = normal(2, 3, *space.input_size(resolution))
    same(network_graph(space, space.largest(), batch=2), x)


@pytest.mark.parametrize(
    ("size", "columns", "mid"),
    [(16, 0, 16), (8, 0, 16), (7, 0, 16), (5, 0, 8), (7, 16, 16), (16, 7, 16)],
)
def test_excitation_scales_channels_also_where_there_are_as_many_as_columns(size, columns, mid):
    shapes = {"inputs": 8, "outputs": 12, "size": size, "columns": columns, "mid": mid}
    layer = Layer(kind="mbconv", kernel=3, squeeze=4, **shapes)
    same(layer_graph(layer), normal(1, 8, *layer.in_size))


def test_a_batch_is_so_many_images():
    graph = network_graph(TINY, TINY.largest(), batch=3)
    resolution = TINY.largest().resolution
    same(graph, normal(3, 3, resolution, resolution))
    same(network_graph(TINY, TINY.largest(), batch="n"), normal(2, 3, resolution, resolution))


def test_inputs_may_lie_in_memory_in_any_order():
    graph, last = network_graph(TINY, TINY.smallest()), normal(1, 12, 12, 3)
    same(graph, last.transpose(0, 3, 1, 2))


def test_several_inputs_and_outputs_keep_their_order():
    kind, shape = TensorProto.FLOAT, [1, 2, 3, 5]
    nodes = [
        helper.make_node("Sub", ["b", "a"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
        helper.make_node("Relu", ["a"], ["z"]),
    ]
    values = {name: helper.make_tensor_value_info(name, kind, shape) for name in "abyz"}
    graph = helper.make_graph(nodes, "two", [values["a"], values["b"]], [values["y"], values["z"]])
    opsets = [helper.make_opsetid("", 20)]
    onnx = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    a, b = normal(*shape), normal(*shape, seed=1)
    made = ncnn_cpu.compile_graph(onnx, precision="fp32", threads=1, batch=1)
    y, z = made.run({"b": b, "a": a})
    np.testing.assert_allclose(y, np.maximum(b - a, 0), atol=1e-6)
    np.testing.assert_allclose(z, np.maximum(a, 0), atol=1e-6)


# Precision


def test_fp32_is_fp32_although_the_default_is_less():
    ncnn = pytest.importorskip("ncnn")
    assert ncnn.Option().use_fp16_storage
    converted = ncnn_cpu.convert(network_graph(TINY, TINY.smallest()))
    for precision, names in OPTIONS.items():
        opt = load_network(converted, threads=1, precision=precision).net.opt
        on = {n for n in dir(opt) if "fp16" in n or "bf16" in n if getattr(opt, n)}
        assert on == {name for name in names if hasattr(opt, name)}


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2**-8), ("fp16", 2**-11)])
def test_it_runs_in_the_precision_asked_for_or_refuses(precision, error):
    layer = Layer(kind="conv", inputs=16, outputs=8, size=8, kernel=1)
    graph, x = layer_graph(layer), normal(1, 16, 8, 8)
    exact = ncnn_cpu.compile_graph(graph, precision="fp32", threads=1, batch=1).run({INPUT: x})[0]
    loaded = load_network(ncnn_cpu.convert(graph), threads=1, precision=precision)
    if find_precision(loaded.net) != precision:
        with pytest.raises(EdgenasError, match=f"runs in fp32 on ncnn, not in {precision}"):
            ncnn_cpu.compile_graph(graph, precision=precision, threads=1, batch=1)
        unit = [("unit", ncnn_cpu.convert(graph))]
        settings = replace(QUICK, precision=precision)
        with pytest.raises(EdgenasError, match=f"it would run in fp32, not in {precision}"):
            list(measure.measure(unit, runtime=runtimes.get("ncnn"), settings=settings))
        return
    made = ncnn_cpu.compile_graph(graph, precision=precision, threads=1, batch=1)
    assert made.facts()["precision"] == precision
    assert {k.precision for k in made.kernels() if k.kind == "Convolution"} == {precision}
    (found,) = made.run({INPUT: x})
    assert 0 < np.abs(found - exact).max() < 8 * error * np.abs(exact).max()


# Kernels and the clock


@pytest.mark.parametrize("name", ["tiny", "ofa-resnet50"])
def test_every_conv_of_a_network_is_found_among_the_kernels(name):
    space = spaces.load_space(name)
    graph = network_graph(space, space.smallest())
    assert len(ncnn_cpu._find_nodes_of_layers(graph)) == sum(
        node.op_type in ("Conv", "Gemm") for node in onnx.load_from_string(graph).graph.node
    )


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (5, 2)])
def test_only_the_layers_that_its_fp16_kernel_computes_wrongly_add_in_fp32(kernel, stride):
    layer = Layer(kind="mbconv", inputs=8, outputs=8, size=12, kernel=kernel, stride=stride, mid=8)
    lines = ncnn_cpu._parts(layer_graph(layer))[1].decode().splitlines()
    masked = [line.split()[0] for line in lines if line.endswith(" 31=1")]
    assert masked == (["ConvolutionDepthWise"] if (kernel, stride) == (3, 2) else [])


def test_kernels_of_a_network_are_those_of_its_layers():
    graph = network_graph(TINY, TINY.smallest(), batch=2)
    made = ncnn_cpu.compile_graph(graph, precision="fp32", threads=1, batch=2)
    kernels = made.kernels()
    named = [node for kernel in kernels for node in kernel.nodes]
    assert len(named) == len(set(named)) > 10
    assert all(kernel.seconds > 0 for kernel in kernels)


@pytest.mark.parametrize("source", [b"", b"no model", b"{}\n", b'{"schema": "edgenas.ncnn/2"}\n'])
def test_the_clock_refuses_what_was_not_converted(source):
    with pytest.raises(UnitError, match="no network that was converted for ncnn"):
        load_network(source, threads=1, precision="fp32")


def test_a_damaged_network_is_refused():
    converted = ncnn_cpu.convert(network_graph(TINY, TINY.smallest()))
    with pytest.raises(UnitError, match="ncnn cannot load the network"):
        load_network(converted[:-1000], threads=1, precision="fp32")


def test_weights_are_on_no_disk_where_that_can_be(monkeypatch):
    if hasattr(os, "memfd_create"):
        with memory_file(b"weights") as path:
            assert path.startswith("/proc/self/fd/")
            assert Path(path).read_bytes() == b"weights"
        monkeypatch.delattr(os, "memfd_create")
    with memory_file(b"weights") as path:
        assert Path(path).read_bytes() == b"weights"
    assert not Path(path).exists()


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_converted_network_is_timed(threads):
    graph = network_graph(TINY, TINY.smallest(), batch=2)
    settings = replace(QUICK, threads=threads)
    unit = [("unit", runtimes.convert_for_clock("ncnn", graph, batch=2))]
    (found,) = measure.measure(unit, runtime=runtimes.get("ncnn"), settings=settings, batch=2)
    assert found.n >= 6


# Whole networks: profile, prediction, check


@pytest.mark.slow
def test_a_profile_times_networks_alone_and_learns_what_layers_cost():
    plan = ProfilePlan(networks=6, further=4, visits=1, settings=QUICK)
    table = profile(TINY, target=TARGET, plan=plan)
    assert (len(table.layers), len(table.networks)) == (0, 10)
    assert "layer costs are learned" in table.method
    assert json.loads(table_path(TARGET).read_text())["target"]["runtime"] == "ncnn"
    predictor = predictor_for(table_for(TINY, target=TARGET), TINY)
    assert isinstance(predictor, LearnedPredictor)
    assert predictor.rates
    rows = TINY.encode([network.arch for network in table.networks])
    assert (predictor.predict(rows) > 0).all()
    assert (predictor.upper(rows, confidence=0.9) >= predictor.predict(rows)).all()
    found = check(TARGET, clock=measure, visits=1, settings=QUICK, tolerance=0.99)
    assert len(found.rows) == 10
    assert {row.kind for row in found.rows} == {"network"}


@pytest.mark.slow
def test_with_little_time_it_takes_the_networks_that_say_most(monkeypatch: pytest.MonkeyPatch):
    """Real timings, however long they take: each look at the clock is a tenth of a second later."""
    looks, parts = itertools.count(), list[int]()
    for module in (profiling_run, profiling_work):
        ticking = SimpleNamespace(monotonic=lambda: next(looks) / 10)
        monkeypatch.setattr(module, "time", ticking)

    def patiently(units, *, settings, **rest):
        graphs = list(units)
        parts.append(len(graphs))
        yield from measure.measure(graphs, settings=replace(settings, seconds=600.0), **rest)

    clock: Any = SimpleNamespace(environment=measure.environment, measure=patiently)
    plan = ProfilePlan(networks=3, further=2, visits=1, settings=QUICK, time_budget=4)
    table = profile(TINY, target=TARGET, plan=plan, clock=clock)
    assert not table.layers
    assert parts[0] == 3 + 2
    # Of 52: building one takes 0.2 s of the 4 s, and the last part may take half as much again.
    assert len(table.networks) == sum(parts) <= 30


@pytest.mark.slow
def test_a_network_is_specialised_for_it(tiny: Path, tmp_path: Path, monkeypatch):
    """The real thing, in little: ncnn times networks and the winner, in bf16 where it can."""

    def little(space, **values):
        plan = ProfilePlan(networks=5, further=4, visits=1, settings=QUICK)
        return profile(space, **values | {"plan": plan})

    monkeypatch.setattr(latencies, "profile", little)
    monkeypatch.setattr(choosing, "BRIEF", QUICK)
    monkeypatch.setattr(choosing, "NETWORK", QUICK)
    target = replace(TARGET, precision="fp32" if explain_absence(BF16) else "bf16")
    request = SpecializeRequest(
        device="host",
        constraint=("latency<=1s",),
        supernet=str(tiny),
        runtime="ncnn",
        precision=target.precision,
    )
    result = specialize(request, out=tmp_path / "bundle")
    assert all(check.passed for check in verify_bundle(tmp_path / "bundle"))
    assert result.record.target == target
    assert result.record.measured is not None
    assert result.record.measured.n >= 6
    assert any("edgenas export --to ncnn" in note for note in result.record.notes)
    agreement = any("in bf16 the class is the same on" in note for note in result.record.notes)
    assert agreement == (target == BF16)


# Mistakes


def test_without_the_converter_it_is_said_how_to_get_it(monkeypatch):
    graph = network_graph(TINY, TINY.smallest())
    ncnn_cpu._parts.cache_clear()
    monkeypatch.setattr(ncnn_cpu, "_pnnx", lambda: None)
    assert "pip install pnnx" in (ncnn_cpu.available() or "")
    with pytest.raises(EdgenasError, match="cannot be converted for ncnn: pnnx, which"):
        ncnn_cpu.convert(graph)


def test_an_operator_that_it_lacks_is_named():
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "det",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    with pytest.raises(EdgenasError, match="refuses the model: ncnn has no operator Det"):
        ncnn_cpu.compile_graph(onnx, precision="fp32", threads=1, batch=1)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (TensorProto.FLOAT16, [1, 3, 4, 4], "its input x must be float32, the batch first"),
        (TensorProto.FLOAT, [4], "its input x must be float32, the batch first"),
        (TensorProto.FLOAT, [1, 3, "h", 4], "the sizes of x are open"),
    ],
)
def test_inputs_that_it_cannot_take_are_refused(kind, shape, message):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    with pytest.raises(EdgenasError, match=f"ncnn refuses the model: {message}"):
        ncnn_cpu.convert(onnx)
