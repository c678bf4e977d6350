import errno
import hashlib
import importlib.metadata
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from conftest import ROOT
from serving import serving_folder

from edgenas.accuracy.measured import CHOSEN
from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.cli import VERBS
from edgenas.cli.console import print_line, time_left
from edgenas.space.arch import save_arch
from edgenas.space.presets import load_space, space_to_json
from edgenas.training.runs import check_out

ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def refused(done: SimpleNamespace, message: str, hint: str = "") -> None:
    """One line with what is wrong, a hint, exit code 2, and nothing else.

    The middle of a line that is too long is left out, so a message is told by its first words.
    """
    assert done.code == 2, done.log
    assert done.out == ""
    lines = [line for line in done.log.splitlines() if not re.match(r"[\w ]+: \d+/\d+", line)]
    lines = [line for line in lines if not re.match(r"\d+ images of|warning: ", line)]
    assert lines[0].startswith("error: "), done.log
    assert re.search(message, lines[0]), lines[0]
    assert len(lines) == 2, done.log
    assert lines[1].startswith("hint: ")
    assert re.search(hint, lines[1]), lines[1]
    assert "Traceback" not in done.log
    assert ESCAPE not in done.log


def spawn(*words: object, **changes) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgenas", *(w if isinstance(w, bytes) else str(w) for w in words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes},
    )


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# The words of the command line


def test_without_words_five_commands_are_shown(edgenas):
    done = edgenas()
    assert (done.code, done.log) == (0, "")
    commands = re.findall(r"^  edgenas ([a-z-]+) ", done.out, re.MULTILINE)
    assert len(commands) == 5
    assert set(commands) <= set(VERBS)
    assert max(map(len, done.out.splitlines())) <= 80


def test_help_names_every_verb_in_one_whole_line(edgenas):
    done = edgenas("--help")
    assert (done.code, done.log) == (0, "")
    listed = done.out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == list(VERBS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)
    assert edgenas("specialize", "--help").code == 0


@pytest.mark.parametrize(
    ("line", "word", "completed"),
    [("edgenas spec", 1, "specialize"), ("edgenas specialize --lat", 2, "--latency")],
)
def test_a_shell_completes_verbs_and_options(
    edgenas, monkeypatch: pytest.MonkeyPatch, line: str, word: int, completed: str
):
    monkeypatch.setenv("_EDGENAS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(word))
    assert edgenas().out.split() == [completed]


def test_the_script_for_a_shell_is_shown(edgenas, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = edgenas("--show-completion", "bash")
    assert done.code == 0
    assert "_EDGENAS_COMPLETE=complete_bash" in done.out


def test_the_version_is_told(edgenas):
    done = edgenas("--version")
    assert (done.code, done.log) == (0, "")
    assert done.out == f"edgenas {importlib.metadata.version('edgenas')}\n"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("specialise --device host", "unknown verb 'specialise'", "specialize"),
        ("specialize", "missing option '--device'", "edgenas list devices"),
        ("specialize --device jetson --latncy 2ms", "no such option: --latncy", "--help"),
        ("specialize --device jetson --latency", "'--latency' requires an argument", "--help"),
        ("specialize --device jetson surplus", "unexpected extra argument", "--help"),
        ("specialize --device jetson --seed x", "invalid value for '--seed'", "--help"),
        ("specialize --device jetson --seed=-1", "seed must be at least 0, found -1", "--help"),
        ("specialize --device jetson --confidence 2", "confidence must be at most 0.999", "--help"),
        (
            "specialize --device jetson --percentile p99",
            "percentile must be one of p50, p95",
            "p95",
        ),
        ("predict --device rpi4 --arch none", "there is no file none", "bundles have one"),
        ("list", "missing argument 'kind'", "kind: devices, spaces, .*; edgenas list --help"),
        ("verify", "missing argument 'bundle'", "bundle: Folder of the bundle; edgenas verify"),
        ("train", "missing option '--data'", "--data: Images: a folder of class folders"),
        ("list device", "unknown kind 'device'", "did you mean devices"),
        ("profile --device host --space tiny --classes 0", "classes must be at least 1", "--help"),
        (
            "train --space tiny --data x --out y --threads=-2",
            "threads must be at least 0",
            "--help",
        ),
        ("fit-accuracy x --data y --archs 5", "archs must be at least 20", "--help"),
    ],
)
def test_a_wrong_command_line_is_refused(edgenas, words: str, message: str, hint: str):
    refused(edgenas(*words.split()), message, hint)


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ("--latency=20", "latency must be in ns, us, ms, .* found no unit in '20'", "20ms"),
        ("--latency=20 parsecs", "latency must be in .* found the unit 'parsecs'", "20ms"),
        ("--latency=20MB", "found the unit 'MB'", "20ms"),
        ("--latency=fast", "latency must be a number with a unit", "20ms"),
        ("--latency=", "latency must be a number with a unit .* found ''", "20ms"),
        ("--latency=0ms", "latency must be above zero, found '0ms'", "20ms"),
        ("--latency=-3ms", "latency must be above zero, found '-3ms'", "20ms"),
        ("--latency=nanms", "latency must be a number", "20ms"),
        ("--latency=1e999ms", "latency must be above zero", "20ms"),
        ("--memory=16", "memory must be in B, kB", "16MB"),
        ("--params=4MB", "params must be in none, K", "300M"),
        ("--macs=-1M", "macs must be above zero", "300M"),
        ("--energy=5W", "energy must be in uJ", "50mJ"),
        ("--constraint=latency", "constraint must read like latency<=20ms", "metrics"),
        ("--constraint=latensy<=20ms", "unknown metric 'latensy'", "did you mean latency"),
        ("--constraint=latency>=20ms", "constraint must", ""),
        ("--constraint=params@rpi4<=4M", "params is the same on every device", "params<=4M"),
        ("--constraint=latency@nowhere<=4ms", "unknown device 'nowhere'", "list devices"),
        ("--runtime=tensorrtt", "unknown runtime 'tensorrtt'", "did you mean tensorrt"),
        ("--precision=fp8", "unknown precision 'fp8'", "did you mean fp"),
        (
            "--strategy=evolutoin",
            "strategy must be one of .* found 'evolutoin'",
            "did you mean evolution",
        ),
        ("--threads=0", "threads must be at least 1", ""),
        ("--batch=0", "batch must be at least 1", ""),
        ("--supernet=nothing", "unknown supernet 'nothing'", "list supernets"),
        ("--supernet=.", r"\. holds no supernet.json", "--resume"),
        ("--data=nowhere", "no images at nowhere", "cifar10"),
        ("--test=nowhere", "no images at nowhere", "cifar10"),
    ],
)
def test_a_wrong_option_of_specialize_is_refused(
    edgenas, tiny: Path, option: str, message: str, hint: str
):
    words = ["specialize", "--device", "jetson", "--supernet", tiny, "--out", "bundle"]
    refused(edgenas(*words, option), message, hint)
    assert everything(Path()) == []


