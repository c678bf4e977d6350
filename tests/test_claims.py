"""What README and docs say of the product, held against the product."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.latency import device as devices
from edgenas.space.cost import macs_table
from edgenas.space.presets import load_space
from edgenas.strategies.chosen import choose_networks

DEVICES = (ROOT / "docs" / "reference" / "devices.md").read_text(encoding="utf-8")


def test_so_many_targets_know_their_energy_as_the_guide_says():
    uses = [use for device in devices.list_devices() for use in device.uses]
    known = [use for use in uses if use.estimate is not None and use.estimate.power is not None]
    assert f"{len(known)} of the {len(uses)} targets" in " ".join(DEVICES.split())


def test_no_table_ships_as_its_folder_says():
    folder = ROOT / "latency_tables"
    assert list(folder.rglob("*.json")) == []
    assert "No table ships" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [("--model", "m.onnx"), ("--arch", "a.json", "--space", "tiny")])
def test_a_prediction_says_what_its_doubt_is_of(
    edgenas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):
    import onnx

    from edgenas.space.arch import save_arch
    from tools.fuzz.graphs import models

    monkeypatch.chdir(tmp_path)
    onnx.save(models()[0], "m.onnx")
    save_arch(load_space("tiny").largest(), tmp_path / "a.json")
    done = edgenas("predict", "--device", "rpi4", *words)
    assert done.code == 0, done.log
    flat = " ".join(done.out.split())
    assert " note estimated " in flat
    assert "of the doubt is that" in flat
    assert "on the board would narrow that to" in flat


def law(rows: np.ndarray) -> np.ndarray:
    """Accuracies that rise with MACs, and differ from network to network by what no fit knows."""
    space = load_space("tiny")
    noise = np.sin(rows @ np.arange(1, rows.shape[1] + 1) * 12.9898)
    return 0.5 + 0.05 * np.log(macs_table(space)(rows) / 1e5) + 0.02 * noise


def test_what_a_search_chooses_is_new_different_and_rated_high():
    space = load_space("tiny")
    fitted = space.sample(24, rng=np.random.default_rng(0), by="gene")
    predictor = AccuracyPredictor.fit(space, fitted, accuracy=law(fitted))
    rows = choose_networks(predictor, count=8, seed=0)
    assert 0 < len(rows) <= 8
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert predictor.rows is not None
    assert not {*map(tuple, rows.tolist())} & {*map(tuple, predictor.rows.tolist())}
    assert (space.canonical(rows) == rows).all()
    # Each is the best of all networks with its MACs or fewer that the predictor was not fitted to.
    every = np.unique(space.sample(4000, rng=np.random.default_rng(1), by="arch"), axis=0)
    # A predictor scores in single precision: alone and among others a row differs by its rounding.
    rounding = np.finfo(np.float32).eps
    macs = macs_table(space)
    for row in rows:
        rivals = every[macs(every) <= macs(row[None])[0]]
        assert predictor.predict(row[None])[0] >= predictor.predict(rivals).max() - rounding
    again = choose_networks(predictor, count=8, seed=0)
    assert np.array_equal(again, rows)
