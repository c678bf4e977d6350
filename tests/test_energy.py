"""The power of boards and the energy of a run: sensors, steady runs, and answers that are none."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import loopback
import numpy as np
import pytest
import recorded_boards
import trtexec_law
from test_trtexec_stand_in import relu_graph
from trtexec_board import StandIn

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.steady import run_steadily as run_on_board
from edgenas.clock.energy import MeasuredEnergy, MeterSettings, SteadyRun, meter, run_steadily
from edgenas.clock.measure import WrongAnswerError
from edgenas.clock.power import PowerMeter, open_meter
from edgenas.clock.remote import Board
from edgenas.clock.ssh import LinkError, Place
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.clock.trtexec.energy import run_engine
from edgenas.clock.trtexec.options import TensorrtVersion
from edgenas.clock.trtexec.results import EngineError
from edgenas.latency.device import Target
from edgenas.latency.energy import fit_energy
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.profiling.networks import random_archs
from edgenas.profiling.reach import tool_clock
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.profiling.tables import predictor_for
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces

TINY = spaces.tiny()
ORT = runtimes.get("onnxruntime")
QUICK = MeterSettings(steady=1.0, idle=0.3, interval=0.02)
RAIL = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
COUNTER = "sys/class/powercap/intel-rapl:0"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    """A board over ssh with a power sensor in files."""
    folder = tmp_path_factory.mktemp("board")
    recorded_boards.orin_nano_super(folder / "root")
    (folder / "root/usr/bin/python3").unlink()  # the real one of the board is used
    (folder / "root/usr/src/tensorrt/bin/trtexec").unlink()
    with loopback.board_or_skip(folder / "ssh", EDGENAS_BOARD_ROOT=str(folder / "root")) as there:
        yield there


there = loopback.there


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty recorded board on this machine."""
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path))
    (tmp_path / "usr/bin").mkdir(parents=True)
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def power(seconds: float = 0.4):
    with open_meter(None, interval=0.02) as sensor:
        begin = time.monotonic()
        time.sleep(seconds)
        return sensor.power(begin, time.monotonic()), sensor.sensor


# Sensors


@pytest.mark.parametrize(
    ("name", "sensor", "watts"),
    [
        ("orin-nano-super", "VDD_IN", 5.008),  # the parts of the module are not added to it
        ("agx-orin", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 10.91936),
        ("nano", "POM_5V_IN", 2.4),
    ],
)
def test_the_power_of_recorded_boards(name, sensor, watts, root):
    recorded_boards.BOARDS[name](root)
    found, told = power()
    assert told == sensor
    assert found.watts == pytest.approx(watts, abs=3e-3)  # each rail is cut to milliwatts
    assert found.samples >= 5
    assert abs(found.drift) < 1e-9


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        ("RAM 1903/3956MB CPU [12%@1479,off] GPU@31C POM_5V_IN 4310/4102 POM_5V_GPU 1/1", 4.31),
        ("GR3D_FREQ 98%@[624] tj@48C VDD_IN 7120mW/6480mW VDD_SOC 1610mW/1580mW", 7.12),
        ("gpu@48C/48.1C VDD_IN 7093mW/6463mW/7832mW", 7.093),
        ("GPU 304/304 CPU 912/800 SOC 608/600 CV 0/0 VDDRQ 152/152 SYS5V 1480/1480", 3.456),
    ],
)
def test_where_the_sensor_is_closed_tegrastats_tells(line, watts, root):
    tool = root / "usr/bin/tegrastats"
    tool.write_text(f"#!/bin/sh\nwhile :; do echo '{line}'; sleep 0.02; done\n")
    tool.chmod(0o755)
    found, told = power()
    assert told == "tegrastats"
    assert found.watts == pytest.approx(watts)


def test_the_counters_of_a_processor(root):
    write(root, **{f"{COUNTER}/name": "package-0", f"{COUNTER}/energy_uj": "5000000"})
    over = threading.Event()

    def count() -> None:
        start = time.monotonic()
        while not over.wait(0.005):
            joules = 5 + 12.5 * (time.monotonic() - start)
            new = root / COUNTER / "new"
            new.write_text(f"{joules * 1e6:.0f}\n")
            new.replace(root / COUNTER / "energy_uj")

    thread = threading.Thread(target=count)
    thread.start()
    try:
        found, told = power(1.0)
    finally:
        over.set()
        thread.join()
    assert told == "package-0"
    # Moments of reading and of arriving differ by some milliseconds of 20; they even out.
    assert found.watts == pytest.approx(12.5, rel=0.25)


def test_a_machine_without_a_sensor_says_so(root):
    with pytest.raises(EdgenasError, match="this machine tells nobody its power: no sensor"):
        power()


