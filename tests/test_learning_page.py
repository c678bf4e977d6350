"""What a gradient search learnt, in the file and on the page of a bundle."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from pages import Tree
from test_gradient_mixtures import cells
from test_report import contents

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.trace import Learning, LearntChoice, Trace
from edgenas.delivery.learning import describe_learning
from edgenas.pages.bundle import bundle_page
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.run import LearntPolicy


def learnt(steps: int = 100) -> LearntPolicy:
    """Logits that grow in a line, each by another slope."""
    slopes = torch.arange(30) - 15.0
    return LearntPolicy(
        policy=Policy(cells()),
        history=tuple(
            {"step": i, "loss": 1.0, "entropy": 1 - i / 200, "skips": i / 300} for i in range(steps)
        ),
        trail=torch.arange(steps)[:, None] * slopes,
    )


def learning() -> Learning:
    found = describe_learning("darts-v1", learnt())
    assert found is not None
    return found


def test_the_course_of_a_search_is_told_at_some_of_its_steps():
    found = learning()
    assert (found.steps[0], found.steps[-1], len(found.steps)) == (0, 99, 60)
    assert [choice.name for choice in found.choices] == [f"cells[0].edges[{i}]" for i in range(6)]
    assert found.choices[0].alternatives[1] == "skip_connect"
    assert found.choices[2].logits[3] == tuple(-2.0 * step for step in found.steps)
    assert found.entropy[-1] == pytest.approx(1 - 99 / 200)
    assert found.skips[-1] == pytest.approx(99 / 300)
    assert describe_learning("darts-v1", dataclasses.replace(learnt(), history=())) is None


def test_a_trace_with_what_was_learnt_has_a_schema_of_its_own():
    plain, whole = Trace(), Trace(learning=learning())
    assert plain.to_json()["schema"] == "edgenas.trace/1"
    assert "learning" not in plain.to_json()
    assert whole.to_json()["schema"] == "edgenas.trace/2"
    for trace in (plain, whole):
        assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
    with pytest.raises(EdgenasError, match=r"must have schema 'edgenas\.trace/2', found"):
        Trace.from_json(whole.to_json() | {"schema": "edgenas.trace/1"})


def test_files_of_the_first_schema_are_still_read():
    path = Path(__file__).parent / "data" / "trace-1.json"
    trace = Trace.from_json(json.loads(path.read_text()))
    assert trace.learning is None
    assert trace.seen == 3
    assert json.loads(json.dumps(trace.to_json())) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entropy": (1.0,)}, "every line must have one number for each step"),
        (
            {"choices": (LearntChoice(name="a", alternatives=("x",), logits=()),)},
            "there must be as many lines of logits as alternatives",
        ),
    ],
)
def test_lines_that_do_not_fit_are_refused(change: dict, message: str):
    with pytest.raises(EdgenasError, match=message):
        dataclasses.replace(learning(), **change)


def test_the_page_draws_logits_entropy_and_skips():
    usual = contents()
    plain = bundle_page(usual)
    assert "Logits over the steps" not in plain
    trace = dataclasses.replace(usual.trace, learning=learning())
    text = bundle_page(dataclasses.replace(usual, trace=trace))
    assert text == bundle_page(dataclasses.replace(usual, trace=trace))
    assert "What darts-v1 learnt" in text
    tree = Tree(text)
    assert tree is not None
    # Of thirty lines, six are preferred at the end.
    start = text.index("Logits over the steps")
    chart = text[start : text.index("</svg>", start)]
    assert chart.count('class="front third"') == 24
    assert chart.count('class="front"') == 6
    # The largest slope of each choice is its last alternative.
    assert "cells[0].edges[0]: avg_pool_3x3" in chart
    shares = text[text.index("Entropy and skip connections") :]
    assert "where a skip connection is preferred: 0.33" in shares
