import gc
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from edgenas.clock.board import machine, processors, system
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.processors import choose_processors, pin, spin_on
from edgenas.clock.board.runs import evict_caches_before
from edgenas.clock.board.settings import WORK_SCHEMA, TimingSettings
from edgenas.clock.board.statistics import (
    Samples,
    find_baseline,
    find_full_speed,
    half_width,
    median_rank,
    quantile,
    summarize,
)
from edgenas.clock.board.system import run_command, values_after
from edgenas.clock.board.timing import time_units
from edgenas.clock.pack import BOOT, pack_clock

PART = "edgenas.clock.board.onnx_runtime:PART"
# No test here looks at a real duration: time is what `Machine` says it is.
SETTINGS = TimingSettings(baseline_seconds=1.0)


class Machine:
    """A machine with its own time (ns), at a speed that depends on that time."""

    def __init__(self, slowness=lambda seconds: 1.0, *, jitter: float = 0.0) -> None:
        self.time = 0
        self.slowness = slowness
        self.jitter = jitter
        self.rng = random.Random(0)
        self.loads: list[str] = []

    def now(self) -> int:
        return self.time

    def work(self, seconds: float, *, jitter: float = 0.0) -> float:
        factor = self.slowness(self.time * 1e-9) * (1 + jitter * self.rng.random())
        self.time += round(seconds * factor * 1e9)
        return seconds * factor

    def read(self, processors: tuple[int, ...]) -> tuple[float, ...]:
        return (self.work(0.0002),)

    def unit(self, name: str, seconds: float):
        def load():
            self.loads.append(name)
            return lambda: self.work(seconds, jitter=self.jitter)

        return name, load

    def events(self, *units, settings: TimingSettings = SETTINGS) -> list[dict]:
        return list(time_units(units, settings=settings, read=self.read, now=self.now))


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["event"] == kind]


# Statistics


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_quantile_is_numpys(values, q):
    assert quantile(values, q) == pytest.approx(np.quantile(values, q))