def test_the_nearest_devices_and_spaces_are_named(edgenas):
    refused(edgenas("specialize", "--device", "jetsom"), "'jetsom'", "did you mean jetson")
    refused(edgenas("profile", "--device", "hots", "--space", "tiny"), "'hots'", "mean host")
    done = edgenas("train", "--space", "mbv3-cifra", "--data", "x", "--out", "y")
    refused(done, "unknown space 'mbv3-cifra'", "mbv3-cifar")
    refused(edgenas("profile", "--device", "host", "--space", "tony"), "'tony'", "mean tiny")


def test_profile_refuses_what_it_cannot_measure(edgenas):
    words = ("profile", "--space", "tiny", "--device")
    refused(edgenas(*words, "jetson"), "must be reached to be timed", "--ssh user@board")
    refused(edgenas(*words, "host", "--runtime", "tensorflow"), "unknown runtime", "list runtimes")
    refused(edgenas(*words, "host", "--runtime", "tensorrt"), "no trtexec on this machine")
    refused(edgenas(*words, "host", "--runtime", "tensorrt-rtx"), "cannot be timed", "tensorrt")
    refused(edgenas(*words, "host", "--precision", "fp16"), "must be one of fp32, int8")
    refused(edgenas(*words, "host", "--time", "60"), "time must be in ns", "20ms")
    refused(edgenas(*words, "host", "--time", "1us"), "time_budget must be above")


# Results


def test_json_is_one_object_and_nothing_else(edgenas, tiny: Path):
    done = edgenas(
        "specialize", "--device", "jetson", "--supernet", tiny, "--latency", "20ms", "--json",
        "--out", "bundle",
    )  # fmt: skip
    assert done.code == 0, done.log
    told = json.loads(done.out)
    assert told["schema"] == "edgenas.result/1"
    assert told["report"]["predicted"]["provenance"] == "estimated"
    assert told["report"] == json.loads(Path("bundle/report.json").read_text(encoding="utf-8"))
    checked = edgenas("verify", "bundle", "--json")
    assert checked.code == 0
    assert json.loads(checked.out)["passed"] is True


def test_the_result_says_what_it_rests_on_and_how_to_go_on(edgenas, tiny: Path):
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--latency", "20ms")
    done = edgenas(*words)
    assert done.code == 0, done.log
    for words_of in ("estimated", "predicted", "decides nothing", "extrapolated", "kept"):
        assert words_of in done.out
    assert "add --ssh user@board to measure it there" in done.out
    (folder,) = Path().iterdir()
    assert f"edgenas verify {folder}" in done.out
    lines = done.out.splitlines()
    assert lines[0].startswith("promise ")
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in done.out.splitlines())
    again = edgenas(*words)
    assert again.code == 0
    assert f"{folder} held this very bundle already" in again.out
    told = edgenas(*words, "--verbose").out
    assert max(map(len, told.splitlines())) <= 100
    flat = " ".join(told.split())
    assert (
        "edgenas profile --device jetson-orin-nano --space tiny --classes 3 --runtime tensorrt"
        in flat
    )
    for note in json.loads((folder / "report.json").read_text(encoding="utf-8"))["notes"]:
        assert f"note {note}" in flat
    verified = edgenas("verify", folder)
    assert verified.code == 0
    assert "every check passed" in verified.out


@pytest.mark.parametrize("kind", ["devices", "spaces", "supernets", "runtimes"])
def test_every_kind_is_listed(edgenas, kind: str):
    plain, told = edgenas("list", kind), edgenas("list", kind, "--json")
    assert (plain.code, told.code) == (0, 0)
    rows = json.loads(told.out)[kind]
    assert json.loads(told.out)["schema"] == f"edgenas.{kind}/1"
    flat = "".join(plain.out.split())
    for row in rows:
        assert "".join(str(next(iter(row.values()))).split()) in flat
    known = {"devices": "host", "spaces": "tiny", "runtimes": "onnxruntime"}.get(kind)
    assert known is None or known in [next(iter(row.values())) for row in rows]
    if kind == "devices":
        jetson = [row for row in rows if "jetson" in row["also"].split(", ")]
        assert any("estimated" in row["latency numbers"] for row in jetson)


def test_an_infeasible_budget_is_told_with_the_least(edgenas, tiny: Path):
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--out", "bundle")
    done = edgenas(*words, "--latency", "1us")
    refused(done, "keeps latency<=1us: the least reachable is", "allow at least latency<=")
    # What is named can be asked for.
    least = re.search(r"least reachable is (\S+)", done.log)
    assert least is not None
    assert edgenas(*words, "--latency", least[1]).code == 0


