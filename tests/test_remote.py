"""Boards over ssh: a real sshd on this machine, with its own keys and its own bare Python."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import loopback
import onnx
import pytest
from conftest import ROOT
from environments import python_with

from edgenas.basics.errors import EdgenasError
from edgenas.clock import link, measure
from edgenas.clock.board.ncnn_cpu import find_precision, load_network
from edgenas.clock.board.serve import hold_machine
from edgenas.clock.board.settings import WORK_SCHEMA, TimingSettings
from edgenas.clock.measure import ClockStoppedError
from edgenas.clock.remote import Board
from edgenas.clock.ssh import LinkError, Place
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.latency.device import Target, load
from edgenas.model.saved import load_supernet
from edgenas.onnx_graph.build import layer_graph
from edgenas.profiling import reach
from edgenas.profiling.check import check
from edgenas.profiling.journal import journal_path
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.runtime import litert_cpu, ncnn_cpu
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces
from edgenas.space.plan import layers

TINY = spaces.tiny()
TARGET = Target("sill", "onnxruntime", "fp32")
ORT = runtimes.get("onnxruntime")
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)
FEW: dict[str, Any] = {"networks": 3, "further": 2, "visits": 1}
PLAN = ProfilePlan(settings=QUICK, **FEW)
UNITS = 3 * len(layers(TINY)) + 5  # each layer alone and in two numbers of copies, and networks
PROFILE = """
schema = "edgenas.device/1"
name = "sill"
title = "a board on the window sill"
reach = "ssh"
address = "{address}"

