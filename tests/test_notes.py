"""The notes of results: their kinds are told by how they begin."""

import pytest

from edgenas.bundle.notes import first_clause, is_evidence, is_extrapolated
from edgenas.cli.console import fold
from edgenas.cli.result import _cut
from edgenas.latency import device as devices
from edgenas.latency.estimate import cautions_of, device_model
from edgenas.space.plan import plan
from edgenas.space.presets import load_space
from edgenas.space.primitives import primitives


def test_every_caution_about_an_estimate_is_known_as_evidence():
    space = load_space("mbv3-cifar")
    operators = [p for _, layer in plan(space, space.smallest()) for p in primitives(layer)]
    uses = [(d, use) for d in devices.list_devices() for use in d.uses if use.estimate is not None]
    notes = [
        note
        for device, use in uses
        for note in cautions_of(device_model(device, use.target), operators, file="model.onnx")
    ]
    assert len(notes) > len(uses)
    assert [note for note in notes if not is_evidence(note)] == []
    assert any(is_extrapolated([note]) for note in notes)


@pytest.mark.parametrize(
    "note",
    ["the budget decides nothing: try another", "the measured latency is noisy"],
)
def test_what_changes_the_next_step_is_no_evidence(note: str):
    assert not is_evidence(note)
    assert not is_extrapolated([note])


def test_the_first_clause_of_a_note_says_what_it_says():
    assert first_clause("it is slow: buy a board; or wait") == "it is slow: buy a board"
    assert first_clause("it is slow") == "it is slow"


def test_a_network_of_many_words_is_cut_between_them():
    text = "r224 " + " ".join(["16[3x1]"] * 30)
    cut = _cut(text, " (id 0123456789)", room=60)
    assert len(cut) <= 60
    assert cut.endswith("16[3x1] ... (id 0123456789)")
    assert _cut("r32 16[3x1]", " (id 1)", room=60) == "r32 16[3x1] (id 1)"


def test_folding_loses_nothing_and_breaks_no_word():
    text = "edgenas profile --device jetson-orin-nano --space mbv3-cifar " + "x" * 50
    lines = fold(text, 40)
    assert " ".join(lines) == text
    assert all(len(line) <= 40 or " " not in line for line in lines)
    assert fold("", 40) == [""]