# Files that are not what they should be


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f / "along"), None),
        (lambda f: [shutil.rmtree(f / n) for n in ("along", "across")], "at least 2 classes"),
        (lambda f: [shutil.rmtree(f / n) for n in ("along", "across", "slanted")], "no images"),
        (lambda f: [p.unlink() for p in (f / "along").iterdir()], "along in .* has no images"),
        (lambda f: [p.unlink() for p in list((f / "along").iterdir())[1:]], "at least 2 images"),
        (lambda f: (f / "along/03.png").write_bytes(b"x"), r"cannot read the image along/03\.png"),
        (lambda f: _truncate(f / "along/03.png"), r"cannot read the image along/03\.png"),
    ],
)
def test_bad_image_folders_are_refused(
    edgenas, photos: Path, tmp_path: Path, damage: Callable, message: str | None
):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    damage(data)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = "edgenas.recipe/1"\nepochs = 1\nbatch = 8\naccuracy_archs = 20\n')
    words = ("train", "--space", "tiny", "--data", data, "--out", "run", "--recipe", recipe)
    done = edgenas(*words, "--threads", 1)
    if message is None:
        assert done.code == 0, done.log
        return
    refused(done, message)
    assert everything(Path()) == []
    if "cannot read" in message:
        assert "--skip-bad-images" in done.log
        done = edgenas(*words, "--threads", 1, "--skip-bad-images")
        assert done.code == 0
        assert re.search(r"warning: 1 of \d+ images of .* left out: along/03\.png\n", done.log)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_test_images_are_looked_at_before_the_training(edgenas, photos: Path):
    words = ("train", "--space", "tiny", "--data", photos, "--out", "run", "--test", "nowhere")
    refused(edgenas(*words), "no images at nowhere")
    assert everything(Path()) == []


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("--mean 0.5,0.5 --std 0.2,0.2,0.2", "--mean must be three numbers", "of ImageNet: --mean"),
        ("--mean a,b,c --std 0.2,0.2,0.2", "--mean must be three numbers", "0.485"),
        ("--mean 124,116,104 --std 58,57,57", "--mean must be .* found '124", "divide them by 255"),
        ("--mean 0.5,0.5,0.5 --std 0,0.2,0.2", "--std must be three numbers", "0.229"),
        ("--mean 0.5,0.5,0.5", "mean and std must be given together", "--std 0.229"),
        ("--teacher t.onnx --teacher-std 1", "--teacher-std must be three", "--teacher-std 0.229"),
        (
            "--teacher-size 32",
            "teacher_size has no effect without teacher",
            "add --teacher or --unlabelled",
        ),
    ],
)
def test_bad_numbers_of_inputs_are_refused(
    edgenas, photos: Path, words: str, message: str, hint: str
):
    given = ("train", "--space", "tiny", "--data", photos, "--out", "run")
    refused(edgenas(*given, *words.split()), message, hint)
    assert everything(Path()) == []


@pytest.mark.parametrize(
    ("make", "out", "message"),
    [
        (lambda: Path("file").write_text("x"), "file", "--out file is a file"),
        (lambda: Path("file").write_text("x"), "file/run", "cannot be made: a file is in its way"),
        (lambda: Path("mine/x").mkdir(parents=True), "mine", "exists and is no training run"),
    ],
)
def test_where_a_run_is_to_be_is_looked_at_first(
    edgenas, make: Callable[[], object], out: str, message: str
):
    make()
    done = edgenas("train", "--space", "tiny", "--data", "nowhere", "--out", out)
    refused(done, message, "choose another --out")


def test_a_folder_that_may_not_be_written_to_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(EdgenasError, match=r"--out run cannot be made: .* may not be written to"):
        check_out(Path("run"), resume=False)


def test_what_is_left_of_long_work_is_told():
    assert time_left(10, 90, 40.0) == "about 6 min left"
    assert time_left(50, 50, 30.0) == "about 30 s left"
    # Nothing is known yet, or it is over soon.
    assert time_left(0, 100, 30.0) == time_left(99, 1, 30.0) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 1", "must have schema 'edgenas.recipe/1'"),
        ('schema = "edgenas.recipe/1"\nepoch = 1', "unknown field 'epoch'"),
        ('schema = "edgenas.recipe/1"\nepochs = 0', "epochs must be"),
        ('schema = "edgenas.recipe/1"\nepochs = "many"', "epochs must be an integer"),
        ('schema = "edgenas.recipe/1"\nepochs = ', "is damaged or not what it should be"),
    ],
)
def test_bad_recipes_are_refused(edgenas, photos: Path, text: str, message: str):
    Path("recipe.toml").write_text(text)
    words = ("train", "--space", "tiny", "--data", photos, "--out", "run")
    refused(edgenas(*words, "--recipe", "recipe.toml"), message)
    assert everything(Path()) == ["recipe.toml"]