[[targets]]
runtime = "onnxruntime"
precision = "fp32"
threads = 1
batch = 1
no_estimate = "profile it"
"""

running, there = loopback.running, loopback.there


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    profiles = tmp_path / "path" / "device_profiles"
    profiles.mkdir(parents=True)
    (profiles / "sill.toml").write_text(PROFILE.format(address=""))
    monkeypatch.setenv("EDGENAS_PATH", str(tmp_path / "path"))


def at(address: str = "loop", **changes) -> Board:
    python = changes.pop("python", "python3")
    return Board(place=Place(address=address, python=python), **changes)


def graphs(count: int) -> list[tuple[str, bytes]]:
    return [(str(layer), layer_graph(layer)) for layer in layers(TINY)[:count]]


def timed(clock: Board, units, **changes) -> list[measure.Measurement]:
    return list(clock.measure(units, runtime=ORT, settings=QUICK, **changes))


# The happy path


def test_a_board_tells_what_it_is(there):
    found = at().environment(ORT, threads=1)
    here = measure.environment(ORT)
    assert found["runtime_version"] == here["runtime_version"]
    assert found["cpu"] == here["cpu"]
    for name in ("temperature", "frequency", "governor", "power_mode", "throttled", "load"):
        assert name in found


def test_units_are_timed_in_parts_and_one_baseline_serves_them_all(there):
    units, events = graphs(7), []
    clock = at(part=len(units[0][1]) * 2)
    found = timed(clock, units, watch=events.append)
    assert sorted(m.name for m in found) == sorted(name for name, _ in units)
    assert len({m.canary for m in found}) == 1
    for one in found:
        assert 0 < one.p10 <= one.median <= one.p90
        assert one.wall_n >= one.n == len(one.samples) >= 6
    kinds = [event["event"] for event in events]
    assert kinds.count("environment") > 2  # parts
    assert kinds[-1] == "end"
    assert events[-1]["unvisited"] == []
    assert "temperature" in events[-1]


def test_the_board_has_the_runtime_and_nothing_of_ours(there):
    code = "import importlib.util as u; print([bool(u.find_spec(n)) for n in NAMES])"
    names = ["numpy", "onnxruntime", "onnx", "torch", "edgenas"]
    code = code.replace("NAMES", repr(names))
    command = ["ssh", "loop", "python3", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[True, True, False, False, False]", done.stderr


def test_when_time_is_over_the_rest_is_told(there):
    events = []
    units = graphs(4)
    settings = TimingSettings(baseline_seconds=0.05, gate=1e6, seconds=1e-3)
    clock = at(part=1)
    assert not list(clock.measure(units, runtime=ORT, settings=settings, watch=events.append))
    assert sorted(events[-1]["unvisited"]) == sorted(name for name, _ in units)


# The link


def test_a_profile_goes_on_when_the_link_is_cut(there):
    said, cuts = [], []

    def progress(step: str, done: int, total: int, words: str) -> None:
        if words and "full speed" not in words and done in (3, 9):
            cuts.append(there.cut())

    clock = at(pauses=(0.1,) * 5, part=1, say=said.append)
    table = profile(TINY, target=TARGET, plan=PLAN, clock=clock, progress=progress)
    assert len(cuts) == 2
    assert all(cuts)
    assert not table.missing(TINY)
    assert len(table.networks) == 5
    lines = [json.loads(line) for line in journal_path(TARGET).read_text().splitlines()]
    names = [line["unit"] for line in lines if "unit" in line]
    assert len(names) == len(set(names)) == UNITS
    dropped = [line for line in said if "trying again in 0.1 s" in line]
    assert len(dropped) == 2
    assert dropped[0].startswith("loop: the link dropped; ")


def test_a_link_that_stays_down_is_given_up_and_what_is_known_stays(there):
    said: list[str] = []
    units = graphs(6)
    clock = at(pauses=(0.0, 0.0), part=1, say=said.append)
    stream = clock.measure(units, runtime=ORT, settings=QUICK)
    first = next(stream)
    with there.switched_off():
        there.cut()
        with pytest.raises(ClockStoppedError) as caught:
            list(stream)
    assert first.n >= 6
    assert caught.value.message == "gave up on loop after 3 attempts: loop refuses the connection"
    assert "it goes on with what is missing" in caught.value.hint
    # Tests beside this one may time here too; then it says that it waits.
    assert len([line for line in said if not line.startswith("waiting")]) == 2


def test_a_stream_that_is_left_ends_the_work_on_the_board(there):
    stream = at().measure(graphs(6), runtime=ORT, settings=QUICK)
    next(stream)
    assert there.workers()
    stream.close()
    assert there.quiet()


@pytest.mark.slow
def test_a_profile_that_is_killed_leaves_nothing_on_the_board(there):
    code = (
        "from dataclasses import replace\n"
        "from tests.test_remote import *\n"
        "from dataclasses import replace\n"
        "slow = replace(QUICK, min_seconds=60.0)\n"
        "print('started', flush=True)\n"
        "list(at().measure(graphs(3), runtime=ORT, settings=slow))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not there.workers():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert there.quiet()


def test_the_clock_ends_when_nobody_speaks_to_it():
    code = "from edgenas.clock.board.serve import serve; serve(silence=0.4)"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready == {"event": "ready", "schema": WORK_SCHEMA}
        start = time.monotonic()
        while time.monotonic() < start + 1.0:
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(0.05)
        assert process.poll() is None
        assert process.wait(timeout=30) == 1


def test_two_sessions_never_time_at_once(there):
    said: list[str] = []
    with ExitStack() as other:
        while not hold_machine(other):
            time.sleep(0.1)

        def say(line: str) -> None:
            said.append(line)
            other.close()

        assert at(say=say).environment(ORT, threads=1)["cpu"]
    assert said == ["waiting: another edgenas is timing on loop"]


# The verbs


def test_a_network_is_specialised_for_a_board(there, tiny, tmp_path, monkeypatch):
    from edgenas.delivery import choosing
    from edgenas.delivery.request import SpecializeRequest
    from edgenas.delivery.run import specialize

    monkeypatch.setattr(choosing, "NETWORK", QUICK)
    space = load_supernet(tiny).supernet.space
    said: list[str] = []
    profile(space, target=TARGET, plan=PLAN, clock=at())
    request = SpecializeRequest(device="sill", supernet=str(tiny), ssh="loop")
    tell = lambda step, done, total, words: said.append(step)  # noqa: E731
    result = specialize(request, out=tmp_path / "bundle", progress=tell)
    assert result.record.target == TARGET
    assert result.record.measured is not None
    assert result.record.measured.n >= 6
    assert result.record.measured.environment["runtime_version"]
    assert "profiling" not in said


@pytest.mark.slow
def test_a_board_runs_on_ncnn_what_was_converted_here(there):
    if why_not := ncnn_cpu.available():
        pytest.skip(why_not)
    target = Target("sill", "ncnn", "fp32")
    table = profile(TINY, target=target, plan=PLAN, clock=at())
    assert (len(table.layers), len(table.networks)) == (0, 5)
    refused = replace(target, precision="fp16")
    loaded = load_network(
        ncnn_cpu.convert(layer_graph(layers(TINY)[0])), threads=1, precision="fp16"
    )
    if find_precision(loaded.net) == "fp32":
        with pytest.raises(EdgenasError, match="would run in fp32, not in fp16"):
            profile(TINY, target=refused, plan=PLAN, clock=at())


@pytest.mark.parametrize("name", ["litert", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_board_runs_on_litert_what_was_written_here(there, name):
    if why_not := litert_cpu.available():
        pytest.skip(why_not)
    table = profile(TINY, target=Target("sill", name, "fp32"), plan=PLAN, clock=at())
    assert (len(table.layers), len(table.networks)) == (0, 5)
    assert table.target.runtime == name


def test_what_cannot_be_converted_here_is_not_timed_there(there, monkeypatch):
    monkeypatch.setattr(ncnn_cpu, "_pnnx", lambda: None)
    with pytest.raises(EdgenasError, match="ncnn cannot be timed from here: pnnx, which") as caught:
        profile(TINY, target=Target("sill", "ncnn", "fp32"), plan=ProfilePlan(**FEW), clock=at())
    assert "--runtime onnxruntime" in caught.value.hint


def test_a_board_is_checked_against_its_table(there):
    profile(TINY, target=TARGET, plan=replace(PLAN, networks=6), clock=at())
    found = check(TARGET, clock=at(), visits=1, settings=QUICK, tolerance=0.99)
    assert {row.kind for row in found.rows} == {"layer", "network"}
    assert all(row.now > 0 for row in found.rows)
    assert str(TARGET) in found.verdict()


def edgenas(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgenas", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_verb_says_in_one_line_what_is_wrong(there):
    done = edgenas("profile", "--device", "sill", "--space", "tiny", "--ssh", "closed")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: closed refuses the connection",
        "hint: does sshd run there? a port other than 22 goes into ~/.ssh/config",
    ]


def test_the_address_in_a_profile_is_used(there, tmp_path):
    profile_file = tmp_path / "path" / "device_profiles" / "sill.toml"
    profile_file.write_text(PROFILE.format(address="loop"))
    bare = there.python(runtime=False)
    done = edgenas("profile", "--device", "sill", "--space", "tiny", "--python", bare)
    assert done.returncode == 2
    assert f"error: onnxruntime cannot be used by {bare} on loop: No module" in done.stderr


def test_this_machine_is_not_reached_over_ssh():
    with pytest.raises(EdgenasError, match="the device host is this machine"):
        reach.clock_of(load("host"), ssh="loop")


def test_a_board_is_timed_on_a_runtime_that_the_clock_knows():
    assert reach.timed_target(load("sill")) == TARGET
    found = reach.timed_target(load("odroid-n2plus"))
    assert (found.runtime, found.precision) == ("tflite", "fp32")
    found = reach.timed_target(load("jetson"))
    assert (found.runtime, found.precision) == ("tensorrt", "fp16")
    assert reach.timed_target(load("rpi5")).runtime == "ncnn"
    assert reach.timed_target(load("sill"), runtime="openvino").precision == "fp32"
    clocks = [reach.clock_of(load("jetson"), ssh="loop", runtime=r) for r in (None, "onnxruntime")]
    assert [type(clock) for clock in clocks] == [TrtexecClock, Board]


# What may be wrong


@pytest.mark.parametrize(
    ("address", "message", "hint"),
    [
        ("changed", "changed shows another host key than the one that is known", "ssh-keygen -R"),
        ("unknown", "unknown shows a host key that is not known", "compare the fingerprint"),
        ("stranger", "stranger lets nobody in with your keys", "ssh-copy-id stranger"),
        ("closed", "closed refuses the connection", "a port other than 22 goes into ~/.ssh/config"),
        ("edgenas-no-such-host.invalid", "is a name that nobody knows", "~/.ssh/config"),
    ],
)
def test_a_link_that_cannot_be_is_one_line_and_a_hint(there, address, message, hint):
    with pytest.raises(EdgenasError) as caught:
        at(address).environment(ORT, threads=1)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_board_without_the_runtime_is_told(there):
    bare = there.python(runtime=False)
    with pytest.raises(EdgenasError) as caught:
        at(python=bare).environment(ORT, threads=1)
    assert "onnxruntime cannot be used by" in caught.value.message
    assert "No module named 'onnxruntime'" in caught.value.message
    assert f"{bare} -m pip install numpy onnxruntime" in caught.value.hint


def test_a_python_is_found_in_the_home_folder_of_the_board(there):
    (there.home / "venv").symlink_to(there.folder / "venv")
    try:
        assert at(python="~/venv/bin/python3").environment(ORT, threads=1)["cpu"]
    finally:
        (there.home / "venv").unlink()


def test_a_board_without_that_python_is_told(there):
    with pytest.raises(EdgenasError, match="there is no ~/no/python on loop"):
        at(python="~/no/python").environment(ORT, threads=1)


def test_a_machine_without_ssh_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgenasError, match="there is no ssh client here"):
        at().environment(ORT, threads=1)


@pytest.mark.parametrize(
    ("code", "said", "ready", "message", "hint"),
    [
        (127, "sh: 1: exec: python3: not found", False, "there is no python3 on b", "install Pyth"),
        (
            1,
            "SyntaxError: future feature annotations is not defined",
            False,
            "py on b is too old: SyntaxError: future feature annotations is not defined",
            "needs Python 3.8 or newer",
        ),
        (1, "", False, "py on b stopped with code 1: nothing was said", ""),
        (
            139,
            "x\nSegfault\x1b[31m",
            True,
            "the clock on b stopped with code 139: Segfault [31m",
            "",
        ),
        (255, "", True, "b: the link dropped", "ssh b true"),
        (-9, "", True, "b: the link dropped", "ssh b true"),
        (255, "ssh: connect to host b: No route to host", True, "b does not answer", "switched on"),
        (255, "kex_exchange: odd", False, "b: ssh failed: kex_exchange: odd", "ssh b true"),
    ],
)
def test_the_end_of_ssh_is_explained(code, said, ready, message, hint):
    found = link._failure(code, said, on=Place(address="b", python="py"), ready=ready)
    assert found.message == message
    assert hint in found.hint
    assert isinstance(found, LinkError) == (code in (255, -9))


@pytest.mark.parametrize("said", ["echo welcome", "printf '{\\\"event\\\": 1}\\n[1]\\n\\377\\n'"])
def test_a_login_shell_that_greets_does_no_harm(there, said):
    (there.home / ".bashrc").write_text(f"{said}\n")
    try:
        assert at().environment(ORT, threads=1)["cpu"]
    finally:
        (there.home / ".bashrc").unlink()


def test_a_graph_that_the_runtime_refuses_is_told(there):
    with pytest.raises(EdgenasError, match="the runtime refuses bad: "):
        timed(at(), [("bad", b"no graph at all")])


@pytest.mark.parametrize(
    "address",
    [
        "-oProxyCommand=touch HERE",
        "user@-oProxyCommand=touch HERE",
        "$(touch HERE)",
        "loop; touch HERE",
        "`touch HERE`@loop",
        "loop\ntouch HERE",
        "a b",
        "loop'",
        "",
        "user@",
        "@loop",
        "loop#",
        "ssh://-x",
        "ssh://loop/path",
        "loop:port",
    ],
)
def test_hostile_addresses_are_refused_before_ssh_sees_them(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    trap = tmp_path / "bin"
    trap.mkdir()
    (trap / "ssh").write_text(f"#!/bin/sh\ntouch {tmp_path}/HERE\n")
    (trap / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{trap}:{os.environ['PATH']}")
    with pytest.raises(EdgenasError, match="an ssh address must be"):
        reach.clock_of(load("sill"), ssh=address)
    assert not (tmp_path / "HERE").exists()


@pytest.mark.parametrize(
    "address",
    [
        "pi@board",
        "board",
        "10.0.0.7",
        "pi@fe80::1%eth0",
        "ssh://pi@board:2222",
        "ssh://[::1]:22",
        "my_board.local",
        "dev.user-1@192.168.55.1",
    ],
)
def test_honest_addresses_are_taken(address):
    clock = reach.clock_of(load("sill"), ssh=address)
    assert isinstance(clock, Board)
    assert clock.place.address == address


HOSTILE = [
    "; touch HERE",
    "$(touch HERE)",
    "`touch HERE`",
    "' ; touch HERE ; '",
    '" ; touch HERE ; "',
    "-oProxyCommand=touch HERE",
    "../../HERE",
    "a\nb\0c\x1b[31m",
    "*",
    "\u202e\u2028\U0001f600",
]


def test_hostile_names_of_units_and_files_stay_words(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = layer_graph(layers(TINY)[0])
    units: list[tuple[str, bytes | Path]] = [(name, graph) for name in HOSTILE]
    for i, name in enumerate(name for name in HOSTILE if "/" not in name and "\0" not in name):
        path = Path(os.fsdecode(name.encode()))  # a locale without Unicode has other text for it
        path.write_bytes(graph)
        units.append((f"file {i}", path))
    found = timed(at(), units)
    assert sorted(m.name for m in found) == sorted(name for name, _ in units)
    assert not (tmp_path / "HERE").exists()


def test_hostile_pythons_are_files_that_are_not_there(there):
    for name in ("python3; touch HERE", "$(touch HERE)", "-c", "--help"):
        with pytest.raises(EdgenasError, match="there is no "):
            at(python=name).environment(ORT, threads=1)
    with pytest.raises(EdgenasError, match="python must be a name or a path"):
        at(python="a\0b")


@pytest.mark.slow
def test_what_runs_on_the_board_is_one_constant():
    assert link.COMMAND.count("'") == 2
    assert "\n" not in link.COMMAND
    for character in "$`\\!%{};&|<>*?~#":
        assert character not in link.COMMAND.replace("; ", "")


@pytest.mark.slow
def test_a_board_with_an_older_onnxruntime_gets_graphs_that_it_reads(
    there, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from edgenas.delivery import choosing
    from edgenas.delivery.request import SpecializeRequest
    from edgenas.delivery.run import specialize

    python = python_with(("onnxruntime==1.17.3", "numpy<2"), tmp_path / "venv")
    monkeypatch.setattr(choosing, "NETWORK", QUICK)
    space = load_supernet(tiny).supernet.space
    table = profile(space, target=TARGET, plan=PLAN, clock=at(python=python))
    assert table.runtime_version == "1.17.3"
    request = SpecializeRequest(device="sill", supernet=str(tiny), ssh="loop", python=python)
    result = specialize(request, out=tmp_path / "bundle")
    assert result.record.measured is not None
    assert result.record.measured.environment["runtime_version"] == "1.17.3"
    assert onnx.load(tmp_path / "bundle/model.onnx").ir_version == 9
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text(encoding="utf-8")
    assert "'onnxruntime>=1.17'" in card
