"""Searches over trainings: what they spend, what they keep, and that killed ones lose nothing."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_alone import IMAGES, PREPARED, RECIPE
from test_predict import random_mlp
from test_search import limit

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import macs_table
from edgenas.space.genes import Codes
from edgenas.space.presets import tiny
from edgenas.strategies.fidelity.curves import extrapolate
from edgenas.strategies.fidelity.halving import DRAWING, plan_rungs, promise
from edgenas.strategies.fidelity.problem import Expenses, Trainings
from edgenas.strategies.fidelity.run import FIDELITY_STRATEGIES, FidelityResult, search_trainings
from edgenas.strategies.fidelity.training import TrainedAlone
from edgenas.strategies.neighbours import list_all

RUNGS = (2, 6, 18)
EVERY = sorted(FIDELITY_STRATEGIES)


class Trained:
    """Scores that longer trainings bring nearer to the true one, and what was trained."""

    def __init__(self) -> None:
        self.score = random_mlp(tiny(), seed=1)
        self.done = list[tuple[int, bytes]]()
        self.die_after = 10**9

    def __call__(self, rows: Codes, epochs: int) -> np.ndarray:
        if len(self.done) >= self.die_after:
            raise KeyboardInterrupt
        self.done += [(epochs, row.tobytes()) for row in rows]
        chance = np.array([hash(row.tobytes() + b"x") % 1000 / 1000 for row in rows])
        return self.score(rows) + (chance - 0.5) * 0.3 / epochs


def run(
    strategy: str,
    train: Trained,
    *,
    seed: int = 1,
    budget: float = 120,
    history: Path | None = None,
) -> FidelityResult:
    macs = macs_table(tiny())
    at = float(np.median(macs(list_all(tiny()))))
    return search_trainings(
        tiny(),
        train=train,
        rungs=RUNGS,
        budget=budget,
        subject_to=[limit("macs", macs, at)],
        strategy=strategy,
        seed=seed,
        history=history,
    )


@pytest.mark.parametrize("strategy", EVERY)
@settings(max_examples=4)
@given(seed=st.integers(0, 99), budget=st.integers(18, 200))
def test_no_search_spends_more_than_it_has_or_breaks_a_limit(strategy: str, seed: int, budget: int):
    train = Trained()
    result = run(strategy, train, seed=seed, budget=budget)
    assert result.spent == sum(epochs for epochs, _ in train.done) <= budget
    assert len(set(train.done)) == len(train.done)  # no network is trained twice as long
    assert result.trained == {e: sum(e == one for one, _ in train.done) for e in RUNGS}
    # Less is left than one more full training costs.
    assert budget - result.spent < RUNGS[-1]
    macs = macs_table(tiny())
    rows = np.array([np.frombuffer(row, np.uint8) for _, row in train.done])
    assert (macs(rows) <= float(np.median(macs(list_all(tiny()))))).all()
    full = [row for epochs, row in train.done if epochs == RUNGS[-1]]
    scores = Trained()(np.array([np.frombuffer(row, np.uint8) for row in full]), RUNGS[-1])
    assert result.score == pytest.approx(scores.max())
    assert tiny().encode([result.best])[0].tobytes() == full[int(scores.argmax())]


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("after", [1, 12])
def test_a_killed_search_trains_nothing_again(strategy: str, after: int, tmp_path: Path):
    whole, killed, again = Trained(), Trained(), Trained()
    expected = run(strategy, whole)
    killed.die_after = after
    path = tmp_path / "history.csv"
    with pytest.raises(KeyboardInterrupt):
        run(strategy, killed, history=path)
    result = run(strategy, again, history=path)
    assert (result.best, result.score, result.trained) == (
        expected.best,
        expected.score,
        expected.trained,
    )
    # The first network of the file is trained again, as a check; no other one.
    assert len(again.done) <= len(whole.done) - len(killed.done) + len(killed.done[:1])
    with pytest.raises(EdgenasError, match="history of another search: its budget is 120"):
        run(strategy, Trained(), history=path, budget=121)


def test_short_trainings_pay():
    def mean(strategy: str, rungs: tuple[int, ...]) -> float:
        scores = list[float]()
        for seed in range(6):
            train = Trained()
            result = search_trainings(
                tiny(), train=train, rungs=rungs, budget=200, strategy=strategy, seed=seed
            )
            scores.append(result.score)
        return float(np.mean(scores))

    alone = mean("halving", RUNGS[-1:])  # random search
    for strategy in ("halving", "gaussian"):
        assert mean(strategy, RUNGS) > alone


def test_what_cannot_be_searched_is_refused():
    for rungs, budget, message in (
        ((), 10, "rungs must be epochs that ascend"),
        ((6, 2), 10, "rungs must be epochs that ascend"),
        ((0, 2), 10, "rungs must be epochs that ascend"),
        ((2, 20), 10, "budget must be at least 20 epochs"),
    ):
        with pytest.raises(EdgenasError, match=message):
            search_trainings(tiny(), train=Trained(), rungs=rungs, budget=budget)
    with pytest.raises(EdgenasError, match="unknown strategy 'best'"):
        search_trainings(tiny(), train=Trained(), rungs=(1,), budget=3, strategy="best")
    with pytest.raises(EdgenasError, match="no network has the score of a full training"):
        search_trainings(
            tiny(), train=lambda rows, _: np.full(len(rows), np.nan), rungs=(1,), budget=3
        )


@pytest.mark.parametrize(
    "curve", [lambda t: 0.9 - 0.5 * t**-0.7, lambda t: 0.9 - 0.5 * np.exp(-t / 8)]
)
def test_a_curve_of_either_family_is_extrapolated(curve):
    epochs = np.arange(1.0, 13.0)
    end = extrapolate(epochs, curve(epochs), at=50.0)
    assert end.mean == pytest.approx(curve(50.0), abs=0.02)
    # With noise the intervals hold what they should: about 68% and 95% within one and two.
    rng, within, off = np.random.default_rng(0), [0, 0], end
    for _ in range(80):
        off = extrapolate(epochs, curve(epochs) + rng.normal(0, 0.01, 12), at=50.0)
        z = abs(off.mean - curve(50.0)) / off.deviation
        within[0] += z < 1
        within[1] += z < 2
    assert within[0] / 80 >= 0.5
    assert within[1] / 80 >= 0.9
    assert end.deviation < off.deviation
    falling = extrapolate(epochs, -epochs, at=50.0)
    assert falling.mean == -12
    with pytest.raises(EdgenasError, match="at least 5 different lengths, found 4"):
        extrapolate(epochs[:4], epochs[:4], at=50.0)


def test_networks_are_compared_by_where_their_curves_lead():
    rungs, rows = (1, 2, 4, 8, 16, 256), list_all(tiny())[:10]
    names = {row.tobytes() for row in rows[::2]}

    def train(rows: Codes, epochs: int) -> np.ndarray:
        slow = np.array([row.tobytes() in names for row in rows])
        return np.where(slow, 1.0 - epochs**-0.2, 0.5 - 0.3 / epochs)

    expenses = Expenses(Trainings(space=tiny(), train=train, rungs=rungs, budget=1e4, seed=3))
    scores = np.zeros(10)
    for rung in range(5):
        scores = expenses.score(rows, rung)
        if rung < 4:  # four points are no curve: what was reached counts
            np.testing.assert_array_equal(promise(expenses, rows, rung), scores)
    assert scores[::2].max() < scores[1::2].min()  # the slow ones are behind
    ends = promise(expenses, rows, 4)
    assert ends[::2].min() > ends[1::2].max()  # and will be ahead, as they are at the end
    assert (train(rows, 256)[::2] > train(rows, 256)[1::2]).all()


def test_real_trainings_are_searched_and_kept(tmp_path: Path):
    space, steps = tiny().with_classes(3), list[int]()
    train = TrainedAlone(
        space=space,
        training=IMAGES,
        validation=IMAGES,
        calibration=IMAGES.pixels[:16],
        recipe=replace(RECIPE, checkpoint_seconds=60.0),
        preprocessing=PREPARED,
        folder=tmp_path / "trainings",
        progress=lambda step, done, total, words: steps.append(done),
    )
    result = search_trainings(space, train=train, rungs=(1, 2), budget=6, strategy="halving")
    files = sorted(path.name for path in train.folder.iterdir())
    assert len(files) == sum(result.trained.values())
    assert f"{result.best.id}-2.safetensors" in files
    taken = len(steps)
    assert taken == 3 * result.spent  # steps of an epoch
    # Each training is kept: to score again is to read.
    again = train(space.encode([result.best]), 2)
    assert (again[0], len(steps)) == (result.score, taken)
    assert train(space.encode([result.best]), 3).shape == (1,)
    assert len(steps) == taken + 9


@given(st.integers(1, 300), st.integers(1, 200))
def test_planned_rungs_are_thirds_and_their_budget_pays_for_them(networks: int, epochs: int):
    rungs, budget = plan_rungs(networks, epochs=epochs)
    assert rungs[-1] == epochs
    assert list(rungs) == sorted(set(rungs))
    assert rungs[0] == 1 or networks * epochs >= rungs[0] * networks
    # Fewer are left than three of the longest training, and one at least.
    assert networks / 3 ** (len(rungs) - 1) < 3 or rungs[0] == 1
    assert budget >= networks * rungs[0]
    assert budget >= epochs
    part = budget / len(rungs)
    assert part * (1 + 1e-9) >= networks * rungs[0]


@settings(max_examples=30)
@given(
    strategy=st.sampled_from(sorted(DRAWING)),
    networks=st.integers(3, 30),
    epochs=st.integers(2, 40),
    seed=st.integers(0, 3),
)
def test_only_candidates_are_trained_and_the_first_come_first(strategy, networks, epochs, seed):
    rows = np.random.default_rng(seed).permutation(list_all(tiny()))[:networks]
    rungs, budget = plan_rungs(networks, epochs=epochs)
    train = Trained()

    def search() -> Expenses:
        return DRAWING[strategy](
            Trainings(
                space=tiny(),
                train=train,
                rungs=rungs,
                budget=budget,
                seed=seed,
                candidates=rows,
            )
        )

    found = search()
    names = [row.tobytes() for row in rows]
    assert {name for _, name in train.done} <= set(names)
    assert len(train.done) == len(set(train.done))
    assert sum(length for length, _ in train.done) == found.spent <= budget
    assert len(found.last.rows) >= 1
    shortest = [name for length, name in train.done if length == rungs[0]]
    assert shortest == names[: len(shortest)]
    if strategy == "halving":
        assert len(shortest) == networks
        for shorter, longer in itertools.pairwise(rungs):
            below = [n for length, n in train.done if length == shorter]
            above = [n for length, n in train.done if length == longer]
            assert set(above) <= set(below)
            assert len(above) <= len(below)
    assert (search().last.rows == found.last.rows).all()