def test_a_space_too_small_for_a_predictor_is_refused_before_the_training(edgenas, photos: Path):
    declared = space_to_json(load_space("tiny"))
    for stage in declared["stages"]:
        stage |= {name: [max(stage[name])] for name in ("widths", "depths", "kernels", "expands")}
    Path("small.json").write_text(json.dumps(declared))
    done = edgenas("train", "--space", "small.json", "--data", photos, "--out", "run")
    refused(done, r"must have at least 20 networks for an accuracy predictor, found \d+")
    assert everything(Path()) == ["small.json"]


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "report.json", "example.py"])
def test_a_flipped_byte_of_a_bundle_is_found(edgenas, tiny: Path, name: str):
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--latency", "20ms")
    assert edgenas(*words, "--out", "bundle").code == 0
    path = Path("bundle") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = edgenas("verify", "bundle")
    assert done.code == 2
    assert "FAILED" in done.out
    assert "NOT to be trusted" in done.out
    told = json.loads(edgenas("verify", "bundle", "--json").out)
    assert told["passed"] is False
    refused(edgenas(*words, "--out", "bundle"), "holds a bundle", "--force")
    assert edgenas(*words, "--out", "bundle", "--force").code == 0
    assert edgenas("verify", "bundle").code == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no bundle at bundle"),
        (lambda p: p.mkdir(), "no bundle at bundle"),
        (lambda p: p.write_text("x"), "no bundle at bundle"),
    ],
)
def test_what_is_no_bundle_is_not_verified(edgenas, make: Callable[[Path], object], message: str):
    make(Path("bundle"))
    refused(edgenas("verify", "bundle"), message, "edgenas specialize")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda p: p.write_text("x"), "--out .* is a file", "another --out"),
        (lambda p: (p / "mine").mkdir(parents=True), "no part of a bundle: mine", "another --out"),
    ],
)
def test_an_out_that_exists_is_never_overwritten(
    edgenas, tiny: Path, make: Callable[[Path], object], message: str, hint: str
):
    make(Path("bundle"))
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--out", "bundle")
    refused(edgenas(*words), message, hint)
    refused(edgenas(*words, "--force"), message, hint)
    assert Path("bundle").exists()


def test_an_out_below_a_file_is_refused(edgenas, tiny: Path):
    Path("file").write_text("x")
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--out", "file/bundle")
    refused(edgenas(*words), "a file is in its way|cannot write", "")
    assert Path("file").read_text() == "x"


def test_a_full_disk_is_told_and_nothing_is_half_written(
    edgenas, tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object, **values: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--latency", "20ms")
    monkeypatch.setattr("edgenas.bundle.write.shutil.copyfile", full)
    refused(edgenas(*words, "--out", "bundle"), "no space left on the disk", "free some space")
    assert everything(Path()) == []
    # Where nobody thought of it, too.
    monkeypatch.setattr("edgenas.latency.device.list_devices", full)
    refused(edgenas("list", "devices"), "No space left on device: somewhere", "free some space")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"schema"', '"scheme"'),
        lambda text: text.replace('"median": ', '"median": -'),
        lambda text: "[]",
        lambda text: "",
    ],
)
def test_damaged_tables_are_refused(edgenas, rising: Path, damage: Callable[[str], str]):
    path = table_of(rising)
    path.write_text(damage(path.read_text()))
    words = ("--space", "tiny", "--accuracy", rising / "accuracy.safetensors")
    done = edgenas("search", *words, "--table", path, "--constraint", "latency<=1ms")
    refused(done, path.name)
    done = edgenas("specialize", "--device", "host", "--supernet", rising, "--latency", "1ms")
    refused(done, path.name)


# Interrupted


