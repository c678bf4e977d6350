"""Boards without rows of their own: relatives, a few measurements, an interval that is honest."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from edgenas.basics.errors import EdgenasError
from edgenas.latency import relatives
from edgenas.latency.device import load, read
from edgenas.latency.estimate import NAMES, device_model, features
from edgenas.latency.relatives import (
    Measured,
    Relatives,
    checks,
    corrected,
    profile_text,
    relatives_of,
)
from edgenas.space.plan import plan, primitives
from edgenas.space.presets import PRESETS

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
        counts = features(parts, kernels=known.kernels)
        counts[NAMES.index("run")] = 1
        seconds = float(counts[list(known.used)] @ np.exp(prices))
        seconds *= math.exp(noise * rng.standard_normal())
        found.append(
            Measured(name=f"net{seed}", operators=parts, seconds=seconds, source="measured: x.csv")
        )
    return found


def model(known: Relatives, measured: list, folder: Path):
    """The device model of a profile that was written and read again."""
    text = profile_text(
        corrected(known, measured),
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
    known = relatives_of(name)
    path = ROOT / f"device_profiles/relatives/{name}.json"
    assert known.to_json() == json.loads(path.read_text())
    assert np.linalg.eigvalsh(known.prior.covariance).min() > 0
    assert list(known.errors) == [1, 3, 5, 10]
    # The more is measured, the narrower.
    spreads = [np.quantile(np.abs(off), 0.9) for off in known.errors.values()]
    assert spreads == sorted(spreads, reverse=True)


def test_runtimes_without_relatives_of_their_own_share_those_of_cpus():
    assert relatives_of("ncnn").name == "ncnn"
    assert relatives_of("onnxruntime").name == relatives_of("../ncnn").name == "cpu"
    with pytest.raises(EdgenasError, match="they are of CPUs") as refused:
        relatives_of("tensorrt")
    assert "trtexec" in refused.value.hint


@pytest.mark.parametrize("name", SHIPPED)
def test_a_board_of_the_population_is_found_from_its_measurements(name: str, tmp_path: Path):
    known = relatives_of(name)
    rng = np.random.default_rng(1)
    off: dict[int, list[float]] = {1: [], 10: []}
    for _ in range(5):
        prices = rng.multivariate_normal(known.prior.mean, known.prior.covariance)
        unseen = timed(known, prices, range(100, 110))
        for shots, errors in off.items():
            found = model(known, timed(known, prices, range(shots)), tmp_path)
            errors += [math.log(seconds_of(found, n) / n.seconds) for n in unseen]
    typical = [math.log(n.seconds) for n in unseen]
    assert np.abs(off[10]).mean() < 0.02 < np.ptp(typical)
    assert np.abs(off[10]).mean() < np.abs(off[1]).mean()


def test_a_new_board_has_the_evidence_of_the_game_and_its_own_rows(tmp_path: Path):
    known = relatives_of("ncnn")
    measured = timed(known, known.prior.mean, range(4))
    found = model(known, measured, tmp_path)
    evidence = found.evidence
    assert evidence.own == "4 measured networks of its own"
    assert evidence.method.endswith("3 networks measured on each")
    assert len(evidence.residuals) == len(known.errors[3])
    assert (evidence.smallest.macs, evidence.largest.macs) == (
        min(m.macs for m in measured),
        max(m.macs for m in measured),
    )
    assert evidence.sources == (*known.sources, "measured: x.csv")
    # The interval is the conformal one of the errors of the game.
    low, high = found.interval(1.0, confidence=0.9)
    expected = sorted(abs(e) for e in known.errors[3])[math.ceil(200 * 0.9) - 1]
    assert math.log(high) == pytest.approx(expected, abs=1e-3)
    assert math.log(low) == pytest.approx(-expected, abs=1e-3)
    origins = {name: p.origin for name, p in evidence.parameters.items()}
    assert origins["patch"] == "formula"
    assert set(origins.values()) <= {"fit", "pooled", "formula"}


def test_a_profile_keeps_an_estimate(tmp_path: Path):
    known = relatives_of("ncnn")
    estimate = corrected(known, timed(known, known.prior.mean, range(3)))
    kept = model(known, timed(known, known.prior.mean, range(3)), tmp_path).evidence
    for field in dataclasses.fields(estimate):
        before, after = getattr(estimate, field.name), getattr(kept, field.name)
        if field.name == "parameters":
            for name in NAMES:
                assert after[name].origin == before[name].origin
                assert after[name].value == pytest.approx(before[name].value, rel=5e-3)
        elif field.name in ("residuals", "covariance", "doubt"):
            np.testing.assert_allclose(after, before, rtol=6e-3, atol=6e-4)
        elif field.name in ("smallest", "largest"):
            assert after.seconds == pytest.approx(before.seconds, rel=1e-5)
            assert (after.network, after.macs) == (before.network, before.macs)
        else:
            assert after == before, field.name


def test_a_measurement_that_does_not_fit_the_others_is_told():
    known = relatives_of("tflite")
    measured = timed(known, known.prior.mean, range(6), noise=0.02)
    assert all(check.inside for check in checks(known, measured))
    slip = dataclasses.replace(measured[2], seconds=measured[2].seconds * 3)
    found = checks(known, [*measured[:2], slip, *measured[3:]])
    assert [check.inside for check in found] == [True, True, False, True, True, True]
    assert found[2].predicted == pytest.approx(measured[2].seconds, rel=0.1)
    assert checks(known, measured[:1]) == []


def test_nothing_measured_is_refused():
    with pytest.raises(EdgenasError, match="at least one measured network"):
        corrected(relatives_of("ncnn"), [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "prices/0"}, "model must be one of prices/1"),
        ({"prices": ["speed"]}, "prices must be of"),
        ({"covariance": [[1.0]]}, "covariance square"),
        ({"errors": [1]}, "errors must be an object"),
        ({"errors": {"1": [0.1]}}, "errors and doubts must be by the same numbers"),
        ({"noise": 0}, "noise must be above 0"),
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
            relatives.quoted(text)


def test_shipped_profiles_are_what_the_writer_writes():
    device = load("rpi4")
    use = device.uses[0]
    assert use.estimate is not None
    text = device.path.read_text()
    assert relatives.estimate_text(use.estimate) in text


def test_the_page_lists_the_targets_as_they_ship(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "device_fits"))
    import table_device_models as table

    text = (ROOT / "docs/concepts/devices.md").read_text(encoding="utf-8")
    listed = text.split(table.BEGIN)[1].split(table.END)[0].splitlines()
    assert listed == list(table.rows())
    assert len(listed) > 50
