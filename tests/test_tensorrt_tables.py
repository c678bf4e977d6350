"""Tables and promises by TensorRT against hidden laws of time, without a shell in between."""

import json
import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtexec_law

from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.statistics import summarize
from edgenas.clock.events import Event
from edgenas.clock.measure import DEFAULT, Measurement
from edgenas.clock.order import TimedRuntime
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.latency.device import Target
from edgenas.latency.predictor import LearnedPredictor
from edgenas.latency.table import Timing
from edgenas.onnx_graph.build import network_graph, row_graph
from edgenas.profiling import reach
from edgenas.profiling.method import read_method
from edgenas.profiling.networks import random_archs
from edgenas.profiling.rebuilding import RebuildSpread, spread_in, spread_of, spread_of_table
from edgenas.profiling.run import ProfilePlan, plan_units, profile
from edgenas.profiling.slopes import follows_itself, slope_units, solve_slopes
from edgenas.profiling.tables import predictor_for
from edgenas.space import presets as spaces
from edgenas.space.layer import Layer
from edgenas.space.plan import layers

SPREAD, NOISE = 0.03, 0.01
ENVIRONMENT: dict[str, Any] = dict.fromkeys(
    "machine cpu cores virtual governor max_frequency gpu_clock l4t jetpack os kernel python "
    "temperature frequency gpu_frequency load throttled trtexec".split()
)
ENVIRONMENT |= {
    "board": "a board",
    "gpu": "GPU of a board",
    "power_mode": "MAXN (mode 0)",
    "processors": [],
    "runtime": "tensorrt",
    "runtime_version": "10.3.0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LawClock(TrtexecClock):
    """A clock whose engines take what a law says, with the spread of builds and noise."""

    law: str = "tiles"
    draw: random.Random = field(default_factory=random.Random)

    def environment(self, runtime: TimedRuntime, *, threads: int = 1) -> dict[str, Any]:
        return dict(ENVIRONMENT)

    def measure(
        self,
        units: Iterable[tuple[str, bytes | Path]],
        *,
        runtime: TimedRuntime,
        settings: TimingSettings = DEFAULT,
        batch: int = 1,
        evict: Callable[[str], int] = lambda name: 0,
        watch: Callable[[Event], None] = lambda event: None,
    ) -> Generator[Measurement]:
        for name, onnx in units:
            assert isinstance(onnx, bytes)
            built = self.truth(onnx) * self.another_build()
            runs = [round(built * 1e9 * (1 + NOISE * self.draw.gauss(0, 1))) for _ in range(41)]
            samples = tuple(ns * 1e-9 for ns in runs)
            found = summarize(runs, runs, settings=settings)
            yield Measurement(
                name=name, **found, canary=1e-3, samples=samples, wall_samples=samples
            )
        watch({"event": "end", "unvisited": []})

    def truth(self, onnx: bytes) -> float:
        return trtexec_law.truth(onnx, law=self.law, size=2)

    def another_build(self) -> float:
        return 1 + SPREAD * self.draw.gauss(0, 1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


def clock(law: str, seed: int) -> LawClock:
    return LawClock(place=None, law=law, draw=random.Random(seed))


TARGET = Target("jetson-orin-nano", "tensorrt", "fp16")


# Beside the two laws that were written by hand, some that were drawn at random.
DRAWN = [f"drawn-{seed}" for seed in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("law", [*sorted(trtexec_law.LAWS), *DRAWN])
@pytest.mark.parametrize(
    ("name", "method"),
    [("mbv3-cifar", "networks"), ("mbv3-photo", "networks"), ("mbv3-cifar", "slopes")],
)
def test_networks_never_measured_are_predicted_within_three_percent(law, name, method):
    space = spaces.load_space(name)
    at = clock(law, seed=11)
    table = profile(space, target=TARGET, clock=at, plan=ProfilePlan(method=method))
    predictor = predictor_for(table, space)
    archs = random_archs(space, 120, seed=97)[-60:]
    assert not {n.arch for n in table.networks} & set(archs)
    truth = np.array([at.truth(network_graph(space, arch)) for arch in archs])
    predicted, upper = predictor.predict(archs), predictor.upper(archs, confidence=0.95)
    print(
        law,
        name,
        np.abs(predicted / truth - 1).mean(),
        (truth <= upper).sum(),
        np.median(upper / truth),
    )
    assert np.abs(predicted / truth - 1).mean() <= 0.03
    assert (truth <= upper).sum() >= 54
    assert np.median(upper / truth) <= 1.10
    assert spread_of_table(table).builds == 12


@pytest.mark.slow
@pytest.mark.parametrize("law", [*sorted(trtexec_law.LAWS), *DRAWN])
def test_budgets_are_kept_on_a_new_build(law, tiny, tmp_path, monkeypatch):
    at = clock(law, seed=5)
    monkeypatch.setattr(reach, "tool_clock", lambda runtime, *, place, say=None: at)
    space = spaces.tiny()
    small, large = (at.truth(network_graph(space, a)) for a in (space.smallest(), space.largest()))
    kept = []
    for i, budget in enumerate(np.geomspace(small * 1.25, large * 1.2, 20)):
        out = tmp_path / str(i)
        request = SpecializeRequest(
            device="jetson",
            supernet=str(tiny),
            latency=f"{budget * 1e3:.6f}ms",
            ssh="board",
            seed=i,
        )
        specialize(request, out=out)
        model = (out / "model.onnx").read_bytes()
        (promise,) = json.loads((out / "report.json").read_text())["promises"]
        assert promise["value"] <= budget
        new = at.truth(model) * at.another_build()
        kept.append(new / budget)
    assert sum(ratio <= 1.02 for ratio in kept) == 20


# The spread of builds


def test_the_spread_is_that_of_the_logarithms_within_networks():
    rng = np.random.default_rng(1)
    groups = [size * np.exp(0.03 * rng.standard_normal(30)) for size in (1e-3, 5e-3, 2e-2)]
    spread = spread_of([group.tolist() for group in groups])
    assert spread is not None
    assert (spread.degrees, spread.builds) == (87, 90)
    pooled = np.sqrt(np.mean([np.log(group).var(ddof=1) for group in groups]))
    assert spread.deviation == pytest.approx(pooled, rel=1e-12)
    assert spread_of([[1.0], [2.0]]) is None


def test_a_further_build_stays_below_what_is_promised_as_often_as_said():
    rng = np.random.default_rng(2)
    within = 0
    for _ in range(4000):
        known = spread_of(np.exp(0.03 * rng.standard_normal((4, 3))).tolist())
        assert known is not None
        builds = np.exp(0.03 * rng.standard_normal(3))
        mean = np.exp(np.log(builds).mean())
        within += np.exp(0.03 * rng.standard_normal()) <= mean * known.above(3)
    assert 0.975 <= within / 4000 <= 0.985  # 98%, give or take two standard deviations


def test_builds_of_one_more_network_join_the_spread():
    rng = np.random.default_rng(3)
    groups = np.exp(0.03 * rng.standard_normal((5, 3))).tolist()
    whole, part = spread_of(groups), spread_of(groups[:4])
    assert part is not None
    assert part.join(groups[4]) == whole
    assert part.join([1.0]) == part


def test_a_table_without_builds_has_an_assumed_spread():
    assumed = spread_in({})
    assert assumed.builds == 0
    assert "assumed" in str(assumed)
    assert spread_in({"rebuilds": {"spread": 0.02, "degrees": 8, "builds": 12}}) == RebuildSpread(
        0.02, 8, 12
    )


@pytest.mark.slow
def test_a_profile_of_few_networks_gives_a_bound():
    space, at = spaces.mbv3_cifar(), clock("tiles", seed=3)
    plan = ProfilePlan(networks=12, further=10, rebuilt=2)
    table = profile(space, target=TARGET, clock=at, plan=plan)
    assert not table.layers
    assert len(table.networks) == 22
    assert spread_of_table(table).builds == 6
    predictor = predictor_for(table, space)
    assert predictor.bound_kind(0.95) == "student-t"
    archs = random_archs(space, 80, seed=31)[-40:]
    truth = np.array([at.truth(network_graph(space, arch)) for arch in archs])
    assert (truth <= predictor.upper(archs)).mean() >= 0.9


# Layers by slope


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyClock(LawClock):
    """A clock without noise, whose builds are all alike."""

    def another_build(self) -> float:
        return 1.0


def additive(tmp_path: Path) -> str:
    """A law in which layers add up: nothing is fused from one to the next."""
    path = tmp_path / "law.py"
    path.write_text(
        "def seconds(kernels, *, size):\n"
        "    return 2e-5 + sum(3e-6 + k.macs * 1e-12 + k.read * 1e-11 for k in kernels)\n"
    )
    return str(path)


def test_slopes_are_the_times_of_layers_where_these_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr("test_tensorrt_tables.NOISE", 0.0)
    space, at = spaces.tiny(), SteadyClock(place=None, law=additive(tmp_path))
    plan = ProfilePlan(networks=8, further=4, rebuilt=0, method="slopes")
    table = profile(space, target=TARGET, clock=at, plan=plan)
    assert set(table.layers) == set(layers(space))
    assert read_method(table) == "slopes"
    for layer, timing in table.layers.items():
        own = at.truth(row_graph([layer])) - 2e-5
        assert timing.seconds == pytest.approx(own, rel=1e-3), layer
        assert not timing.noisy
    archs = random_archs(space, 20, seed=97)
    truth = np.array([at.truth(network_graph(space, arch)) for arch in archs])
    predictor = predictor_for(table, space)
    assert not isinstance(predictor, LearnedPredictor)  # exact sums win
    np.testing.assert_allclose(predictor.predict(archs), truth, rtol=1e-3)


def test_the_rival_that_predicts_networks_left_out_better_is_taken():
    space, at = spaces.tiny(), clock("tiles", seed=4)
    plan = ProfilePlan(networks=12, further=10, rebuilt=0, method="slopes")
    table = profile(space, target=TARGET, clock=at, plan=plan)
    predictor = predictor_for(table, space)
    learned = predictor_for(replace(table, layers={}), space)
    assert predictor.error is not None
    assert learned.error is not None
    assert predictor.error.error <= learned.error.error
    assert predictor_for(replace(table, layers={}), space).bound_kind(0.95) == "student-t"


def test_a_layer_that_vanishes_between_its_neighbours_is_noisy():
    space = spaces.tiny()
    units = slope_units(space, batch=1, form="fp32")
    timings = [(unit, Timing(median=1e-3 * max(unit.copies, 1), n=9)) for unit in units]
    solved = solve_slopes(timings, space)
    assert set(solved) == set(layers(space))
    for layer, timing in solved.items():
        assert timing.noisy != follows_itself(layer)
        assert timing.seconds > 0
    assert not solve_slopes(timings[:1], space)  # one of two numbers says nothing


def test_a_limited_profile_begins_with_networks_and_times_layers_where_time_is_left():
    space = spaces.tiny()
    for seconds, slopes in ((600.0, True), (None, False)):
        plan = plan_units(space, target=TARGET, plan=ProfilePlan(time_budget=seconds))
        assert any(isinstance(unit.of, Layer) for unit in plan.units.values()) == slopes
