"""The accuracy of each class: counts, intervals, files, card and page."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.classes import PAIRS, ClassAccuracies, count_by_class, wilson_interval
from edgenas.bundle.record import Record
from edgenas.latency.device import Target
from edgenas.pages.classes import show_classes
from edgenas.pages.markup import page
from edgenas.space.cost import Cost

LABELS = np.array([0] * 50 + [1] * 10 + [2] * 4)
ANSWERS = np.array([0] * 45 + [1] * 5 + [1] * 7 + [2] * 3 + [0] * 3 + [1])
NAMES = ("glass", "metal", "<b>trash</b>")


def found() -> ClassAccuracies:
    return count_by_class(LABELS, ANSWERS, names=NAMES)


def record(classes: ClassAccuracies | None) -> Record:
    return Record(
        target=Target("host", "onnxruntime", "fp32"),
        accuracy=AccuracyRecord.of(correct=52, images=64, data="waste", split="test"),
        predicted=None,
        measured=None,
        promises=(),
        costs=Cost(macs=1, params=1, weights=1, peak=1),
        memory=1.0,
        supernet="mine",
        classes=classes,
    )


@given(images=st.integers(1, 3000), share=st.floats(0, 1))
def test_the_interval_is_that_of_scipy(images: int, share: float):
    correct = round(share * images)
    theirs = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, images) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=80))
def test_counts_are_those_of_the_confusion_matrix(rows: list[tuple[int, int]]):
    labels, answers = np.array(rows).T
    classes = count_by_class(labels, answers, names="abcdef")
    for one in classes.each:
        of = "abcdef".index(one.name)
        assert one.images == sum(label == of for label, _ in rows)
        assert one.correct == rows.count((of, of))
    assert {one.name for one in classes.each} == {"abcdef"[label] for label, _ in rows}
    pairs = [(label, answer) for label, answer in rows if label != answer]
    assert len(classes.confused) == min(PAIRS, len(set(pairs)))
    for pair in classes.confused:
        assert pair.images == pairs.count(
            ("abcdef".index(pair.name), "abcdef".index(pair.taken_for))
        )
    counts = [pair.images for pair in classes.confused]
    assert counts == sorted((pairs.count(p) for p in set(pairs)), reverse=True)[:PAIRS]


def test_rare_classes_count_as_much_in_the_mean():
    assert found().mean == pytest.approx((45 / 50 + 7 / 10 + 0) / 3)
    assert [one.name for one in found().worst_first] == ["<b>trash</b>", "metal", "glass"]
    assert str(found().worst_first[1]) == "metal 70% (7 of 10, 95% interval 40% to 89%)"
    assert str(found().confused[0]) == "5 of 50 of glass are taken for metal"


def test_a_record_keeps_them_in_its_file():
    written = record(found()).to_json()
    assert json.loads(json.dumps(written))["classes"]["each"][1] | {"low": 0, "high": 0} == {
        "name": "metal", "images": 10, "correct": 7, "low": 0, "high": 0
    }  # fmt: skip
    assert Record.from_json(written) == record(found())
    assert "classes" not in record(None).to_json()
    assert record(found()).weights_json() is None


def test_counts_that_contradict_each_other_are_refused():
    written = record(found()).to_json()
    written["classes"]["each"][0]["correct"] = 20
    with pytest.raises(EdgenasError, match=r"classes\.each\[0\]: 20 of 50 images is no accuracy"):
        Record.from_json(written)
    fewer = dataclasses.replace(found(), each=found().each[:2])
    with pytest.raises(EdgenasError, match="must add up to the measured accuracy, found 52 of 60"):
        record(fewer)


def test_the_page_shows_the_worst_first_and_folds_many_away():
    accuracy = record(None).accuracy
    shown = page("x", show_classes(found(), accuracy))
    assert "<b>trash" not in shown  # a name is never markup
    places = [shown.index(words) for words in ("trash", ">metal<", ">glass<", "Confused most")]
    assert places == sorted(places)
    assert "53.33%" in shown
    assert "<details>" not in shown
    labels = np.repeat(np.arange(30), 2)
    many = count_by_class(labels, labels, names=[f"class {i}" for i in range(30)])
    folded = page("x", show_classes(many, accuracy))
    assert "The other 10 classes" in folded
    assert "Confused" not in folded
