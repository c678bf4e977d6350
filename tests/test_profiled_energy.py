"""Energies in a profile: journal, table, what predicts them, and budgets that are held to them."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded_boards
import trtexec_law
from test_profiling import FEW, TARGET, TINY, Scripted
from test_specialize import ask, between, everything
from timed_machine import Machine, profiled
from trtexec_drawn import draw

from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.bundle.contents import read_contents
from edgenas.bundle.verify import verify_bundle
from edgenas.clock.energy import MeasuredEnergy, MeterSettings
from edgenas.delivery import building
from edgenas.delivery import latency as latencies
from edgenas.delivery import metering as deliveries
from edgenas.delivery.predicting import predict
from edgenas.delivery.run import specialize
from edgenas.latency.device import Target
from edgenas.latency.device import load as load_device
from edgenas.latency.energy import fit_energy
from edgenas.latency.fitting import learn_predictor
from edgenas.latency.request import PredictRequest
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Timing, merge
from edgenas.latency.table_file import load_table, save_table, table_path
from edgenas.model.saved import ACCURACY_FILE, load_supernet
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.model import loads
from edgenas.profiling import energy as energies
from edgenas.profiling.energy import IDLE, METERED, SENSOR, choose_metered
from edgenas.profiling.journal import journal_path
from edgenas.profiling.networks import calibration_archs, random_archs
from edgenas.profiling.run import PlannedProfile, ProfilePlan, profile
from edgenas.space import presets as spaces
from edgenas.space.arch import Arch, save_arch
from edgenas.space.cost import macs_table

SCRIPTED: Any = Scripted
PLAN = ProfilePlan(**FEW, energy=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


class Meter:
    """Takes the place of the real meter: 2 J for each letter in the name of a network."""

    def __init__(self, *, most: int = 1000) -> None:
        self.metered: list[str] = []
        self.most = most

    def __call__(self, names, *, place, run, settings: MeterSettings) -> Iterator[MeasuredEnergy]:
        for name in names:
            if len(self.metered) == self.most:
                raise KeyboardInterrupt
            self.metered.append(name)
            yield MeasuredEnergy(
                name=name,
                joules=2.0 * len(name),
                watts=7.0,
                idle_watts=3.5,
                seconds=0.01,
                drift=0.0,
                samples=80,
                sensor="VDD_IN",
            )


@pytest.fixture
def metering(tmp_path, monkeypatch) -> Meter:
    made = Meter()
    monkeypatch.setattr(energies, "meter", made)
    recorded_boards.orin_nano_super(tmp_path / "board")
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path / "board"))
    return made


def run(clock: Any = None, **changes) -> LatencyTable:
    return profile(TINY, target=TARGET, plan=replace(PLAN, **changes), clock=clock or SCRIPTED())


def test_the_table_holds_the_energies_and_the_idle_power(metering):
    table = run()
    assert len(metering.metered) == len(table.networks) == 5
    names = {
        network.arch: name
        for network in table.networks
        for name in metering.metered
        if name.endswith(str(network.arch))
    }
    for network in table.networks:
        assert network.joules == 2.0 * len(names[network.arch])
    assert (table.environment[SENSOR], table.environment[IDLE]) == ("VDD_IN", 3.5)
    assert load_table(table_path(TARGET)) == replace(
        table, networks=load_table(table_path(TARGET)).networks
    )
    stored = {network.arch: network.joules for network in load_table(table_path(TARGET)).networks}
    assert stored == {network.arch: network.joules for network in table.networks}


def test_a_machine_without_a_sensor_is_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path))
    clock = Scripted()
    with pytest.raises(EdgenasError, match="tells nobody its power"):
        run(clock)
    assert clock.timed == []


def test_nothing_is_metered_where_nobody_asks(metering):
    table = run(energy=False)
    assert metering.metered == []
    assert all(network.joules is None for network in table.networks)
    assert "joules" not in table_path(TARGET).read_text()


def test_a_network_is_metered_once_and_a_profile_goes_on(metering):
    metering.most = 2
    with pytest.raises(KeyboardInterrupt):
        run()
    metering.most = 1000
    run()
    assert len(metering.metered) == len(set(metering.metered)) == 5
    assert all(network.joules for network in run(energy=False).networks)  # from the journal
    assert len(metering.metered) == 5
    run(fresh=True)
    assert len(metering.metered) == 10


def test_when_the_time_is_over_it_says_how_many_are_left(metering, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(PlannedProfile, "time_left", lambda self, started: lambda: 7.0)  # too short
    profile(TINY, target=TARGET, plan=PLAN, clock=SCRIPTED(), say=said.append)
    assert said[-1] == "time is over; 5 networks have no energy yet: run the command again"
    assert metering.metered == []


def test_a_machine_that_changes_meanwhile_leaves_no_energies(metering):
    clock = Scripted()
    metering_machine = dict(clock.machine)

    def environment(runtime, *, threads):
        changed = {"power_mode": "15W (mode 0)"} if metering.metered else {}
        return {**metering_machine, **changed}

    clock.environment = environment
    with pytest.raises(EdgenasError, match="changed while its energy was metered: environment"):
        run(clock)
    clock.environment = lambda runtime, *, threads: metering_machine
    assert all(network.joules is None for network in run(clock, energy=False).networks)


def test_a_damaged_line_is_told(metering):
    run()
    path = journal_path(TARGET)
    lines = path.read_text().splitlines()
    (at, *_) = [i for i, line in enumerate(lines) if '"joules"' in line]
    for changes, words in (
        ({"joules": -1}, "joules must be above 0 joules"),
        ({"run": 99}, "there is no run 99"),
        ({"watts": None}, "watts must be a number"),
    ):
        line = json.dumps({**json.loads(lines[at]), **changes})
        path.write_text("\n".join([*lines[:at], line, *lines[at + 1 :]]) + "\n")
        with pytest.raises(EdgenasError) as caught:
            run()
        assert f"is damaged in line {at + 1}" in caught.value.message
        assert words in caught.value.message


def test_a_merged_table_keeps_energies_that_the_newer_one_lacks():
    def table(joules: float | None) -> LatencyTable:
        network = MeasuredNetwork(
            space="tiny",
            classes=10,
            arch=TINY.smallest(),
            timing=Timing(median=1e-3, n=1),
            joules=joules,
        )
        return LatencyTable(target=TARGET, provenance="measured", networks=(network,))

    assert merge(table(0.5), table(None)).networks[0].joules == 0.5
    assert merge(table(0.5), table(0.7)).networks[0].joules == 0.7


def test_few_networks_are_metered_those_of_the_line_first():
    lines, random = [f"l{i}" for i in range(40)], [f"r{i}" for i in range(40)]
    assert choose_metered(lines, random) == lines[:10] + random[: METERED - 10]
    assert choose_metered(lines[:3], random[:2]) == ["l0", "l1", "l2", "r0", "r1"]


# Prediction


def table_of(space, archs, seconds, joules) -> LatencyTable:
    networks = tuple(
        MeasuredNetwork(
            space=space.filed_as,
            classes=space.classes,
            arch=arch,
            timing=Timing(median=float(s), n=5),
            joules=None if j is None else float(j),
        )
        for arch, s, j in zip(archs, seconds, joules, strict=True)
    )
    target = Target("x", "tensorrt", "fp16")
    return LatencyTable(target=target, provenance="measured", networks=networks)


def test_a_law_of_power_and_arithmetic_is_recovered():
    archs = random_archs(TINY, 20, seed=1)
    seconds = 1e-4 + 1e-9 * macs_table(TINY)(TINY.encode(archs))
    joules = 4 * seconds + 3e-9 * macs_table(TINY)(TINY.encode(archs))
    latency = learn_predictor(TINY, archs, seconds)
    energy = fit_energy(TINY, table_of(TINY, archs, seconds, joules), latency=latency)
    assert energy is not None
    assert energy.predict(archs) == pytest.approx(joules, rel=1e-3)
    assert energy.error is not None
    assert energy.error.n == 20


def test_few_energies_predict_nothing():
    archs = random_archs(TINY, 6, seed=1)
    latency = learn_predictor(TINY, archs, [1e-3] * 6)
    table = table_of(TINY, archs, [1e-3] * 6, [0.1, 0.1, 0.1, None, None, None])
    assert fit_energy(TINY, table, latency=latency) is None
    other = replace(table, networks=tuple(replace(n, space="other") for n in table.networks))
    assert fit_energy(TINY, other, latency=latency) is None


def test_energies_of_a_board_with_a_law_of_its_own_are_predicted_within_3_percent():
    """Times and energies of engines built once, whose times spread by 3%."""
    space, rng = spaces.load_space("mbv3-cifar"), np.random.default_rng(0)
    archs = calibration_archs(space, 10) + random_archs(space, 20, seed=0)

    def measured(arch) -> tuple[float, float]:
        graph = network_graph(space, arch)
        once, again = (1 + 0.03 * rng.standard_normal(2).clip(-2.5, 2.5)).tolist()
        seconds = trtexec_law.truth(graph, size=2)
        return seconds * once, trtexec_law.energy(graph, seconds=seconds * again)

    seconds, joules = zip(*map(measured, archs), strict=True)
    latency = learn_predictor(space, archs, seconds)
    energy = fit_energy(space, table_of(space, archs, seconds, joules), latency=latency)
    assert energy is not None
    others = random_archs(space, 40, seed=9)
    graphs = [network_graph(space, arch) for arch in others]
    truth = [trtexec_law.energy(g, seconds=trtexec_law.truth(g, size=2)) for g in graphs]
    assert np.abs(energy.predict(others) / truth - 1).mean() < 0.03  # the bar of the profile
    assert (energy.upper(others, confidence=0.95) >= truth).sum() >= 36


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_energies_of_boards_that_are_drawn_at_random(seed):
    """Times and energies by laws of a seed; both of engines whose times spread by 3%."""
    board, drawn = draw(seed), random.Random(seed)
    space, rng = spaces.load_space("mbv3-cifar"), np.random.default_rng(seed)
    idle, depthwise, mac = (
        drawn.uniform(*ends) for ends in ((2, 8), (3e-12, 2e-11), (1e-12, 6e-12))
    )
    element, weight = drawn.uniform(3e-11, 1.5e-10), drawn.uniform(5e-11, 2e-10)

    def true(arch, *, once: float = 1.0, again: float = 1.0) -> tuple[float, float]:
        kernels = trtexec_law.kernels_of(trtexec_law.read_graph(network_graph(space, arch)))
        seconds = board(kernels, size=2)
        joules = idle * seconds * again
        for kernel in kernels:
            joules += kernel.macs * (depthwise if kernel.kind == "depthwise" else mac)
            joules += (kernel.read + kernel.written) * element + kernel.weights * weight
        return seconds * once, joules

    archs = calibration_archs(space, 10) + random_archs(space, 20, seed=0)
    spreads = [(1 + 0.03 * rng.standard_normal(2).clip(-2.5, 2.5)).tolist() for _ in archs]
    measured = [true(a, once=o, again=n) for a, (o, n) in zip(archs, spreads, strict=True)]
    seconds, joules = zip(*measured, strict=True)
    latency = learn_predictor(space, archs, list(seconds))
    energy = fit_energy(space, table_of(space, archs, seconds, joules), latency=latency)
    assert energy is not None
    others = random_archs(space, 40, seed=9)
    truth = np.array([true(arch)[1] for arch in others])
    assert np.abs(energy.predict(others) / truth - 1).mean() < 0.03  # the bar of the product
    assert (energy.upper(others, confidence=0.95) >= truth).sum() >= 36


# Budgets


@pytest.fixture
def measured(rising: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """This machine, with a table of its times and a power sensor."""
    recorded_boards.orin_nano_super(tmp_path / "root")
    monkeypatch.setenv("EDGENAS_BOARD_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)

    def make() -> Machine:
        space = load_supernet(rising).supernet.space
        made = Machine(space, profiled(space))
        monkeypatch.setattr(building, "measure_network", made)
        return made

    return make


def draw_seven_watts() -> None:
    """Give the networks of this machine's table energies: 7 W for as long as they take."""
    path = table_path(load_device("host").target())
    table = load_table(path)
    networks = tuple(replace(n, joules=7 * n.timing.seconds) for n in table.networks)
    environment = {**table.environment, SENSOR: "VDD_IN", IDLE: 3.5}
    save_table(replace(table, networks=networks, environment=environment), path)


