"""Histories: pandas reads them, and a killed search goes on from one to the same result."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import random_mlp
from test_search import limit
from test_table import fake_seconds

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import compile_tables, macs_table, params_table
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space, tiny
from edgenas.space.space import Space
from edgenas.strategies.pareto import Front, Objective, pareto
from edgenas.strategies.result import SearchResult
from edgenas.strategies.run import FRUGAL, STRATEGIES, search


def run(
    strategy: str, history: Path | None, *, seed: int = 3, evaluations: int = 300
) -> tuple[SearchResult, int]:
    """The result of a search without its seconds, and how many networks it scored itself."""
    evaluations = min(evaluations, 20) if strategy in FRUGAL else evaluations
    space = tiny()
    latency, macs = compile_tables(space, fake_seconds), macs_table(space)
    limits = [limit("latency", latency, 0.04), limit("macs", macs, 1e6)]
    score, scored = random_mlp(space, seed=1), list[Codes]()

    def watched(rows: Codes) -> np.ndarray:
        scored.append(rows)
        return score(rows)

    found = search(
        space,
        maximize=watched,
        subject_to=limits,
        strategy=strategy,
        seed=seed,
        evaluations=evaluations,
        history=history,
    )
    return replace(found, seconds=0.0), sum(map(len, scored))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[SearchResult, bytes]]:
    """Every strategy, uninterrupted: its result and its history."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        name: (run(name, folder / f"{name}.csv")[0], (folder / f"{name}.csv").read_bytes())
        for name in STRATEGIES
    }


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_pandas_reads_what_was_scored(
    strategy: str, whole: dict[str, tuple[SearchResult, bytes]], tmp_path: Path
):
    found, data = whole[strategy]
    path = tmp_path / "history.csv"
    path.write_bytes(data)
    table = pd.read_csv(path, comment="#", float_precision="round_trip")
    names = ["step", "phase", "evaluation", "genes", "score", "latency", "macs"]
    assert table.columns.tolist() == names
    assert table.evaluation.tolist() == list(range(1, found.evaluations + 1))
    assert table.genes.is_unique
    assert table.score.max() == found.best.score
    assert (table.latency <= 0.04).all()
    space = tiny()
    rows = np.array([row.split() for row in table.genes], np.uint8)
    assert (space.canonical(rows) == rows).all()
    np.testing.assert_allclose(table.score, random_mlp(space, seed=1)(rows), rtol=1e-5)
    np.testing.assert_array_equal(table.macs, macs_table(space)(rows))
    steps = table.groupby("step").last()
    assert steps.evaluation.tolist() == [s.evaluations for s in found.history]
    assert table.score.cummax()[steps.evaluation - 1].tolist() == [s.best for s in found.history]
    # A history changes nothing.
    assert run(strategy, None)[0] == found


