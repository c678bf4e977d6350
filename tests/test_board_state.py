"""The state of boards: recorded ones, this machine, and answers that are none."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import loopback
import pytest
import recorded_boards
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics.errors import EdgenasError
from edgenas.clock import shell
from edgenas.clock.jetpack import JETPACKS, jetpack_of, read_l4t, read_tensorrt
from edgenas.clock.measure import ClockStoppedError, WrongAnswerError
from edgenas.clock.shell import ask_shell, shell_script
from edgenas.clock.ssh import LinkError, Place
from edgenas.clock.state import BoardState, Heat, PowerMode, Rail
from edgenas.clock.state_reading import parse_state, read_state
from edgenas.clock.state_text import STATE_TEXT


@pytest.fixture(params=list(recorded_boards.BOARDS))
def recorded(request, tmp_path, monkeypatch) -> str:
    recorded_boards.BOARDS[request.param](tmp_path / "root")
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path / "root"))
    return request.param


def board(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> BoardState:
    recorded_boards.BOARDS[name](folder)
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(folder))
    return read_state(with_python=True)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    folder = tmp_path_factory.mktemp("board")
    root = str(folder / "root")  # a link to one of the recorded boards
    with loopback.board_or_skip(folder / "ssh", EDGENAS_BOARD_ROOT=root) as running:
        yield running


def test_an_orin_nano_super(tmp_path, monkeypatch):
    state = board("orin-nano-super", tmp_path, monkeypatch)
    assert state.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (state.l4t, state.tensorrt, state.tensorrt_build) == ("36.4.3", "10.3.0", "")
    assert state.jetpack is not None
    assert state.jetpack.name == "6.2"
    assert state.trtexec == f"{tmp_path}/usr/src/tensorrt/bin/trtexec"
    assert state.packages["libnvinfer-bin"] == "10.3.0.30-1+cuda12.5"
    assert state.power_mode == PowerMode(0, "15W")
    assert [str(mode) for mode in state.power_modes] == [
        "15W (mode 0)",
        "25W (mode 1)",
        "MAXN_SUPER (mode 2)",
        "7W (mode 3)",
    ]
    assert state.gpu is not None
    assert (state.gpu.least, state.gpu.most, state.gpu.now) == (306e6, 624.75e6, 306e6)
    assert state.gpu.locked is False
    assert [clock.most for clock in state.cpus] == [1510.4e6]
    assert state.hottest == Heat("tj-thermal", 48.5)  # and not the sensor without power
    assert state.throttling == ()
    assert state.rails[0].name == "VDD_IN"
    assert state.rails[0].watts == pytest.approx(5.008)
    assert state.swap is not None
    assert state.swap.size == 3901344 << 10
    assert state.shared_memory is not None
    assert state.shared_memory.free == 3901356 << 10
    assert state.fans == ("pwmfan: 64 of 255",)
    assert "asimddp" in state.features
    assert state.python == "3.10.12"
    found = {module.name: module for module in state.modules}
    assert found["onnxruntime"].version == "1.23.0"
    assert "TensorrtExecutionProvider" in found["onnxruntime"].providers
    assert found["openvino"].missing == "ModuleNotFoundError: No module named 'openvino'"


def test_an_agx_orin(tmp_path, monkeypatch):
    state = board("agx-orin", tmp_path, monkeypatch)
    assert state.jetson
    assert (state.l4t, state.trtexec, state.tensorrt, state.trtexec_fault) == ("35.4.1", "", "", "")
    assert "libnvinfer-bin" not in state.packages  # it was removed, its settings were kept
    assert state.power_mode == PowerMode(0, "MAXN")
    assert state.gpu is not None
    assert state.gpu.locked is True
    assert [rail.name for rail in state.rails] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]


def test_a_nano_with_jetpack_4_6(tmp_path, monkeypatch):
    state = board("nano", tmp_path, monkeypatch)
    assert (state.l4t, state.tensorrt) == ("32.6.1", "8.0.1")
    assert state.jetpack is not None
    assert (state.jetpack.name, state.jetpack.tensorrt) == ("4.6", "8.0.1")
    assert state.power_mode == PowerMode(0, "MAXN")  # from the status file
    assert state.rails == (
        Rail("POM_5V_IN", 2400 * 1e-3),
        Rail("POM_5V_GPU", 160 * 1e-3),
        Rail("POM_5V_CPU", 480 * 1e-3),
    )
    assert state.throttling == ("gpu-balanced is at step 2",)
    assert state.hottest == Heat("AO-therm", 78.5)
    assert state.python == "3.6.9"


def test_a_board_tells_the_same_over_ssh_and_keeps_nothing(there, recorded, monkeypatch):
    monkeypatch.setenv("PATH", f"{there.folder / 'client'}:{os.environ['PATH']}")
    here = read_state(with_python=True)
    root = there.folder.parent / "root"
    root.unlink(missing_ok=True)
    root.symlink_to(os.environ["EDGENAS_BOARD_ROOT"])
    (there.home / ".bashrc").write_text("echo welcome\n")
    over_ssh = read_state(Place(address="loop"), with_python=True)
    assert there.quiet()
    assert there.left() == []
    (there.home / ".bashrc").unlink()
    assert replace(over_ssh, trtexec="") == replace(here, trtexec="")
    assert over_ssh.trtexec.removeprefix(str(root)) == here.trtexec.removeprefix(
        str(root.resolve())
    )


def test_this_machine_tells_what_the_kernel_says():
    state = read_state(with_python=True)
    assert os.uname().release in state.kernel
    if sys.platform == "linux":
        assert state.memory is not None
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert state.memory.size == pytest.approx(pages, rel=1e-3)
    assert state.disk is not None
    assert state.disk.size == pytest.approx(shutil.disk_usage("/").total, rel=0.2)


def test_without_a_python_nothing_else_is_missing(recorded):
    fast, full = read_state(), read_state(with_python=True)
    assert (fast.python, fast.modules) == ("", ())
    assert fast.facts() == full.facts()


# What the answers mean


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "36.4.3"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", "36.4.0"),
        ("# R32 (release), REVISION: 7.1, GCID: 1", "32.7.1"),
        ("# R39 (release), REVISION: 2, GCID: 1", "39.2.0"),
        ("R36 release 4.3", ""),
        ("", ""),
    ],
)
def test_the_version_of_l4t(line, version):
    assert read_l4t(line) == version


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8001] # trtexec --help", ("8.0.1", "")),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --help", ("8.5.2", "")),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # t", ("10.3.0", "")),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # t", ("10.16.2", "10")),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b7] # t", ("11.1.0", "7")),
        ("echo &&&& RUNNING TensorRT.trtexec [TensorRT v8502]", ("", "")),
        ("trtexec: error while loading shared libraries", ("", "")),
    ],
)
def test_the_version_of_tensorrt(line, version):
    assert read_tensorrt(line) == version


def test_each_l4t_belongs_to_one_jetpack():
    every = [l4t for each in JETPACKS for l4t in each.l4t]
    assert len(set(every)) == len(every)
    assert all(jetpack_of(l4t) is not None for l4t in every)
    assert jetpack_of("36.9.9") is None


def test_the_sums_that_a_pi_says_of_its_throttling():
    state = parse_state(["throttled\tthrottled=0x50005"], where="x")
    assert state.throttling == ("under-voltage", "throttled")
    assert parse_state(["throttled\tthrottled=0x50000"], where="x").throttling == ()


# Answers that are none


def test_a_trtexec_that_does_not_run_is_told():
    lines = ["trtexec\t/usr/bin/trtexec", "trtexec-says\ttrtexec: error while loading \x1b[31mlibs"]
    state = parse_state(lines, where="x")
    assert state.trtexec_fault == "trtexec: error while loading [31mlibs"
    assert state.tensorrt == ""


@pytest.mark.parametrize("line", ["welcome", "rail\tonly", "", "secret\tx", "devfreq\ta\tb"])
def test_a_line_of_something_else_is_refused(line):
    with pytest.raises(WrongAnswerError) as caught:
        parse_state(["kernel\tLinux", line], where="pi@board")
    assert "what is no state of a board" in caught.value.message
    assert len(caught.value.message) < 300


@given(st.lists(st.text(max_size=60), max_size=20), st.sampled_from(STATE_TEXT.split()))
def test_any_answer_is_a_state_or_refused(lines, key):
    try:
        state = parse_state([f"{key}\t{line}" for line in lines] + ["load\tx"], where="x")
    except WrongAnswerError:
        return
    assert all(text.isprintable() for text in (state.model, state.os, *state.tools))


def ask(text: str, **changes) -> list[str]:
    given = {"header": "x", "place": None, "begin": "begin", "most": 100, "seconds": 20.0}
    return ask_shell(text, **{**given, **changes})


def test_the_header_is_no_part_of_the_text():
    text = 'IFS= read -r line; echo begin; printf "%s\\n" "$line"; echo end\n'
    nasty = '\'; touch here; $(id) `id` \\ "é"'
    assert ask(text, header=nasty) == [nasty]


def test_the_command_is_one_line_that_every_login_shell_reads():
    script = shell_script(STATE_TEXT)
    for character in "'\n!\\":
        assert character not in script


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("echo begin; echo a; exit 3", ClockStoppedError, "with code 3"),
        ("echo begin; printf half; exit 0", ClockStoppedError, "stopped amid"),
        ("echo begin; sleep 30", ClockStoppedError, "does not tell its state within 1 s"),
        ("sleep 30", ClockStoppedError, "does not tell"),
        ("echo begin; yes", WrongAnswerError, "more than 100 lines"),
        ("yes", WrongAnswerError, "it never begins"),
        ("echo begin; cat /dev/zero", WrongAnswerError, "a line must have at most"),
    ],
)
def test_answers_that_are_broken_or_endless(text, error, words):
    with pytest.raises(error) as caught:
        ask(f"read -r x\n{text}\n", seconds=1.0)
    assert words in caught.value.message
    assert len(caught.value.message) <= 300


def test_nothing_runs_on_after_an_answer_that_is_given_up(tmp_path):
    with pytest.raises(ClockStoppedError):
        ask(f"echo $$ >{shlex.quote(str(tmp_path))}/pid\nexec sleep 77\n", seconds=3.0)
    pid, end = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/cmdline").exists()


def test_a_command_that_hangs_costs_its_own_answer_alone(tmp_path, monkeypatch):
    recorded_boards.nano(tmp_path)
    (tmp_path / "usr/sbin/nvpmodel").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path))
    monkeypatch.setattr(
        "edgenas.clock.state_reading.STATE_TEXT", STATE_TEXT.replace("try 5", "try 1")
    )
    state = read_state()
    assert state.power_mode == PowerMode(0, "MAXN")
    assert state.tensorrt == "8.0.1"


@pytest.mark.parametrize("missing", ["timeout", "grep", "sed", "df", "sort", "uname"])
def test_what_a_small_system_lacks_is_left_out(missing, tmp_path, monkeypatch):
    recorded_boards.nano(tmp_path / "root")
    (tmp_path / "bin").mkdir()
    for name in (
        "sh",
        "cat",
        "dd",
        "head",
        "tail",
        "tr",
        "sort",
        "grep",
        "sed",
        "timeout",
        "sleep",
    ):
        if name != missing and (found := shutil.which(name)):
            (tmp_path / "bin" / name).symlink_to(found)
    if missing in ("df", "uname"):
        (tmp_path / "root/usr/bin" / missing).unlink()
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(
        "edgenas.clock.state_reading.STATE_TEXT", STATE_TEXT.replace(":/usr/sbin:/sbin", "")
    )
    state = read_state()
    assert (state.l4t, state.tensorrt) == ("32.6.1", "8.0.1")
    assert state.gpu is not None


def test_busybox_tells_the_same(tmp_path, monkeypatch):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is no busybox here")
    recorded_boards.nano(tmp_path / "root")
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path / "root"))
    expected = read_state()
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "bin").mkdir()
    for name in names.split():
        (tmp_path / "bin" / name).symlink_to(busybox)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    # Its shell prefers its own uname and df to those of the recorded board.
    own = {"kernel": "", "disk": None, "shared_memory": None}
    assert replace(read_state(), **own) == replace(expected, **own)


def test_no_board_no_state(there, monkeypatch):
    monkeypatch.setenv("PATH", f"{there.folder / 'client'}:{os.environ['PATH']}")
    with pytest.raises(LinkError, match="closed refuses the connection"):
        read_state(Place(address="closed"))
    with pytest.raises(EdgenasError, match="python must be a name or a path"):
        read_state(Place(address="loop", python="a\nb"))


def test_the_text_is_posix_sh():
    for name in ("dash", "bash", "busybox"):
        if found := shutil.which(name):
            words = [found, "sh", "-n"] if name == "busybox" else [found, "-n"]
            subprocess.run(words, input=STATE_TEXT, text=True, check=True, timeout=20)
    assert shell._LINE < 1 << 20


def test_the_page_has_the_table_of_jetpacks():
    page = (
        (ROOT / "docs/reference/jetson.md").read_text(encoding="utf-8").split("## Where a board")[0]
    )
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    for each in JETPACKS:
        tail = [each.tensorrt, each.cuda, each.python, each.trtexec]
        (row,) = [r for r in rows if r[2:] == tail and each.l4t[0] in r[1].split(", ")]
        assert each.name in row[0].split(", ")
        assert set(each.l4t) <= set(row[1].split(", "))
