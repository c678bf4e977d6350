import os
import sys

import numpy as np
import pytest
from onnx import TensorProto
from runtime_contract import LAYER, RuntimeContract, conv, images, int8, session, with_int8

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.part import import_part
from edgenas.onnx_graph.build import INPUT, layer_graph
from edgenas.runtime import onnx_runtime
from edgenas.runtime import registry as runtimes
from edgenas.runtime.checks import find_origins
from edgenas.runtime.contract import Runtime

__all__ = ["int8", "with_int8"]

LIBRARIES = {"litert": "ai_edge_litert.interpreter"}
ON_GPU = [name for name in runtimes.names() if runtimes.get(name).on_gpu]


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.gpu if name in ON_GPU else ())
        for name in runtimes.names()
    ]
)
def runtime(request) -> Runtime:
    found = runtimes.get(request.param)
    if why_not := found.available():
        pytest.skip(why_not)
    return found


class TestEveryRuntime(RuntimeContract):
    """The contract of every runtime that is here."""


# The registry


def test_an_unknown_runtime_is_refused():
    with pytest.raises(EdgenasError, match="unknown runtime 'onnxrutime'") as caught:
        runtimes.get("onnxrutime")
    assert "did you mean onnxruntime" in caught.value.hint


@pytest.mark.parametrize("name", [n for n in runtimes.timed_names() if runtimes.get(n).part])
def test_the_board_part_of_a_runtime_is_for_it(name):
    assert import_part(runtimes.get(name).part).runtime == name


# ONNX Runtime


def test_an_int8_model_runs_in_int8(int8):
    facts = session(runtimes.get("onnxruntime"), int8, precision="int8").facts()
    assert facts["precision"] == "int8"


@pytest.mark.parametrize(("asked", "runs"), [("int8", "fp32"), ("fp32", "int8")])
def test_a_silent_change_of_precision_is_an_error(with_int8, int8, asked, runs):
    onnx = int8 if runs == "int8" else conv()
    with pytest.raises(EdgenasError, match=f"runs in {runs} on {with_int8.name}, not in {asked}"):
        session(with_int8, onnx, precision=asked)


@pytest.mark.parametrize(
    ("kind", "precision"), [(TensorProto.FLOAT16, "fp16"), (TensorProto.FLOAT, "fp32")]
)
def test_the_precision_is_that_of_the_weights_that_remain(tmp_path, kind, precision):
    (tmp_path / "optimized.onnx").write_bytes(conv(kind=kind))
    assert onnx_runtime.precision_of(tmp_path / "optimized.onnx") == precision


def test_an_fp16_model_is_not_said_to_run_in_fp16_where_it_does_not():
    with pytest.raises(EdgenasError, match=r"must be one of fp32, int8, found 'fp16'"):
        session(runtimes.get("onnxruntime"), conv(kind=TensorProto.FLOAT16), precision="fp16")


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("onnxruntime", "pip install onnxruntime"),
        ("openvino", "pip install 'edgenas[openvino]'"),
        ("ncnn", "pip install 'edgenas[ncnn]'"),
        ("litert", "pip install 'edgenas[litert]'"),
    ],
)
def test_an_absent_library_is_a_reason_not_a_crash(monkeypatch, name, install):
    monkeypatch.setitem(sys.modules, LIBRARIES.get(name, name), None)
    absent = runtimes.get(name)
    assert install in absent.available()
    with pytest.raises(EdgenasError, match=f"runtime {name} is not available here"):
        session(absent, conv())


def test_a_free_dimension_without_a_name_is_refused():
    with pytest.raises(EdgenasError, match="a free dimension without a name"):
        session(runtimes.get("onnxruntime"), conv(batch=None))


# OpenVINO


@pytest.fixture
def openvino() -> Runtime:
    found = runtimes.get("openvino")
    if why_not := found.available():
        pytest.skip(why_not)
    return found


def test_openvino_computes_in_fp32_although_its_default_is_less(openvino):
    x = images(1) * np.float32(1 / 3)
    (y,) = session(openvino, conv()).run({"x": x})
    # One product by 2, which is exact in fp32 and would be rounded by 2**-8 in bf16.
    np.testing.assert_allclose(y[:, 0], np.maximum(2 * x[:, 0], 0), rtol=1e-6)


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2**-8), ("fp16", 2**-11)])
def test_openvino_runs_in_the_precision_asked_for_or_refuses(openvino, precision, error):
    library = pytest.importorskip("openvino")
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("OpenVINO counts instructions that ONEDNN_MAX_CPU_ISA takes from it")
    if precision.upper() in library.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        made = session(openvino, layer_graph(LAYER), precision=precision)
        assert made.facts()["precision"] == precision
        x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
        (found,), (exact,) = (
            m.run({INPUT: x}) for m in (made, session(openvino, layer_graph(LAYER)))
        )
        # Image, weights and sum are each rounded once, by half of `error` at most in bf16 and fp16.
        assert 0 < np.abs(found - exact).max() < 8 * error * np.abs(exact).max()
    else:
        with pytest.raises(EdgenasError, match=rf"runs in \w+ on openvino, not in {precision}"):
            session(openvino, layer_graph(LAYER), precision=precision)


def test_the_longest_name_of_a_node_that_fits_is_meant():
    known = {name: name for name in ("Conv_1", "Conv_12", "Conv_1_Quantize")}
    assert find_origins("Conv_12_nchwc", known) == ("Conv_12",)
    assert find_origins("Conv_1_Quantize/x", known) == ("Conv_1_Quantize",)
    assert find_origins("Reorder_1", known) == ()
