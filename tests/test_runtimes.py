import os
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, load_from_string, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.part import import_part
from edgenas.onnx_graph.build import INPUT, layer_graph
from edgenas.runtime import onnx_runtime
from edgenas.runtime import registry as runtimes
from edgenas.runtime.checks import find_origins
from edgenas.runtime.contract import Runtime
from edgenas.space.layer import Layer

LAYER = Layer(kind="conv", inputs=3, outputs=8, size=8, kernel=3)


def conv(*, batch: int | str = 1, kind: int = TensorProto.FLOAT) -> bytes:
    """The ReLU of a 1x1 conv that doubles and negates: outputs (2 x0, -x1)."""
    weights = np.array([[2.0, 0.0], [0.0, -1.0]], helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "conv",
        [helper.make_tensor_value_info("x", kind, [batch, 2, 4, 4])],
        [helper.make_tensor_value_info("y", kind, [batch, 2, 4, 4])],
        [numpy_helper.from_array(weights.reshape(2, 2, 1, 1), "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


def images(batch: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 2, 4, 4)).astype(np.float32)


def session(runtime: Runtime, onnx: bytes, **changes):
    plain = {"precision": "fp32", "threads": 1, "batch": 1}
    return runtime.compile(onnx, **(plain | changes))


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        shape = (1, LAYER.inputs, LAYER.size, LAYER.size)
        self.left = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]

    def get_next(self):
        return {INPUT: self.left.pop()} if self.left else None


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    quantize_static(
        load_from_string(layer_graph(LAYER)),
        str(path),
        Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path.read_bytes()


# The contract of every runtime that is here


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


@pytest.fixture
def with_int8(runtime) -> Runtime:
    if "int8" not in runtime.precisions:
        pytest.skip(f"{runtime.name} has no int8 here")
    return runtime


def test_a_runtime_knows_its_name_and_its_precisions(runtime):
    assert runtimes.get(runtime.name) is runtime
    assert "fp32" in runtime.precisions
    assert set(runtime.forms) == set(runtime.precisions)
    assert runtime.forms["fp32"] == "fp32"


@pytest.mark.parametrize("batch", [1, 3])
def test_it_computes_what_the_graph_says(runtime, batch):
    x = images(batch)
    (y,) = session(runtime, conv(batch=batch), batch=batch).run({"x": x})
    expected = np.maximum(np.stack([2 * x[:, 0], -x[:, 1]], 1), 0)
    # One product each. A GPU may round factors to TF32, by 2**-11 = 5e-4 of each.
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_free_batch_becomes_the_batch_asked_for(runtime, batch):
    made = session(runtime, conv(batch="N"), batch=batch)
    assert made.run({"x": images(batch)})[0].shape == (batch, 2, 4, 4)
    with pytest.raises(EdgenasError, match=rf"input x must be float32\[{batch}, 2, 4, 4\], found"):
        made.run({"x": images(batch + 1)})


def test_runs_do_not_depend_on_each_other(runtime):
    made, x = session(runtime, conv()), images(1)
    first = made.run({"x": x})[0].copy()
    made.run({"x": 5 * x})
    np.testing.assert_array_equal(made.run({"x": x})[0], first)


@pytest.mark.parametrize("threads", [1, 2])
def test_its_facts_say_what_really_runs(runtime, threads):
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip("one processor")
    facts = session(runtime, conv(), threads=threads).facts()
    assert facts["runtime"] == runtime.name
    assert facts["precision"] == "fp32"
    assert facts["threads"] == str(threads) or runtime.name in ("tensorrt", "tensorrt-rtx")
    assert facts["version"]
    assert facts["provider"]


def test_without_a_precision_it_takes_the_graph_as_it_is_or_refuses_it(runtime, int8):
    assert session(runtime, conv(), precision=None).facts()["precision"] == "fp32"
    if "int8" in runtime.precisions:
        assert session(runtime, int8, precision=None).facts()["precision"] == "int8"
        return
    with pytest.raises(EdgenasError, match=r"refuses the model: .*uantizeLinear|found 'int8'"):
        session(runtime, int8, precision=None)


def test_its_kernels_are_those_of_the_graph(runtime):
    kernels = session(runtime, layer_graph(LAYER)).kernels()
    # OpenVINO's kernel for SSE4.2 is called jit_sse42_f32.
    (conv_,) = (k for k in kernels if "conv" in k.kind.lower() or "Conv_0" in k.nodes)
    assert any(node in ("Conv_0", "Relu_1") for node in conv_.nodes)
    assert conv_.precision == "fp32"
    assert all(kernel.seconds >= 0 for kernel in kernels)


def test_kernels_of_an_int8_graph_compute_in_int8(with_int8, int8):
    kernels = session(with_int8, int8, precision="int8").kernels()
    (conv_,) = (k for k in kernels if "Conv_0" in k.nodes)
    assert conv_.precision == "int8"


def test_a_precision_that_it_lacks_is_refused(runtime):
    with pytest.raises(EdgenasError, match=r"precision of \S+ must be one of fp32.*found 'fp7'"):
        session(runtime, conv(), precision="fp7")


def test_a_graph_of_another_batch_is_refused(runtime):
    with pytest.raises(EdgenasError, match="batch must be 3, which the model was made for, found"):
        session(runtime, conv(batch=3), batch=2)


@pytest.mark.parametrize("onnx", [b"", b"no model", conv()[:60]])
def test_what_is_no_model_is_refused(runtime, onnx):
    with pytest.raises(EdgenasError, match="refuses the model"):
        session(runtime, onnx)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs must be x, found "),
        ({"z": images(1)}, "inputs must be x, found z"),
        ({"x": images(1)[:, :1]}, r"input x must be float32\[1, 2, 4, 4\], found float32\[1, 1"),
        ({"x": images(1).astype(np.float64)}, r"input x must be float32.*, found float64"),
    ],
)
def test_inputs_that_are_not_the_graphs_are_refused(runtime, inputs, message):
    with pytest.raises(EdgenasError, match=message):
        session(runtime, conv()).run(inputs)


# The registry


def test_an_unknown_runtime_is_refused():
    with pytest.raises(EdgenasError, match="unknown runtime 'onnxrutime'") as caught:
        runtimes.get("onnxrutime")
    assert "did you mean onnxruntime" in caught.value.hint


@pytest.mark.parametrize("name", runtimes.timed_names())
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
    ],
)
def test_an_absent_library_is_a_reason_not_a_crash(monkeypatch, name, install):
    monkeypatch.setitem(sys.modules, name, None)
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
