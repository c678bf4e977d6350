"""Every verb by TensorRT, on each of its versions, over a real sshd with a stand-in."""

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
import recorded_boards
import trtexec_law
from onnx import TensorProto
from trtexec_board import StandIn, left_over, stay

from edgenas.clock.energy import MeterSettings
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.readers import find_reader, opset_of
from edgenas.profiling import answering
from edgenas.profiling import energy as energies
from edgenas.profiling.run import ProfilePlan
from edgenas.space import presets as spaces

# A version of each generation, and a recorded board that came with it or a near one.
VERSIONS = {
    "8.0.1": "nano",
    "8.2.1": "nano",
    "8.5.2": "agx-orin",
    "8.6.2": "orin-nano-super",
    "10.3.0": "orin-nano-super",
    "10.16.2": "orin-nano-super",
    "11.1.0": "agx-orin",
}
DEVICES = {"nano": "jetson-nano", "agx-orin": "jetson-agx-orin", "orin-nano-super": "jetson"}
QUICK = MeterSettings(steady=2.0, idle=2.0, interval=0.05)  # other tests may run at once
TARGET = ("--runtime", "tensorrt", "--precision", "fp16", "--ssh", "jetson")


@pytest.fixture(params=list(VERSIONS))
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def there(version, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback.Loopback]:
    """A recorded board over ssh, with the stand-in where its JetPack has the tool."""
    root = tmp_path / "root"
    recorded_boards.BOARDS[VERSIONS[version]](root)
    (root / "usr/bin/python3").unlink()
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    before = set(left_over())
    with loopback.board_or_skip(tmp_path / "ssh", EDGENAS_BOARD_ROOT=str(root)) as running:
        config = running.folder / "ssh_config"
        config.write_text(config.read_text().replace("Host loop\n", "Host loop jetson\n"))
        monkeypatch.setenv("PATH", f"{running.folder / 'client'}:{os.environ['PATH']}")
        yield running
        assert running.quiet()
        assert running.left() == []
        assert not stay(before)


@pytest.fixture
def tool(there, version, tmp_path, monkeypatch) -> StandIn:
    """The stand-in. It draws power from the rail that the recorded board has."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    rail = tmp_path / "root/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    if not rail.is_dir():  # a rail of JetPack 4 in the newer driver's words
        (tmp_path / "root/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0").unlink()
        rail.mkdir(parents=True)
        (rail / "in1_label").write_text("VDD_IN\n")
        (rail / "in1_input").write_text("5000\n")
    (rail / "curr1_input").write_text("800\n")
    usual = tmp_path / "root/usr/src/tensorrt/bin"
    (usual / "trtexec").unlink(missing_ok=True)  # that of the record
    place = tmp_path / "root/usr/bin" if version == "10.16.2" else usual
    place.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(energies, "METERED", 5)
    monkeypatch.setattr(energies, "_LINES", 3)
    plan = functools.partial(ProfilePlan, networks=8, further=4, rebuilt=1, meter=QUICK)
    monkeypatch.setattr(answering, "ProfilePlan", plan)
    drawn = {"folder": str(rail), "idle": 4.0, "noise": 0.01}
    heat = {"slowdown": 0.2, "seconds": 120.0, "file": str(folder / "hot")}
    settings = {"version": version, "spread": 0.01, "power": drawn, "heat": heat}
    return StandIn(folder, place, settings)


@pytest.mark.slow  # all verbs, each with some engines
def test_every_verb_works_on_every_version(there, tool, edgenas, tiny, tmp_path, version):
    device = ("--device", DEVICES[VERSIONS[version]])
    done = edgenas("doctor", "--ssh", "jetson", "--json")
    assert done.code in (0, 1), done.log
    told = json.loads(done.out)
    assert told["state"]["tensorrt"] == version
    assert "tensorrt" in {timed["runtime"] for timed in told["timed"]}

    space = ("--space", "tiny", "--classes", "3")
    done = edgenas("profile", *device, *TARGET, *space, "--energy", "--heat", "10min", "--json")
    assert done.code == 0, done.log
    table = json.loads(done.out)
    assert (table["networks"], table["energies"]) == (12, 5)
    heated = table["heat"]["networks"][0]
    assert heated["hot"] / heated["cool"] == pytest.approx(1.2, rel=0.02)

    Path(tool.settings["heat"]["file"]).unlink()  # it has cooled
    bundle = tmp_path / "bundle"
    # Room above the least that some network keeps: few networks were timed, so bounds vary.
    words = ("--supernet", tiny, "--latency", "0.058ms", "--energy", "1J", "--out", bundle)
    done = edgenas("specialize", *device, *TARGET, *words)
    assert done.code == 0, done.log
    report = json.loads((bundle / "report.json").read_text())
    assert any("after 10 min of steady load" in note for note in report["notes"])
    latency, energy = sorted(report["promises"], key=lambda each: each["constraint"], reverse=True)
    model = (bundle / "model.onnx").read_bytes()
    truth = trtexec_law.truth(model, size=2)
    assert truth < latency["value"] <= latency["limit"]
    assert energy["value"] <= energy["limit"]
    proto = loads(model).proto
    assert find_reader("tensorrt", version).reads(proto)
    assert opset_of(proto) == min(20, find_reader("tensorrt", version).opset)
    # Where the types of the file decide, they are fp16; before, the flag allows it.
    typed = int(version.split(".")[0]) >= 10
    kind = TensorProto.FLOAT16 if typed else TensorProto.FLOAT
    assert {tensor.data_type for tensor in proto.graph.initializer} == {kind}
    assert all(("--fp16" in start) != typed for start in tool.starts())

    done = edgenas("export", bundle, "--to", "trt-fp16", "--ssh", "jetson")
    assert done.code == 0, done.log
    assert (bundle / "trt-fp16" / "model.onnx").read_bytes() == model
    done = edgenas("verify", bundle)
    assert done.code == 0, done.out
    assert f"with TensorRT {version}" in " ".join(done.out.split())

    path, space = tmp_path / "mine.onnx", spaces.tiny()
    path.write_bytes(network_graph(space, space.largest()))
    for precision, size in (("fp32", 4), ("fp16", 2)):
        done = edgenas(
            "bench",
            path,
            *device,
            "--runtime",
            "tensorrt",
            "--precision",
            precision,
            "--ssh",
            "jetson",
            "--time",
            "1ms",
            "--json",
        )
        assert done.code == 0, done.log
        (told,) = json.loads(done.out)["results"]
        assert told["version"].startswith(version)
        truth = trtexec_law.truth(path.read_bytes(), size=size)
        assert told["latency"]["median"] == pytest.approx(truth, rel=0.05)

    done = edgenas("check", *device, *TARGET)
    assert done.code == 0, done.out
    assert "no drift" in done.out