def test_a_prediction_tells_the_energy_where_energies_were_measured(measured, tmp_path, rising):
    clock = measured()
    arch = clock.space.largest()
    save_arch(arch, tmp_path / "arch.json")
    request = PredictRequest(
        device="host",
        arch=tmp_path / "arch.json",
        space="tiny",
        classes=clock.space.classes,
    )
    assert "energy_mj" not in predict(request).to_json()
    draw_seven_watts()
    told = predict(request)
    assert told.energy is not None
    assert told.energy.provenance == "measured"
    assert told.energy.joules == pytest.approx(7 * told.seconds, rel=1e-3)
    assert told.to_json()["energy_mj"] == pytest.approx(7e3 * told.seconds, rel=1e-3)


class Board:
    """Draws so many watts for as long as a network takes, on the machine of these tests."""

    def __init__(self, clock: Machine, *, watts: float) -> None:
        self.clock, self.watts, self.metered = clock, watts, list[Arch]()

    def __call__(self, onnx: bytes, arch: Arch, *, target, clock) -> MeasuredEnergy:
        assert loads(onnx).proto.graph.node
        seconds = float(self.clock.true(self.clock.space.encode([arch]))[0])
        self.metered.append(arch)
        return MeasuredEnergy(
            name=str(arch),
            joules=self.watts * seconds,
            watts=self.watts,
            idle_watts=3.5,
            seconds=seconds,
            drift=0.0,
            samples=80,
            sensor="VDD_IN",
        )


