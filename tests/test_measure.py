import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import machine_lock_path
from edgenas.clock import measure
from edgenas.clock.board.machine import read_environment, read_state
from edgenas.clock.board.settings import WORK_SCHEMA, TimingSettings
from edgenas.clock.board.statistics import quantile, summarize
from edgenas.clock.measure import ClockStoppedError, Measurement
from edgenas.clock.order import make_order
from edgenas.clock.pack import BOOT
from edgenas.runtime import registry as runtimes

ORT = runtimes.get("onnxruntime")
# Enough to see that everything is wired; how long anything takes is no matter here.
QUICK = TimingSettings(baseline_seconds=0.05, min_samples=6, visit_seconds=0.05, rounds=2)

SOUND = Measurement(
    name="a",
    median=0.001,
    p10=0.0009,
    p90=0.0011,
    n=25,
    half_width=0.005,
    wall_p50=0.001,
    wall_p95=0.0012,
    wall_n=30,
    flag="",
    canary=0.00005,
)


def relu(channels: int = 4, *, operator: str = "Relu") -> bytes:
    shape = [1, channels, 8, 8]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


def is_locked() -> bool:
    with machine_lock_path().open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def children(parent: int) -> list[int]:
    """The clocks that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while we look
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if after_name[1] == str(parent) and BOOT in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


# The real thing


def test_graphs_are_timed_end_to_end(tmp_path: Path):
    (tmp_path / "b.onnx").write_bytes(relu(8))
    seen: list[dict] = []
    units = [("a", relu(4)), ("b", tmp_path / "b.onnx")]
    found = list(measure.measure(units, runtime=ORT, settings=QUICK, watch=seen.append))
    assert sorted(m.name for m in found) == ["a", "b"]
    for m in found:
        assert 0 < m.p10 <= m.p90
        assert m.median > 0
        assert 0 < m.wall_p50 <= m.wall_p95
        assert len(m.samples) == m.n
        assert len(m.wall_samples) == m.wall_n > 0
        assert m.canary > 0
        assert m.judgement()
    assert [event["event"] for event in seen if event["event"] != "progress"][:2] == [
        "environment",
        "baseline",
    ]
    assert seen[0]["runtime"] == "onnxruntime"
    assert seen[-1]["event"] == "end"
    assert seen[-1]["unvisited"] == []
    assert not is_locked()
    assert not children(os.getpid())


def test_building_graphs_is_in_the_time_given():
    def slow():
        yield "a", relu()
        time.sleep(0.3)
        yield "b", relu()

    seen: list[dict] = []
    settings = replace(QUICK, seconds=0.25)
    assert not list(measure.measure(slow(), runtime=ORT, settings=settings, watch=seen.append))
    assert sorted(seen[-1]["unvisited"]) == ["a", "b"]


def test_what_was_told_before_an_interruption_need_not_be_measured_again():
    units = {f"u{i}": relu(4 + i) for i in range(4)}
    kept: dict[str, Measurement] = {}
    stream = measure.measure(units.items(), runtime=ORT, settings=QUICK)
    first = next(stream)
    kept[first.name] = first
    stream.close()
    missing = [(name, onnx) for name, onnx in units.items() if name not in kept]
    for m in measure.measure(missing, runtime=ORT, settings=QUICK):
        assert m.name not in kept
        kept[m.name] = m
    assert sorted(kept) == sorted(units)


def test_the_machine_is_held_while_measuring_and_the_process_ends_with_us():
    stream = measure.measure([("a", relu()), ("b", relu())], runtime=ORT, settings=QUICK)
    assert not is_locked()
    next(stream)
    assert is_locked()
    assert len(children(os.getpid())) == 1
    stream.close()
    assert not is_locked()
    assert not children(os.getpid())


def test_ctrl_c_ends_the_process_and_frees_the_machine(tmp_path: Path):
    (tmp_path / "a.onnx").write_bytes(relu())
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgenas.clock.board.settings import TimingSettings\n"
        "from edgenas.clock.measure import measure\n"
        "from edgenas.runtime import registry as runtimes\n"
        "def watch(event):\n"
        "    print(event['event'], flush=True)\n"
        "settings = TimingSettings(baseline_seconds=60.0)\n"
        "ort = runtimes.get('onnxruntime')\n"
        "list(measure([('a', Path(sys.argv[1]))], runtime=ort, settings=settings, watch=watch))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.onnx")],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "environment\n"
        (clock,) = children(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert process.stderr.read().rstrip().endswith("KeyboardInterrupt")
    assert not Path("/proc", str(clock)).exists()
    assert not is_locked()


def test_one_model_is_timed_in_this_process():
    found = measure.time_model(relu(), runtime=ORT, settings=replace(QUICK, threads=2))
    assert found.name == "model"
    assert found.wall_n > 0
    assert not is_locked()


def test_a_path_is_timed_in_this_process(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(relu())
    assert measure.time_model(tmp_path / "m.onnx", runtime=ORT, settings=QUICK).wall_n > 0


def test_the_environment_is_that_of_the_clock():
    here, there = (
        measure.environment(ORT),
        read_environment(threads=1, runtime="onnxruntime", library="onnxruntime"),
    )
    changing = set(read_state())
    assert {k: v for k, v in here.items() if k not in changing} == (
        {k: v for k, v in there.items() if k not in changing}
    )


# Mistakes


def test_a_runtime_without_a_board_part_is_refused():
    untimed = replace(ORT, part="")
    refusal = "the clock cannot time the runtime onnxruntime: it has no board part"
    with pytest.raises(EdgenasError, match=refusal):
        list(measure.measure([("a", relu())], runtime=untimed))
    with pytest.raises(EdgenasError, match=refusal):
        measure.time_model(relu(), runtime=untimed)


def test_a_graph_that_the_runtime_refuses_is_named():
    units = [("bad", relu(operator="NoSuchOperator"))]
    with pytest.raises(EdgenasError, match=r"refuses bad: .*NoSuchOperator"):
        list(measure.measure(units, runtime=ORT, settings=QUICK))
    with pytest.raises(EdgenasError, match=r"refuses the model: .*NoSuchOperator"):
        measure.time_model(units[0][1], runtime=ORT, settings=QUICK)
    assert not is_locked()
    assert not children(os.getpid())


def test_two_units_of_one_name_are_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="a name of its own"):
        make_order([("a", b""), ("a", b"")], runtime=ORT, settings=QUICK, batch=1)


def test_a_clock_that_is_killed_is_reported_and_the_machine_is_free():
    def kill(event):
        if event["event"] == "environment":
            (clock,) = children(os.getpid())
            os.kill(clock, signal.SIGKILL)

    patient = TimingSettings(baseline_seconds=60.0)
    with pytest.raises(ClockStoppedError, match="code -9: it said nothing") as caught:
        list(measure.measure([("a", relu())], runtime=ORT, settings=patient, watch=kill))
    assert "goes on with what is missing" in caught.value.hint
    assert not is_locked()


def test_the_last_words_of_a_clock_are_told(monkeypatch):
    text = "print('half a line', end='')\nraise SystemExit('out of memory')\n"
    monkeypatch.setattr(measure, "pack_clock", lambda part: text)
    with pytest.raises(ClockStoppedError, match="the clock stopped with code 1: out of memory"):
        list(measure.measure([("a", relu())], runtime=ORT, settings=QUICK))


# The stream


def event(name: str = "a", **changes) -> bytes:
    plain = {
        "event": "result",
        "id": name,
        **summarize([1000] * 30, [1000] * 40, settings=QUICK),
        "canary": 5e-5,
        "visits": 1,
        "samples": [1000] * 30,
        "wall_samples": [1000] * 40,
    }
    return json.dumps(plain | changes).encode() + b"\n"


def test_a_stream_ends_with_its_end():
    seen: list[dict] = []
    end = b'{"event": "end", "unvisited": [], "seconds": 1, "readings": 2, "passes": 1}\n'
    lines = [event("a"), event("b"), end, b"ssh: bye\n"]
    found = list(measure.read_events(lines, watch=seen.append))
    assert [m.name for m in found] == ["a", "b"]
    assert found[0].median == pytest.approx(1e-6)
    assert found[0].samples == pytest.approx([1e-6] * 30)
    assert [e["event"] for e in seen] == ["end"]


@pytest.mark.parametrize("last", [[], [event()[:20]]])
def test_a_stream_that_breaks_off_is_an_error_but_what_came_is_told(last):
    stream = measure.read_events([event("a"), *last], watch=print)
    assert next(stream).name == "a"
    with pytest.raises(ClockStoppedError, match="stopped before the end of its work"):
        next(stream)


def test_an_order_is_what_the_clock_reads():
    units = [("a", b"\x00\xff"), ("b", Path("/x/b.onnx"))]
    text = make_order(
        units, runtime=ORT, settings=QUICK, batch=3, evict=lambda name: 5 * (name == "b")
    )
    order = json.loads(text)
    assert order["schema"] == WORK_SCHEMA
    assert TimingSettings(**order["settings"]) == QUICK
    assert order["units"] == [
        {"id": "a", "batch": 3, "evict": 0, "data": "AP8="},
        {"id": "b", "batch": 3, "evict": 5, "path": "/x/b.onnx"},
    ]


# Judgement


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "stable: median known to 0.5% (n=25)"),
        (
            {"flag": "wide", "half_width": 0.04},
            "unstable: the median is known to 4.0% only (n=25); the time ran out; allow more of it"
            ", and measure again",
        ),
        (
            {"flag": "wide", "half_width": 0.2, "p90": 0.002},
            "unstable: the median is known to 20.0% only (n=25); runs differ at full speed too: "
            "memory is contended or threads wait for each other, and measure again",
        ),
        (
            {"flag": "few", "n": 12, "wall_n": 300},
            "unstable: only 12 runs met the machine at full speed; other work or a power limit "
            "slows the machine; end other programs, let it cool, and measure again",
        ),
        (
            {"flag": "noisy", "n": 0, "wall_n": 300, "half_width": None},
            "unstable: only 0 of 300 runs met the machine at full speed; other work or a power "
            "limit slows the machine; end other programs, let it cool, and measure again",
        ),
    ],
)
def test_a_result_is_judged_with_its_likely_cause(changes, words):
    found = replace(SOUND, **changes)
    assert found.judgement() == words
    assert found.noisy == (found.flag in ("few", "noisy"))


def test_results_of_slower_moments_are_named():
    slow, near = replace(SOUND, name="b", canary=0.00008), replace(SOUND, name="c", canary=0.000053)
    assert measure.slower_moments([SOUND, slow, near]) == ["b"]
    assert measure.slower_moments([]) == []


@pytest.mark.parametrize(
    ("n", "flag", "words"),
    [
        (25, "", "median, n=25"),
        (6, "few", "median, n=6"),
        (0, "noisy", "5th percentile of 40 runs: none of them met the machine at full speed"),
        (3, "noisy", "5th percentile of 40 runs: only 3 of them met the machine at full speed"),
    ],
)
def test_a_number_is_called_a_median_only_where_it_is_one(n, flag, words):
    assert measure.statistic(n=n, wall_n=40, flag=flag) == words


def test_the_words_are_those_of_what_the_clock_computes():
    wall = [1000 + i for i in range(100)]
    found = summarize([], wall, settings=TimingSettings())
    told = measure.statistic(n=found["n"], wall_n=found["wall_n"], flag=found["flag"])
    assert told.startswith("5th percentile of 100 runs: none")
    assert found["median"] == pytest.approx(quantile(wall, 0.05) * 1e-9)
