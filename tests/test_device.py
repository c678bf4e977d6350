import shutil
from pathlib import Path

import pytest

from edgenas.basics.errors import EdgenasError
from edgenas.latency import device
from edgenas.latency.device import Target

SHIPPED = Path(__file__).parents[1] / "device_profiles"

BOARD = """
schema = "edgenas.device/1"
name = "board"
title = "a board"
aliases = ["plank"]
reach = "ssh"
address = "pi@board"

[facts]
bandwidth = { value = 12.8, unit = "GB/s", source = "data sheet" }

[[targets]]
runtime = "tflite"
precision = "fp32"
threads = 4
batch = 1

[targets.estimate]
model = "prices/1"
fused = ["relu"]
rows = 2
method = "leave one out"
residuals = [0.2, -0.1]
doubt = 0.1
covariance = [[0.04]]
sources = ["a/b:c@d"]
smallest = { network = "small", macs = 1e7, latency_ms = 5.0, source = "a/b:c@d" }
largest = { network = "large", macs = 1e9, latency_ms = 80.0, source = "a/b:c@d" }
power = { value = 5.5, unit = "W", source = "a/b:c@d" }
[targets.estimate.parameters]
run = { value = 1e-3, origin = "fit" }

[[targets]]
runtime = "tflite"
precision = "int8"
threads = 4
batch = 1
no_estimate = "nobody published any"
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(BOARD)
    return path


def test_a_profile_is_read_as_written(board: Path):
    found = device.read(board)
    assert (found.name, found.aliases, found.reach) == ("board", ("plank",), "ssh")
    assert found.address == "pi@board"
    assert found.facts["bandwidth"].value == 12.8
    first, second = found.uses
    assert first.target == Target("board", "tflite", "fp32", 4, 1)
    assert first.estimate is not None
    assert first.estimate.residuals == (-0.1, 0.2)
    assert first.estimate.covariance == ((0.04,),)
    assert first.estimate.smallest.seconds == pytest.approx(5e-3)
    assert first.estimate.power is not None
    assert first.estimate.power.value == 5.5
    assert second.estimate is None
    assert second.no_estimate == "nobody published any"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('reach = "ssh"', 'reach = "pigeon"', "reach must be one of local, ssh, none"),
        ('title = "a board"', "title = 3", "title must be a text, found 3"),
        ('title = "a board"', "", "the field 'title' is missing"),
        ('title = "a board"', 'titel = "a board"', "unknown field 'titel'"),
        ("batch = 1\nno_", "batch = 1\nbits = 3\nno_", "targets[1]: unknown field 'bits'"),
        (
            "threads = 4\nbatch = 1\nno",
            "threads = 0\nbatch = 1\nno",
            "targets[1].threads must be at least 1, found 0",
        ),
        ('"int8"', '"int3"', "targets[1].precision must be one of"),
        ('no_estimate = "nobody published any"', "", "either estimate or no_estimate"),
        ("[0.2, -0.1]", "[]", "residuals must not be empty"),
        ("doubt = 0.1", "", "the field 'doubt' is missing"),
        ("[[0.04]]", "[0.04]", "covariance[0] must be a list, found 0.04"),
        ("[0.2, -0.1]", '["big"]', "must be a number, found 'big'"),
        ("macs = 1e7, ", "", "smallest: the field 'macs' is missing"),
        ('origin = "fit"', 'origin = "guess"', "origin must be one of fit, pooled, formula"),
        ('"int8"', '"fp32"', "lists tflite-fp32-t4-b1 twice"),
        ('name = "board"', 'name = "plank"', "name must be 'board', the name of its file"),
        ("threads = 4", "threads = 99999", "targets[0].threads must be at most 4096"),
        ("5.0", "-5.0", "smallest.latency_ms must be above 0 milliseconds, found -5.0"),
        ("5.0", "nan", "smallest.latency_ms must be a finite number, found nan"),
        ("macs = 1e7", "macs = inf", "smallest.macs must be a finite number, found inf"),
        ("5.5", "-5.5", "power.value must be at least 0, found -5.5"),
        ("12.8", "1e99", "facts.bandwidth.value must be at most 1e+18, found 1e+99"),
        ("value = 1e-3", "value = -1", "parameters.run.value must be at least 0 seconds"),
        (
            "a board",
            r"a\u001b[2J",
            r"title must be a text without control characters, found 'a\x1b",
        ),
        ("plank", r"plank\u202e", "aliases[0] must be a text without control characters"),
        ('"plank"', "1979-05-27", "aliases[0] must be a text, found datetime.date(1979, 5, 27)"),
        ("/1", "/9", "must have schema 'edgenas.device/1', found 'edgenas.device/9'"),
    ],
)
def test_a_wrong_profile_names_the_field(board: Path, old: str, new: str, message: str):
    assert old in BOARD
    board.write_text(BOARD.replace(old, new, 1))
    with pytest.raises(EdgenasError) as caught:
        device.read(board)
    assert message in caught.value.message
    assert str(board) in caught.value.message


def test_targets_are_found_by_what_is_asked(board: Path):
    found = device.read(board)
    assert found.target() == Target("board", "tflite", "fp32", 4, 1)
    assert found.target(precision="int8") == found.uses[1].target
    other = found.target(precision="int8", threads=2)
    assert other == Target("board", "tflite", "int8", 2, 1)
    assert found.use(other) is None


def test_wrong_targets_are_refused(board: Path):
    found = device.read(board)
    with pytest.raises(EdgenasError, match="unknown precision 'fp8'"):
        found.target(precision="fp8")
    with pytest.raises(EdgenasError, match="threads must be at least 1, found 0"):
        found.target(threads=0)


def test_a_slug_tells_targets_apart():
    target = Target("jetson-orin-nano", "tensorrt", "fp16", 1, 1)
    assert target.slug == "tensorrt-fp16-t1-b1"
    assert str(target) == "jetson-orin-nano / tensorrt fp16, 1 thread, batch 1"


def test_users_add_and_override_profiles(board: Path, monkeypatch: pytest.MonkeyPatch):
    root = board.parent
    (root / "device_profiles").mkdir()
    shutil.copy(board, root / "device_profiles" / "board.toml")
    mine = (SHIPPED / "host.toml").read_text().replace("this machine's CPU", "my machine")
    (root / "device_profiles" / "host.toml").write_text(mine)
    monkeypatch.setenv("EDGENAS_PATH", str(root))
    assert device.load("board").title == "a board"
    assert device.load("Plank").name == "board"
    assert device.load("host").title == "my machine"
    assert device.load(str(board)).title == "a board"
    names = [found.name for found in device.list_devices()]
    assert names == sorted(set(names))
    assert {"board", "host", "jetson-orin-nano"} <= set(names)


def test_an_unknown_device_names_its_neighbours():
    with pytest.raises(EdgenasError, match="unknown device 'jetsn'") as caught:
        device.load("jetsn")
    assert "jetson" in caught.value.hint
    assert "edgenas list devices" in caught.value.hint


def test_a_name_is_no_path():
    with pytest.raises(EdgenasError, match="unknown device"):
        device.load("../device_profiles/host")


def test_jetson_means_the_orin_nano_with_tensorrt_fp16():
    found = device.load("jetson")
    assert found.name == "jetson-orin-nano"
    assert found.target().slug == "tensorrt-fp16-t1-b1"
    assert found.power_mode


def test_host_is_this_machine():
    found = device.load("host")
    assert found.reach == "local"
    assert found.target().slug == "onnxruntime-fp32-t1-b1"


def test_no_two_shipped_devices_share_a_name():
    names = [name for found in device.list_devices() for name in (found.name, *found.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_every_shipped_number_has_a_source():
    for found in device.list_devices():
        assert all(fact.source and fact.unit for fact in found.facts.values()), found.name
        for use in found.uses:
            if use.estimate is not None:
                assert use.estimate.sources, use.target
                assert all("@" in source for source in use.estimate.sources), use.target
