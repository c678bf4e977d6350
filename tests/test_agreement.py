"""What is said of a network whose teacher gave the labels: its agreement, and whose weights began.

The supernet that ships for photos is of this kind.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.record import Record
from edgenas.cli.result import describe_briefly
from edgenas.delivery.request import SUPERNET, SpecializeRequest
from edgenas.delivery.result import Result
from edgenas.delivery.run import specialize
from edgenas.model.saved import find_supernet, list_supernets, load_supernet, name_teacher
from edgenas.space.presets import load_space

ANSWERED = {"data": {"source": "photos", "labels": "answers of the teacher"}}
TAUGHT = {"teacher": {"file": "lite0, the original network", "size": [160, 160]}}


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A network of the supernet that everybody gets who names none."""
    request = SpecializeRequest(device="jetson", latency="3ms")
    return specialize(request, out=tmp_path_factory.mktemp("agreement") / "bundle")


@pytest.mark.parametrize(
    ("training", "name"),
    [
        (ANSWERED | TAUGHT, "lite0 at 160 px"),
        (ANSWERED | {"teacher": {"file": "net.onnx", "size": [96, 128]}}, "net.onnx at 128 px"),
        (ANSWERED | {"teacher": {"file": "net.onnx"}}, "net.onnx"),
        (ANSWERED, None),  # nobody knows who answered
        ({"data": {"source": "photos"}} | TAUGHT, None),  # people gave the labels
        ({}, None),
    ],
)
def test_the_teacher_is_named_only_where_its_answers_were_the_labels(training, name):
    assert name_teacher(training) == name


def test_agreement_is_never_called_accuracy():
    facts = {"kind": "predicted", "value": 0.426, "data": "photos", "split": "validation"}
    facts |= {"images": 1235, "error": 0.0126, "archs": 120}
    agreement = AccuracyRecord(**facts, teacher="lite0 at 160 px")
    assert (agreement.name, agreement.what) == ("agreement", "agreement with lite0 at 160 px")
    assert agreement.summary == "42.60% predicted with lite0 at 160 px"
    assert str(agreement).startswith("42.60% predicted with lite0 at 160 px (photos validation")
    accuracy = AccuracyRecord(**facts)
    assert (accuracy.name, accuracy.what) == ("accuracy", "accuracy")
    assert accuracy.summary == "42.60% predicted"


def test_a_known_bias_is_told_with_its_side():
    facts = {"kind": "predicted", "value": 0.426, "data": "photos", "split": "validation"}
    facts |= {"images": 1235, "error": 0.022, "archs": 12, "chosen": True}
    high, unknown = AccuracyRecord(**facts, bias=0.0215), AccuracyRecord(**facts)
    assert high.doubt == "2.15 points too high on average"
    assert str(high).endswith(
        "that a search chose: such predictions were 2.15 points too high on average)"
    )
    assert (unknown.lean, unknown.doubt) == ("", "off by 2.20 points on average")
    measured = AccuracyRecord.of(correct=1, images=2, data="photos", split="test")
    assert (measured.lean, measured.doubt) == ("", "")


@pytest.mark.slow
def test_the_supernet_of_photos_says_what_it_is(delivered: Result):
    record = delivered.record
    assert record.supernet == SUPERNET == "lite-photo"
    assert record.accuracy.teacher == "lite0 at 160 px"
    facts = dict(describe_briefly(delivered))
    assert "accuracy" not in facts
    assert "predicted with lite0 at 160 px" in facts["agreement"]
    card = (delivered.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Top-1 accuracy" not in card
    assert f"- Top-1 agreement: {record.accuracy.summary} (" in card
    page = (delivered.folder / "report.html").read_text(encoding="utf-8")
    assert ">agreement</th>" in page
    assert ">accuracy</th>" not in page
    # Its predictor chose networks that were measured afterwards, and overrated them.
    assert record.accuracy.bias is not None
    lean = f"{100 * record.accuracy.bias:.2f} points too high on average"
    assert record.accuracy.bias > 0.02
    assert facts["agreement"].endswith(f"; {lean})")
    for text in (card, page, str(record.accuracy)):
        assert f"such predictions were {lean}" in text
    assert "began as EfficientNet-Lite0 (Apache-2.0)" in card
    assert "non-commercial research" in card
    again = Record.from_json(
        json.loads((delivered.folder / "report.json").read_text(encoding="utf-8"))
    )
    assert (again.accuracy, again.origin) == (record.accuracy, record.origin)


@pytest.mark.slow
def test_a_front_names_agreement_and_its_lean(edgenas, tmp_path: Path):
    request = ("--metrics", "accuracy,macs", "--evaluations", "300", "--rows", "2")
    done = edgenas("pareto", *request, "--out", tmp_path / "f.html", "--out", tmp_path / "f.json")
    assert done.code == 0, done.log
    page, told = (
        (tmp_path / "f.html").read_text(encoding="utf-8"),
        json.loads((tmp_path / "f.json").read_text(encoding="utf-8")),
    )
    assert told["accuracy"]["teacher"] == "lite0 at 160 px"
    flat = " ".join(done.out.split())
    assert "network agreement MACs" in flat
    assert "agreement: predicted, of photos validation" in flat
    for words in (flat, page):
        assert "such predictions were 2.15 points too high on average" in words
    assert ">agreement</th>" in page
    assert "predicted agreement, %" in page
    assert "accuracy" not in f"{page.partition('<body>')[2]}{done.out}".lower()


@pytest.mark.slow
def test_a_bundle_of_photos_names_a_thousand_classes(delivered: Result):
    labels = json.loads((delivered.folder / "manifest.json").read_text())["labels"]
    assert len(labels) == len(set(labels)) == 1000
    assert {"tench", "toilet tissue"} <= set(labels)


def test_what_ships_is_within_its_size_and_made_of_averages():
    """24 MB in all; calibration images that no batch norm tells from photos, not photos."""
    size = sum(f.stat().st_size for name in list_supernets() for f in find_supernet(name).iterdir())
    assert size < 24e6
    trained = load_supernet(find_supernet("lite-photo"))
    pixels = trained.calibration_images().double()
    assert torch.isfinite(pixels).all()
    assert pixels.std(0).min() > 0
    assert np.isclose(pixels.mean(), 117, atol=30)  # photos are neither dark nor bright on average
    assert Path(trained.require_folder()).name == "lite-photo"
    assert trained.supernet.space == load_space("lite-photo")
