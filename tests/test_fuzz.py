"""The fuzzer sees what breaks its law, and a few hundred inputs of each kind keep it."""

import random
import subprocess
import sys

import pytest
from conftest import ROOT

from tools.fuzz import made_folders, made_models, made_texts
from tools.fuzz.kinds import all_kinds
from tools.fuzz.law import LINE, MEMORY, SECONDS, Seen, broken
from tools.fuzz.trees import Unchanged, json_text, mutated, toml_text

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


def test_a_good_input_has_to_be_accepted():
    tree = {"a": [1, {"b": "text"}]}
    assert mutated(tree, Unchanged(3)) == tree
    assert broken(Seen(**{**KEPT, "code": 0, "said": ""}), verb="predict", good=True) == []
    assert broken(Seen(**KEPT), verb="predict", good=True)[0].startswith("good: refused")


def run_fuzz(kinds: list[str], *options: str, each: int) -> None:
    """Run the command: it forks, which a process with the threads of many tests should not."""
    pytest.importorskip("yaml", reason="published tables need the extra ofa")
    command = [sys.executable, "-m", "tools.fuzz", "--kinds", ",".join(kinds), *options]
    command += ["--inputs", str(each * len(kinds))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{each * len(kinds)} inputs of seed" in done.stdout


@pytest.mark.slow
def test_good_inputs_of_every_kind_are_accepted():
    run_fuzz(list(all_kinds()), "--unchanged", each=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "each"),
    [
        ([*made_texts.KINDS], 200),
        ([*made_models.KINDS], 200),
        ([kind for kind in made_folders.KINDS if kind != "board"], 200),
        (["board"], 16),  # a silent one is waited for
    ],
    ids=["texts", "models", "folders", "board"],
)
def test_hostile_inputs_keep_the_law(kinds: list[str], each: int):
    run_fuzz(kinds, each=each)