def test_a_budget_of_energy_is_kept_by_the_metered_network(rising, measured, tmp_path, monkeypatch):
    clock = measured()
    draw_seven_watts()
    rows = everything(clock.space)
    limit = between(7 * clock.true(rows), 0.6)
    board = Board(clock, watts=7.7)  # ten percent more than the table says
    monkeypatch.setattr(deliveries, "meter_network", board)
    request = ask(rising, f"energy<={limit * 1e3:.6f}mJ", device="host")
    result = specialize(request, out=tmp_path / "bundle")
    (promise,) = result.record.promises
    assert promise.rests_on == "metered on the device, VDD_IN"
    true = 7.7 * clock.true(clock.space.encode([result.arch]))[0]
    assert promise.value == pytest.approx(true, rel=1e-9)
    assert promise.value <= limit
    assert len(board.metered) >= 2  # the first choice drew too much
    assert board.metered[-1] == result.arch
    energy = result.record.energy
    assert energy is not None
    assert energy.metered == promise.value
    assert "mJ a run metered; " in str(energy)
    assert read_contents(tmp_path / "bundle").record == result.record
    assert all(check.passed for check in verify_bundle(tmp_path / "bundle"))
    # A correction gives away little: a network of the last percents of the budget is found.
    assert promise.value >= 0.9 * limit


