import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.build import INPUT, network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.onnx_graph.model import loads
from edgenas.runtime import cuda, trt
from edgenas.runtime import registry as runtimes
from edgenas.runtime.engines import engine_for, fingerprint, load_engine, save_engine
from edgenas.space import presets as spaces

SPACE = spaces.tiny()
RTX = trt.TENSORRT_RTX_BUILDER


@pytest.fixture
def rtx() -> trt.TensorRT:
    """The builder that works without a GPU."""
    if missing := RTX.why_not_build():
        pytest.skip(missing)
    return RTX


def network(precision: str, *, batch: int | str = 1) -> bytes:
    graph = network_graph(SPACE, SPACE.smallest(), batch=batch)
    images = np.random.default_rng(0).standard_normal((8, 3, 12, 12)).astype(np.float32)
    return convert_to_form(graph, form=RTX.choose_form(precision), images=images)


def one_node(operator: str) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], "node")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


# Building, for real


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_in_every_precision(rtx, precision):
    plan = rtx.build(network(precision), precision=precision)
    assert len(plan) > 10_000
    assert loads(network(precision)).precision() == precision


def test_an_open_batch_is_built_with_a_profile(rtx):
    plan = rtx.build(network("fp32", batch="n"), precision="fp32", batches=(1, 4, 8))
    assert len(plan) > 10_000


def test_batches_that_contradict_each_other_are_refused_in_the_words_of_the_library(rtx):
    with pytest.raises(EdgenasError, match=r"tensorrt-rtx .* cannot build an engine") as caught:
        rtx.build(network("fp32", batch="n"), precision="fp32", batches=(4, 2, 1))
    assert "rofile" in caught.value.message


@pytest.mark.parametrize(("asked", "given"), [("fp16", "fp32"), ("fp32", "int8"), ("int8", "fp16")])
def test_a_graph_of_another_precision_is_refused(rtx, asked, given):
    with pytest.raises(EdgenasError, match=f"runs in {given} on tensorrt-rtx, not in {asked}"):
        rtx.build(network(given), precision=asked)


def test_what_the_parser_refuses_is_told_with_its_node(rtx):
    with pytest.raises(EdgenasError, match=r"refuses the model: Nonsense node: .*Plugin not found"):
        rtx.build(one_node("Nonsense"), precision="fp32")
    unsigned = convert_to_form(network_graph(SPACE, SPACE.smallest()), form="int8-unsigned")
    with pytest.raises(EdgenasError, match=r"refuses the model: DequantizeLinear \w+: .*Int32"):
        rtx.build(unsigned, precision="int8")


@pytest.mark.parametrize("junk", [b"", b"no model", network_graph(SPACE, SPACE.smallest())[:99]])
def test_what_is_no_model_is_refused(rtx, junk):
    with pytest.raises(EdgenasError, match="tensorrt-rtx refuses the model"):
        rtx.build(junk, precision="fp32")


def test_more_open_sizes_than_the_batch_are_refused(rtx):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "open",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "h", 4])],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    with pytest.raises(EdgenasError, match="the input x has more open sizes than the batch"):
        rtx.build(model, precision="fp32")


def test_where_nothing_can_run_the_reason_is_given(rtx):
    if cuda.why_no_cuda() is None:
        pytest.skip("there is a GPU here")
    assert "engines can be built but not run: " in rtx.available()
    with pytest.raises(EdgenasError, match="tensorrt-rtx is not available here: engines can be"):
        rtx.compile(network("fp32"), precision="fp32", threads=1, batch=1)
    with pytest.raises(EdgenasError, match="no CUDA device can be used here"):
        cuda.Cuda()
    with pytest.raises(EdgenasError, match="cannot load the engine: "):
        rtx.session(rtx.build(network("fp32"), precision="fp32"), precision="fp32", batch=1)


def test_an_absent_library_is_a_reason():
    absent = trt.TensorRT("tensorrt-x", "no_such_module", "pip install it")
    assert "no_such_module cannot be imported" in absent.available()
    with pytest.raises(EdgenasError, match=r"cannot build engines here: .*; pip install it"):
        absent.build(network("fp32"), precision="fp32")
    assert absent.choose_form("fp16") == "fp16"


def test_both_libraries_are_runtimes():
    assert runtimes.get("tensorrt").available == trt.TENSORRT_BUILDER.available
    assert runtimes.get("tensorrt-rtx").available == RTX.available


# Engines on disk


def test_an_engine_is_built_once(rtx, tmp_path: Path):
    path, graph = tmp_path / "model.engine", network("fp32")
    plan, built = engine_for(path, runtime=rtx, onnx=graph, precision="fp32")
    assert built
    assert engine_for(path, runtime=rtx, onnx=graph, precision="fp32") == (plan, False)
    told = json.loads((tmp_path / "model.engine.json").read_text())
    assert told["version"] == rtx.version()


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "NVIDIA Orin"},
        {"driver": "1.2"},
        {"version": "9.9"},
        {"precision": "fp16"},
        {"batches": (1, 2, 4)},
        {"model": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_engine_of_something_else_is_refused_and_built_again(rtx, tmp_path: Path, change):
    path, graph = tmp_path / "model.engine", network("fp32")
    here = fingerprint(rtx, graph, precision="fp32", batches=(1, 1, 1))
    save_engine(path, b"of another day", made=replace(here, **change))
    with pytest.raises(EdgenasError, match=f"built for something else: {next(iter(change))} is"):
        load_engine(path, expected=here)
    assert engine_for(path, runtime=rtx, onnx=graph, precision="fp32")[1]
    assert load_engine(path, expected=here) == path.read_bytes()


def test_a_damaged_engine_is_refused(rtx, tmp_path: Path):
    path = tmp_path / "model.engine"
    here = fingerprint(rtx, b"model", precision="fp32", batches=(1, 1, 1))
    save_engine(path, b"engine", made=here)
    path.write_bytes(b"enginf")
    with pytest.raises(EdgenasError, match="is missing or damaged"):
        load_engine(path, expected=here)
    path.unlink()
    with pytest.raises(EdgenasError, match="is missing or damaged"):
        load_engine(path, expected=here)


# On a GPU


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def here(request) -> trt.TensorRT:
    runtime = {"tensorrt": trt.TENSORRT_BUILDER, "tensorrt-rtx": RTX}[request.param]
    if why_not := runtime.available():
        pytest.skip(why_not)
    return runtime


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 0.02), ("int8", 0.2)]
)
def test_an_engine_computes_what_the_graph_says(here, precision, tolerance):
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)
    exact = runtimes.get("onnxruntime").compile(
        network("fp32"), precision="fp32", threads=1, batch=1
    )
    session = here.compile(network(precision), precision=precision, threads=1, batch=1)
    (wanted,), (found,) = exact.run({INPUT: x}), session.run({INPUT: x})
    assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()


@pytest.mark.gpu
def test_layers_of_an_engine_are_timed(here):
    session = here.compile(network("fp32"), precision="fp32", threads=1, batch=1)
    kernels = session.kernels()
    assert kernels
    assert {node for kernel in kernels for node in kernel.nodes} & {"Conv_0"}


@pytest.mark.gpu
def test_the_timing_cache_grows_and_is_used(here, tmp_path: Path):
    if here.module != "tensorrt":
        pytest.skip("the timing cache of TensorRT-RTX does nothing")
    cache = trt.TimingCache()
    here.build(network("fp32"), precision="fp32", timing_cache=cache)
    first = cache.data
    assert first
    here.build(network("fp32"), precision="fp32", timing_cache=cache)
    assert len(cache.data) >= len(first)