@pytest.mark.slow
def test_training_stops_at_ctrl_c_and_resumes(edgenas, photos: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'schema = "edgenas.recipe/1"\nepochs = 400\nbatch = 8\naccuracy_archs = 20\n'
        "checkpoint_seconds = 0.0\n"
    )
    words = ("train", "--space", "tiny", "--data", photos, "--out", "run", "--recipe", recipe)
    process = spawn(*words, "--threads", 1)
    wait_for(lambda: Path("run/checkpoint.safetensors").exists(), process)
    process.send_signal(signal.SIGINT)
    out, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert out == ""
    assert "Traceback" not in log
    assert "stopped: to go on, run the same command with --resume" in log
    step = _step()
    assert step >= 1
    refused(edgenas(*words, "--threads", 1), "already holds a training run", "add --resume")
    process = spawn(*words, "--threads", 1, "--resume")
    wait_for(lambda: _step() > step + 2, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not [p for p in everything(Path("run")) if p.startswith(".")]


def test_ctrl_c_says_how_a_training_goes_on(
    edgenas, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from edgenas.training import loop

    recipe, take_step = tmp_path / "recipe.toml", loop.take_step

    def interrupted(*args, step: int, **values):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return take_step(*args, step=step, **values)

    recipe.write_text(
        'schema = "edgenas.recipe/1"\nepochs = 2\nbatch = 24\naccuracy_archs = 20\n'
        "checkpoint_seconds = 0.0\n"
    )
    words = ("train", "--space", "tiny", "--data", photos, "--out", "run", "--recipe", recipe)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", interrupted)
        done = edgenas(*words)
    assert (done.code, done.out) == (130, "")
    stopped = "stopped: to go on, run the same command with --resume"
    assert done.log.splitlines()[-1].startswith(stopped)
    assert _step() == 2
    refused(edgenas(*words), "already holds a training run", "add --resume")
    assert edgenas(*words, "--resume").code == 0
    assert Path("run/supernet.json").exists()


def _step() -> int:
    from safetensors import safe_open

    with safe_open("run/checkpoint.safetensors", "pt") as file:
        return int(json.loads(file.metadata()["step"]))


@pytest.mark.slow
def test_profiling_stops_at_ctrl_c_and_keeps_what_it_has(tmp_path: Path):
    words = ("profile", "--device", "host", "--space", "tiny")
    process = spawn(*words)
    journal = tmp_path / "cache/latency_tables/host/onnxruntime-fp32-t1-b1.jsonl"
    wait_for(lambda: journal.exists() and journal.read_text().count('"unit"') >= 2, process)
    process.send_signal(signal.SIGINT)
    out, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert out == ""
    assert "Traceback" not in log
    assert "to resume, run the same command again" in log
    kept = [
        json.loads(line)["unit"] for line in journal.read_text().splitlines() if '"unit"' in line
    ]
    assert len(kept) == len(set(kept)) >= 2


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if ready():
            return
        if process.poll() is not None:
            pytest.fail(f"it ended too early: {process.communicate()[1]}")
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"it never came so far: {process.communicate()[1]}")


def test_ctrl_c_leaves_no_bundle(edgenas, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*args: object, **values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgenas.bundle.write.shutil.copyfile", stop)
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--out", "bundle")
    done = edgenas(*words)
    assert (done.code, done.out) == (130, "")
    assert done.log.splitlines()[-1] == "stopped: nothing was half-written"
    assert everything(Path()) == []


def test_a_reader_who_goes_away_is_no_error(tiny: Path):
    process = spawn("list", "devices", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    log = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in log
    assert "Error" not in log


# Terminals


def test_a_terminal_that_lacks_characters_gets_escapes(tmp_path: Path):
    save_arch(load_space("tiny").largest(), tmp_path / "arch.json")
    words = ("predict", "--device", "jetson", "--space", "tiny", "--arch")
    done = spawn(*words, tmp_path / "arch.json", PYTHONIOENCODING="ascii")
    out, log = done.communicate(timeout=60)
    assert done.returncode == 0, log
    assert "x/\\xf7 " in out
    # As bytes, and in UTF-8: a locale without Unicode has no such argument.
    name = os.fsencode(tmp_path) + b"/\xe5\x8c\x97.json"
    done = spawn(*words, name, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    out, log = done.communicate(timeout=60)
    assert (done.returncode, out) == (2, "")
    assert "\\u5317.json" in log.splitlines()[0]


def test_control_characters_of_a_name_are_not_obeyed(capsys: pytest.CaptureFixture[str]):
    print_line("bundle: \u202eabc\x1b[2J\r 北 end")
    assert capsys.readouterr().out == "bundle: ?abc?[2J? 北 end\n"


def test_a_pipe_gets_no_escape_codes():
    done = spawn("list", "devices", FORCE_COLOR="", TERM="xterm-256color")
    out, log = done.communicate(timeout=60)
    assert ESCAPE not in out + log
    done = spawn("list", "device", TERM="xterm-256color")
    assert ESCAPE not in "".join(done.communicate(timeout=60))


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_gets_colours_unless_it_wants_none(colours: bool):
    def on_terminal(*words: str) -> str:
        master, slave = pty.openpty()
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        added = {} if colours else {"NO_COLOR": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "edgenas", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**clean, **added, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        )
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        process.wait(timeout=60)
        os.close(master)
        return seen.decode()

    shown = on_terminal("list", "device")
    assert "unknown kind" in shown
    assert bool(re.search(r"\x1b\[[\d;]*3\dm", shown)) == colours


# Tables alone: search and predict


def table_of(supernet: Path) -> Path:
    """A table of this machine in the cache, as if its layers took 10 us and 1 ns a MAC."""
    from timed_machine import write_table

    from edgenas.latency.device import load
    from edgenas.latency.table import Timing
    from edgenas.model.saved import load_supernet

    space, target = load_supernet(supernet).supernet.space, load("host").target()
    return write_table(space, target, timing=lambda seconds: Timing(median=1.1 * seconds, n=50))


def test_search_finds_the_best_of_all_networks(edgenas, rising: Path):
    from edgenas.accuracy.predictor import load_accuracy
    from edgenas.latency.table_file import load_table
    from edgenas.profiling.tables import predictor_for
    from edgenas.space.cost import macs_table

    table, accuracy = table_of(rising), load_accuracy(rising / "accuracy.safetensors")
    space = accuracy.space
    rows = np.unique(space.sample(40_000, rng=np.random.default_rng(0), by="arch"), axis=0)
    assert len(rows) == space.size
    seconds, macs = predictor_for(load_table(table), space).predict(rows), macs_table(space)(rows)
    budget, most = float(np.median(seconds)), int(np.quantile(macs, 0.4))
    words = ["search", "--space", "tiny", "--table", table]
    words += ["--accuracy", rising / "accuracy.safetensors", "--json", "--seed", 4]
    words += ["--constraint", f"latency<={budget * 1e3:.9f}ms", "--constraint", f"macs<={most}"]
    done = edgenas(*words)
    assert done.code == 0, done.log
    told = json.loads(done.out)
    best = told["best"]
    within = (seconds <= budget) & (macs <= most)
    assert best["accuracy"] == pytest.approx(accuracy(rows)[within].max(), abs=1e-5)
    assert best["latency_ms"] / 1e3 <= budget
    assert best["macs"] <= most
    assert best["latency_upper_ms"] >= best["latency_ms"] * 0.999
    assert best["provenance"] == "measured"
    assert told["seed"] == 4
    assert 0 < told["evaluations"] <= space.size
    assert told["seconds"] > 0
    again = json.loads(edgenas(*words).out)
    assert {**again, "seconds": 0} == {**told, "seconds": 0}

    from edgenas.space.arch import Arch

    assert space.contains(Arch.from_json(best["arch"]))
    plain = edgenas(*words[:-7], *words[-4:])
    assert plain.code == 0, plain.log
    assert best["arch_id"] in plain.out
    assert "predicted from measured numbers" in plain.out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--constraint", "latency<=1ms"], "needs a latency table", "--table"),
        (["--constraint", "memory<=1MB"], "must be of latency, macs or params", "specialize"),
        (["--constraint", "latency@rpi4<=1ms"], "names a device", "latency<=1ms"),
        (["--constraint", "macs<=1"], "the least reachable is", "allow at least"),
        (["--table", "nowhere.json"], "no file nowhere.json", ""),
        (["--strategy", "genetic"], "strategy must be one of", ""),
        (["--compare", "aging,genetic"], "unknown strategy 'genetic'", ""),
        (["--compare", "aging", "--history", "h.csv"], "--history is of one search", "leave out"),
        (
            ["--history", "nowhere/no/h.csv", "--evaluations", "0"],
            "evaluations must be at least 1",
            "",
        ),
        (["--space", "mbv3-cifar"], "must be space tiny or a narrower one", ""),
    ],
)
def test_search_refuses(edgenas, rising: Path, words: list[str], message: str, hint: str):
    accuracy = rising / "accuracy.safetensors"
    refused(edgenas("search", "--space", "tiny", "--accuracy", accuracy, *words), message, hint)


def test_search_keeps_a_history_and_goes_on_from_it(edgenas, rising: Path):
    words = ["search", "--space", "tiny", "--accuracy", rising / "accuracy.safetensors"]
    words += ["--constraint", "macs<=300K", "--strategy", "aging", "--evaluations", 200]
    plain = edgenas(*words, "--json")
    assert plain.code == 0, plain.log
    kept = edgenas(*words, "--json", "--history", "history.csv")
    assert kept.code == 0, kept.log
    data = Path("history.csv").read_bytes()
    assert data.count(b"\n") == 2 + json.loads(kept.out)["evaluations"]
    Path("history.csv").write_bytes(data[: len(data) // 2])
    again = edgenas(*words, "--json", "--history", "history.csv")
    assert Path("history.csv").read_bytes() == data
    found = [json.loads(done.out) | {"seconds": 0} for done in (plain, kept, again)]
    assert found[0] == found[1] == found[2]
    refused(edgenas(*words, "--seed", 1, "--history", "history.csv"), "its seed is 0", "another")


def test_search_compares_strategies(edgenas, rising: Path):
    words = ["search", "--space", "tiny", "--accuracy", rising / "accuracy.safetensors"]
    words += ["--constraint", "macs<=300K", "--compare", "evolution,aging", "--seeds", 2]
    words += ["--evaluations", 100]
    done = edgenas(*words, "--json")
    assert done.code == 0, done.log
    told = json.loads(done.out)
    assert told["schema"] == "edgenas.comparison/1"
    assert [row["strategy"] for row in told["strategies"]] == ["evolution", "aging", "random"]
    random = told["strategies"][-1]
    for row in told["strategies"]:
        assert row["against_random"] == pytest.approx(row["mean"] - random["mean"])
        assert len(row["scores"]) == 2
    plain = edgenas(*words)
    assert "against random" in plain.out
    assert "at most 100 networks scored by each" in " ".join(plain.out.split())


def test_predict_tells_number_bound_and_provenance(edgenas, rising: Path):
    words = ("specialize", "--device", "jetson", "--supernet", rising, "--out", "bundle")
    assert edgenas(*words).code == 0
    report = json.loads(Path("bundle/report.json").read_text(encoding="utf-8"))["predicted"]
    done = edgenas(
        "predict", "--device", "jetson", "--arch", "bundle/arch.json", "--classes", 3, "--json"
    )
    assert done.code == 0, done.log
    told = json.loads(done.out)
    assert told["latency_ms"] == pytest.approx(report["seconds"] * 1e3)
    assert told["latency_upper_ms"] == pytest.approx(report["upper"] * 1e3)
    assert told["provenance"] == "estimated"
    assert any("--runtime tensorrt --precision fp16" in note for note in told["notes"])
    plain = edgenas("predict", "--device", "jetson", "--arch", "bundle/arch.json", "--classes", 3)
    assert " ms estimated, at most " in plain.out
    assert "at 95% confidence" in plain.out
    assert "extrapolated" in plain.out
    missing = ("predict", "--device", "host", "--arch", "bundle/arch.json", "--classes", 3)
    refused(edgenas(*missing), "there is no latency table", "edgenas profile --device host")
    table_of(rising)
    measured = edgenas(*missing, "--json")
    assert json.loads(measured.out)["provenance"] == "measured"
    assert json.loads(measured.out)["notes"] == []


def test_predict_reads_any_onnx_network(edgenas, rising: Path):
    words = ("specialize", "--device", "jetson", "--supernet", rising, "--out", "bundle")
    assert edgenas(*words).code == 0
    report = json.loads(Path("bundle/report.json").read_text(encoding="utf-8"))["predicted"]
    words = ("predict", "--device", "jetson", "--model", "bundle/model.onnx")
    told = json.loads(edgenas(*words, "--json").out)
    # The same network, from its file alone.
    assert told["latency_ms"] == pytest.approx(report["seconds"] * 1e3)
    assert told["latency_upper_ms"] > told["latency_ms"]
    assert (told["provenance"], told["energy_mj"]) == ("estimated", None)
    plain = edgenas(*words)
    assert " ms estimated, at most " in plain.out
    assert "extrapolated" in plain.out
    power = edgenas("predict", "--device", "rpi4", "--model", "bundle/model.onnx")
    assert "mJ estimated: " in power.out
    refused(edgenas(*words, "--arch", "bundle/arch.json"), "either arch or model", "--help")
    refused(edgenas(*words, "--size", "0x3"), "--size must be pixels like 224", "")
    refused(edgenas(*words[:-1], "none.onnx"), "there is no file none.onnx", "path of an ONNX file")
    refused(edgenas("predict", "--device", "host", *words[3:]), "no estimate for host", "")


def test_estimate_makes_a_device_of_a_few_measured_networks(edgenas, tiny: Path):
    from edgenas.model.export import to_onnx
    from edgenas.model.network import Network
    from edgenas.space.presets import tiny as tiny_space

    space = tiny_space()
    for name, arch in (("small", space.smallest()), ("large", space.largest())):
        network = Network(space, arch)
        Path(f"{name}.onnx").write_bytes(to_onnx(network, preprocessing={}))
    Path("nets.csv").write_text("model,latency_ms\nsmall.onnx,0.2\nlarge.onnx,0.5\n")
    words = ("estimate", "nets.csv", "--runtime", "ncnn", "--precision", "fp32", "--threads", 2)
    done = edgenas(*words, "--out", "board.toml")
    assert done.code == 0, done.log
    for told in ("2 networks measured", "median error", "90% interval", "small.onnx", "board.toml"):
        assert told in done.out
    predict = ("predict", "--device", "board.toml", "--model", "large.onnx", "--json")
    found = json.loads(edgenas(*predict).out)
    assert found["target"] == "board / ncnn fp32, 2 threads, batch 1"
    assert "2 measured networks of its own" in found["source"]
    assert any("no login leads to board: time networks there" in note for note in found["notes"])
    reached = Path("board.toml").read_text().replace('reach = "none"', 'reach = "ssh"')
    Path("board.toml").write_text(reached)
    bench = "measure it: edgenas bench large.onnx --device board.toml --ssh user@board"
    assert any(note.endswith(bench) for note in json.loads(edgenas(*predict).out)["notes"])
    assert found["latency_ms"] == pytest.approx(0.5, rel=0.2)
    told = json.loads(edgenas(*words, "--out", "other.toml", "--json").out)
    assert [check["model"] for check in told["checks"]] == ["small.onnx", "large.onnx"]
    assert told["time_next"] == []
    following = (*words, "--space", "tiny", "--next", "to-time")
    lines = edgenas(*following, "--out", "next.toml").out
    assert "time next: to-time/next-1.onnx; the 90% intervals of space tiny would go from" in lines
    Path("more.csv").write_text(
        "model,latency_ms,family\nsmall.onnx,0.2,\nlarge.onnx,0.5,\nto-time/next-1.onnx,0.4,tiny\n"
    )
    more = ("estimate", "more.csv", *following[2:], "--out", "more.toml", "--json")
    (first, second) = json.loads(edgenas(*more).out)["time_next"]
    assert first["interval_factor"] > second["interval_factor"] > 1
    Path("seconds.csv").write_text("model,latency_ms\nsmall.onnx,2e-6\n")
    wrong = ("estimate", "seconds.csv", *words[2:], "--out", "wrong.toml")
    refused(edgenas(*wrong), "times as fast as a typical board", "milliseconds")
    refused(
        edgenas(*words, "--next", "x", "--out", "x.toml"), "next has no effect without space", ""
    )
    specialize = ("specialize", "--device", "board.toml", "--supernet", tiny, "--latency", "0.6ms")
    assert edgenas(*specialize, "--out", "bundle").code == 0
    refused(edgenas(*words, "--out", "board.toml"), "--out board.toml exists", "another --out")
    refused(edgenas(*words, "--out", "board"), "--out must end in .toml", "my-board.toml")
    refused(edgenas(*words, "--out", "My.toml"), "name must be", "lower-case")
    assert not Path("My.toml").exists()
    words = ("estimate", "bad.csv", *words[2:], "--out", "bad.toml")
    refused(edgenas(*words), "there is no file bad.csv", "")
    for text, message in (
        ("name,ms\na,1\n", "must have the columns model,latency_ms"),
        ("model,latency_ms\n", "holds no network"),
        (
            "model,latency_ms\n" + "small.onnx,1\n" * 1001,
            "must hold at most 1000 networks, found 1001",
        ),
        ("model,latency_ms\nsmall.onnx,-1\n", "line 2: latency_ms must be a number above 0"),
        ("model,latency_ms\nnone.onnx,1\n", "there is no file none.onnx"),
        ("model,latency_ms,size\nsmall.onnx,1,big\n", "--size must be pixels"),
    ):
        Path("bad.csv").write_text(text)
        refused(edgenas(*words), message, "")
    assert not Path("bad.toml").exists()


def test_predict_refuses_networks_of_no_space(edgenas, tiny: Path):
    refused(edgenas("predict", "--device", "jetson", "--arch", "no.json"), "no file no.json")
    stage = {"width": 8, "blocks": [{"kernel": 3, "expand": 1.0}]}
    arch = {"schema": "edgenas.arch/1", "resolution": 12, "stages": [stage]}
    Path("odd.json").write_text(json.dumps(arch))
    words = ("predict", "--device", "jetson", "--arch", "odd.json")
    refused(edgenas(*words), "--space must be given .* no shipped space holds it", "list spaces")
    refused(edgenas(*words, "--space", "tiny"), "stages", "")


# Supernets from images, and predictors of others


def test_train_and_fit_accuracy_from_the_command_line(edgenas, photos: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = "edgenas.recipe/1"\nepochs = 1\nbatch = 16\naccuracy_archs = 20\n')
    words = ("train", "--space", "tiny", "--data", photos, "--out", "run", "--recipe", recipe)
    done = edgenas(*words, "--test", photos, "--threads", 1, "--name", "lines", "--json")
    assert done.code == 0, done.log
    told = json.loads(done.out)
    assert told["predictor"]["n"] == 20
    # What a search chose was measured, is told, saved, and is the error that numbers carry.
    saved = load_accuracy(Path("run") / "accuracy.safetensors")
    assert saved.chosen is not None
    assert 1 <= saved.chosen.n <= CHOSEN
    assert told["chosen"] == saved.chosen.to_json()
    assert [row["network"] for row in told["test"]] == ["largest", "smallest"]
    assert told["validation_images"] == 9
    assert "Accuracy against MACs" in Path(told["report"]).read_text(encoding="utf-8")
    refused(edgenas(*words), "already holds a training run", "--resume")
    plain = edgenas("fit-accuracy", "run", "--data", photos, "--archs", 21)
    assert plain.code == 0, plain.log
    assert "mean error" in plain.out
    assert "networks that a search chose, predicted" in plain.out
    assert "stripes validation, n=9" in plain.out
    bundle = edgenas(
        "specialize", "--device", "jetson", "--supernet", "run", "--data", photos, "--json"
    )
    assert bundle.code == 0, bundle.log
    assert json.loads(bundle.out)["report"]["accuracy"]["kind"] == "measured"
    refused(
        edgenas("specialize", "--device", "jetson", "--supernet", "run"),
        "carries no calibration images",
        "--data",
    )


@pytest.mark.slow
def test_released_networks_are_imported(edgenas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ofa = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks")
    import torch

    torch.manual_seed(0)
    net = ofa.OFAMobileNetV3(
        n_classes=1000, width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )  # fmt: skip
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net.pth")
    words = ("import", "ofa-mbv3-w1.0", tmp_path / "net.pth", "--out", "net")
    done = edgenas(*words)
    assert done.code == 0, done.log
    assert "edgenas fit-accuracy net --data PATH" in done.out
    from edgenas.model.saved import load_supernet

    trained = load_supernet(Path("net"))
    assert trained.classes[-1] == "class 999"
    weight = trained.supernet.state_dict()["head.classifier.weight"]
    assert torch.equal(weight, next(net.classifier.parameters()))
    refused(edgenas(*words), "--out net exists", "another --out")
    refused(
        edgenas("specialize", "--device", "jetson", "--supernet", "net"),
        "has no accuracy predictor",
        "edgenas fit-accuracy net --data PATH",
    )
    other = ("import", "ofa-mbv3-w1.2", tmp_path / "net.pth", "--out", "other")
    refused(edgenas(*other), "does not fit space ofa-mbv3-w1.2", "another space")
    Path("garbage.pth").write_bytes(b"root:x:0:0:nobody:none\n" * 30)
    garbage = ("import", "ofa-mbv3-w1.2", "garbage.pth", "--out", "other")
    refused(edgenas(*garbage), "is damaged, or is no PyTorch file", "fetch it again")
    Path("garbage.pth").unlink()
    refused(edgenas(*other[:-1], "x", "--labels", "none.txt"), "cannot read --labels none.txt")
    assert everything(Path()) == ["net", "net/supernet.json", "net/weights.safetensors"]

    # The same from where it is published: fetched once, its hash recorded and insisted on.
    from edgenas.basics.download import ADDRESSES

    with serving_folder(tmp_path) as site:
        address = f"{site}/net.pth"
        monkeypatch.setitem(cast("dict[str, str]", ADDRESSES), "ofa-mbv3-w1.0", address)
        fetched = ("import", "ofa-mbv3-w1.0", "--download", "--out")
        wrong = (*fetched, "fetched", "--sha256", "0" * 64)
        refused(edgenas(*wrong), "is not the", "delete it and fetch it again")
        done = edgenas(*fetched, "fetched")
    assert done.code == 0, done.log
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    assert f"SHA-256 {digest}\nfrom      {address}\n" in done.out
    record = json.loads(Path("fetched/supernet.json").read_text())["training"]["imported"]
    assert (record["sha256"], record["address"]) == (digest, address)
    assert sha256(Path("fetched/weights.safetensors")) == sha256(Path("net/weights.safetensors"))
    # From then on without a network.
    done = edgenas(*fetched, "again", "--sha256", digest.upper())
    assert done.code == 0, done.log
    both = ("import", "ofa-mbv3-w1.0", tmp_path / "net.pth", "--out", "x")
    refused(edgenas(*both, "--download"), "not both", "import ofa-mbv3-w1.0 --download")
    refused(edgenas(*both[:2], *both[3:]), "give the file of the weights of ofa-mbv3-w1.0 or --dow")
    refused(edgenas(*both, "--sha256", "12"), "--sha256 must be 64 hexadecimal digits")
    refused(edgenas(*both, "--sha256", "0" * 64), "is not the")
    tiny = ("import", "tiny", "--download", "--out", "x")
    refused(edgenas(*tiny), "unknown released supernet 'tiny'")


@pytest.mark.slow
def test_published_tables_and_predictors_are_imported_and_searched(edgenas, shared_data: Path):
    ofa = shared_data / "ofa"
    if not (ofa / "note10").is_dir():
        pytest.skip("no published tables")
    pytest.importorskip("yaml")
    assert edgenas("import-ofa-table", ofa / "note10", "--out", "note10.json").code == 0
    words = ("import-ofa-accuracy", ofa / "acc_predictor.pth", "--space", "ofa-mbv3-w1.2")
    done = edgenas(*words, "--out", "accuracy.safetensors")
    assert done.code == 0, done.log
    refused(edgenas(*words, "--out", "accuracy.safetensors"), "--out accuracy.safetensors exists")
    search = ("search", "--space", "ofa-mbv3-w1.2", "--table", "note10.json")
    search += ("--accuracy", "accuracy.safetensors", "--constraint", "latency<=30ms")
    done = edgenas(*search, "--json")
    assert done.code == 0, done.log
    best = json.loads(done.out)["best"]
    assert best["latency_ms"] <= 30
    assert best["latency_upper_ms"] is None
    assert best["provenance"] == "published"
    assert 0.75 < best["accuracy"] < 0.85
    assert "error not known" in edgenas(*search).out
    refused(edgenas("import-ofa-table", ofa, "--out", "x.json"), "must hold files named")
    refused(edgenas("import", "ofa-mbv3-w1.2", "none.pth", "--out", "x"), "no file")
