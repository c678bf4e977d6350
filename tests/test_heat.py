"""Times after minutes of steady load, beside the cool ones; the stand-in heats by its own clock."""

import os
from dataclasses import replace

import loopback
import pytest
import trtexec_law
from trtexec_board import StandIn

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.clock.ssh import Place
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.clock.trtexec.heat import heat_engine
from edgenas.clock.trtexec.options import TensorrtVersion
from edgenas.clock.trtexec.results import EngineError
from edgenas.latency.device import Target
from edgenas.latency.device import load as load_device
from edgenas.latency.table_file import load_table, table_path
from edgenas.onnx_graph.build import network_graph
from edgenas.profiling import reach
from edgenas.profiling.heat import HeatedBoard, HeatedNetwork, check_heat, heat_in
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces

TINY = spaces.tiny()
SLOWDOWN, SECONDS = 0.2, 120.0
DEVICE = ("--device", "jetson-orin-nano", "--ssh", "loop")
TARGET = Target("jetson-orin-nano", "tensorrt", "fp16")

running, there = loopback.running, loopback.there_with_tensorrt


@pytest.fixture
def tool(running, tmp_path) -> StandIn:
    heat = {"slowdown": SLOWDOWN, "seconds": SECONDS, "file": str(tmp_path / "hot")}
    settings = {"version": "10.3.0", "noise": 0.001, "spread": 0.0, "heat": heat}
    return StandIn(tmp_path, running.folder / "venv" / "bin", settings)


def heated(model: bytes, version: str, *, seconds: float, load: float = 600.0):
    return heat_engine(
        TrtexecClock(place=Place(address="loop")),
        ("a", model),
        version=TensorrtVersion.parse(version),
        precision="fp32",
        run=seconds,
        load=load,
    )


@pytest.mark.parametrize("version", ["8.0.1", "8.6.2", "10.3.0", "11.1.0"])
def test_one_engine_is_timed_cool_and_after_ten_minutes(there, tool, version):
    tool.set(version=version)
    fit = runtimes.get("tensorrt").fit_version
    assert fit is not None
    model = fit(network_graph(TINY, TINY.largest()), version)
    truth = trtexec_law.truth(model, size=4)
    found = heated(model, version, seconds=truth)
    # The first mean is of ten seconds, in which the board heats by 4% of the way on average.
    assert found.cool == pytest.approx(truth * (1 + 0.04 * SLOWDOWN), rel=0.01)
    assert found.hot == pytest.approx(truth * (1 + SLOWDOWN), rel=0.005)
    assert found.load == 600
    (start,) = tool.starts()
    assert "--duration=600" in start
    assert not any(option.startswith("--exportTimes") for option in start)


def test_a_tool_that_tells_no_means_is_refused(there, tool):
    tool.set(fault="no means")
    with pytest.raises(EngineError, match="ran a for 600 s and told 0 means"):
        heated(network_graph(TINY, TINY.smallest()), "10.3.0", seconds=1e-4)


@pytest.mark.slow  # a profile, and two more
def test_a_profile_tells_times_on_the_hot_board(there, tool):
    at = reach.clock_at_hand(load_device("jetson"), ssh="loop")
    plan = ProfilePlan(networks=4, further=1, rebuilt=0, heat=600.0)
    heat = heat_in(profile(TINY, target=TARGET, plan=plan, clock=at))
    assert heat is not None
    assert heat.load == 600
    assert len(heat.networks) == 3
    assert heat.slowdown == pytest.approx(1 + SLOWDOWN, rel=0.02)
    for each in heat.networks[1:]:  # the board cools while they are built
        assert 1.1 < each.hot / each.cool < 1 + SLOWDOWN + 0.02
    cool = [each.cool for each in heat.networks]
    assert cool[0] > 0.98 * max(cool)  # the largest heats
    # A later profile without it keeps what is known; another load replaces it.
    os.remove(tool.settings["heat"]["file"])
    again = profile(TINY, target=TARGET, plan=replace(plan, heat=None), clock=at)
    assert heat_in(load_table(table_path(TARGET))) == heat == heat_in(again)
    shorter = profile(TINY, target=TARGET, plan=replace(plan, heat=60.0), clock=at)
    found = heat_in(shorter)
    assert found is not None
    assert found.load == 60
    assert found.slowdown < 1 + SLOWDOWN / 2


def test_the_verbs_print_it(there, tool, edgenas, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(network_graph(TINY, TINY.largest()))
    words = ("bench", path, *DEVICE, "--precision", "fp16", "--time", "1ms", "--heat", "10min")
    done = edgenas(*words)
    assert done.code == 0, done.log
    assert "after 10 min of steady load" in " ".join(done.out.split())


def test_a_load_that_cannot_be(edgenas):
    with pytest.raises(EdgenasError, match="heat must be at least 30 s, found 5 s"):
        check_heat(TrtexecClock(place=None), load=5.0)
    with pytest.raises(EdgenasError, match="--heat is for engines of TensorRT"):
        check_heat(measure, load=600.0)
    done = edgenas("profile", "--device", "host", "--space", "tiny", "--heat", "10")
    assert done.code == 2
    assert "heat must be in" in done.log
    done = edgenas("bench", "mine.tflite", "--heat", "10min")
    assert (done.code, "--heat is for engines of TensorRT" in done.log) == (2, True)


def test_heat_in_words():
    networks = (
        HeatedNetwork(network="a", cool=1e-3, hot=1.2e-3),
        HeatedNetwork(network="b", cool=5e-4, hot=5.5e-4),
    )
    heat = HeatedBoard(load=600.0, networks=networks, celsius=71.4, hertz=9.18e8)
    assert str(heat) == (
        "after 10 min of steady load 1.20 ms, cool 1.00 ms (+20.0%); others 0.550 ms, cool "
        "0.500 ms; GPU at 71 C, 918 MHz"
    )
    assert str(replace(heat, networks=networks[:1], celsius=None, hertz=None)).endswith("(+20.0%)")