def test_a_budget_of_energy_that_nothing_keeps_is_told(rising, measured, tmp_path, monkeypatch):
    clock = measured()
    draw_seven_watts()
    least = 7 * clock.true(everything(clock.space)).min()
    monkeypatch.setattr(deliveries, "meter_network", Board(clock, watts=14.0))
    request = ask(rising, f"energy<={1.05 * least * 1e3:.6f}mJ", device="host")
    with pytest.raises(EdgenasError, match=r"no network metered within .* drew") as told:
        specialize(request, out=tmp_path / "bundle")
    assert "profile --energy --fresh" in told.value.hint
    assert not (tmp_path / "bundle").exists()


def test_a_given_network_is_metered_too(rising, measured, tmp_path, monkeypatch):
    clock = measured()
    draw_seven_watts()
    path = tmp_path / "arch.json"
    arch = clock.space.smallest()
    save_arch(arch, path)
    seconds = float(clock.true(clock.space.encode([arch]))[0])
    monkeypatch.setattr(deliveries, "meter_network", Board(clock, watts=8.0))
    words = replace(ask(rising, f"energy<={9e3 * seconds:.6f}mJ", device="host"), arch=str(path))
    (promise,) = specialize(words, out=tmp_path / "bundle").record.promises
    assert promise.value == pytest.approx(8 * seconds)
    words = replace(ask(rising, f"energy<={7.5e3 * seconds:.6f}mJ", device="host"), arch=str(path))
    with pytest.raises(EdgenasError, match="no network metered within"):
        specialize(words, out=tmp_path / "other")


def test_energy_is_bounded_by_measured_energies(rising: Path, measured, tmp_path, monkeypatch):
    clock = measured()
    draw_seven_watts()
    monkeypatch.setattr(deliveries, "_find_budget", lambda prepared: None)  # as without a sensor
    rows = everything(clock.space)
    limit = between(7 * clock.true(rows), 0.4)
    result = specialize(
        ask(rising, f"energy<={limit * 1e3:.6f}mJ", device="host"), out=tmp_path / "bundle"
    )
    (promise,) = result.record.promises
    assert promise.rests_on == (
        "upper bound of the prediction at 95% confidence, from measured energies"
    )
    assert promise.value <= limit
    energy = result.record.energy
    assert energy is not None
    assert (energy.upper, energy.sensor, energy.idle_watts) == (promise.value, "VDD_IN", 3.5)
    assert 0 < energy.joules <= energy.upper
    assert read_contents(tmp_path / "bundle").record == result.record  # it is read as written
    assert all(check.passed for check in verify_bundle(tmp_path / "bundle"))
    for page in ("report.html", "MODEL_CARD.md"):
        assert "W when nothing runs" in (tmp_path / "bundle" / page).read_text(encoding="utf-8")
    # The energies are exactly 7 W times the time, so the bound is hardly above them.
    true = 7 * clock.true(clock.space.encode([result.arch]))[0]
    assert promise.value == pytest.approx(true, rel=1e-3)
    scores = load_accuracy(rising / ACCURACY_FILE)(rows)
    within = scores[7 * clock.true(rows) <= 0.999 * limit].max()
    assert scores[(rows == clock.space.encode([result.arch])[0]).all(1)][0] >= within - 1e-5


def test_a_device_without_energies_is_metered_first(rising: Path, measured, tmp_path, monkeypatch):
    measured()
    plans = []
    monkeypatch.setattr(latencies, "profile", lambda *a, plan, **k: plans.append(plan))
    with pytest.raises(EdgenasError, match="no energy is known for host"):
        specialize(ask(rising, "energy<=5mJ", device="host"), out=tmp_path / "bundle")
    assert [plan.energy for plan in plans] == [True]
