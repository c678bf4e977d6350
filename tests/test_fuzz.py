"""The fuzzer sees what breaks its law, and makes the same inputs from the same seed."""

import random

import pytest

from tools.fuzz.law import LINE, MEMORY, SECONDS, Seen, broken
from tools.fuzz.trees import json_text, mutated, toml_text

KEPT = {"code": 2, "out": "", "said": "error: a is wrong\nhint: b\n", "error": ""}
KEPT |= {"seconds": 0.1, "memory": 1 << 28, "left": ()}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"error": 'Traceback\n  File "/x/edgenas/a.py", line 3, in f\nKeyError: 1'}, "traceback"),
        ({"said": "Traceback (most recent call last):\nValueError: x"}, "traceback"),
        ({"code": 1}, "exit"),
        ({"seconds": SECONDS + 0.1}, "slow"),
        ({"memory": MEMORY + 1}, "memory"),
        ({"left": ("half",)}, "left"),
        ({"said": ""}, "lines"),
        ({"said": "error: a\nerror: b\n"}, "lines"),
        ({"said": "error: a\nsomething else\n"}, "lines"),
        ({"said": f"error: {'x' * (LINE + 1)}\n"}, "long"),
        ({"said": f"error: a\nhint: {'x' * (LINE + 1)}\n"}, "long"),
        ({"said": "error: a\x1b[2J\n"}, "control"),
        ({"code": 0, "said": "", "out": '{"latency_ms": -1}'}, "answer"),
        ({"code": 0, "said": "", "out": '{"a": {"latency_ms": NaN}}'}, "answer"),
    ],
)
def test_what_breaks_the_law_is_seen(change: dict, fault: str):
    found = broken(Seen(**{**KEPT, **change}), verb="predict")
    assert found[0].partition(":")[0] == fault


def test_what_keeps_the_law_is_let_through():
    assert broken(Seen(**KEPT), verb="predict") == []
    assert broken(Seen(**{**KEPT, "code": 1, "said": ""}), verb="check") == []
    answer = {"code": 0, "said": "", "out": '{"latency_ms": 1.5, "latency_upper_ms": null}'}
    assert broken(Seen(**{**KEPT, **answer}), verb="predict") == []


def test_one_seed_makes_the_same_inputs_and_others_make_others():
    tree = {"a": [1, {"b": "text"}], "c": {"d": 2.5}, "e": True}
    texts = [json_text(mutated(tree, random.Random(seed))) for seed in (*range(40), 7)]
    assert texts[7] == texts[-1]
    assert len(set(texts)) > 20
    assert all(toml_text(mutated(tree, random.Random(seed))) is not None for seed in range(40))
    assert tree == {"a": [1, {"b": "text"}], "c": {"d": 2.5}, "e": True}
