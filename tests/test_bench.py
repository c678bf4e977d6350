import functools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import TimingSettings
from edgenas.latency.device import Target
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.onnx_graph.inputs import parse_shape
from edgenas.onnx_graph.model import load
from edgenas.profiling import answering
from edgenas.profiling import bench as benches
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces

TARGET = Target("host", "onnxruntime", "fp32")
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)


@pytest.fixture
def bench(edgenas):
    """The verb in this process: code, stdout and stderr."""
    return functools.partial(edgenas, "bench")


@pytest.fixture
def refused(bench):
    """One line with what is wrong, a hint and exit code 2; the line."""

    def run(*words: object) -> str:
        done = bench(*words)
        assert (done.code, done.out) == (2, ""), done.log
        error, *hints = done.log.strip().splitlines()
        assert error.startswith("error: ")
        assert len(hints) == 1
        assert hints[0].startswith("hint: ")
        return error

    return run


def saved(folder: Path, *shapes: list, kind: int = TensorProto.FLOAT) -> Path:
    """A model that adds up its inputs."""
    names = [f"x{i}" for i in range(len(shapes))]
    graph = helper.make_graph(
        [helper.make_node("Sum", names, ["y"])],
        "sum",
        [helper.make_tensor_value_info(n, kind, s) for n, s in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = folder / "sum.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=opsets), path)
    return path


def network(folder: Path, form: str = "fp32") -> Path:
    path = folder / "network.onnx"
    space = spaces.tiny()
    path.write_bytes(convert_to_form(network_graph(space, space.smallest()), form=form))
    return path


# The real thing


@pytest.mark.parametrize(("form", "runs"), [("fp32", "fp32"), ("int8-integer", "int8")])
def test_a_model_is_timed_in_what_it_asks_for(tmp_path, form, runs):
    path = network(tmp_path, form)
    found = benches.bench(path, target=TARGET, settings=QUICK)
    assert found.facts["precision"] == runs
    assert found.facts["provider"] == "CPUExecutionProvider"
    assert found.times.median > 0
    assert found.times.n >= 6
    assert found.environment["runtime_version"] == found.facts["version"]
    assert [str(value) for value in found.inputs] == ["image float32[1, 3, 12, 12], normal numbers"]


def test_a_model_is_converted_and_timed_on_ncnn(tmp_path):
    if why_not := runtimes.get("ncnn").available():
        pytest.skip(why_not)
    target = Target("host", "ncnn", "fp32")
    found = benches.bench(network(tmp_path), target=target, settings=QUICK)
    assert (found.facts["runtime"], found.facts["precision"]) == ("ncnn", "fp32")
    assert found.times.n >= 6
    assert found.environment["runtime_version"] == found.facts["version"]


def test_open_sizes_are_filled_in_and_told(tmp_path):
    path = saved(tmp_path, ["n", 3, "h"], ["n", 3, "h"])
    shapes = {"x0": (2, 3, 4), "x1": (2, 3, 4)}
    found = benches.bench(path, target=TARGET, shapes=shapes, settings=QUICK)
    assert [value.shape for value in found.inputs] == [(2, 3, 4)] * 2
    assert all(value.filled for value in found.inputs)
    assert found.batch == 2


def test_a_precision_that_the_model_does_not_run_in_is_refused(tmp_path):
    with pytest.raises(EdgenasError, match="runs in fp32 on onnxruntime, not in int8"):
        benches.bench(network(tmp_path), target=TARGET, precision="int8", settings=QUICK)


def test_the_command_tells_all_of_it_as_json(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(
        answering,
        "bench_model",
        lambda path, *, settings, **given: benches.bench(path, settings=QUICK, **given),
    )
    path = network(tmp_path)
    done = bench(path, "--json", "--compare", "onnxruntime")
    assert done.code == 0, done.log
    told = json.loads(done.out)
    assert told["schema"] == "edgenas.bench/1"
    assert [one["runtime"] for one in told["results"]] == ["onnxruntime"] * 2
    assert told["results"][0]["latency"]["wall_p95"] >= told["results"][0]["latency"]["wall_p50"]
    assert told["results"][0]["inputs"][0]["shape"] == [1, 3, 12, 12]
    done = bench(path)
    assert "at the machine's full speed" in done.out
    assert "made up" in done.out


# What is read


@pytest.mark.parametrize(
    ("shapes", "batch", "given", "filled"),
    [
        ([[1, 3]], 4, {}, [(1, 3)]),
        ([["n", 3]], 4, {}, [(4, 3)]),
        ([[None, 3], ["n", 3]], 2, {}, [(2, 3), (2, 3)]),
        ([["n", "s"]], 2, {"x0": (1, 7)}, [(1, 7)]),
        ([[]], 1, {}, [()]),
    ],
)
def test_the_first_open_size_is_the_batch(tmp_path, shapes, batch, given, filled):
    closed = load(saved(tmp_path, *shapes)).closed(batch=batch, shapes=given)
    data = closed.serialized()
    assert [value.shape for value in closed.inputs] == filled
    for value, shape in zip(onnx.load_from_string(data).graph.input, filled, strict=True):
        assert tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) == shape


def test_weights_beside_the_model_are_read(tmp_path):
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=9, opset_imports=opsets)
    path = tmp_path / "product.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(load(path).closed().serialized()) > 64 * 64 * 4
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EdgenasError, match=r"weights\.bin"):
        load(path).closed().serialized()


# Mistakes


def test_what_is_no_model_is_one_line(refused, tmp_path):
    junk = tmp_path / "junk.onnx"
    assert "no file" in refused(str(junk))
    junk.write_bytes(b"")
    assert "no ONNX file: it has no operators" in refused(str(junk))
    junk.write_bytes(b"no model")
    assert "damaged or no ONNX file" in refused(str(junk))
    junk.write_bytes(network(tmp_path).read_bytes()[:300])
    assert "damaged or no ONNX file" in refused(str(junk))
    assert str(tmp_path) in refused(str(tmp_path))


def test_a_model_with_an_unknown_operator_is_one_line(refused, tmp_path):
    model = onnx.load(saved(tmp_path, [1, 3]))
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, tmp_path / "bad.onnx")
    assert "Nonsense" in refused(str(tmp_path / "bad.onnx"))


def test_inputs_that_cannot_be_made_up_are_told(refused, tmp_path):
    path = str(saved(tmp_path, ["n", 3, "h", "w"]))
    assert "the input x0 (n, 3, h, w) leaves its size open" in refused(path)
    assert "must have the shape ?x3x?x?" in refused(path, "--shape", "x0=1x4x8x8")
    assert "inputs of" in refused(path, "--shape", "y=1x3x8x8")
    assert "must read like image=1x3x224x224" in refused(path, "--shape", "x0=1,3,8,8")
    text = str(saved(tmp_path, [1], kind=TensorProto.STRING))
    assert "type that cannot be made up" in refused(text)


def test_words_that_mean_nothing_are_refused(refused, tmp_path):
    path = str(network(tmp_path))
    assert "unknown runtime 'onnxrun'" in refused(path, "--runtime", "onnxrun")
    assert "unknown runtime 'opervino'" in refused(path, "--compare", "opervino")
    assert "must be reached to be timed" in refused(path, "--device", "jetson")
    assert "must be one of fp32, int8" in refused(path, "--precision", "fp16")


@pytest.mark.parametrize(
    ("text", "shape"), [("a=1", ("a", (1,))), ("in:0=1x3x224x224", ("in:0", (1, 3, 224, 224)))]
)
def test_a_shape_is_read(text, shape):
    assert parse_shape(text) == shape
