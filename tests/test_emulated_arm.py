"""Emulated ARM: aarch64 wheels answer as those here do, and the clock's code runs there.

Emulation is hundreds of times slower than a board. No number of time here means anything.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import arm_board
import numpy as np
import pytest
from conftest import ROOT
from loopback import Loopback, reached
from test_remote import QUICK

from edgenas.basics.errors import EdgenasError
from edgenas.bundle import manifest
from edgenas.clock.remote import Board
from edgenas.clock.ssh import Place
from edgenas.latency.device import Target
from edgenas.model.calibration import calibrate
from edgenas.model.export import run_onnx, to_onnx
from edgenas.model.saved import CALIBRATION_FILE, find_supernet, load_supernet, load_tensors
from edgenas.onnx_graph.build import layer_graph, network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.runtime import litert_cpu, ncnn_cpu
from edgenas.runtime import registry as runtimes
from edgenas.space.layer import Layer
from edgenas.space.presets import PRESETS

pytestmark = pytest.mark.slow

SPACE, SUPERNET = PRESETS["mbv3-cifar"](), find_supernet("mbv3-cifar10")
PROFILE = """
schema = "edgenas.device/1"
name = "emulated"
title = "an emulated ARM processor"
reach = "ssh"

[[targets]]
runtime = "litert"
precision = "fp32"
threads = 1
batch = 1
no_estimate = "profile it"
"""
# Of the largest logit, how far answers may be off. fp32: rounding of some hundred sums. fp16 adds
# 600 products with 11 bits in each of 20 layers: sqrt(600 x 20) / 2^11 is 0.05; seen: 0.004. bf16,
# which adds in fp32, and int8 have an oracle of their precision here; seen: 0.008 and 0.
TOLERANCES = {"fp32": 2e-5, "fp16": 0.05, "bf16": 2e-2, "int8": 2e-2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    # Processes of xdist have folders of their own below the one that they share.
    return arm_board.root_or_skip(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture
def there(root: Path, request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The board, with the processor that a test names; afterwards nothing is left on it."""
    profiles = tmp_path / "path" / "device_profiles"
    profiles.mkdir(parents=True)
    (profiles / "emulated.toml").write_text(PROFILE)
    monkeypatch.setenv("EDGENAS_PATH", str(tmp_path / "path"))
    with (
        arm_board.arm_board(tmp_path / "ssh", root, processor=request.param) as there,
        reached(there, monkeypatch, tmp_path / "cache"),
    ):
        yield there


