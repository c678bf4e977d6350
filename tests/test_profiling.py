import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import ROOT

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure as host
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import Measurement
from edgenas.latency.device import Target
from edgenas.latency.fitting import learn_predictor
from edgenas.latency.learned import sum_features
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Timing
from edgenas.latency.table_file import load_table, save_table, table_path
from edgenas.onnx_graph.build import layer_graph
from edgenas.profiling import journal as journals
from edgenas.profiling import levels
from edgenas.profiling import run as profiling_run
from edgenas.profiling import work as profiling_work
from edgenas.profiling.journal import journal_path, open_journal
from edgenas.profiling.method import read_method
from edgenas.profiling.networks import calibration_archs, random_archs
from edgenas.profiling.run import ProfilePlan, plan_units, profile
from edgenas.profiling.tables import (
    NoTableError,
    latencies_elsewhere,
    measure_network,
    predictor_for,
    table_for,
)
from edgenas.profiling.timings import subtract_copies
from edgenas.profiling.units import layer_unit, network_unit
from edgenas.runtime import registry as runtimes
from edgenas.space import presets as spaces
from edgenas.space.cost import compile_tables, cost, macs_table, total
from edgenas.space.layer import Layer
from edgenas.space.plan import layers
from edgenas.space.primitives import primitives

TINY = spaces.tiny()
ORT = runtimes.get("onnxruntime")
TARGET = Target("host", "onnxruntime", "fp32")
# Everything passes such a gate: what is tested is the wiring, whatever the machine does meanwhile.
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)
FEW = {"networks": 3, "further": 2, "visits": 1, "method": "alone"}
UNITS = len(layers(TINY)) + 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


class Scripted:
    """A clock whose machine does what a test needs."""

    def __init__(self, **changes) -> None:
        self.machine = {"cpu": "this", "governor": "performance", "runtime_version": "1.0"}
        self.canary: Callable[[str], float] = lambda name: 1e-4
        self.flag: Callable[[str], str] = lambda name: ""
        self.timed: list[str] = []
        self.evicted: dict[str, int] = {}
        self.after = lambda: None
        vars(self).update(changes)

    def environment(self, runtime: str, *, threads: int):
        return dict(self.machine)

    def measure(
        self, units, *, runtime, settings, batch, watch, evict=None
    ) -> Iterator[Measurement]:
        for name, _ in units:
            self.timed.append(name)
            self.evicted[name] = evict(name) if evict else 0
            yield Measurement(
                name=name,
                median=1e-6 * (1 + len(self.timed)),
                p10=9e-7,
                p90=1,
                n=2,
                half_width=0.01,
                wall_p50=2e-6,
                wall_p95=3e-6,
                wall_n=3,
                flag=self.flag(name),
                canary=self.canary(name),
                samples=(1000 * 1e-9, 2000 * 1e-9),
                wall_samples=(1000 * 1e-9, 2000 * 1e-9, 3000 * 1e-9),
            )
        self.after()
        watch({"event": "end", "load": 0.5})


def lines() -> list[dict]:
    return [json.loads(line) for line in journal_path(TARGET).read_text().splitlines()]


def names() -> list[str]:
    return [line["unit"] for line in lines() if "unit" in line]


def same(first: LatencyTable, second: LatencyTable) -> bool:
    """Whether two tables are equal; the order of networks is no part of a table."""
    pairs = zip(
        *(sorted(t.networks, key=lambda n: n.arch.id) for t in (first, second)), strict=True
    )
    rest = [replace(table, networks=()) for table in (first, second)]
    return rest[0] == rest[1] and all(one == other for one, other in pairs)


def run(clock=None, *, space=TINY, **changes) -> LatencyTable:
    others = {name: changes.pop(name) for name in ("say", "progress") if name in changes}
    plan = ProfilePlan(**{**FEW, **changes})
    return profile(space, target=TARGET, plan=plan, clock=clock or Scripted(), **others)


# The real thing


