"""ONNX Runtime's providers for GPUs: all that needs no GPU, and, marked ``gpu``, all that does."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT
from onnx import TensorProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.clock.board.onnx_runtime import CPU, bind_session, open_session
from edgenas.clock.board.onnx_runtime_gpu import PRODUCT, choose_options
from edgenas.clock.board.part import UnitError, import_part
from edgenas.clock.board.processors import spin_on
from edgenas.clock.board.runs import choose_canary, count_nanoseconds
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.timing import time_units
from edgenas.latency.device import Target
from edgenas.model.export import compared
from edgenas.onnx_graph.build import INPUT, network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.runtime import onnx_runtime, onnx_runtime_gpu
from edgenas.runtime.contract import Runtime
from edgenas.space import presets as spaces

TINY = spaces.tiny()
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)
GRAPH = network_graph(TINY, TINY.smallest())
GPU = [onnx_runtime_gpu.CUDA, onnx_runtime_gpu.TENSORRT]


# No fallback


def test_what_would_run_on_the_cpu_is_refused():
    azure = "AzureExecutionProvider"  # runs none of these operators
    if azure not in onnxruntime.get_available_providers():
        pytest.skip("no other provider is in this onnxruntime")
    with pytest.raises(UnitError, match="fallback to CPU EP has been explicitly disabled"):
        open_session(GRAPH, threads=1, batch=1, provider=azure)
    with pytest.raises(UnitError, match="this onnxruntime was built without NoSuchProvider"):
        open_session(GRAPH, threads=1, batch=1, provider="NoSuchProvider")


def test_a_profile_tells_where_each_operator_ran():
    events = onnx_runtime.compile_graph(GRAPH, precision="fp32", threads=1, batch=1).events(runs=1)
    onnx_runtime_gpu.check_provider(events, provider=CPU)
    message = r"(\d+) of \1 operators do not run on CUDAExecutionProvider, first \w+, which runs on"
    with pytest.raises(EdgenasError, match=f"{message} CPUExecutionProvider"):
        onnx_runtime_gpu.check_provider(events, provider="CUDAExecutionProvider")
    one = [{"args": {"op_name": "Conv", "provider": "CUDAExecutionProvider"}}] * 5
    with pytest.raises(EdgenasError, match=r"of \d+ operators do not run on CUDA"):
        onnx_runtime_gpu.check_provider([*one, *events[:1]], provider="CUDAExecutionProvider")
    with pytest.raises(EdgenasError, match="0 of 0 operators do not run on CUDA"):
        onnx_runtime_gpu.check_provider([], provider="CUDAExecutionProvider")


def test_the_precision_is_what_convs_read():
    events = onnx_runtime.compile_graph(GRAPH, precision="fp32", threads=1, batch=1).events(runs=1)
    assert onnx_runtime_gpu.precision_of_events(events) == "fp32"
    half = {"op_name": "Conv", "input_type_shape": [{"float16": [1, 3]}, {"float16": [8]}]}
    assert onnx_runtime_gpu.precision_of_events([{"args": half}]) == "fp16"


@pytest.mark.parametrize("runtime", GPU, ids=lambda r: r.name)
def test_where_it_cannot_run_the_reason_is_given(runtime):
    why_not = runtime.available()
    if why_not is None:
        pytest.skip("it can run here")
    assert "built without" in why_not or "CUDA" in why_not
    with pytest.raises(EdgenasError, match=f"runtime {runtime.name} is not available here"):
        runtime.compile(GRAPH, precision="fp32", threads=1, batch=1)
    with pytest.raises(
        EdgenasError, match=f"precision of {runtime.name} must be one of fp32, fp16"
    ):
        runtime.compile(GRAPH, precision="bf16", threads=1, batch=1)


def test_precision_is_set_never_left_to_the_default():
    assert choose_options("CUDAExecutionProvider", precision="fp32")["use_tf32"] == "0"
    for precision, on in (("fp32", []), ("fp16", ["fp16"]), ("int8", ["int8"])):
        options = choose_options("TensorrtExecutionProvider", precision=precision)
        assert [k for k in ("fp16", "int8") if options[f"trt_{k}_enable"] == "True"] == on


# The clock


def test_inputs_and_outputs_stay_on_the_device():
    session = open_session(GRAPH, threads=1, batch=1)
    run = bind_session(session, device="cpu")
    assert run() is None


def test_a_run_that_tells_its_nanoseconds_is_believed():
    given = iter(range(1000, 100_000))
    settings = replace(QUICK, min_samples=8, max_samples=8)
    events = list(time_units([("unit", lambda: lambda: next(given))], settings=settings))
    (result,) = (event for event in events if event["event"] == "result")
    assert result["samples"] == sorted(result["samples"])
    assert all(1000 <= value < 2000 for value in result["samples"])
    assert count_nanoseconds(lambda: 2500) == 2500


def test_the_canary_of_a_gpu_is_one_product():
    value = lambda name: helper.make_tensor_value_info(  # noqa: E731
        name, TensorProto.FLOAT, [1024, 1024]
    )
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "product", [value("x")], [value("y")])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    assert onnx.load_from_string(PRODUCT) == model
    assert choose_canary(import_part(onnx_runtime.RUNTIME.part)) is spin_on


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "from edgenas.bundle import example",
        "from edgenas.clock.board.onnx_runtime import import_onnxruntime; import_onnxruntime()",
        "import edgenas.accuracy.predictor",
        "import edgenas.training.loop",
    ],
)
def test_onnx_runtime_never_tells(imports):
    code = f"import os; {imports}; import onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr


# On a GPU


@pytest.fixture(params=GPU, ids=lambda r: r.name)
def present(request) -> Runtime:
    if why_not := request.param.available():
        pytest.skip(why_not)
    return request.param


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_gpu_gives_the_logits_of_the_cpu(present, precision):
    if precision not in present.precisions:
        pytest.skip(f"{present.name} has no {precision}")
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    images = np.random.default_rng(1).standard_normal((8, 3, 12, 12)).astype(np.float32)
    graph = convert_to_form(GRAPH, form=present.form_of(precision), images=images)
    made = present.compile(graph, precision=precision, threads=1, batch=1)
    assert (made.facts()["precision"], made.facts()["tf32"]) == (precision, "off")
    (wanted,) = onnx_runtime.compile_graph(GRAPH, precision="fp32", threads=1, batch=1).run(
        {INPUT: x}
    )
    found = compared(made.run({INPUT: x})[0], wanted, precision=precision)
    assert found.max_abs_difference <= found.tolerance


@pytest.mark.gpu
def test_a_gpu_is_timed_with_a_canary_of_its_own(present):
    (found,) = measure.measure([("unit", GRAPH)], runtime=present, settings=QUICK)
    assert found.n >= 6
    assert found.canary > 0


@pytest.mark.gpu
def test_a_gpu_is_profiled_by_whole_networks(present, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path))
    target = Target("host", present.name, "fp32")
    plan = ProfilePlan(networks=3, further=2, visits=1, settings=QUICK)
    table = profile(TINY, target=target, plan=plan)
    assert (len(table.layers), len(table.networks)) == (0, 5)
    assert "GPU memory" in table.method