@given(st.integers(0, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_the_median_is_the_narrowest_that_holds_its_confidence(n, confidence):
    rank = median_rank(n, confidence)
    # P(the median lies outside) = 2 P(Binomial(n, 1/2) <= rank): small enough, the next is not.
    allowed = 1 - confidence
    if rank is None:
        assert n == 0 or 2 * binom.cdf(0, n, 0.5) > allowed * (1 - 1e-9)
    else:
        assert 2 * binom.cdf(rank, n, 0.5) <= allowed * (1 + 1e-9)
        assert 2 * rank < n
        assert 2 * binom.cdf(rank + 1, n, 0.5) > allowed * (1 - 1e-9)


def test_the_interval_of_the_median_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = np.sort(rng.exponential(size=(4000, 25)), axis=1)
    rank = median_rank(25, 0.95)
    covered = (draws[:, rank] <= math.log(2)) & (math.log(2) <= draws[:, -1 - rank])
    assert 0.95 <= covered.mean() <= 0.97  # exactly 0.957 for n = 25


def test_half_width_is_a_part_of_the_median():
    samples = list(range(90, 111))  # n = 21: ranks 5 and 15
    assert half_width(samples, confidence=0.95) == pytest.approx(5 / 100)
    assert half_width([1.0] * 5, confidence=0.95) == math.inf


@given(st.integers(1, 20000), st.integers(1, 7))
def test_stored_samples_are_few_and_evenly_spread(n, batch):
    samples = Samples()
    numbers = list(range(n))
    for start in range(0, n, batch):
        samples.extend(numbers[start : start + batch])
    assert len(samples.values) <= 2007
    assert len(samples.values) >= min(n, 1000)
    assert set(np.diff(samples.values)) <= {samples.values[1]} if n > 1 else samples.values == [0]


def test_full_speed_is_the_typical_reading_of_the_fast_mode():
    rng = np.random.default_rng(0)
    fast = rng.uniform(1.00, 1.15, 300)
    slow = rng.uniform(1.70, 1.90, 700)
    assert find_full_speed([*fast, *slow]) == pytest.approx(np.median(fast), rel=0.01)
    blip = [0.5] * 5
    assert find_full_speed([*blip, *fast, *slow]) == pytest.approx(np.median(fast), rel=0.01)


def test_a_speed_that_is_hardly_ever_reached_is_not_full_speed():
    rng = np.random.default_rng(0)
    usual, rare = rng.uniform(1.20, 1.30, 950), rng.uniform(1.00, 1.05, 50)
    assert find_full_speed([*usual, *rare]) == pytest.approx(1.25, rel=0.02)
    assert find_full_speed([*usual, *np.repeat(rare, 3)]) < 1.1
    assert find_full_speed([3.0, 1.0, 2.0]) == 1.0


def test_baseline_looks_at_the_worst_processor():
    readings = [(1.0, 2.0)] * 60 + [(1.0, 4.0)] * 30 + [(2.0, 2.0)] * 10
    baseline = find_baseline(readings, gate=1.08)
    assert baseline.seconds == (1.0, 2.0)
    assert baseline.quiet == 0.6
    assert baseline.p50_ratio == 1.0
    assert baseline.p95_ratio == 2.0


def test_a_sound_summary_is_of_the_gated_runs_and_tells_the_others():
    kept, wall = [1000 + i for i in range(25)], [1000] * 25 + [3000] * 75
    found = summarize(kept, wall, settings=SETTINGS)
    assert found["flag"] == ""
    assert found["n"] == 25
    assert found["median"] == pytest.approx(1012e-9)
    assert found["p10"] < found["median"] < found["p90"]
    assert found["half_width"] == pytest.approx(5 / 1012)
    assert (found["wall_p50"], found["wall_p95"]) == pytest.approx((3e-6, 3e-6))
    assert found["wall_n"] == 100


@pytest.mark.parametrize(
    ("kept", "flag"),
    [
        ([], "noisy"),
        ([1000] * 5, "noisy"),
        ([1000] * 6, "few"),
        ([1000] * 24, "few"),
        ([1000, 2000] * 13, "wide"),
        ([1000] * 25, ""),
    ],
)
def test_flags_say_what_is_wrong(kept, flag):
    assert summarize(kept, [5000] * 100, settings=SETTINGS)["flag"] == flag


def test_without_gated_runs_the_fifth_percentile_of_all_stands_in():
    wall = list(range(1000, 2000))
    found = summarize([], wall, settings=SETTINGS)
    assert found["median"] == pytest.approx(np.quantile(wall, 0.05) * 1e-9)
    assert found["p10"] == pytest.approx(np.quantile(wall, 0.10) * 1e-9)
    assert found["half_width"] is None


# Gating


def test_on_a_quiet_machine_a_unit_takes_the_fewest_runs():
    machine = Machine()
    events = machine.events(machine.unit("a", 0.001))
    assert [event["event"] for event in events] == ["baseline", "result", "end"]
    (result,) = of(events, "result")
    assert result["id"] == "a"
    assert result["median"] == pytest.approx(0.001)
    assert (result["n"], result["wall_n"], result["flag"]) == (25, 25, "")
    assert result["canary"] == pytest.approx(0.0002)


def test_slow_moments_are_gated_away_but_told():
    machine = Machine(lambda t: 1.6 if t % 1.0 < 0.75 else 1.0)
    settings = TimingSettings(baseline_seconds=6.0, min_seconds=8.0)
    (result,) = of(machine.events(machine.unit("a", 0.001), settings=settings), "result")
    assert result["median"] == pytest.approx(0.001)
    assert result["p90"] == pytest.approx(0.001)
    assert result["wall_p50"] == pytest.approx(0.0016)
    assert result["wall_p95"] == pytest.approx(0.0016)
    slow = np.mean(np.array(result["wall_samples"]) > 1_500_000)
    assert slow == pytest.approx(0.65, abs=0.05)  # of the runs: (0.75 / 1.6) / (0.75 / 1.6 + 0.25)


def test_a_batch_that_begins_or_ends_slow_is_not_kept():
    # Slow spells are longer than a batch, so they cover one of its ends.
    machine = Machine(lambda t: 1.6 if t >= 1.0 and (t * 1e3) % 31 < 15 else 1.0)
    (result,) = of(machine.events(machine.unit("a", 0.001)), "result")
    assert result["n"] >= 25
    assert set(result["samples"]) == {1_000_000}
    assert set(result["wall_samples"]) == {1_000_000, 1_600_000}


def test_a_unit_that_met_a_slow_moment_gets_another_turn():
    machine = Machine(lambda t: 1.6 if 1.0 <= t < 2.0 else 1.0)
    events = machine.events(machine.unit("a", 0.001), machine.unit("b", 0.001))
    results = of(events, "result")
    assert [result["flag"] for result in results] == ["", ""]
    assert sorted(result["visits"] for result in results) == [1, 2]
    assert len(of(events, "progress")) >= 1


def test_a_noisy_unit_runs_longer_and_ends_with_a_wide_interval():
    settings = TimingSettings(baseline_seconds=1.0, max_samples=100, tolerance=0.001)
    machine = Machine(jitter=0.2)
    (result,) = of(machine.events(machine.unit("a", 0.001), settings=settings), "result")
    assert (result["flag"], result["n"]) == ("wide", 100)
    machine = Machine(jitter=0.2)
    loose = TimingSettings(baseline_seconds=1.0, max_samples=1000, tolerance=0.02)
    (result,) = of(machine.events(machine.unit("a", 0.001), settings=loose), "result")
    assert result["flag"] == ""
    assert 25 <= result["n"] < 1000


def test_a_machine_that_never_reaches_its_baseline_again_ends_flagged_in_bounded_time():
    machine = Machine(lambda t: 1.0 if t < 1.0 else 1.6)
    settings = TimingSettings(baseline_seconds=1.0, stale_seconds=1e9)
    units = [machine.unit(f"u{i}", 0.001) for i in range(10)]
    results = of(machine.events(*units, settings=settings), "result")
    assert len(results) == 10
    assert {result["flag"] for result in results} == {"noisy"}
    assert all(result["median"] == pytest.approx(0.0016) for result in results)
    # 5 rounds of 10 turns of 0.8 s, each at most one batch late.
    assert machine.time <= (1.0 + 5 * 10 * 0.9) * 1e9


def test_a_baseline_out_of_reach_is_taken_anew():
    machine = Machine(lambda t: 1.0 if t < 1.0 else 1.6)
    units = [machine.unit(f"u{i}", 0.001) for i in range(60)]
    events = machine.events(*units)
    first, second = of(events, "baseline")
    assert second["seconds"][0] == pytest.approx(1.6 * first["seconds"][0])
    results = of(events, "result")
    assert len(results) == 60
    assert {result["flag"] for result in results} == {""}
    assert all(result["canary"] == pytest.approx(0.00032) for result in results)


def test_a_baseline_that_is_met_now_and_then_only_is_taken_anew():
    # Turbo while the baseline is taken, and for a moment of each second from then on.
    machine = Machine(lambda t: 1.0 if t < 1.0 or t % 1.0 < 0.05 else 1.2)
    units = [machine.unit(f"u{i}", 0.001) for i in range(60)]
    events = machine.events(*units)
    first, second = of(events, "baseline")
    assert second["seconds"][0] == pytest.approx(1.2 * first["seconds"][0])
    results = of(events, "result")
    assert {result["flag"] for result in results} == {""}
    late = [r["median"] for r in results if r["canary"] == second["seconds"][0]]
    assert late == pytest.approx([0.0012] * len(late))
    assert len(late) >= 30


def test_a_machine_that_gets_faster_is_noticed():
    machine = Machine(lambda t: 1.6 if t < 1.5 else 1.0)
    units = [machine.unit(f"u{i}", 0.002) for i in range(60)]
    events = machine.events(*units)
    first, second = of(events, "baseline")
    assert second["seconds"][0] == pytest.approx(first["seconds"][0] / 1.6)
    by_speed = {round(r["canary"] * 1e6): r["median"] for r in of(events, "result")}
    assert by_speed == {320: pytest.approx(0.0032), 200: pytest.approx(0.002)}


def test_a_machine_that_is_never_steady_ends_too():
    rng = random.Random(1)
    machine = Machine(lambda t: rng.choice([1.0, 1.3, 1.7, 2.0, 3.0]))
    events = machine.events(*(machine.unit(f"u{i}", 0.001) for i in range(5)))
    assert len(of(events, "result")) == 5
    assert events[-1]["event"] == "end"


def test_slow_units_get_enough_runs_a_turn():
    machine = Machine()
    (result,) = of(machine.events(machine.unit("a", 0.5)), "result")
    assert (result["n"], result["visits"]) == (25, 3)  # 12 runs a turn, and one under way


def test_a_unit_is_observed_for_as_long_as_asked():
    machine = Machine()
    settings = TimingSettings(baseline_seconds=1.0, min_seconds=4.0)
    (result,) = of(machine.events(machine.unit("a", 0.001), settings=settings), "result")
    assert machine.time >= 5.0e9
    assert machine.time < 6.0e9
    assert result["flag"] == ""


# Turns


def test_the_order_is_random_and_the_seeds():
    def order(seed):
        machine = Machine()
        settings = TimingSettings(baseline_seconds=0.1, seed=seed)
        machine.events(*(machine.unit(f"u{i:02}", 0.001) for i in range(20)), settings=settings)
        return machine.loads

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) != order(1)


def test_when_time_is_over_what_was_measured_is_told_and_the_rest_named():
    machine = Machine()
    settings = TimingSettings(baseline_seconds=1.0, seconds=1.5)
    names = [f"u{i}" for i in range(40)]
    events = machine.events(*(machine.unit(name, 0.002) for name in names), settings=settings)
    done = [result["id"] for result in of(events, "result")]
    assert 0 < len(done) < 40
    assert sorted(done + events[-1]["unvisited"]) == sorted(names)
    assert machine.time < 1.6e9


def test_results_come_one_by_one():
    machine = Machine()
    units = [machine.unit(f"u{i}", 0.001) for i in range(3)]
    stream = time_units(units, settings=SETTINGS, read=machine.read, now=machine.now)
    seen = [next(stream), next(stream)]
    assert [event["event"] for event in seen] == ["baseline", "result"]
    assert len(machine.loads) == 1
    stream.close()


def test_a_unit_that_does_not_load_is_told_and_the_others_go_on():
    def refuse():
        raise UnitError("no such operator")

    machine = Machine()
    events = machine.events(("bad", refuse), machine.unit("good", 0.001))
    assert of(events, "error") == [{"event": "error", "id": "bad", "message": "no such operator"}]
    assert [result["id"] for result in of(events, "result")] == ["good"]
    assert events[-1]["unvisited"] == []


def test_the_caller_keeps_its_garbage_collector_and_its_processors():
    seen = []

    def load():
        seen.append((gc.isenabled(), len(os.sched_getaffinity(0))))
        return lambda: machine.work(0.001)

    machine = Machine()
    before = os.sched_getaffinity(0)
    for _ in time_units([("a", load)], settings=SETTINGS, read=machine.read, now=machine.now):
        assert gc.isenabled()
        assert os.sched_getaffinity(0) == before
    assert seen == [(False, 1)]


# The machine


def choose_among(tmp_path, monkeypatch, *, threads, **cpus):
    """The choice among processors given as cpu0=(capacity, siblings)."""
    for name, (capacity, siblings) in cpus.items():
        folder = tmp_path / name
        (folder / "topology").mkdir(parents=True, exist_ok=True)
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
        (folder / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(cpus))))
    return choose_processors(threads, folder=str(tmp_path))