@settings(max_examples=40)
@given(strategy=st.sampled_from(sorted(STRATEGIES)), cut=st.floats(0, 1))
def test_a_search_killed_anywhere_goes_on_to_the_same_result(
    strategy: str,
    cut: float,
    whole: dict[str, tuple[SearchResult, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
):
    found, data = whole[strategy]
    path = tmp_path_factory.mktemp("cut") / "history.csv"
    kept = data[: round(cut * len(data))]
    path.write_bytes(kept)
    again, scored = run(strategy, path)
    assert again == found
    assert path.read_bytes() == data
    # Besides the first of the file, only what the file lacks is scored.
    steps = [line.split(b",")[0] for line in kept.splitlines()[2:-1]]
    sure = sum(step != steps[-1] for step in steps) if steps else 0
    # Scored again: the first network, and the first that has no value.
    assert scored <= found.evaluations - sure + 2


def test_a_process_killed_while_it_scores_goes_on_to_the_same_result(tmp_path: Path):
    code = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from edgenas.space.cost import macs_table, params_table\n"
        "from edgenas.strategies.run import search\n"
        "from edgenas.space.presets import load_space\n"
        "space, calls = load_space('mbv3-cifar'), [0]\n"
        "def score(rows):\n"
        "    calls[0] += 1\n"
        "    if calls[0] == int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return macs_table(space)(rows) / params_table(space)(rows)\n"
        "found = search(space, maximize=score, evaluations=3000, history=Path(sys.argv[1]))\n"
        "print(found.best, found.evaluations)\n"
    )

    def start(path: Path, kill: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(path), str(kill)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    uninterrupted = start(tmp_path / "whole.csv", 0)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    path = tmp_path / "killed.csv"
    for kill in (1, 4, 4):
        assert start(path, kill).returncode == -9
    resumed = start(path, 0)
    assert resumed.stdout == uninterrupted.stdout
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_search_does_not_go_on(tmp_path: Path):
    path = tmp_path / "history.csv"
    run("random", path, evaluations=100)
    with pytest.raises(
        EdgenasError, match=r"another search: its seed is 3, asked for is 4\nhint: "
    ):
        run("random", path, seed=4, evaluations=100)
    with pytest.raises(EdgenasError, match="its strategy is 'random', asked for is 'aging'"):
        run("aging", path, evaluations=100)
    space = tiny()
    macs = macs_table(space)

    def other(space: Space, **rest: float) -> SearchResult:
        limits = [limit("latency", compile_tables(space, fake_seconds), 0.04)]
        limits += [limit("macs", macs, 1e6)]
        return search(
            space,
            maximize=macs_table(space),
            subject_to=limits,
            strategy="random",
            seed=3,
            evaluations=100,
            history=path,
        )

    with pytest.raises(EdgenasError, match="holds other scores than this search finds"):
        other(space)
    with pytest.raises(EdgenasError, match="its space is 'tiny', asked for is 'mbv3-cifar'"):
        other(load_space("mbv3-cifar"))


def test_what_is_no_history_is_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    with pytest.raises(EdgenasError, match="is no history of a search\nhint: give another file"):
        run("random", path, evaluations=100)
    assert path.read_text() == "my notes"
    path = tmp_path / "history.csv"
    run("random", path, evaluations=100)
    lines = path.read_text().splitlines()
    lines[50] = "something else"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(EdgenasError, match=r"is damaged: 'something else' must have . columns"):
        run("random", path, evaluations=100)
    lines[50] = lines[49]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(EdgenasError, match="holds other networks than this search asks for"):
        run("random", path, evaluations=100)


# Fronts


def run_front(
    history: Path | None, *, seed: int = 3, evaluations: int = 300, goal: str = "max"
) -> tuple[Front, int]:
    """A front without its seconds, and how many networks its search scored itself."""
    space = tiny()
    score, scored = random_mlp(space, seed=1), list[Codes]()

    def watched(rows: Codes) -> np.ndarray:
        scored.append(rows)
        return np.where(rows[:, 1] == 1, np.nan, score(rows))

    found = pareto(
        space,
        objectives=[
            Objective(name="accuracy", values=watched, goal=goal),
            Objective(name="latency", values=compile_tables(space, fake_seconds)),
            Objective(name="params", values=params_table(space)),
        ],
        subject_to=[
            limit("params", params_table(space), 6e3),
            limit("macs", macs_table(space), 1e6),
        ],
        seed=seed,
        population=20,
        evaluations=evaluations,
        history=history,
    )
    return replace(found, seconds=0.0), sum(map(len, scored))


@pytest.fixture(scope="module")
def whole_front(tmp_path_factory: pytest.TempPathFactory) -> tuple[Front, bytes]:
    path = tmp_path_factory.mktemp("front") / "history.csv"
    return run_front(path)[0], path.read_bytes()


@pytest.mark.parametrize("evaluations", [300, 100_000])
def test_pandas_reads_a_column_for_each_objective(evaluations: int, tmp_path: Path):
    path = tmp_path / "history.csv"
    found, scored = run_front(path, evaluations=evaluations)
    table = pd.read_csv(path, comment="#", float_precision="round_trip")
    names = ["step", "phase", "evaluation", "genes", "accuracy", "latency", "params", "macs"]
    assert table.columns.tolist() == names
    assert len(table) == found.evaluations == scored
    assert table.genes.is_unique
    assert list(dict.fromkeys(table.phase)) == (["every"] if found.exact else ["sample", "evolve"])
    rows = np.array([row.split() for row in table.genes], np.uint8)
    space = tiny()
    assert table.accuracy.isna().tolist() == (rows[:, 1] == 1).tolist()
    assert table.latency.tolist() == compile_tables(space, fake_seconds)(rows).tolist()
    assert table.params.tolist() == params_table(space)(rows).tolist()
    assert (table.params <= 6e3).all()
    assert (table.macs <= 1e6).all()
    listed = {tuple(row) for row in table[names[4:]].itertuples(index=False)}
    assert {tuple(p.values[name] for name in names[4:]) for p in found.points} <= listed
    assert run_front(None, evaluations=evaluations)[0] == found


@pytest.mark.slow
@settings(max_examples=30)
@given(cut=st.floats(0, 1))
def test_a_front_killed_anywhere_goes_on_to_the_same_result(
    cut: float, whole_front: tuple[Front, bytes], tmp_path_factory: pytest.TempPathFactory
):
    found, data = whole_front
    path = tmp_path_factory.mktemp("cut") / "history.csv"
    kept = data[: round(cut * len(data))]
    path.write_bytes(kept)
    again, scored = run_front(path)
    assert again == found
    assert path.read_bytes() == data
    steps = [line.split(b",")[0] for line in kept.splitlines()[2:-1]]
    sure = sum(step != steps[-1] for step in steps) if steps else 0
    # Scored again: the first network, and the first that has no value.
    assert scored <= found.evaluations - sure + 2


def test_another_front_does_not_go_on(whole_front: tuple[Front, bytes], tmp_path: Path):
    path = tmp_path / "history.csv"
    path.write_bytes(whole_front[1])
    with pytest.raises(EdgenasError, match="its seed is 3, asked for is 4"):
        run_front(path, seed=4)
    with pytest.raises(EdgenasError, match=r"its objectives is \{'accuracy': 'max'"):
        run_front(path, goal="min")
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rsplit(",", 4)[0] + ",0.1,0.2,3.0,4.0"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(EdgenasError, match="holds other scores than this search finds"):
        run_front(path)
    assert path.read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nan", "holds other scores than this search finds"),
        ("inf", r"must have values from -1e\+18 to 1e\+18"),
        ("-inf", r"must have values from -1e\+18 to 1e\+18"),
        ("1e300", r"must have values from -1e\+18 to 1e\+18"),
        ("9" * 50_000, "must have values from"),
        ("high", "must have numbers as its values"),
        ("0.5,0.5", "must have . columns"),
        ("\x1b[2J", r"\\x1b\[2J.* must have numbers"),
    ],
    ids=itertools.count(),
)
def test_a_value_that_no_search_writes_is_refused(tmp_path: Path, value: str, message: str):
    path = tmp_path / "history.csv"
    run("random", path, evaluations=100)
    lines = path.read_text().splitlines()
    fields = lines[50].split(",")
    fields[4] = value
    lines[50] = ",".join(fields)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(EdgenasError, match=message) as caught:
        run("random", path, evaluations=100)
    assert len(caught.value.message.replace(str(path), "")) < 200


def test_a_fifo_and_a_huge_file_are_no_history(tmp_path: Path):
    fifo, huge = tmp_path / "fifo.csv", tmp_path / "huge.csv"
    os.mkfifo(fifo)
    with huge.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(EdgenasError, match="is no regular file"):
        run("random", fifo, evaluations=100)
    with pytest.raises(EdgenasError, match="must have at most 268435456 bytes"):
        run("random", huge, evaluations=100)