def test_a_sensor_that_tells_nonsense_counts_as_nothing_drawn(root):
    recorded_boards.orin_nano_super(root)
    write(root, **{f"{RAIL}/curr1_input": "-7x$(id)"})
    found, _ = power()
    assert found.watts == 0.0


def test_a_stray_sample_does_not_count(root):
    recorded_boards.orin_nano_super(root)
    with open_meter(None, interval=0.01) as sensor:
        begin = time.monotonic()
        time.sleep(0.4)
        sensor._samples[3] = sensor._samples[3][0], 1e6
        assert sensor.power(begin, time.monotonic()).watts == pytest.approx(5.008)
        with pytest.raises(EdgenasError, match="told its power 0 times"):
            sensor.power(begin - 1, begin - 1)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("exec yes", WrongAnswerError, "it never begins"),
        ("exit 3", EdgenasError, "does not tell its power"),
        ("printf 'edgenas-power rails\\tA\\n'; exec yes", WrongAnswerError, "than its power"),
        ("printf 'edgenas-power rails\\tA\\n'; cat /dev/zero", WrongAnswerError, "at most"),
        ("printf 'edgenas-power rails\\tA\\n'; exit 0", EdgenasError, "told its power 0 times"),
    ],
)
def test_meters_that_are_none(text, error, words, monkeypatch):
    monkeypatch.setattr("edgenas.clock.power.POWER_TEXT", text + "\n")
    with pytest.raises(error) as caught:
        power(0.3)
    assert words in caught.value.message
    assert len(caught.value.message) <= 300


def test_a_meter_takes_nothing_from_pipes_that_are_opened_after_it(root, monkeypatch):
    recorded_boards.orin_nano_super(root)
    closed, ended, collect = threading.Event(), threading.Event(), PowerMeter._collect

    def collect_late(self):
        assert closed.wait(60)
        collect(self)
        ended.set()

    monkeypatch.setattr(PowerMeter, "_collect", collect_late)
    with open_meter(None, interval=0.02):
        pass
    out, into = os.pipe()
    copies = [os.dup(out) for _ in range(20)]  # all numbers that are free again
    os.set_blocking(out, False)
    os.write(into, b"1\n")
    closed.set()
    assert ended.wait(60)
    assert os.read(out, 9) == b"1\n"
    for handle in (out, into, *copies):
        os.close(handle)


def test_a_board_that_cannot_be_reached(there):
    with (
        pytest.raises(LinkError, match="closed refuses the connection"),
        open_meter(Place(address="closed")),
    ):
        pass


# Steady runs


def test_a_board_runs_a_unit_without_a_pause():
    clock = {"now": 0.0}

    def run() -> None:
        clock["now"] += 0.004

    settings = TimingSettings(steady=2.0)
    events = list(run_on_board([("a", lambda: run)], settings=settings, now=lambda: clock["now"]))
    assert [event["event"] for event in events] == ["steady", "steady", "end"]
    assert events[0]["runs"] == 0
    assert events[1]["seconds"] == pytest.approx(2.0, abs=0.02)
    assert events[1]["seconds"] / events[1]["runs"] == pytest.approx(0.004)
    assert events[2]["unvisited"] == ["a"]


def test_the_energy_is_power_times_time(root):
    recorded_boards.orin_nano_super(root)

    def run(name: str) -> SteadyRun:
        begin = time.monotonic()
        time.sleep(0.3)
        return SteadyRun(begin=begin, end=time.monotonic(), seconds=float(name))

    first, second = meter(["0.25", "0.5"], place=None, run=run, settings=QUICK)
    assert (first.name, first.sensor) == ("0.25", "VDD_IN")
    assert first.joules == pytest.approx(0.25 * 5.008)
    assert second.joules == pytest.approx(2 * first.joules)
    assert first.idle_watts == pytest.approx(5.008)


def test_onnx_runtime_over_ssh(there):
    unit = ("smallest", network_graph(TINY, TINY.smallest()))
    clock = Board(place=Place(address="loop"))

    def run(name: str) -> SteadyRun:
        return run_steadily(
            clock.measure, unit, runtime=ORT, settings=TimingSettings(), batch=1, seconds=1.0
        )

    (found,) = meter(["smallest"], place=clock.place, run=run, settings=QUICK)
    assert found.watts == pytest.approx(5.008)
    assert found.joules == pytest.approx(5.008 * found.seconds)
    assert 0 < found.seconds < 0.1


def test_a_clock_that_does_not_run_it_is_refused():
    with pytest.raises(WrongAnswerError, match="did not run a without a pause"):
        run_steadily(
            lambda *given, **more: [],
            ("a", b""),
            runtime=ORT,
            settings=TimingSettings(),
            batch=1,
            seconds=1.0,
        )


# trtexec


