"""The contract of a runtime: a suite that any runtime runs.

A class of tests inherits `RuntimeContract` and has a fixture ``runtime``.
"""

import os

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
from edgenas.onnx_graph.build import INPUT, layer_graph
from edgenas.runtime import registry as runtimes
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


@pytest.fixture
def with_int8(runtime) -> Runtime:
    if "int8" not in runtime.precisions:
        pytest.skip(f"{runtime.name} has no int8 here")
    return runtime


class RuntimeContract:
    """What holds for every runtime."""

    def test_a_runtime_knows_its_name_and_its_precisions(self, runtime):
        assert runtimes.get(runtime.name) is runtime
        assert "fp32" in runtime.precisions
        assert set(runtime.forms) == set(runtime.precisions)
        assert runtime.forms["fp32"] == "fp32"

    @pytest.mark.parametrize("batch", [1, 3])
    def test_it_computes_what_the_graph_says(self, runtime, batch):
        x = images(batch)
        (y,) = session(runtime, conv(batch=batch), batch=batch).run({"x": x})
        expected = np.maximum(np.stack([2 * x[:, 0], -x[:, 1]], 1), 0)
        # One product each. A GPU may round factors to TF32, by 2**-11 = 5e-4 of each.
        np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("batch", [1, 3])
    def test_a_free_batch_becomes_the_batch_asked_for(self, runtime, batch):
        made = session(runtime, conv(batch="N"), batch=batch)
        assert made.run({"x": images(batch)})[0].shape == (batch, 2, 4, 4)
        with pytest.raises(
            EdgenasError, match=rf"input x must be float32\[{batch}, 2, 4, 4\], found"
        ):
            made.run({"x": images(batch + 1)})

    def test_runs_do_not_depend_on_each_other(self, runtime):
        made, x = session(runtime, conv()), images(1)
        first = made.run({"x": x})[0].copy()
        made.run({"x": 5 * x})
        np.testing.assert_array_equal(made.run({"x": x})[0], first)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_its_facts_say_what_really_runs(self, runtime, threads):
        if threads > len(os.sched_getaffinity(0)):
            pytest.skip("one processor")
        facts = session(runtime, conv(), threads=threads).facts()
        assert facts["runtime"] == runtime.name
        assert facts["precision"] == "fp32"
        assert facts["threads"] == str(threads) or runtime.name in ("tensorrt", "tensorrt-rtx")
        assert facts["version"]
        assert facts["provider"]

    def test_without_a_precision_it_takes_the_graph_as_it_is_or_refuses_it(self, runtime, int8):
        assert session(runtime, conv(), precision=None).facts()["precision"] == "fp32"
        if "int8" in runtime.precisions:
            assert session(runtime, int8, precision=None).facts()["precision"] == "int8"
            return
        with pytest.raises(EdgenasError, match=r"refuses the model: .*uantizeLinear|found 'int8'"):
            session(runtime, int8, precision=None)

    def test_its_kernels_are_those_of_the_graph(self, runtime):
        kernels = session(runtime, layer_graph(LAYER)).kernels()
        # OpenVINO's kernel for SSE4.2 is called jit_sse42_f32.
        (conv_,) = (k for k in kernels if "conv" in k.kind.lower() or "Conv_0" in k.nodes)
        assert any(node in ("Conv_0", "Relu_1") for node in conv_.nodes)
        assert conv_.precision == "fp32"
        assert all(kernel.seconds >= 0 for kernel in kernels)

    def test_kernels_of_an_int8_graph_compute_in_int8(self, with_int8, int8):
        kernels = session(with_int8, int8, precision="int8").kernels()
        (conv_,) = (k for k in kernels if "Conv_0" in k.nodes)
        assert conv_.precision == "int8"

    def test_a_precision_that_it_lacks_is_refused(self, runtime):
        with pytest.raises(
            EdgenasError, match=r"precision of \S+ must be one of fp32.*found 'fp7'"
        ):
            session(runtime, conv(), precision="fp7")

    def test_a_graph_of_another_batch_is_refused(self, runtime):
        with pytest.raises(
            EdgenasError, match="batch must be 3, which the model was made for, found"
        ):
            session(runtime, conv(batch=3), batch=2)

    @pytest.mark.parametrize("onnx", [b"", b"no model", conv()[:60]])
    def test_what_is_no_model_is_refused(self, runtime, onnx):
        with pytest.raises(EdgenasError, match="refuses the model"):
            session(runtime, onnx)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "inputs must be x, found "),
            ({"z": images(1)}, "inputs must be x, found z"),
            (
                {"x": images(1)[:, :1]},
                r"input x must be float32\[1, 2, 4, 4\], found float32\[1, 1",
            ),
            ({"x": images(1).astype(np.float64)}, r"input x must be float32.*, found float64"),
        ],
    )
    def test_inputs_that_are_not_the_graphs_are_refused(self, runtime, inputs, message):
        with pytest.raises(EdgenasError, match=message):
            session(runtime, conv()).run(inputs)
