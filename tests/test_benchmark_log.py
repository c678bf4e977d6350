"""The output of LiteRT's benchmark_model, of older and newer versions, is read as printed."""

import json
import shutil
from pathlib import Path

import pytest

from edgenas.basics.errors import EdgenasError
from edgenas.latency.benchmark_log import phone_commands, read_log
from edgenas.latency.estimating import estimate
from edgenas.latency.request import EstimateRequest
from edgenas.onnx_graph.build import network_graph
from edgenas.profiling.answering import bench
from edgenas.profiling.request import BenchRequest
from edgenas.space.presets import load_space

NEW = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/model.tflite]
INFO: #threads used for CPU inference: [4]
INFO: Use xnnpack: [1]
INFO: Loaded model /data/local/tmp/model.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Initialized session in 12.5ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds.
INFO: count=60 first=9001 curr=8100 min=8000 max=9001 avg=8200.5 std=99 \
p5=8010 median=8150 p95=8700

INFO: Running benchmark for at least 50 iterations and at least 1 seconds.
INFO: count=122 first=8090 curr=8120 min=8001 max=9900 avg=8.16e+03 std=151 \
p5=8020 median=8111 p95=8500

INFO: Inference timings in us: Init: 12500, First inference: 9001, Warmup (avg): 8200.5, \
Inference (avg): 8.16e+03
"""
OLD = """\
STARTING!
Num threads: [1]
Graph: [net.tflite]
Loaded model net.tflite
count=1 curr=3512391

count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, \
Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
"""
PARTLY = NEW.replace(
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially executed by "
    "the delegate w/ 3 delegate kernels.",
)


def written(folder: Path, text: str) -> Path:
    path = folder / "log.txt"
    path.write_text(text)
    return path


def test_a_newer_log_has_the_median_of_the_timed_runs(tmp_path: Path):
    log = read_log(written(tmp_path, NEW))
    assert (log.runtime, log.threads, log.parts, log.graph) == ("litert", 4, 1, "model.tflite")
    assert (log.n, log.statistic) == (122, "median")
    assert log.seconds == pytest.approx(8.111e-3)
    assert (log.least, log.most) == pytest.approx((8.001e-3, 9.9e-3))
    assert log.startup == pytest.approx(12.5e-3)


def test_an_older_log_has_the_mean_and_no_delegate(tmp_path: Path):
    log = read_log(written(tmp_path, OLD))
    assert (log.runtime, log.threads, log.parts) == ("tflite", 1, 0)
    assert (log.statistic, log.seconds) == ("mean", pytest.approx(2.95034))
    assert log.deviation == pytest.approx(0.109798)


def test_parts_of_the_delegate_are_told(tmp_path: Path):
    assert read_log(written(tmp_path, PARTLY)).parts == 3


def test_a_log_from_android_has_its_own_beginnings(tmp_path: Path):
    text = "".join(f"I tflite  : {line}\n" for line in NEW.splitlines())
    assert read_log(written(tmp_path, text)).seconds == pytest.approx(8.111e-3)


def test_runs_that_all_took_the_same_time_are_read(tmp_path: Path):
    counts = next(line for line in OLD.splitlines() if "avg=" in line)
    text = OLD.replace(counts, "count=50 curr=7000(all same)")
    log = read_log(written(tmp_path, text))
    assert (log.seconds, log.least, log.n) == (pytest.approx(7e-3), pytest.approx(7e-3), 50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no finished run of benchmark_model"),
        (NEW.partition("INFO: Inference")[0], "holds no finished run of benchmark_model"),
        (NEW.replace("Use xnnpack", "Use gpu"), "is of the delegate gpu: only times of the CPU"),
        (NEW.replace("median=8111", "median=0"), "tells no time of a run"),
        (NEW.replace("median=8111", "median=1.2.3"), r"time that is no number: '1\.2\.3'"),
    ],
)
def test_what_is_no_log_of_the_processor_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(EdgenasError, match=message):
        read_log(written(tmp_path, text))


def test_bench_prints_a_log(tmp_path: Path, edgenas):
    path = written(tmp_path, PARTLY)
    done = edgenas("bench", path)
    assert done.code == 0, done.log
    assert "8.11 ms" in done.out
    assert "litert, 4 threads, in 3 parts of XNNPACK" in " ".join(done.out.split())
    told = json.loads(edgenas("bench", path, "--json").out)
    assert told["schema"] == "edgenas.bench-log/1"
    assert told["seconds"] == pytest.approx(8.111e-3)
    assert bench(BenchRequest(model=path)).timings == ()


# Estimates from logs


def request_for(folder: Path, **changes) -> EstimateRequest:
    given = {"runtime": "litert", "precision": "fp32", "threads": 4, "out": folder / "phone.toml"}
    return EstimateRequest(measured=folder / "nets.csv", **{**given, **changes})


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    space = load_space("mbv3-cifar")
    (tmp_path / "net.onnx").write_bytes(network_graph(space, space.largest()))
    (tmp_path / "nets.csv").write_text("model,log\nnet.onnx,log.txt\n")
    written(tmp_path, NEW)
    return tmp_path


def test_a_profile_is_estimated_from_logs(timed: Path):
    made = estimate(request_for(timed))
    assert (made.measured, made.runtime) == (1, "litert")
    with_number = timed / "other"
    with_number.mkdir()
    shutil.copy(timed / "net.onnx", with_number)
    (with_number / "nets.csv").write_text("model,latency_ms\nnet.onnx,8.111\n")
    estimate(request_for(with_number))
    assert (with_number / "phone.toml").read_text() == (timed / "phone.toml").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "tflite"}, r"line 2: log\.txt is of litert, not of tflite"),
        ({"threads": 2}, r"line 2: log\.txt is of 4 threads, not of 2"),
    ],
)
def test_a_log_of_another_target_is_refused(timed: Path, changes: dict, message: str):
    with pytest.raises(EdgenasError, match=message):
        estimate(request_for(timed, **changes))


@pytest.mark.parametrize(("runtime", "switch"), [("litert", "true"), ("tflite", "false")])
def test_the_commands_for_a_phone_name_the_delegate(runtime: str, switch: str):
    push, run, read = phone_commands("made/model.tflite", threads=4, runtime=runtime)
    assert push == "adb push made/model.tflite /data/local/tmp/"
    assert "--graph=/data/local/tmp/model.tflite --num_threads=4" in run
    assert f"--use_xnnpack={switch} > log.txt" in run
    assert read == "edgenas bench log.txt"