def energy_of(running, tmp_path, version: str, model: bytes, **changes) -> MeasuredEnergy:
    folder = running.folder.parent / "root" / RAIL
    settings = {"version": version, "noise": 0.0, "spread": 0.0, "seed": 1}
    drawn = {"folder": str(folder), "idle": 4.0, "noise": 0.01}
    board = StandIn(tmp_path, running.folder / "venv" / "bin", {**settings, "power": drawn})
    board.set(**changes)
    (folder / "curr1_input").write_text("799\n")  # at 5.008 V: about 4 W
    clock = TrtexecClock(place=Place(address="loop"))

    def run(name: str) -> SteadyRun:
        parsed = TensorrtVersion.parse(version)
        return run_engine(clock, (name, model), version=parsed, precision="fp16", seconds=1.0)

    (found,) = meter(["x"], place=clock.place, run=run, settings=QUICK)
    return found


@pytest.mark.parametrize(
    "version",
    ["8.5.2", *(pytest.param(v, marks=pytest.mark.slow) for v in ("8.0.1", "10.3.0", "11.1.0"))],
)
def test_an_engine_draws_what_the_law_says(version, there, tmp_path):
    # TensorRT 8.0 has no HardSwish.
    model = relu_graph() if version == "8.0.1" else network_graph(TINY, TINY.largest())
    if int(version.split(".")[0]) >= 10:
        model = convert_to_form(model, form="fp16")
    found = energy_of(there, tmp_path, version, model)
    seconds = trtexec_law.truth(model, size=2)
    truth = trtexec_law.energy(model, seconds=seconds)
    assert found.seconds == pytest.approx(seconds, rel=1e-3)
    assert found.joules == pytest.approx(truth, rel=0.03)
    assert found.idle_watts == pytest.approx(4.0, rel=0.01)
    # The sensor tells whole milliwatts, and the smallest network draws hardly more than nothing.
    assert found.watts > found.idle_watts - 0.002


@pytest.mark.slow
def test_an_engine_that_cannot_be_built_is_told(there, tmp_path):
    with pytest.raises(EngineError):
        energy_of(there, tmp_path, "10.3.0", relu_graph(), fault="terminate")


@pytest.mark.slow  # each network runs for a second while it is metered
def test_a_profile_by_trtexec_predicts_energies_of_networks_never_measured(
    there, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    folder = there.folder.parent / "root" / RAIL
    settings = {"version": "10.3.0", "noise": 0.01, "spread": 0.03}
    drawn = {"folder": str(folder), "idle": 4.0, "noise": 0.01}
    StandIn(tmp_path, there.folder / "venv" / "bin", {**settings, "power": drawn})
    (folder / "curr1_input").write_text("799\n")  # at 5.008 V: about 4 W
    runtime = runtimes.get("tensorrt")
    clock = tool_clock(runtime, place=Place(address="loop"))
    plan = ProfilePlan(networks=10, further=20, rebuilt=0, visits=1, energy=True, meter=QUICK)
    table = profile(
        TINY, target=Target("jetson-orin-nano", "tensorrt", "fp16"), plan=plan, clock=clock
    )
    assert table.environment["idle_watts"] == pytest.approx(4.0, rel=0.01)
    energy = fit_energy(TINY, table, latency=predictor_for(table, TINY))
    assert energy is not None
    others = random_archs(TINY, 60, seed=7)

    def truth(arch) -> float:
        shipped = runtime.fit_version or (lambda graph, version: graph)
        half = convert_to_form(network_graph(TINY, arch), form="fp16")
        graph = shipped(half, "10.3.0")
        return trtexec_law.energy(graph, seconds=trtexec_law.truth(graph, size=2))

    true = np.array([truth(arch) for arch in others])
    assert np.abs(energy.predict(others) / true - 1).mean() < 0.03  # the bar of the product
    assert (energy.upper(others, confidence=0.95) >= true).sum() >= 54


@pytest.mark.slow  # each network runs while it is metered, in a session of its own
def test_a_profile_over_ssh_meters_networks_on_onnx_runtime(there, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    (there.folder.parent / "root" / RAIL / "curr1_input").write_text("1000\n")
    once = TimingSettings(baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6)
    plan = ProfilePlan(
        settings=once,
        networks=4,
        further=0,
        visits=1,
        method="networks",
        energy=True,
        meter=MeterSettings(steady=0.5, idle=0.3, interval=0.02),
    )
    target = Target("jetson-orin-nano", "onnxruntime", "fp32")
    clock = Board(place=Place(address="loop"))
    table = profile(TINY, target=target, plan=plan, clock=clock)
    for network in table.networks:
        assert network.joules is not None
        # Energy counts all runs; the median counts those at full speed, and may be far below.
        assert network.joules > 0.5 * 5.008 * network.timing.seconds
