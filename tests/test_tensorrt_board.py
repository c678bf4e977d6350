"""A Jetson that is timed with TensorRT, verb by verb, over a real sshd with a stand-in for it."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import loopback
import pytest
import trtexec_law
from trtexec_board import StandIn

from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.latency.device import Target
from edgenas.latency.device import load as load_device
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.model import loads
from edgenas.profiling import reach
from edgenas.profiling.method import read_method
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.space import presets as spaces

DEVICE = ("--device", "jetson-orin-nano", "--ssh", "loop")

running, there = loopback.running, loopback.there_with_tensorrt


@pytest.fixture
def tool(running, tmp_path) -> StandIn:
    return StandIn(tmp_path, running.folder / "venv" / "bin", {"version": "10.3.0"})


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.2.1", "11.1.0"])
def test_a_jetson_from_a_profile_to_a_check(there, tool, edgenas, tmp_path, version):
    tool.set(version=version, spread=0.01)
    words = ("--space", "tiny", "--precision", "fp16")
    done = edgenas("profile", *DEVICE, *words)
    assert done.code == 0, done.log
    said = " ".join(done.log.split())
    networks = 58  # of the 60 that are asked for, two are the same in such a small space
    assert f"{networks + 8} engines are built on the device, 20 to 120 s each: 22 to" in said
    assert re.search(
        r"the first 3 engines took \S+ s each \(median\): about \d+ (s|min) for the", said
    )
    assert "builds of one network differ by" in said
    path = next((tmp_path / "cache" / "latency_tables").rglob("*.json"))
    table = json.loads(path.read_text())
    assert table["runtime_version"].startswith(version)
    assert table["environment"]["rebuilds"]["builds"] == 12
    assert len(table["networks"]) == networks
    assert len(tool.starts()) == networks + 8
    again = edgenas("profile", *DEVICE, *words)  # all is there already
    assert again.code == 0
    assert len(tool.starts()) == networks + 8

    done = edgenas("check", *DEVICE, "--precision", "fp16")
    assert (done.code, "no drift" in done.out) == (0, True), done.out
    assert len(tool.starts()) == networks + 8 + 9
    tool.set(scale=1.3)
    done = edgenas("check", *DEVICE, "--precision", "fp16")
    assert (done.code, "DRIFT" in done.out) == (1, True), done.out
    tool.set(version="8.6.2")
    done = edgenas("check", *DEVICE, "--precision", "fp16")
    assert "runtime_version was" in " ".join(done.out.split())


@pytest.mark.slow
def test_a_jetson_is_specialised_for(there, tool, edgenas, tiny, tmp_path):
    # Room above the least that some network keeps: few networks were timed, so bounds vary.
    words = ("--supernet", tiny, "--latency", "0.058ms", "--out", tmp_path / "bundle")
    done = edgenas("specialize", *DEVICE, *words)
    assert done.code == 0, done.log
    flat = " ".join(done.out.split())
    assert "kept" in flat
    assert "measured on 3 builds of its engine, which 98% of further builds keep" in flat
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    (promise,) = report["promises"]
    model = (tmp_path / "bundle" / "model.onnx").read_bytes()
    assert trtexec_law.truth(model, size=2) < promise["value"] <= promise["limit"]
    assert "edgenas verify" in done.out
    assert edgenas("verify", tmp_path / "bundle").code == 0


@pytest.mark.slow
def test_a_profile_with_little_time_names_the_minutes_and_goes_on(there, tool, edgenas):
    words = ("profile", *DEVICE, "--space", "tiny", "--time", "7s")
    done = edgenas(*words)
    assert "of which 7 s are allowed" in " ".join(done.log.split())
    first = len(tool.starts())
    assert first >= 1
    assert "run the same command again" in done.log or done.code == 0
    edgenas(*words)
    assert len(tool.starts()) > first


def test_a_board_without_tensorrt_is_told_what_to_install(there, tool, edgenas):
    tool.remove()
    done = edgenas("profile", *DEVICE, "--space", "tiny")
    assert done.code == 2
    assert "there is no trtexec on loop" in done.log
    assert "sudo apt install nvidia-jetpack" in done.log


@pytest.mark.slow
def test_any_model_is_timed_on_the_gpu_of_a_board(there, tool, edgenas, tmp_path):
    space = spaces.mbv3_cifar()
    model = network_graph(space, space.smallest())
    path = tmp_path / "mine.onnx"
    path.write_bytes(model)
    tool.set(noise=0.0, spread=0.0, fault="enqueue bound", fault_on="logits")
    for precision, size in (("fp32", 4), ("fp16", 2)):
        words = ("bench", path, *DEVICE, "--precision", precision, "--time", "1ms")
        done = edgenas(*words, "--json")
        assert done.code == 0, done.log
        (told,) = json.loads(done.out)["results"]
        truth = trtexec_law.truth(model, size=size)
        assert told["latency"]["median"] == pytest.approx(truth, rel=1e-3)
        assert (told["runtime"], told["version"], told["precision"]) == (
            "tensorrt",
            "10.3.0",
            precision,
        )
        assert told["environment"]["trtexec"].endswith("/trtexec")
        assert (told["published"] is None) == (precision == "fp32")  # nobody published fp32
    shown = edgenas("bench", path, *DEVICE, "--time", "1ms")
    assert "bound by enqueuing" in shown.out
    assert "nothing to compare with: no estimate for" in " ".join(shown.out.split())
    assert "tensorrt 10.3.0" in shown.out
    refused = edgenas("bench", path, *DEVICE, "--precision", "bf16")
    assert refused.code == 2
    assert "precision of tensorrt must be one of fp32, fp16, int8" in refused.log
    tool.set(fault="graph lost")
    shown = edgenas("bench", path, *DEVICE, "--time", "1ms")
    assert "doubtful: no CUDA graph" in " ".join(shown.out.split())


@pytest.fixture(scope="module")
def bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    request = SpecializeRequest(device="jetson", latency="1s", supernet=str(tiny))
    specialize(request, out=folder)
    return folder


@pytest.mark.parametrize(
    "version",
    [
        pytest.param("8.2.1", marks=pytest.mark.slow),
        "10.3.0",
        pytest.param("11.1.0", marks=pytest.mark.slow),
    ],
)
def test_a_board_builds_the_engine_of_a_bundle(there, tool, edgenas, bundle, tmp_path, version):
    tool.set(version=version)
    out = tmp_path / "engine"
    kind = "trt-fp16" if version != "8.2.1" else "trt"
    done = edgenas("export", bundle, "--to", kind, "--ssh", "loop", "--out", out)
    assert done.code == 0, done.log
    names = {"model.onnx", "model.engine", "model.engine.json", "export.json"}
    assert {path.name for path in out.iterdir()} == names
    report = json.loads((out / "export.json").read_text())
    assert report["latency"]["environment"]["runtime_version"].startswith(version)
    model = (out / "model.onnx").read_bytes()
    truth = trtexec_law.truth(model, size=2 if kind == "trt-fp16" else 4)
    assert report["latency"]["median"] == pytest.approx(truth, rel=0.12)  # 2.5 times 3%, and 1%
    facts = json.loads((out / "model.engine.json").read_text())
    assert facts["model"] == hashlib.sha256(model).hexdigest()
    assert facts["sha256"] == hashlib.sha256((out / "model.engine").read_bytes()).hexdigest()
    assert facts["version"].startswith(version)
    assert "on the sample, the engine's logits are within" in " ".join(done.out.split())
    opset = {"8.2.1": 13}.get(version, 20)
    assert loads(model).proto.opset_import[0].version == opset


def test_an_engine_comes_into_the_folder_of_its_bundle(there, tool, edgenas, bundle, tmp_path):
    own = tmp_path / "mine"
    shutil.copytree(bundle, own)
    words = ("export", own, "--to", "trt-fp16", "--ssh", "loop")
    done = edgenas(*words)
    assert done.code == 0, done.log
    names = {path.name for path in own.iterdir()} - {path.name for path in bundle.iterdir()}
    assert names == {"trt-fp16"}
    assert {path.name for path in tmp_path.iterdir()} >= {"mine"}
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    report = json.loads((own / "trt-fp16" / "export.json").read_text())
    assert report["latency"]["environment"]["runtime_version"] == "10.3.0"
    checked = edgenas("verify", own)
    assert checked.code == 0, checked.out
    flat = " ".join(checked.out.split())
    assert "engine trt-fp16 ok: of this bundle, 3 files as written" in flat
    assert "with TensorRT 10.3.0" in flat
    again = edgenas(*words)
    assert (again.code, "holds an export already" in again.log) == (2, True)
    assert edgenas(*words, "--force").code == 0
    assert edgenas("verify", own).code == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("wrong engine", "answers otherwise than the model"),
        ("no times", "wrote 0 of 500 times"),
        ("killed", "was killed while it built the model"),
    ],
)
def test_a_wrong_engine_is_not_delivered(there, tool, edgenas, bundle, tmp_path, fault, says):
    tool.set(fault=fault, fault_on="logits")
    out = tmp_path / "engine"
    done = edgenas("export", bundle, "--to", "trt-fp16", "--ssh", "loop", "--out", out)
    assert done.code == 2
    assert says in " ".join(done.log.split())
    assert not out.exists()


def test_a_board_builds_nothing_but_engines(there, tool, edgenas, bundle):
    done = edgenas("export", bundle, "--to", "onnx-fp16", "--ssh", "loop")
    assert done.code == 2
    assert "--ssh is for engines that a board builds" in done.log
    done = edgenas("export", bundle, "--to", "trt", "--ssh", "loop", "--dynamic-batch")
    assert done.code == 2
    assert "cannot be built over ssh" in done.log


@pytest.mark.slow
def test_what_was_specialised_on_the_board_becomes_an_engine(there, tool, edgenas, tiny, tmp_path):
    tool.set(version="8.2.1")  # its parser reads no opset 20
    bundle, out = tmp_path / "bundle", tmp_path / "engine"
    words = ("--supernet", tiny, "--latency", "1ms", "--out", bundle)
    done = edgenas("specialize", *DEVICE, *words)
    assert done.code == 0, done.log
    assert loads((bundle / "model.onnx").read_bytes()).proto.opset_import[0].version == 13
    done = edgenas("export", bundle, "--to", "trt-fp16", "--ssh", "loop", "--out", out)
    assert done.code == 0, done.log
    # What was searched for, timed and shipped is what the engine was built of.
    assert (out / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("version", "precision"),
    [
        ("8.0.1", "int8"),
        pytest.param("8.6.2", "fp16", marks=pytest.mark.slow),
        pytest.param("10.16.2", "int8", marks=pytest.mark.slow),
    ],
)
def test_every_precision_is_profiled_on_old_and_new_versions(there, tool, version, precision):
    tool.set(version=version, noise=0.0, spread=0.0)
    space, target = spaces.tiny(), Target("jetson-orin-nano", "tensorrt", precision)
    at = reach.clock_at_hand(load_device("jetson"), ssh="loop")
    plan = ProfilePlan(networks=3, further=1, rebuilt=0)
    table = profile(space, target=target, clock=at, plan=plan)
    assert len(table.networks) == 4
    size = {"int8": 1, "fp16": 2}[precision]
    for network in table.networks:
        truth = trtexec_law.truth(network_graph(space, network.arch), size=size)
        assert network.timing.seconds == pytest.approx(truth, rel=0.02)
    assert read_method(table) == "networks"