def on(processor: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("there", [processor], indirect=True)


def clock() -> Board:
    return Board(place=Place(address="loop"))


def converted() -> dict[str, bytes]:
    """A small network for all runtimes that are here, by runtime and precision."""
    trained = load_supernet(SUPERNET)
    steps, pixels = trained.preprocessing, load_tensors(SUPERNET / CALIBRATION_FILE)["pixels"]
    small = trained.supernet.extract(trained.supernet.space.smallest())
    calibrate(small, pixels[:64], preprocessing=steps)
    network = to_onnx(small, preprocessing=steps.to_json())
    calibration = images(8, seed=1)
    integers = convert_to_form(network, form="int8-integer", images=calibration)
    made = {"onnxruntime-fp32": network, "onnxruntime-int8": integers}
    if ncnn_cpu.available() is None:
        made |= {f"ncnn-{name}": ncnn_cpu.convert(network) for name in ("fp32", "fp16", "bf16")}
    if litert_cpu.available() is None:
        integers = convert_to_form(network, form="int8-unsigned", images=calibration)
        made |= {"litert-fp32": litert_cpu.convert(network)}
        made |= {"litert-int8": litert_cpu.convert(integers)}
    return made


def images(count: int, *, seed: int) -> np.ndarray:
    size = SPACE.input_size(min(SPACE.resolutions))
    return np.random.default_rng(seed).standard_normal((count, 3, *size)).astype(np.float32)


def answers(python: str, folder: Path, file: Path) -> dict[str, np.ndarray]:
    command = [python, str(ROOT / "tests/arm_answers.py"), str(folder), str(file)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(file) as found:
        return dict(found)


@on("cortex-a76")
def test_answers_are_those_of_this_machine(there: Loopback, tmp_path: Path):
    folder = tmp_path / "networks"
    folder.mkdir()
    made = converted()
    for name, data in made.items():
        (folder / name).write_bytes(data)
    np.save(folder / "images.npy", images(4, seed=2))
    here = answers(sys.executable, folder, tmp_path / "here.npz")
    found = answers(there.python(runtime=True), folder, tmp_path / "there.npz")
    assert found.keys() == made.keys()  # in the very precision, fp16 too
    exact = here["onnxruntime-fp32"]
    for name, logits in found.items():
        # fp16 is not on this machine's processor: there the answer in fp32 is the oracle.
        expected = here.get(name, exact).reshape(exact.shape)
        error = np.abs(logits.reshape(exact.shape) - expected).max() / np.abs(exact).max()
        assert error <= TOLERANCES[name.split("-")[1]], name
    if "ncnn-fp16" in made:
        assert not np.allclose(found["ncnn-fp16"], found["ncnn-fp32"], rtol=1e-5, atol=1e-6)


@on("cortex-a76")
def test_each_pixel_of_a_depthwise_conv_of_stride_two_is_right_in_fp16(there, tmp_path: Path):
    # ncnn's own kernel is wrong for one column at some widths.
    if why_not := ncnn_cpu.available():
        pytest.skip(why_not)
    for size in (12, 13, 15, 28):
        folder = tmp_path / str(size)
        folder.mkdir()
        layer = Layer(kind="mbconv", inputs=16, outputs=16, size=size, kernel=3, stride=2, mid=16)
        onnx = layer_graph(layer)
        x = np.random.default_rng(size).standard_normal((1, 16, size, size)).astype(np.float32)
        (folder / "ncnn-fp16").write_bytes(ncnn_cpu.convert(onnx))
        np.save(folder / "images.npy", x)
        expected = run_onnx(onnx, x)
        found = answers(there.python(runtime=True), folder, tmp_path / "there.npz")["ncnn-fp16"]
        # Sums of 16 products with 11 bits each; a column that is wrong is off by its own size.
        assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@on("cortex-a72")
def test_a_processor_without_fp16_refuses_it_by_name(there: Loopback):
    if why_not := ncnn_cpu.available():
        pytest.skip(why_not)
    ncnn = runtimes.get("ncnn")
    found = clock().environment(ncnn)
    assert found["machine"] == "aarch64"
    data = ncnn_cpu.convert(network_graph(SPACE, SPACE.smallest(), seed=0))
    refused = replace(QUICK, precision="fp16")
    with pytest.raises(EdgenasError, match="would run in fp32, not in fp16"):
        list(clock().measure([("network", data)], runtime=ncnn, settings=refused))


@on("cortex-a72")
def test_a_network_is_profiled_and_specialised_for(there, tiny, tmp_path, monkeypatch):
    if why_not := litert_cpu.available():
        pytest.skip(why_not)
    from edgenas.delivery import choosing
    from edgenas.delivery.request import SpecializeRequest
    from edgenas.delivery.run import specialize

    monkeypatch.setattr(choosing, "NETWORK", QUICK)
    target = Target("emulated", "litert", "fp32")
    plan = ProfilePlan(settings=QUICK, networks=3, further=2, visits=1)
    table = profile(load_supernet(tiny).supernet.space, target=target, plan=plan, clock=clock())
    assert len(table.networks) == 5
    request = SpecializeRequest(device="emulated", supernet=str(tiny), ssh="loop")
    result = specialize(request, out=tmp_path / "bundle")
    measured = result.record.measured
    assert measured is not None
    assert measured.n >= 6
    assert measured.environment["machine"] == "aarch64"


@on("cortex-a72")
def test_the_file_of_an_estimate_answers_as_its_manifest_says(there, tmp_path: Path):
    if why_not := litert_cpu.available():
        pytest.skip(why_not)
    bundle = tmp_path / "bundle"
    command = ["specialize", "--device", "rpi4", "--latency", "40ms", "--out", str(bundle)]
    subprocess.run([sys.executable, "-m", "edgenas", *command], cwd=ROOT, check=True, timeout=300)
    fields = manifest.read(bundle)
    assert fields["target"]["runtime"] == "tflite"
    done = subprocess.run(
        [there.folder / "client/ssh", "loop", "python3", bundle / "example_litert.py"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "sample output: as expected" in done.stdout
