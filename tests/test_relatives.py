"""Boards without rows of their own: relatives, a few measurements, an interval that is honest."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from edgenas.basics.errors import EdgenasError
from edgenas.latency.device import MODEL, load, read
from edgenas.latency.estimate import device_model
from edgenas.latency.features import AT, NAMES, features
from edgenas.latency.hierarchy import Rows
from edgenas.latency.next_network import next_networks
from edgenas.latency.profile_text import estimate_text, profile_text, quoted
from edgenas.latency.relatives import (
    Measured,
    Relatives,
    checks,
    corrected,
    relatives_of,
    suggest,
)
from edgenas.space.plan import plan
from edgenas.space.presets import PRESETS
from edgenas.space.primitives import primitives

SPACE = PRESETS["ofa-mbv3-w1.2"]()
SHIPPED = sorted(path.stem for path in (ROOT / "device_profiles/relatives").glob("*.json"))


def operators(seed: int) -> tuple:
    (arch,) = SPACE.decode(SPACE.sample(1, rng=np.random.default_rng(seed), by="gene"))
    return tuple(p for _, layer in plan(SPACE, arch) for p in primitives(layer))


def timed(known: Relatives, prices: np.ndarray, seeds: range, *, noise: float = 0) -> list:
    """Networks on a board of given log prices."""
    rng = np.random.default_rng(0)
    found = []
    for seed in seeds:
        parts = operators(seed)
        counts = features(parts, kernels=known.kernels_of(4))
        counts[AT["run"]] = 1
        seconds = float(counts[list(known.used)] @ np.exp(prices))
        seconds *= math.exp(noise * rng.standard_normal())
        found.append(
            Measured(name=f"net{seed}", operators=parts, seconds=seconds, source="measured: x.csv")
        )
    return found


def model(known: Relatives, measured: list, folder: Path):
    """The device model of a profile that was written and read again."""
    text = profile_text(
        corrected(known, measured, threads=4),
        name="new",
        title="new",
        runtime="ncnn",
        precision="fp32",
        threads=4,
    )
    (folder / "new.toml").write_text(text)
    device = read(folder / "new.toml")
    return device_model(device, device.uses[0].target)


def seconds_of(found, network: Measured) -> float:
    return found.run_overhead + found.seconds_of(network.operators)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_relatives_are_whole(name: str):
    known = relatives_of(*name.rsplit("-", 1) if "-" in name else (name,))
    path = ROOT / f"device_profiles/relatives/{name}.json"
    assert known.to_json() == json.loads(path.read_text())
    assert known.to_json()["model"] == MODEL
    assert np.linalg.eigvalsh(known.population.covariance).min() > -1e-3
    assert known.population.spreads.own < known.population.spreads.family < 0.2
    assert known.speeds[0] < 1 < known.speeds[1]
    assert list(known.errors) == [1, 3, 5, 10]
    # The more is measured, the narrower.
    spreads = [np.quantile(np.abs(off), 0.9) for off in known.errors.values()]
    assert spreads == sorted(spreads, reverse=True)


def test_runtimes_without_relatives_of_their_own_share_those_of_cpus():
    assert relatives_of("ncnn").name == "ncnn"
    assert relatives_of("onnxruntime").name == relatives_of("../ncnn").name == "cpu"
    assert relatives_of("tflite", "int8").name == "tflite-int8"
    assert relatives_of("tflite", "bf16").name == "cpu"
    with pytest.raises(EdgenasError, match="they are of CPUs") as refused:
        relatives_of("tensorrt")
    assert "edgenas profile --runtime tensorrt --ssh" in refused.value.hint


@pytest.mark.parametrize("name", SHIPPED)
def test_a_board_of_the_population_is_found_from_its_measurements(name: str, tmp_path: Path):
    known = relatives_of(*name.rsplit("-", 1) if "-" in name else (name,))
    rng = np.random.default_rng(1)
    off: dict[int, list[float]] = {1: [], 10: []}
    width = len(known.used)
    typical: list[float] = []
    for _ in range(5):
        prices = rng.multivariate_normal(
            known.population.mean[:width], known.population.covariance[:width, :width]
        )
        unseen = timed(known, prices, range(100, 110))
        for shots, errors in off.items():
            found = model(known, timed(known, prices, range(shots)), tmp_path)
            errors += [math.log(seconds_of(found, n) / n.seconds) for n in unseen]
        typical = [math.log(n.seconds) for n in unseen]
    assert np.abs(off[10]).mean() < 0.04 < np.ptp(typical)
    assert np.abs(off[10]).mean() < np.abs(off[1]).mean()


def mean_of(known: Relatives) -> np.ndarray:
    """The log prices of a typical board."""
    return known.population.mean[: len(known.used)]


def test_a_new_board_has_the_evidence_of_the_game_and_its_own_rows(tmp_path: Path):
    known = relatives_of("ncnn")
    measured = timed(known, mean_of(known), range(4))
    evidence = model(known, measured, tmp_path).evidence
    assert evidence.own == "4 measured networks of its own"
    assert evidence.method.endswith("3 networks measured on each")
    assert len(evidence.residuals) == len(known.errors[3])
    assert (evidence.smallest.macs, evidence.largest.macs) == (
        min(m.macs for m in measured),
        max(m.macs for m in measured),
    )
    assert evidence.sources == (*known.sources, "measured: x.csv")
    assert evidence.family == pytest.approx(known.population.spreads.unseen, rel=0.01)
    assert evidence.noise == pytest.approx(known.population.spreads.noise, rel=0.01)
    assert evidence.families == {}
    origins = {name: p.origin for name, p in evidence.parameters.items()}
    assert origins["patch"] == "formula"
    assert set(origins.values()) <= {"fit", "pooled", "formula"}


def test_the_same_model_predicts_what_is_measured_and_what_ships(tmp_path: Path):
    known = relatives_of("ncnn")
    measured = timed(known, mean_of(known), range(5))
    board = model(known, measured[:4], tmp_path)
    (*_, check) = checks(known, measured)
    network = board.describe(measured[4].operators)
    assert check.predicted == pytest.approx(network.seconds, rel=0.01)
    # The profile widens for the size of a network as well.
    assert check.high / check.predicted <= network.interval()[1] / network.seconds * 1.01


def test_networks_of_one_space_are_a_family(tmp_path: Path):
    known = relatives_of("ncnn")
    slow = timed(known, mean_of(known), range(6))
    named = [
        dataclasses.replace(m, seconds=m.seconds * (1.2 if i < 3 else 1), family=family)
        for i, (m, family) in enumerate(zip(slow, ["mine"] * 3 + ["a", "b", "c"], strict=True))
    ]
    board = model(known, named, tmp_path)
    mine = board.for_family("mine")
    assert 1.03 < mine.prices.run / board.prices.run < 1.2
    other = operators(50)
    assert mine.describe(other).spread < board.describe(other).spread
    assert mine.describe(other).seconds > board.describe(other).seconds


def test_prices_and_the_effect_of_a_measured_family_are_known_together(tmp_path: Path):
    # The oracle is the joint fit: after eight networks of a family, what its prices leave open
    # and its effect cancel, so that the interval is far narrower than the two apart would make it.
    known = relatives_of("tflite", "fp32")
    measured = [
        dataclasses.replace(m, family="mine")
        for m in timed(known, mean_of(known) + 0.3, range(8), noise=0.02)
    ]
    mine = model(known, measured, tmp_path).for_family("mine")
    rows = Rows(
        counts=np.array([mine.count(m.operators) for m in measured])[:, list(known.used)],
        seconds=np.array([m.seconds for m in measured]),
        families=("mine",) * len(measured),
    )
    fit = known.population.fit_board(rows)
    for seed in range(20, 26):
        network = mine.describe(operators(seed))
        counts = mine.count(operators(seed))[None, list(known.used)]
        mean, spread = fit.predict(counts, ["mine"], spreads=known.population.spreads)
        assert math.log(network.seconds) == pytest.approx(float(mean[0]), abs=0.01)
        # The file rounds covariances to three digits; the profile widens for size as well.
        expected = math.hypot(float(spread[0]), math.sqrt(network.size))
        assert network.spread == pytest.approx(expected, rel=0.1)
        apart = math.sqrt(network.spread**2 + mine.evidence.families["mine"].doubt ** 2)
        assert network.spread < 0.9 * apart


def test_a_profile_keeps_an_estimate(tmp_path: Path):
    known = relatives_of("ncnn")
    measured = timed(known, mean_of(known), range(3))
    measured = [dataclasses.replace(m, family="mine") for m in measured]
    estimate = corrected(known, measured, threads=4)
    kept = model(known, measured, tmp_path).evidence
    for field in dataclasses.fields(estimate):
        before, after = getattr(estimate, field.name), getattr(kept, field.name)
        if field.name == "parameters":
            for name in NAMES:
                assert after[name].origin == before[name].origin
                assert after[name].value == pytest.approx(before[name].value, rel=5e-3)
        elif field.name == "families":
            assert list(after) == list(before) == ["mine"]
            assert after["mine"].effect == pytest.approx(before["mine"].effect, abs=1e-3)
            assert after["mine"].doubt == pytest.approx(before["mine"].doubt, rel=6e-3)
            assert len(after["mine"].prices) == len(NAMES)
            np.testing.assert_allclose(after["mine"].prices, before["mine"].prices, rtol=6e-3)
        elif field.name in ("smallest", "largest"):
            assert after.seconds == pytest.approx(before.seconds, rel=1e-5)
            assert (after.network, after.macs) == (before.network, before.macs)
        elif isinstance(before, (tuple, float)) and field.name not in ("fused", "sources", "plain"):
            np.testing.assert_allclose(after, before, rtol=6e-3, atol=6e-4)
        else:
            assert after == before, field.name


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_times_in_another_unit_are_refused(factor: float):
    known = relatives_of("ncnn")
    measured = timed(known, mean_of(known), range(3))
    assert corrected(known, measured).rows == 3
    wrong = [dataclasses.replace(m, seconds=m.seconds * factor) for m in measured]
    with pytest.raises(EdgenasError, match=r"MACs a second, .* times as fast as a typical") as told:
        corrected(known, wrong)
    assert "milliseconds" in told.value.hint


def test_every_relative_is_within_what_relatives_reach():
    # A board as fast as the fastest one published is no mistake.
    known = relatives_of("ncnn")
    measured = timed(known, mean_of(known), range(3))
    for speed in known.speeds:
        board = [dataclasses.replace(m, seconds=m.seconds / speed) for m in measured]
        assert corrected(known, board).rows == 3


def test_the_network_to_time_next_narrows_the_most():
    known = relatives_of("tflite", "fp32")
    measured = timed(known, mean_of(known), range(2))
    candidates = [operators(seed) for seed in range(20, 32)]
    now, chosen = suggest(known, measured, candidates, family="mine", threads=4, many=2)
    factors = [now, *(each.factor for each in chosen)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > factors[-1] * 1.02

    def factor(times: list[tuple]) -> float:
        """The same, by fitting the board with each measured at its prediction."""
        fake = [
            Measured(name="x", operators=parts, seconds=seconds, source="", family="mine")
            for parts, seconds in times
        ]
        return suggest(known, [*measured, *fake], candidates, family="mine", threads=4, many=0)[0]

    predicted = {}
    for i, parts in enumerate(candidates):
        extra = Measured(name="x", operators=parts, seconds=1.0, source="", family="mine")
        (*_, check) = checks(known, [*measured, extra], threads=4)
        predicted[i] = check.predicted
    tried = {i: factor([(candidates[i], predicted[i])]) for i in predicted}
    best = min(tried, key=lambda i: tried[i])
    # Student's t weighs a row that fits perfectly a quarter more than a Gaussian would.
    assert tried[chosen[0].index] <= tried[best] * 1.01
    assert tried[best] == pytest.approx(chosen[0].factor, rel=0.03)


def test_the_networks_to_time_next_are_of_the_space():
    known = relatives_of("ncnn")
    measured = timed(known, mean_of(known), range(3))
    now, chosen = next_networks(known, measured, SPACE, threads=4)
    assert len(chosen) == 2
    assert now > chosen[0].factor > chosen[1].factor > 1
    for network in chosen:
        SPACE.check(network.arch)
    # What is measured already says little more, so another one is next.
    first = [p for _, layer in plan(SPACE, chosen[0].arch) for p in primitives(layer)]
    more = Measured(name="next", operators=tuple(first), seconds=0.05, source="", family=SPACE.name)
    later, again = next_networks(known, [*measured, more], SPACE, threads=4)
    assert later < now
    assert again[0].arch != chosen[0].arch


def test_a_measurement_that_does_not_fit_the_others_is_told():
    known = relatives_of("tflite", "fp32")
    measured = timed(known, mean_of(known), range(6), noise=0.02)
    assert all(check.inside for check in checks(known, measured, threads=4))
    slip = dataclasses.replace(measured[2], seconds=measured[2].seconds * 3)
    found = checks(known, [*measured[:2], slip, *measured[3:]], threads=4)
    assert [check.inside for check in found] == [True, True, False, True, True, True]
    assert found[2].predicted == pytest.approx(measured[2].seconds, rel=0.1)
    assert checks(known, measured[:1]) == []


def test_nothing_measured_is_refused():
    with pytest.raises(EdgenasError, match="at least one measured network"):
        corrected(relatives_of("ncnn"), [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "prices/0"}, "model must be 'prices/2', found 'prices/0'"),
        ({"prices": ["speed"]}, "prices must be of"),
        ({"covariance": [[1.0]]}, "mean and covariance must have"),
        ({"errors": [1]}, "errors must be an object"),
        ({"noise": -1}, "noise must be at least 0"),
        ({"scale": 0}, "scale must be above 0"),
        ({"mean": [1e9]}, "mean.0. must be at most 50"),
        ({"more": 1}, "more"),
    ],
)
def test_damaged_relatives_are_refused(
    change: dict, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "device_profiles/relatives"
    folder.mkdir(parents=True)
    monkeypatch.setenv("EDGENAS_PATH", str(tmp_path))
    value = json.loads((ROOT / "device_profiles/relatives/ncnn.json").read_text()) | change
    (folder / "ncnn.json").write_text(json.dumps(value))
    with pytest.raises(EdgenasError, match=told):
        relatives_of("ncnn")


def test_texts_that_no_profile_can_hold_are_refused():
    for text in ('a "board"', "a\nboard", "a\\board"):
        with pytest.raises(EdgenasError, match="free of quotes and backslashes"):
            quoted(text)


def test_shipped_profiles_are_what_the_writer_writes():
    device = load("rpi4")
    use = device.uses[0]
    assert use.estimate is not None
    text = device.path.read_text()
    assert estimate_text(use.estimate) in text


def test_the_page_lists_the_targets_as_they_ship(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from tools.device_fits import table_device_models as table

    text = (ROOT / "docs/reference/devices.md").read_text(encoding="utf-8")
    listed = text.split(table.BEGIN)[1].split(table.END)[0].splitlines()
    assert listed == list(table.rows())
    assert len(listed) > 50