def test_layers_and_networks_are_timed_once_and_end_up_in_the_table():
    told: list[tuple[str, int, int, str]] = []
    plan = ProfilePlan(settings=QUICK, **FEW)
    table = profile(TINY, target=TARGET, plan=plan, progress=lambda *event: told.append(event))
    assert {event[0] for event in told} == {"profiling"}
    assert not table.missing(TINY)
    assert len(table.networks) == 5
    assert (table.provenance, table.target) == ("measured", TARGET)
    assert table.runtime_version == host.environment(ORT)["runtime_version"]
    assert table.environment["cpu"]
    assert table.environment["after"]["load"] > 0
    for timing in [*table.layers.values(), *(n.timing for n in table.networks)]:
        assert timing.median is not None
        assert 0 < timing.p10 <= timing.median <= timing.p90
        assert timing.n >= 6
        assert timing.wall_p50 <= timing.wall_p95
    assert same(load_table(table_path(TARGET)), table)
    assert same(table_for(TINY, target=TARGET), table)

    assert sorted(names()) == sorted(set(names()))
    assert len(names()) == UNITS
    units = [event[3].partition(": ")[0] for event in told if "full speed" not in event[3]]
    every = plan_units(TINY, target=TARGET, plan=plan).units
    assert sorted(filter(None, units)) == sorted(every[name].words for name in names())
    assert (UNITS, UNITS) in (told[-1][1:3], told[-2][1:3])
    raw = next(line for line in lines() if "unit" in line)
    assert len(raw["samples"]) == raw["n"]
    assert np.median(raw["samples"]) * 1e-9 == pytest.approx(raw["median"])

    again = Scripted(machine=host.environment(ORT))
    assert run(again).layers == table.layers
    assert not again.timed


def test_a_profile_that_is_killed_goes_on_without_loss_or_duplicates():
    code = (
        "from tests.test_profiling import *\n"
        "def progress(step, done, total, words):\n"
        "    if words and 'full speed' not in words:\n"
        "        print(done, flush=True)\n"
        "plan = ProfilePlan(settings=QUICK, **FEW)\n"
        "profile(TINY, target=TARGET, plan=plan, progress=progress)\n"
    )
    kept: list[int] = []  # the visits that were told as done
    # Killed after its first measurement, and once more after a few others.
    for count in (1, 6):
        with subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            told = [int(process.stdout.readline()) for _ in range(count)]
            process.send_signal(signal.SIGKILL)
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        assert not set(told) & set(kept)
        kept += told
        assert kept == sorted(kept)
        assert kept[-1] <= len(set(names()))
        assert not table_path(TARGET).exists()
    before = journal_path(TARGET).read_bytes()
    table = profile(TINY, target=TARGET, plan=ProfilePlan(settings=QUICK, **FEW))
    assert journal_path(TARGET).read_bytes()[: len(before) // 2] == before[: len(before) // 2]
    assert len(names()) == len(set(names())) == UNITS
    assert not table.missing(TINY)
    assert len(table.networks) == 5


def test_what_is_timed_is_told_in_words():
    """Whoever watches need not know how archs and layers are written."""
    assert (
        network_unit(TINY, TINY.largest(), batch=1).words
        == f"a network of {TINY.largest().resolution} pixels"
    )
    layer = Layer(kind="mbconv", inputs=8, outputs=8, size=4, kernel=5, mid=16)
    assert layer_unit(TINY, layer, copies=0, batch=1).words == "a layer (mbconv) of 4x4 pixels"
    wide = replace(layer, columns=8)
    assert layer_unit(TINY, wide, copies=2, batch=1).words == "a layer (mbconv) of 4x8 pixels"


def test_a_network_is_timed():
    graph = layer_graph(layers(TINY)[0])
    found = measure_network(graph, target=TARGET, settings=replace(QUICK, min_seconds=0.02))
    assert 0 < found.wall_p50 <= found.wall_p95
    assert found.wall_n >= 6


# Layers as differences


class Weighed(Scripted):
    """A clock for which a graph takes 5 us, and 10 us for each conv in it."""

    def measure(
        self, units, *, runtime, settings, batch, watch, evict=None
    ) -> Iterator[Measurement]:
        for name, graph in units:
            nodes = onnx.load_model_from_string(graph).graph.node
            seconds = 5e-6 + 1e-5 * sum(node.op_type == "Conv" for node in nodes)
            (found,) = super().measure(
                [(name, graph)],
                runtime=runtime,
                settings=settings,
                batch=batch,
                watch=watch,
                evict=evict,
            )
            yield replace(found, median=seconds, p90=2 * seconds)


def test_a_layer_is_what_more_copies_take_longer_than_fewer():
    clock = Weighed()
    table = run(clock, method="copies")
    assert not table.missing(TINY)
    assert len(clock.timed) == 3 * len(layers(TINY)) + 5
    for layer, timing in table.layers.items():
        convs = sum(part.op == "conv" for part in primitives(layer))
        # The convs before and behind the copies and the run itself cancel.
        assert timing.seconds == pytest.approx(1e-5 * convs)
        assert timing.alone == pytest.approx(5e-6 + 1e-5 * convs)
    assert " x4" not in "".join(map(str, table.layers))
    assert "copies of it side by side" in table.method
    again = Weighed()
    assert run(again, method="copies").layers == table.layers
    assert not again.timed


def test_before_each_run_of_copies_as_much_is_read_as_a_network_goes_through():
    clock = Scripted()
    run(clock, method="copies")
    every = [total(TINY, arch) for arch in random_archs(TINY, 400, seed=1)]
    mean = sum(4 * (c.weights + c.peak) for c in every) / len(every)
    for name, evicted in clock.evicted.items():
        copies = " behind " in name
        assert evicted == (max(round(mean / 2**20), 1) * 2**20 if copies else 0)
    assert sum(" behind " in name for name in clock.evicted) == 2 * len(layers(TINY))
    alone = Scripted()
    run(alone, method="alone")
    assert not any(alone.evicted.values())


def test_a_layer_without_both_of_its_times_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch):
    clock, seconds = Scripted(), 0.0
    monkeypatch.setattr(profiling_run, "time", SimpleNamespace(monotonic=lambda: seconds))

    def measure(units, **rest):
        nonlocal seconds
        seconds += 100.0
        yield from Scripted.measure(clock, [u for u in units if " x4 " not in u[0]], **rest)

    clock.measure = measure
    table = run(clock, method="copies", time_budget=50.0)
    assert not table.layers
    assert len(table.networks) == 5
    assert len(run(Scripted(), method="copies").layers) == len(layers(TINY))


