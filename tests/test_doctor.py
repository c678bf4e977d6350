"""``edgenas doctor``: what it finds on recorded boards and on this machine, and what it advises."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import loopback
import pytest
import recorded_boards
from conftest import ROOT

from edgenas.basics.errors import EdgenasError
from edgenas.clock.state import BoardState, Frequency, PowerMode
from edgenas.clock.state_reading import read_state
from edgenas.latency.device import load
from edgenas.profiling import doctor as doctors
from edgenas.profiling.boards import profile_of
from edgenas.profiling.doctor import doctor
from edgenas.profiling.findings import Finding, fastest_mode, find_all
from edgenas.profiling.request import DoctorRequest


def state_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> BoardState:
    recorded_boards.BOARDS[name](folder)
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(folder))
    return read_state(with_python=True)


def findings(state: BoardState, device: str) -> dict[str, Finding]:
    """The findings by what they are about; a change comes before what is right."""
    every = find_all(state, device=load(device))
    order = {"ok": 0, "note": 1, "change": 2}
    return {finding.about: finding for finding in sorted(every, key=lambda f: order[f.verdict])}


def changes(state: BoardState, device: str) -> set[str]:
    return {f.about for f in find_all(state, device=load(device)) if f.verdict == "change"}


def test_an_orin_nano_super_in_mode_0(tmp_path, monkeypatch):
    state = state_of("orin-nano-super", tmp_path, monkeypatch)
    found = findings(state, "jetson-orin-nano")
    mode = found["power mode"]
    assert mode.verdict == "change"
    assert "15W (mode 0), mode 0 is not the fastest on this board" in mode.words
    assert "25W (mode 1), MAXN_SUPER (mode 2), 7W (mode 3)" in mode.words
    assert mode.advice == "for MAXN_SUPER run sudo nvpmodel -m 2"
    assert "are for MAXN_SUPER, not for 15W" in found["profile"].words
    assert found["GPU clock"].advice.startswith("run sudo jetson_clocks")
    assert found["GPU clock"].words == "it moves: 306 to 625 MHz, now 306"
    assert found["CPU clock 0-5"].verdict == "change"
    assert found["TensorRT"].words.startswith("10.3.0, ")
    assert "VDD_IN is the whole module" in found["power"].words
    assert changes(state, "jetson") == {
        "power mode",
        "profile",
        "GPU clock",
        "CPU clock 0-5",
        "swap",
    }


def test_the_same_board_as_it_should_be(tmp_path, monkeypatch):
    state = state_of("orin-nano-super", tmp_path, monkeypatch)
    assert state.gpu is not None
    assert state.swap is not None
    locked = Frequency(of="gpu", least=1020e6, most=1020e6, now=1020e6, governor="x")
    state = replace(
        state,
        power_mode=PowerMode(2, "MAXN_SUPER"),
        gpu=locked,
        cpus=tuple(replace(cpu, least=cpu.most) for cpu in state.cpus),
        swap=replace(state.swap, free=state.swap.size),
    )
    assert changes(state, "jetson") == set()
    assert findings(state, "jetson")["GPU clock"].words == "locked at 1020 MHz"


def test_an_agx_orin_without_trtexec(tmp_path, monkeypatch):
    state = state_of("agx-orin", tmp_path, monkeypatch)
    found = findings(state, "jetson-agx-orin")
    assert changes(state, "jetson-agx-orin") == {"TensorRT"}
    assert found["TensorRT"].advice.startswith("run sudo apt install libnvinfer-bin")
    assert found["power mode"].verdict == "ok"  # mode 0 is the fastest here
    assert found["GPU clock"].words == "locked at 1300 MHz"
    bare = replace(state, packages={})  # L4T was flashed, and nothing else
    assert "sudo apt install nvidia-jetpack" in findings(bare, "jetson")["TensorRT"].advice


def test_a_nano_with_jetpack_4_6(tmp_path, monkeypatch):
    state = state_of("nano", tmp_path, monkeypatch)
    found = findings(state, "jetson-nano")
    assert found["JetPack"].words.startswith("4.6 (L4T 32.6.1): TensorRT 8.0.1")
    assert found["throttling"].words == "gpu-balanced is at step 2, so it is slowed down now"
    assert found["power mode"].verdict == "ok"
    assert changes(state, "jetson-nano") == {
        "GPU clock",
        "CPU clock 0-3",
        "throttling",
        "swap",
        "disk",
    }


def test_a_profile_of_another_board(tmp_path, monkeypatch):
    state = state_of("nano", tmp_path, monkeypatch)
    found = findings(state, "jetson-agx-orin")["profile"]
    assert found.verdict == "change"
    assert found.advice == "use --device jetson-nano"


def test_a_trtexec_that_does_not_run_and_a_board_that_tells_nothing():
    state = BoardState(
        packages={}, energy_counters={}, l4t="36.4.3", trtexec="/t", trtexec_fault="no libnvinfer"
    )
    found = findings(state, "jetson")
    assert found["TensorRT"].verdict == "change"
    assert "--reinstall libnvinfer-bin" in found["TensorRT"].advice
    assert found["power mode"].verdict == "change"
    assert find_all(BoardState(packages={}, energy_counters={}), device=None)
    unknown = BoardState(packages={}, energy_counters={}, l4t="36.9.9")
    assert "in no table here" in findings(unknown, "jetson")["JetPack"].words


@pytest.mark.parametrize(
    ("modes", "fastest"),
    [
        ({0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}, 2),  # Orin Nano Super
        ({0: "15W", 1: "7W"}, 0),  # Orin Nano, older settings
        ({0: "10W", 1: "7W_AI", 2: "7W_CPU"}, 0),  # Orin Nano 4 GB
        ({0: "MAXN", 1: "10W", 2: "15W", 3: "25W"}, 0),  # Orin NX
        ({0: "MAXN", 1: "MODE_15W", 2: "MODE_30W", 3: "MODE_50W"}, 0),  # AGX Orin
        ({0: "MAXN", 1: "5W"}, 0),  # Nano
    ],
)
def test_the_fastest_mode(modes, fastest):
    found = fastest_mode(PowerMode(number, name) for number, name in modes.items())
    assert found is not None
    assert found.number == fastest
    assert fastest_mode([PowerMode(0, "quiet")]) is None


def test_models_and_their_profiles():
    expected = {
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super": "jetson-orin-nano",
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit": "jetson-orin-nx",
        "Jetson AGX Orin Developer Kit": "jetson-agx-orin",
        "NVIDIA Jetson Xavier NX Developer Kit": "jetson-xavier-nx",
        "Jetson-AGX": "jetson-agx-xavier",
        "NVIDIA Jetson Nano Developer Kit": "jetson-nano",
        "Raspberry Pi 5 Model B Rev 1.0": "rpi5",
        "Raspberry Pi 4 Model B Rev 1.4": "rpi4",
        "ThinkPad": "",
    }
    assert {model: profile_of(model) for model in expected} == expected
    assert all(load(name) for name in expected.values() if name)


# The verb


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    """A board over ssh that is a recorded Orin Nano Super."""
    folder = tmp_path_factory.mktemp("board")
    recorded_boards.orin_nano_super(folder / "root")
    with loopback.board_or_skip(folder / "ssh", EDGENAS_BOARD_ROOT=str(folder / "root")) as running:
        yield running


def edgenas(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = [sys.executable, "-m", "edgenas", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_board_over_ssh(there):
    done = edgenas("doctor", "--ssh", "loop", path=there.folder / "client")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if max(map(len, line.split())) <= 40]
    assert max(map(len, lines)) <= 100  # a path that is longer stands alone
    # What is folded goes on behind the name; a command goes on as shells read it.
    lines = re.sub(r"( \\)?\n {8,}", " ", done.stdout).splitlines()
    assert all(re.match(r"(OK     |CHANGE |note   |time   ) \S", line) for line in lines)
    assert any(line.startswith("OK      profile: jetson-orin-nano,") for line in lines)
    (mode,) = [line for line in lines if "mode 0 is not the fastest" in line]
    assert mode.startswith("CHANGE  power mode: 15W (mode 0)")
    assert mode.endswith("for MAXN_SUPER run sudo nvpmodel -m 2")
    (ort,) = [line for line in lines if "--runtime onnxruntime " in line]
    assert ort.startswith("time    edgenas profile --device jetson-orin-nano ")
    assert ort.endswith("--ssh loop")
    assert there.quiet()


def test_json_holds_the_same(there):
    done = edgenas("doctor", "--ssh", "loop", "--json", path=there.folder / "client")
    told = json.loads(done.stdout)
    assert told["schema"] == "edgenas.doctor/1"
    assert (told["where"], told["device"]) == ("loop", "jetson-orin-nano")
    assert told["changes"] == sum(f["verdict"] == "change" for f in told["findings"]) > 0
    assert told["state"]["power_mode"] == {"number": 0, "name": "15W"}
    assert told["state"]["jetpack"] == "6.2"


def test_this_machine():
    found = doctor(DoctorRequest())
    assert (found.where, found.device) == ("this machine", "host")
    timed = {each.runtime: each.command for each in found.timed}
    assert timed["onnxruntime"].startswith("edgenas profile --device host --runtime onnxruntime")
    assert "--ssh" not in timed["onnxruntime"]
    assert all("\n" not in str(finding) for finding in found.findings)


def test_what_is_timed_needs_its_packages(tmp_path, monkeypatch):
    state = state_of("agx-orin", tmp_path, monkeypatch)
    assert list(doctors._timed(state, device=None, place=None)) == []
    state = state_of("orin-nano-super", tmp_path / "other", monkeypatch)
    timed = {each.runtime for each in doctors._timed(state, device=None, place=None)}
    assert {"onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"} <= timed
    assert not {"ncnn", "openvino"} & timed


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (DoctorRequest(device="nothing"), "unknown device 'nothing'"),
        (DoctorRequest(device="jetson"), "nothing says where the device jetson-orin-nano is"),
        (DoctorRequest(device="host", ssh="x"), "is this machine, it is not reached over ssh"),
        (DoctorRequest(python="python3.9"), "it needs --ssh user@host too"),
        (DoctorRequest(ssh="-oProxyCommand=x"), "an ssh address must be user@host"),
    ],
)
def test_requests_that_say_nothing(request_, words):
    with pytest.raises(EdgenasError) as caught:
        doctor(request_)
    assert words in caught.value.message