def test_the_biggest_cores_are_chosen(tmp_path, monkeypatch):
    cores = {"cpu0": (400, 0), "cpu1": (1024, 1), "cpu2": (400, 2), "cpu3": (1024, 3)}
    assert choose_among(tmp_path, monkeypatch, threads=1, **cores) == (3,)
    assert choose_among(tmp_path, monkeypatch, threads=2, **cores) == (1, 3)
    assert choose_among(tmp_path, monkeypatch, threads=3, **cores) == (1, 2, 3)
    assert choose_among(tmp_path, monkeypatch, threads=5, **cores) == ()


@pytest.mark.parametrize("listed", [("0-1", "2-3"), ("0,1", "2,3")])
def test_threads_of_one_core_are_not_taken_twice(tmp_path, monkeypatch, listed):
    first, second = listed
    cores = {"cpu0": (1, first), "cpu1": (1, first), "cpu2": (1, second), "cpu3": (1, second)}
    assert choose_among(tmp_path, monkeypatch, threads=2, **cores) == (0, 2)


def test_without_pinning_nothing_is_pinned(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert choose_processors(1) == ()
    with pin(()):
        pass


def test_the_canary_visits_each_processor_and_comes_back():
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    with pin(allowed):
        readings = spin_on(allowed)
        assert os.sched_getaffinity(0) == set(allowed)
    assert len(readings) == len(allowed)
    assert min(readings) > 0


RESIDENT = """
import os
from edgenas.clock.board.runs import evict_caches_before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
run = evict_caches_before(lambda: None, size=64 << 20)
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_memory_that_is_read_between_runs_is_really_there():
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert int(done.stdout) > 60 << 20


def test_reading_other_memory_is_not_in_the_time_of_a_run():
    told = evict_caches_before(lambda: None, size=1 << 20)()
    assert isinstance(told, int)
    assert told >= 0
    # What tells its own time, as a GPU does, goes on doing so.
    assert evict_caches_before(lambda: 7, size=1 << 20)() == 7


def patch_texts(monkeypatch, read) -> None:
    for module in (machine, processors, system):
        monkeypatch.setattr(module, "read_text", read)


def test_the_environment_says_what_it_knows_and_none_for_the_rest(monkeypatch):
    monkeypatch.setattr(machine, "run_command", lambda *command: None)
    patch_texts(monkeypatch, lambda path: None)
    found = machine.read_environment(threads=1, runtime="onnxruntime", library="onnxruntime")
    assert found["cores"] == os.cpu_count()
    assert found["runtime"] == "onnxruntime"
    for name in ("board", "governor", "gpu", "power_mode", "l4t", "temperature", "throttled"):
        assert found[name] is None, name


def test_the_environment_of_a_jetson(monkeypatch):
    texts = {
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
    }
    answers = {
        "nvpmodel": "NV Power Mode: 15W\n0",
        "lscpu": "Architecture: aarch64\nModel name:   Cortex-A78AE\n",
    }
    patch_texts(monkeypatch, texts.get)
    monkeypatch.setattr(machine, "run_command", lambda *command: answers.get(command[0]))
    found = machine.read_environment(threads=1, runtime="onnxruntime", library="onnxruntime")
    assert found["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["power_mode"] == "15W"
    assert found["cpu"] == "Cortex-A78AE"
    assert found["l4t"] == "# R36 (release), REVISION: 4.3"


def test_big_and_little_cores_are_both_named():
    text = "model name : Cortex-A55\nx: y\nmodel name : Cortex-A55\nmodel name : Cortex-A76\n"
    assert values_after(text, "model name") == "Cortex-A55 + Cortex-A76"
    assert values_after(None, "model name") is None


def test_a_command_that_is_missing_or_fails_has_no_answer():
    assert run_command("edgenas-no-such-command") is None
    assert run_command("false") is None
    assert run_command("echo", " x ") == "x"


def test_onnx_runtime_is_kept_from_telling_and_from_writing(tmp_path):
    code = (
        "from edgenas.clock.board import onnx_runtime; from edgenas.runtime import registry\n"
        "import onnxruntime, time; time.sleep(0.3)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("CI", None)
    command = [sys.executable, "-B", "-c", code]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


# The worker


def worker(text: str) -> subprocess.CompletedProcess[str]:
    """What the worker says to a line; its stdin stays open, because it ends where that ends."""
    command = [sys.executable, "-P", "-c", BOOT]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        process.stdin.write(f"{json.dumps(pack_clock(PART))}\n{text}\n")
        process.stdin.flush()
        out, log = process.stdout.read(), process.stderr.read()
        return subprocess.CompletedProcess(command, process.wait(timeout=60), out, log)


def work(**changes) -> str:
    plain = {"schema": WORK_SCHEMA, "part": PART, "settings": {}, "units": []}
    return json.dumps(plain | changes)


def test_a_worker_without_units_tells_its_environment():
    done = worker(work())
    assert done.returncode == 0, done.stderr
    (event,) = map(json.loads, done.stdout.splitlines())
    assert event["event"] == "environment"
    assert event["runtime_version"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "edgenas.work/9"}, "this clock reads edgenas.work/1, found edgenas.work/9"),
        (
            {"part": "edgenas.clock.board.abacus:PART"},
            "this clock has no part edgenas.clock.board.abacus:PART: No module named "
            "'edgenas.clock.board.abacus'",
        ),
    ],
)
def test_work_that_it_does_not_understand_is_refused(changes, message):
    done = worker(work(**changes))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == message


def test_a_worker_ends_quietly_when_nobody_listens():
    command = [sys.executable, "-P", "-c", BOOT]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.close()
        process.stdin.write(f"{json.dumps(pack_clock(PART))}\n{work()}\n".encode())
        process.stdin.flush()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""