def test_copies_that_take_no_longer_are_noise():
    one = Timing(median=4e-6, p10=3e-6, p90=6e-6, n=9)
    four = Timing(median=1e-5, p10=9e-6, p90=2e-5, n=8)
    found = subtract_copies(four, one)
    assert (found.median, found.p90, found.n) == (pytest.approx(2e-6), pytest.approx(4e-6), 8)
    assert not found.noisy
    assert subtract_copies(one, four).noisy
    assert subtract_copies(one, four).median == pytest.approx(1e-6)
    assert subtract_copies(replace(four, noisy=True), one).noisy


def test_tables_of_two_methods_are_kept_apart():
    older = run()
    said: list[str] = []
    run(method="copies", say=said.append)
    aside = table_path(TARGET).with_name("onnxruntime-fp32-t1-b1.old1.json")
    assert said == [f"the table before is kept as {aside}, it differs in method"]
    assert same(load_table(aside), older)


# Resuming


def test_a_torn_last_line_is_timed_again_and_nothing_else():
    run()
    whole = journal_path(TARGET).read_bytes()
    last = names()[-1]
    journal_path(TARGET).write_bytes(whole[:-20])
    clock = Scripted()
    run(clock)
    assert clock.timed == [last]
    assert len(names()) == len(set(names())) == UNITS


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on():
    def interrupt(name: str) -> float:
        if len(clock.timed) == 4:
            raise KeyboardInterrupt
        return 1e-4

    clock = Scripted(canary=interrupt)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(clock, say=said.append)
    assert said == [
        f"3 of {UNITS} visits to {UNITS} units are done and kept; "
        "to resume, run the same command again"
    ]
    assert not table_path(TARGET).exists()
    clock = Scripted()
    run(clock)
    assert len(clock.timed) == UNITS - 3


def test_a_full_disk_is_told_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch):
    real, left = os.write, 5000

    def write(handle: int, data: bytes) -> int:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "no space left on device")
        part = data[:left]
        left -= len(part)
        return real(handle, part)

    with monkeypatch.context() as patch:
        patch.setattr(journals.os, "write", write)
        with pytest.raises(EdgenasError, match=r"no space left on the disk for .*jsonl") as caught:
            run()
    assert "run the same command again" in caught.value.hint
    done = names()
    assert 0 < len(done) < UNITS
    clock = Scripted()
    run(clock)
    assert len(clock.timed) == UNITS - len(done)
    assert len(names()) == len(set(names())) == UNITS


def test_another_runtime_version_starts_anew_and_says_so():
    said: list[str] = []
    older = run()
    clock = Scripted(machine={"cpu": "this", "runtime_version": "2.0"})
    newer = run(clock, say=said.append)
    assert len(clock.timed) == UNITS
    assert "starting anew" in said[0]
    assert "runtime_version: '1.0' and '2.0'" in said[0]
    assert newer.runtime_version == "2.0"
    aside = table_path(TARGET).with_name("onnxruntime-fp32-t1-b1.old1.json")
    assert str(aside) in said[1]
    assert same(load_table(aside), older)
    # Back on the first version: its measurements still count, and no table is lost.
    clock = Scripted()
    assert run(clock).layers == older.layers
    assert not clock.timed
    assert same(load_table(aside.with_name("onnxruntime-fp32-t1-b1.old2.json")), newer)


def test_a_graph_that_changed_is_timed_again():
    run()
    text = journal_path(TARGET).read_text().splitlines()
    value = json.loads(text[-1]) | {"graph": "0" * 64}
    journal_path(TARGET).write_text("\n".join([*text[:-1], json.dumps(value)]) + "\n")
    clock = Scripted()
    run(clock)
    assert clock.timed == [value["unit"]]


