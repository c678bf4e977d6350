"""``trtexec`` as a clock, over a real sshd and here, against a stand-in of each version."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import loopback
import pytest
import trtexec_law
from conftest import ROOT
from test_trtexec_stand_in import VERSIONS, relu_graph
from trtexec_board import FOLDERS, StandIn, left_over, stay

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.serve import hold_machine
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import ClockStoppedError, Measurement, WrongAnswerError
from edgenas.clock.ssh import Place
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.clock.trtexec.results import EngineError
from edgenas.clock.trtexec.text import RUN_TEXT
from edgenas.onnx_graph.build import network_graph
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces

TINY = spaces.tiny()
TENSORRT = runtimes.get("tensorrt")
HALF = TimingSettings(precision="fp16")

running, there = loopback.running, loopback.there_with_tensorrt


@pytest.fixture
def tool(running, tmp_path) -> StandIn:
    """The stand-in for ``trtexec`` on the board: TensorRT 10.3, steady."""
    settings = {"version": "10.3.0", "noise": 0.0, "spread": 0.0}
    return StandIn(tmp_path, running.folder / "venv" / "bin", settings)


def at(address: str = "loop", **changes) -> TrtexecClock:
    return TrtexecClock(place=Place(address=address), **{"pauses": (0.1, 0.1), **changes})


def graph(which: str = "smallest") -> bytes:
    return network_graph(TINY, getattr(TINY, which)())


def timed(clock: TrtexecClock, *units: tuple[str, bytes], **changes) -> dict[str, Measurement]:
    settings = changes.pop("settings", HALF)
    found = clock.measure(units, runtime=TENSORRT, settings=settings, **changes)
    return {measurement.name: measurement for measurement in found}


def of_half(model: bytes) -> float:
    return trtexec_law.truth(model, size=2)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_times_a_network_on_its_gpu(there, tool, version):
    tool.set(version=version)
    model = relu_graph() if version in VERSIONS[:2] else graph("largest")
    settings = HALF if version < "9" and version[:2] != "10" else TimingSettings(precision="fp32")
    size = 2 if settings.precision == "fp16" else 4
    found = timed(at(), ("network", model), settings=settings)["network"]
    assert found.median == pytest.approx(trtexec_law.truth(model, size=size), rel=1e-3)
    assert 500 <= found.n < 600  # of 8.0 and 8.2 without those of the warm-up
    assert found.flag == ""
    (start,) = tool.starts()
    assert ("--fp16" in start) == (version in VERSIONS[:4])
    assert ("--useCudaGraph" in start) == (version != "11.1.0")


def test_the_board_tells_what_times_depend_on(there, tool):
    found = at().environment(TENSORRT)
    assert found["runtime_version"] == "10.3.0"
    assert found["trtexec"].endswith("/trtexec")
    assert found["runtime"] == "tensorrt"
    for name in ("power_mode", "gpu", "l4t", "jetpack", "temperature", "throttled", "gpu_clock"):
        assert name in found
    tool.set(version="10.16.2")
    assert at().environment(TENSORRT)["runtime_version"] == "10.16.2.10"


def test_many_units_share_one_session_and_one_timing_cache(there, tool):
    kept: dict[str, bytes] = {}

    class Kept:
        def read(self, key: str) -> bytes:
            return kept.get(key, b"")

        def write(self, key: str, data: bytes) -> None:
            kept[key] = data

    events, units = [], [("a", graph()), ("b", graph("largest")), ("c", graph())]
    found = timed(at(caches=Kept()), *units, watch=events.append)
    assert sorted(found) == ["a", "b", "c"]
    assert found["a"].median == pytest.approx(of_half(graph()), rel=1e-3)
    assert events[-1]["event"] == "end"
    assert events[-1]["unvisited"] == []
    ((key, cache),) = kept.items()
    assert "10.3.0" in key
    assert cache.startswith(b"timing cache [10, 3, 0]\n")
    timed(at(caches=Kept(), fresh=True), units[0])
    assert kept[key] == cache  # an engine that is built afresh neither reads nor writes it
    tool.set(fault="cache mismatch")  # a cache that the tool refuses is dropped
    kept[key] = b"of another device"
    assert timed(at(caches=Kept()), units[0])["a"].n >= 500


# What goes wrong on the board


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("cuda", "broke off while it built network: Cuda failure: out of memory"),
        ("terminate", "refuses network (exit code 1): Uncaught exception detected"),
        ("killed", "was killed while it built network: the memory"),
        ("loader", "does not start: trtexec: error while loading"),
        ("no times", "wrote 0 of 500 times"),
        ("empty times", "wrote 0 of 500 times"),
        ("few times", "wrote 3 of 500 times"),
        ("cut times", "of 500 times"),
        ("garbage times", "wrote 0 of 500 times"),
        ("wrong times", "wrote what are no times"),
    ],
)
def test_a_failure_is_one_line_and_no_number(there, tool, fault, says):
    tool.set(fault=fault, fault_on="logits")
    with pytest.raises(EngineError) as told:
        timed(at(), ("network", graph()))
    assert says in told.value.message
    assert len(told.value.message) <= 300


def test_what_may_pass_is_tried_again(there, tool):
    said: list[str] = []
    tool.set(fault="killed", fault_on="logits")
    with pytest.raises(EngineError):
        timed(at(say=said.append), ("network", graph()))
    # Tests beside this one may time here too; then it says that it waits.
    said = [line for line in said if not line.startswith("waiting")]
    assert len(said) == 2
    assert all("once more" in line for line in said)


@pytest.mark.parametrize(
    "version",
    [
        pytest.param("8.2.1", marks=pytest.mark.slow),
        "10.3.0",
        pytest.param("11.1.0", marks=pytest.mark.slow),
    ],
)
def test_a_lost_cuda_graph_marks_the_time(there, tool, version):
    tool.set(version=version, fault="graph lost")
    model = relu_graph() if version == "8.2.1" else graph()
    found = timed(at(), ("network", model))["network"]
    assert found.noisy
    assert found.judgement() == "doubtful: no CUDA graph"


@pytest.mark.parametrize(
    ("fault", "note", "noisy"),
    [
        ("tactics", "memory was too short for some kernels", True),
        ("enqueue bound", "bound by enqueuing", False),
    ],
)
def test_warnings_of_a_pass_are_kept_with_the_time(there, tool, fault, note, noisy):
    tool.set(fault=fault)
    found = timed(at(), ("network", graph()))["network"]
    assert (found.note, found.noisy) == (note, noisy)


def test_a_model_that_the_parser_refuses_is_told_once_and_not_tried_again(there, tool):
    with pytest.raises(EngineError, match=r"refuses network .*Failed to parse ONNX model"):
        timed(at(), ("network", b"no model"))
    assert len(tool.starts()) == 1


@pytest.mark.parametrize("fault", ["garbage", "endless"])
def test_what_a_tool_prints_never_fills_the_board_or_this_machine(there, tool, fault):
    tool.set(fault=fault, fault_on="logits")
    if fault == "garbage":  # it prints nonsense, and then does its work
        assert timed(at(), ("network", graph()))["network"].n >= 500
        return
    with pytest.raises((EngineError, ClockStoppedError)) as told:
        timed(at(pauses=()), ("network", graph()))
    assert len(told.value.message) <= 300


def test_a_tool_that_hangs_is_ended_in_time(there, tool, monkeypatch):
    monkeypatch.setattr("edgenas.clock.trtexec.clock._BUILD", 1.0)
    monkeypatch.setattr("edgenas.clock.trtexec.clock._ATTEMPTS", 0)
    tool.set(fault="hang", fault_on="logits")
    with pytest.raises(EngineError, match="did not build network in the time"):
        timed(at(), ("network", graph()))


def test_a_board_without_the_tool_is_told_which_package_brings_it(there, tool):
    tool.remove()
    with pytest.raises(EdgenasError, match="there is no trtexec") as told:
        timed(at(), ("network", graph()))
    assert "nvidia-jetpack" in (told.value.hint or "")


def test_another_version_amid_a_profile_is_told_and_what_is_known_stays(there, tool):
    units = [(str(i), graph()) for i in range(4)]
    found: list[str] = []
    with pytest.raises(EdgenasError, match=r"runtime_version was 10\.3\.0, is 8\.6\.2"):
        for measurement in at().measure(units, runtime=TENSORRT, settings=HALF):
            found.append(measurement.name)
            tool.set(version="8.6.2")
    assert len(found) == 1


def fill(there, name: str, text: str) -> Path:
    program = there.folder / "venv" / "bin" / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def test_a_full_memory_disk_gives_way_to_the_temporary_folder(there, tool):
    real = "/bin/df" if Path("/bin/df").exists() else "/usr/bin/df"
    full = 'case "$*" in *shm*) echo; echo "tmpfs 64 64 0 100% /dev/shm";; *) exec REAL "$@";; esac'
    program = fill(there, "df", full.replace("REAL", real))
    try:
        assert timed(at(), ("network", graph()))["network"].n >= 500
    finally:
        program.unlink()
    (start,) = tool.starts()
    assert start[0].startswith(f"--onnx={FOLDERS[1]}/edgenas-trt.")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("df", 'echo; echo "tmpfs 64 64 0 100% /dev/shm"'),
        ("head", f'[ "$2" != {len(graph())} ] || exit 1; exec /usr/bin/head "$@"'),
    ],
)
def test_a_board_without_any_room_is_told(there, tool, name, text):
    program = fill(there, name, text)
    try:
        with pytest.raises(EdgenasError, match="there is no room on loop"):
            timed(at(), ("network", graph()))
    finally:
        program.unlink()


def _is_locked(tool: StandIn) -> bool:
    with open(tool.bin / "trtexec") as program:
        try:
            fcntl.flock(program, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.slow
def test_two_sessions_wait_for_each_other(there, tool):
    tool.set(sleep=4)  # a busy machine takes seconds to make the second link
    said: list[str] = []
    done: list[str] = []

    def first() -> None:
        timed(at(), ("one", graph()))
        done.append("one")

    thread = threading.Thread(target=first)
    thread.start()
    while not _is_locked(tool):
        time.sleep(0.02)
    timed(at(say=said.append), ("two", graph()))
    done.append("two")
    thread.join()
    assert done == ["one", "two"]
    assert any("another edgenas is timing on loop" in line for line in said)


# The link


def test_a_link_that_is_cut_amid_a_build_is_made_anew(there, tool):
    tool.set(sleep=0.6)
    units = [(str(i), graph()) for i in range(3)]
    said: list[str] = []
    found: list[str] = []
    stream = at(say=said.append).measure(units, runtime=TENSORRT, settings=HALF)
    found.append(next(stream).name)
    cutter = threading.Timer(0.3, there.cut)
    cutter.start()
    found += [measurement.name for measurement in stream]
    assert sorted(found) == ["0", "1", "2"]
    said = [line for line in said if not line.startswith("waiting")]
    assert len(said) == 1
    # On a busy machine the second engine may be built before the link is cut.
    assert re.search("[12] of 3 units are missing, trying again", said[0])


def test_a_stream_that_is_left_ends_the_build_on_the_board(there, tool):
    tool.set(sleep=60)
    stream = at().measure([("a", graph())], runtime=TENSORRT, settings=HALF)

    def wait() -> None:
        with pytest.raises(EdgenasError):
            next(stream)

    thread = threading.Thread(target=wait)
    thread.start()
    end = time.monotonic() + 20
    while not left_over() and time.monotonic() < end:
        time.sleep(0.05)
    there.cut()
    with there.switched_off():
        thread.join(timeout=60)
    assert not thread.is_alive()
    assert there.quiet()


def test_whenever_its_input_ends_the_text_ends_and_its_tool_too(tmp_path: Path):
    """Also in the moments in which the tool starts: each of these met another fault of them."""
    started: list[subprocess.Popen[bytes]] = []
    for number in range(8):
        tool = tmp_path / str(number) / "usr/src/tensorrt/bin/trtexec"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\nexec sleep 600\n")
        tool.chmod(0o755)
        root = {"EDGENAS_BOARD_ROOT": str(tmp_path / str(number))}
        text = subprocess.Popen(
            ["sh", "-c", RUN_TEXT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | root,
        )
        started.append(text)
        assert text.stdin is not None
        assert text.stdout is not None
        assert text.stdout.readline() == b"edgenas ready\n"
        text.stdin.write(b"3 0 0 60 - --x\nabc")
        text.stdin.flush()
        time.sleep(number * 0.01)
        text.stdin.close()
    for text in started:
        text.wait(timeout=60)
    assert loopback.running_with(f"EDGENAS_BOARD_ROOT={tmp_path}/") == []


def test_a_link_that_stays_down_is_given_up(there, tool):
    units = [(str(i), graph()) for i in range(3)]
    stream = at().measure(units, runtime=TENSORRT, settings=HALF)
    next(stream)
    with there.switched_off():
        there.cut()
        with pytest.raises(ClockStoppedError, match="gave up on loop after 3 attempts"):
            list(stream)


@pytest.mark.parametrize(
    ("address", "message"),
    [("closed", "refuses the connection"), ("stranger", "lets nobody in")],
)
def test_a_link_that_cannot_be_is_one_line(there, tool, address, message):
    with pytest.raises(EdgenasError, match=message):
        timed(at(address), ("a", graph()))


def test_the_tool_and_the_clocks_of_other_runtimes_never_time_at_once(there, tool, monkeypatch):
    monkeypatch.setenv("PATH", f"{tool.bin}:{os.environ['PATH']}")
    said: list[str] = []
    with ExitStack() as held:
        while not hold_machine(held):  # as such a clock does; other tests may time now
            time.sleep(0.1)

        def say(line: str) -> None:
            said.append(line)
            held.close()

        assert timed(at(say=say), ("a", graph()))
    assert said == ["waiting: another edgenas is timing on loop"]
    with open(tool.bin / "trtexec") as program:
        fcntl.flock(program, fcntl.LOCK_EX)  # as a session with the tool does
        with ExitStack() as held:
            assert not hold_machine(held)
    with ExitStack() as held:
        while not hold_machine(held):
            time.sleep(0.1)


def test_a_shell_that_answers_nonsense_is_not_believed(there, tool):
    program = fill(there, "mkfifo", 'echo "edgenas answer 0 - - - 1 2 3"; exit 1')
    try:
        with pytest.raises(WrongAnswerError, match="no answer of the clock"):
            timed(at(), ("a", graph()))
    finally:
        program.unlink()


# Here


def test_this_machine_is_timed_without_ssh(tool, monkeypatch):
    monkeypatch.setenv("PATH", f"{tool.bin}:{os.environ['PATH']}")
    before = set(left_over())
    clock = TrtexecClock(place=None)
    assert clock.environment(TENSORRT)["runtime_version"] == "10.3.0"
    assert timed(clock, ("a", graph()))["a"].n >= 500
    assert not stay(before)


def test_a_process_that_is_killed_leaves_nothing_here(tool, monkeypatch):
    monkeypatch.setenv("PATH", f"{tool.bin}:{os.environ['PATH']}")
    tool.set(sleep=60)
    before = set(left_over())
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_trtexec import *\n"
        "timed(TrtexecClock(place=None), ('a', graph()))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        end = time.monotonic() + 60
        while not set(left_over()) - before and time.monotonic() < end:
            time.sleep(0.05)
        assert set(left_over()) - before
        process.send_signal(signal.SIGKILL)
    assert not stay(before)


@pytest.mark.slow
def test_when_time_is_over_the_rest_is_told(there, tool):
    events: list[dict] = []
    units = [(str(i), graph()) for i in range(3)]
    settings = replace(HALF, seconds=1e-3)
    assert not timed(at(), *units, settings=settings, watch=events.append)
    assert sorted(events[-1]["unvisited"]) == ["0", "1", "2"]
    assert not tool.starts()