def test_fresh_times_everything_anew():
    run()
    clock = Scripted()
    run(clock, fresh=True)
    assert len(clock.timed) == UNITS
    assert len(names()) == 2 * UNITS
    clock = Scripted()
    run(clock)
    assert not clock.timed


def test_two_profiles_of_one_target_wait_for_each_other():
    said: list[str] = []
    told = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    clock = Scripted()
    with open_journal(TARGET):
        other = threading.Thread(target=run, args=(clock,), kwargs={"say": say})
        other.start()
        assert told.wait(60)
        assert not clock.timed
    other.join(60)
    assert len(clock.timed) == UNITS
    assert said == [f"waiting for another edgenas that profiles {TARGET}"]


# Bad moments


def test_what_was_timed_at_a_slow_moment_is_timed_again():
    clock = Scripted()
    clock.canary = lambda name: 1.5e-4 if len(clock.timed) <= 5 else 1e-4
    table = run(clock)
    assert len(clock.timed) == UNITS + 5
    assert clock.timed[UNITS:] == clock.timed[:5]
    late = {str(layer): timing.median for layer, timing in table.layers.items()}
    for i, name in enumerate(clock.timed[UNITS:], UNITS + 1):
        assert late[name] == pytest.approx(1e-6 * (1 + i))


def test_the_sound_measurement_counts_not_the_last():
    clock = Scripted()
    clock.flag = lambda name: "noisy" if len(clock.timed) == 1 else ""
    clock.canary = lambda name: 1e-4 if len(clock.timed) <= UNITS else 2e-4
    table = run(clock)
    # Timed again because it was noisy; the second time was slow, but sound.
    assert clock.timed[UNITS:] == clock.timed[:1]
    (timing,) = (t for layer, t in table.layers.items() if str(layer) == clock.timed[0])
    assert not timing.noisy
    clock = Scripted()
    run(clock)
    assert not clock.timed


def test_a_machine_that_stays_noisy_does_not_hold_for_ever():
    said: list[str] = []
    clock = Scripted(flag=lambda name: "noisy")
    table = run(clock, say=said.append)
    assert len(clock.timed) == 2 * UNITS
    assert all(timing.noisy for timing in table.layers.values())
    assert said[-1].startswith(f"{UNITS} of {UNITS} units stayed noisy, first conv(")
    clock = Scripted()
    run(clock)
    assert not clock.timed


def test_a_machine_that_changes_amid_a_run_is_noticed_and_the_run_does_not_count():
    clock = Scripted()
    clock.after = lambda: clock.machine.update(governor="powersave")
    with pytest.raises(EdgenasError, match="governor: 'performance' and 'powersave'"):
        run(clock)
    assert not table_path(TARGET).exists()
    clock.after = lambda: None
    run(clock)
    assert len(clock.timed) == 2 * UNITS


def test_what_is_not_timed_in_the_time_given_is_left_for_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
):
    clock, seconds, limits = Scripted(), 0.0, list[float]()
    for module in (profiling_run, profiling_work):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: seconds))

    def measure(units, **rest):
        nonlocal seconds
        limits.append(rest["settings"].seconds)
        yield from Scripted.measure(clock, list(units)[:4], **rest)
        seconds += 5.0

    clock.measure = measure
    said: list[str] = []
    told: list[tuple[str, int, int, str]] = []
    table = run(
        clock, time_budget=12.0, say=said.append, progress=lambda *event: told.append(event)
    )
    assert limits == [12.0, 7.0, 2.0]
    assert (len(table.layers), len(table.networks)) == (4, 5), "networks come first"
    assert f"to go on, run the same command again: 9 of {UNITS} visits" in said[0]
    # A total that is not the last one says that it is a part.
    parts = dict.fromkeys((total, words.partition(": ")[0]) for _, _, total, words in told)
    assert list(parts) == [
        (5, "the first 5, then as many as fit into the time"),
        (UNITS, "as many as fit into the time"),
    ]
    clock = Scripted()
    assert not run(clock).missing(TINY)
    assert len(clock.timed) == UNITS - 9


class Simulated(Scripted):
    """A machine on which time passes: layers add up, every visit is off by a percent."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.rng = 0.0, np.random.default_rng(0)
        self.space = spaces.mbv3_cifar()
        own = {
            layer: 3e-6 + 2e-11 * cost(layer).macs * (1 + 0.3 * (i % 3))
            for i, layer in enumerate(layers(self.space))
        }
        self.table = compile_tables(self.space, own.__getitem__, constant=2e-6)
        self.own, self.kinds = own, set[str]()

    def truth(self, rows) -> np.ndarray:
        return self.table(rows)

    def measure(
        self, units, *, runtime, settings, batch, watch, evict=None
    ) -> Iterator[Measurement]:
        deadline = self.now + (settings.seconds or np.inf)
        self.now += settings.baseline_seconds
        prefix = f"{self.space.name}/{self.space.classes} "
        archs = {
            prefix + str(a): a
            for a in [*calibration_archs(self.space, 100), *random_archs(self.space, 48, seed=0)]
        }
        for name, _ in units:
            if name in archs:
                seconds = float(self.truth(self.space.encode([archs[name]]))[0])
            else:
                seconds = next(s for layer, s in self.own.items() if str(layer) == name)
            self.now += 0.03 + 40 * seconds
            if self.now > deadline:
                break
            self.kinds.add("network" if name in archs else "layer")
            made = Scripted.measure(
                self,
                [(name, b"")],
                runtime=runtime,
                settings=settings,
                batch=batch,
                watch=lambda event: None,
            )
            seconds *= float(np.exp(0.01 * self.rng.standard_normal()))
            for found in made:
                yield replace(found, median=seconds)


@pytest.mark.slow
def test_more_time_means_less_error_and_the_error_is_told(monkeypatch: pytest.MonkeyPatch):
    clock = Simulated()
    for module in (profiling_run, profiling_work):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    rows = clock.space.sample(500, rng=np.random.default_rng(9), by="gene")
    true, told, kinds = [], [], []
    for budget in (1.2, 5.0, 60.0):
        start = clock.now
        table = profile(
            clock.space,
            target=TARGET,
            clock=clock,
            plan=ProfilePlan(
                time_budget=budget,
                settings=TimingSettings(baseline_seconds=0.5),
                fresh=True,
                method="alone",
            ),
        )
        assert clock.now - start <= budget + 0.1
        predictor = predictor_for(table, clock.space)
        off = np.abs(predictor.predict(rows) / clock.truth(rows) - 1)
        true.append(off.mean())
        told.append(predictor.error.error)
        assert (clock.truth(rows) <= predictor.upper(rows)).mean() >= 0.9
        kinds.append(clock.kinds)
        clock.kinds = set()
    assert kinds == [{"network"}, {"network"}, {"network", "layer"}]
    assert true[0] > true[1] > true[2]
    assert true[2] <= 0.01
    # What is told comes from few networks, which were timed with a percent of noise themselves.
    assert all(0.6 * a <= b <= a + 0.015 for a, b in zip(true, told, strict=True))


def test_few_networks_lean_on_the_nearest_known_device(monkeypatch: pytest.MonkeyPatch):
    space = spaces.mbv3_cifar()
    known = latencies_elsewhere(space, target=TARGET)
    name, like = next(iter(known.items()))
    archs = calibration_archs(space, 8)
    seconds = 0.3 * like(space.encode(archs))
    predictor = learn_predictor(space, archs, seconds, priors=known)
    rows = space.sample(50, rng=np.random.default_rng(9))
    assert f"latency of {name}" in predictor.rates
    assert predictor.predict(rows) == pytest.approx(0.3 * like(rows))
    assert str(TARGET) not in known
    # Beside its own measurements, a table with layers missing leans on them as well.
    networks = tuple(
        MeasuredNetwork(
            space=space.name, classes=space.classes, arch=arch, timing=Timing(median=float(s), n=9)
        )
        for arch, s in zip(archs, seconds, strict=True)
    )
    table = LatencyTable(target=TARGET, provenance="measured", networks=networks)
    learned = predictor_for(table, space)
    assert learned.predict(rows) == pytest.approx(0.3 * like(rows))
    assert (learned.target, learned.bound_kind()) == (TARGET, "student-t")


def test_layer_costs_are_learned_where_layers_are_missing():
    space = spaces.mbv3_cifar()
    whole = made_table(space, further=48, noise=lambda i: 1.0)
    part = replace(whole, layers=dict(list(whole.layers.items())[:7]))
    save_table(part, table_path(TARGET))
    assert same(table_for(space, target=TARGET, clock=None), part)
    predictor = predictor_for(part, space)
    assert predictor.rates
    assert (predictor.error.n, predictor.bound_kind()) == (29, "split-conformal")
    rows = space.sample(200, rng=np.random.default_rng(5))
    truth = 2e-5 + 0.9 * whole.compile(space)(rows)
    assert np.abs(predictor.predict(rows) / truth - 1).mean() <= 0.15
    few = replace(part, networks=part.networks[:7])
    with pytest.raises(EdgenasError, match=r"lacks .* layers"):
        predictor_for(few, space)


def test_each_unit_is_visited_several_times_and_its_median_is_theirs(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(levels, "_ENOUGH", 10**6)  # this clock gets slower with every visit
    clock = Scripted()
    table = run(clock, visits=3)
    rounds = [clock.timed[i * UNITS : (i + 1) * UNITS] for i in range(3)]
    # Nothing is visited twice before everything was visited once.
    assert [set(r) for r in rounds] == [set(names())] * 3
    assert len(clock.timed) == 3 * UNITS
    for layer, timing in table.layers.items():
        visits = [i for i, name in enumerate(clock.timed) if name == str(layer)]
        assert timing.median == pytest.approx(1e-6 * (2 + visits[1]))
        assert timing.n == 3 * 2
        assert timing.p10 == pytest.approx(1e-6)
        assert timing.wall_p95 == pytest.approx(3e-6)
    # The second visit is made up for where it was slow, by one more and no more.
    slow = Scripted()
    slow.canary = lambda name: 2e-4 if UNITS < len(slow.timed) <= UNITS + 3 else 1e-4
    run(slow, visits=3, fresh=True)
    assert len(slow.timed) == 3 * UNITS + 3
    assert set(slow.timed[3 * UNITS :]) == set(slow.timed[UNITS : UNITS + 3])


# Merging


class Uneven(Scripted):
    """A clock that is slower and faster from run to run, for everything alike."""

    speeds = itertools.cycle((1.0, 1.06, 0.97))

    def measure(self, units, **more) -> Iterator[Measurement]:
        speed = next(self.speeds)
        for m in super().measure(units, **more):
            seconds = speed * 1e-6 * (1 + zlib.crc32(m.name.encode()) % 50)
            yield replace(m, median=seconds, p10=seconds, p90=seconds, samples=(seconds,) * 3)


def test_runs_in_which_everything_took_longer_are_brought_to_what_is_usual():
    table = run(Uneven(), visits=3, networks=8)
    for layer, timing in table.layers.items():
        seconds = 1e-6 * (1 + zlib.crc32(str(layer).encode()) % 50)
        assert (timing.p10, timing.median, timing.p90) == pytest.approx((seconds,) * 3)
        assert timing.wall_p50 == pytest.approx(2e-6)
    raw = {line["run"]: line["median"] for line in lines() if line.get("unit") == str(layer)}
    assert sorted(raw.values()) == pytest.approx([0.97 * seconds, seconds, 1.06 * seconds])


def test_a_profile_adds_to_the_table_that_is_there():
    first = run()
    clock = Scripted()
    table = run(clock, space=TINY.with_classes(7))
    heads = [name for name in clock.timed if name.startswith("head(")]
    # Only what depends on the classes: the head at each resolution, and the networks.
    assert len(clock.timed) == len(heads) + 5
    assert len(heads) == len(TINY.resolutions)
    assert not table.missing(TINY)
    assert not table.missing(TINY.with_classes(7))
    assert len(table.networks) == 10
    assert all(table.layers[layer] == timing for layer, timing in first.layers.items())


def test_tables_of_former_versions_say_it_in_another_word():
    table = run()
    former = replace(table, method=table.method.replace("networks alike", "networks likewise"))
    assert former.method != table.method
    assert read_method(former) == read_method(table) == "alone"
    save_table(former, table_path(TARGET))
    said: list[str] = []
    again = run(say=said.append)
    assert (again.layers, again.method) == (table.layers, table.method)
    assert not [line for line in said if "the table before" in line]
    assert not list(table_path(TARGET).parent.glob("*.old*"))
    with pytest.raises(EdgenasError, match="a method that this edgenas does not know"):
        read_method(replace(table, method="each layer by a sundial"))


# Mistakes


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (replace(TARGET, runtime="onnxrun"), {}, "unknown runtime 'onnxrun'"),
        (replace(TARGET, precision="fp16"), {}, "must be one of fp32, int8, found 'fp16'"),
        (TARGET, {"networks": -1}, "networks must be at least 0, found -1"),
        (TARGET, {"further": -2}, "further must be at least 0, found -2"),
        (TARGET, {"visits": 0}, "visits must be at least 1, found 0"),
        (TARGET, {"time_budget": 2.0}, "time_budget must be above 6 s, .* found 2 s"),
        (replace(TARGET, runtime="tensorrt"), {"time_budget": 0.0}, "above 0 s, found 0 s"),
    ],
)
def test_arguments_are_checked_before_anything_is_timed(target, changes, message):
    clock = Scripted()
    with pytest.raises(EdgenasError, match=message):
        profile(TINY, target=target, clock=clock, plan=ProfilePlan(**changes))
    assert not clock.timed
    assert not journal_path(target).exists()


def test_a_runtime_that_is_not_there_is_told():
    clock = Scripted(machine={"runtime_version": None})
    with pytest.raises(EdgenasError, match="onnxruntime is not available on host") as caught:
        run(clock)
    assert "edgenas list runtimes" in caught.value.hint


@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_journal_is_refused(number: int):
    run()
    text = journal_path(TARGET).read_text().splitlines()
    text[number] = text[number][:30]
    journal_path(TARGET).write_text("\n".join(text) + "\n")
    with pytest.raises(EdgenasError, match=f"jsonl is damaged in line {number + 1}"):
        run()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"median": -1.0}, "median must be above 0 seconds, found -1.0"),
        ({"wall_p95": 1e300}, "wall_p95 must be at most 1e\\+06 seconds"),
        ({"n": -3}, "n must be at least 0, found -3"),
        ({"run": 99}, "there is no run 99"),
        ({"samples": [1, -2]}, "samples must be a list of nanoseconds"),
        ({"samples": [10**5000]}, "too many digits"),
        ({"unit": "a\x1b[2J"}, "unit must be a text without control characters"),
        ({"more": 1}, "unknown field 'more'"),
    ],
    ids="negative large count run samples digits control field".split(),
)
def test_a_measurement_that_no_clock_makes_is_refused(change: dict, told: str):
    run()
    lines = journal_path(TARGET).read_text().splitlines()
    sys.set_int_max_str_digits(0)
    try:
        lines[2] = json.dumps(json.loads(lines[2]) | change)
    finally:
        sys.set_int_max_str_digits(4300)
    journal_path(TARGET).write_text("\n".join(lines) + "\n")
    with pytest.raises(EdgenasError, match=f"jsonl is damaged in line 3: it.*{told}"):
        run()


def test_a_journal_of_another_kind_is_refused():
    journal_path(TARGET).parent.mkdir(parents=True)
    journal_path(TARGET).write_text('{"schema": "edgenas.samples/9"}\n')
    with pytest.raises(EdgenasError, match="must have schema 'edgenas"):
        run()


def test_a_damaged_table_is_refused_before_anything_is_timed():
    table_path(TARGET).parent.mkdir(parents=True)
    table_path(TARGET).write_text("{")
    clock = Scripted()
    with pytest.raises(EdgenasError, match="is damaged"):
        run(clock)
    assert not clock.timed


# The table that applies


def test_without_a_table_the_command_that_makes_one_is_named():
    with pytest.raises(NoTableError, match="there is no latency table of host /") as caught:
        table_for(TINY, target=TARGET, clock=Scripted())
    command = "edgenas profile --device host --space tiny"
    assert caught.value.hint == f"{command} --runtime onnxruntime --precision fp32"


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"runtime_version": "1.1"}, "runtime_version: '1.0' and '1.1'"),
        ({"cpu": "other"}, "environment.cpu: 'this' and 'other'"),
        ({"power_mode": "15W"}, "environment.power_mode: None and '15W'"),
    ],
)
def test_a_table_of_another_machine_does_not_apply(machine, message):
    table = run()
    clock = Scripted()
    assert same(table_for(TINY, target=TARGET, clock=clock), table)
    clock.machine.update(machine)
    with pytest.raises(NoTableError, match=message):
        table_for(TINY, target=TARGET, clock=clock)
    # Not at hand: nothing to compare with.
    assert same(table_for(TINY, target=TARGET, clock=None), table)


def test_a_table_that_lacks_layers_or_networks_does_not_apply():
    table = run()
    with pytest.raises(NoTableError, match=r"lacks 2 layers of tiny, first head\(.*outputs=3"):
        table_for(TINY.with_classes(3), target=TARGET, clock=Scripted())
    save_table(replace(table, networks=()), table_path(TARGET))
    with pytest.raises(NoTableError, match="no whole networks of tiny with 10 classes"):
        table_for(TINY, target=TARGET, clock=Scripted())
    save_table(replace(table, provenance="published"), table_path(TARGET))
    with pytest.raises(NoTableError, match="it is published"):
        table_for(TINY, target=TARGET, clock=Scripted())


@pytest.mark.slow
def test_a_table_with_other_parts_in_float_does_not_apply():
    kept = replace(TINY, kept_in_float=("depthwise", "squeeze"))
    target = replace(TARGET, precision="int8")
    for space, other, told in (
        (kept, TINY, "with depthwise, squeeze kept in float, tiny keeps nothing"),
        (TINY, kept, "with nothing kept in float, tiny keeps depthwise, squeeze"),
    ):
        plan = ProfilePlan(fresh=True, **FEW)
        table = profile(space, target=target, clock=Scripted(), plan=plan)
        assert same(table_for(space, target=target, clock=Scripted()), table)
        for clock in (Scripted(), None):
            with pytest.raises(NoTableError, match=told) as caught:
                table_for(other, target=target, clock=clock)
        assert caught.value.hint.endswith("--space tiny --runtime onnxruntime --precision int8")
    # What stays in float in int8 is nothing to an fp32 table.
    table = run(space=kept)
    assert same(table_for(TINY, target=TARGET, clock=Scripted()), table)


# The networks


@pytest.mark.parametrize("name", spaces.PRESETS)
def test_calibration_networks_are_spread_over_a_space(name: str):
    space = spaces.load_space(name)
    archs = calibration_archs(space)
    assert len(archs) == len(set(archs)) == 10
    assert archs[:2] == [space.smallest(), space.largest()]
    assert {arch.resolution for arch in archs} == set(space.resolutions)
    assert calibration_archs(space, 6) == archs[:6]
    sizes = np.sort(np.log(macs_table(space)(space.encode(archs))))
    # Evenly, twelve points would be 1/9 of the range apart.
    assert np.diff(sizes).max() <= 0.35 * np.ptp(sizes)


def test_more_calibration_networks_say_more_than_random_ones():
    space = spaces.mbv3_cifar()
    chosen = calibration_archs(space, 60)
    assert len(set(chosen)) == 60
    assert chosen[:25] == calibration_archs(space, 25)
    assert chosen[:10] == calibration_archs(space)

    def volume(archs) -> float:
        work = sum_features(space, space.encode(archs))
        work = work[:, work.max(0) > 0] / work.mean(0)[work.max(0) > 0]
        work /= work.sum(1, keepdims=True)
        return float(np.linalg.slogdet(work.T @ work + 1e-6 * np.eye(work.shape[1]))[1])

    assert volume(chosen) > max(volume(random_archs(space, 60, seed=s)) for s in range(5)) + 1


def test_random_networks_are_seeded_different_and_not_those_of_the_line():
    space = spaces.mbv3_cifar()
    archs = random_archs(space, 48, seed=1)
    assert len(archs) == len(set(archs)) == 48
    assert archs == random_archs(space, 48, seed=1)
    assert archs != random_archs(space, 48, seed=2)
    assert not set(archs) & set(calibration_archs(space))


# The predictor


def made_table(space, *, further: int, noise: Callable[[int], float]) -> LatencyTable:
    """Layers of known times; networks at 20 us + 0.9 x their sum, times a noise."""
    every = {layer: Timing(median=1e-5 * (1 + i % 7), n=9) for i, layer in enumerate(layers(space))}
    table = LatencyTable(target=TARGET, provenance="measured", layers=every)
    fitted, others = calibration_archs(space), random_archs(space, further, seed=0)
    sums = table.compile(space)(space.encode([*fitted, *others]))
    seconds = 2e-5 + 0.9 * sums
    networks = (
        MeasuredNetwork(
            space=space.name,
            classes=space.classes,
            arch=arch,
            timing=Timing(median=float(s) * (noise(i - 10) if i >= 10 else 1.0), n=9),
        )
        for i, (arch, s) in enumerate(zip([*fitted, *others], seconds, strict=True))
    )
    return replace(table, networks=tuple(networks))


def test_the_line_rests_on_its_own_networks_and_the_bound_on_all_others():
    space = spaces.mbv3_cifar()
    table = made_table(space, further=48, noise=lambda i: 1 + i / 100)
    predictor = predictor_for(table, space)
    rows = space.sample(200, rng=np.random.default_rng(5))
    truth = 2e-5 + 0.9 * table.compile(space)(rows)
    # Whatever the others are off by, the line does not bend to them.
    assert predictor.predict(rows) == pytest.approx(truth)
    assert predictor.bound_kind(0.95) == "split-conformal"
    # The 47th smallest of 48 ratios: (48 + 1) x 0.95 = 46.55.
    assert predictor.upper(rows, confidence=0.95) == pytest.approx(1.46 * truth)
    assert predictor.error.n == 48
    assert predictor.error.bias == pytest.approx(
        np.mean([1 / (1 + i / 100) - 1 for i in range(48)])
    )


def test_a_table_without_networks_gives_sums():
    table = replace(made_table(TINY, further=5, noise=lambda i: 1.0), networks=())
    rows = TINY.sample(20, rng=np.random.default_rng(0))
    assert predictor_for(table, TINY).predict(rows) == pytest.approx(table.compile(TINY)(rows))
    assert predictor_for(table, TINY).bound_kind() == "none"


def test_a_table_of_other_networks_gives_a_line_through_them():
    space = spaces.mbv3_cifar()
    table = made_table(space, further=12, noise=lambda i: 1.0)
    others = tuple(n for n in table.networks if n.arch not in set(calibration_archs(space)))
    rows = space.sample(20, rng=np.random.default_rng(0))
    predictor = predictor_for(replace(table, networks=others), space)
    assert predictor.predict(rows) == pytest.approx(2e-5 + 0.9 * table.compile(space)(rows))
    assert predictor.bound_kind() == "student-t"
