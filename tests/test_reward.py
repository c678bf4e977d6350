"""MnasNet's reward: the laws of the paper, and the search that maximises it."""

import numpy as np
import pytest
from test_predict import random_mlp
from test_search import limit

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import macs_table
from edgenas.space.presets import tiny
from edgenas.strategies.neighbours import list_all
from edgenas.strategies.reward import weigh_cost
from edgenas.strategies.run import search

ROWS = np.ones((4, 1), np.uint8)


def test_twice_the_cost_is_worth_five_percent_of_accuracy():
    costs = np.array([1.0, 2.0, 4.0, 8.0])
    accuracies = np.array([0.5 * 1.05**i for i in range(4)])  # section 3 of the paper
    reward = weigh_cost(lambda rows: accuracies, lambda rows: costs, target=2.0)
    assert np.ptp(reward(ROWS)) < 0.002
    assert reward(ROWS)[1] == accuracies[1]  # at the target it is the accuracy itself


def test_exponents_of_zero_and_of_minus_infinity_are_a_limit():
    space, score, macs = tiny(), random_mlp(tiny(), seed=3), macs_table(tiny())
    positive = lambda rows: np.exp(score(rows))  # noqa: E731
    target = float(np.median(macs(list_all(space))))
    hard = weigh_cost(positive, macs, target=target, below=0.0, above=-1e4)
    free = search(space, maximize=hard).best
    held = search(space, maximize=positive, subject_to=[limit("macs", macs, target)]).best
    assert free.arch == held.arch
    # A softer weight never costs less than a harder one, and an all but free cost is ignored.
    costs = [
        float(
            macs(
                space.encode(
                    [
                        search(
                            space,
                            maximize=weigh_cost(positive, macs, target=target, below=w, above=w),
                        ).best.arch
                    ]
                )
            )[0]
        )
        for w in (0.0, -0.07, -0.5, -3.0)
    ]
    assert costs == sorted(costs, reverse=True)
    assert search(space, maximize=positive).best.score == pytest.approx(
        search(
            space, maximize=weigh_cost(positive, macs, target=target, below=0.0, above=0.0)
        ).best.score
    )


def test_what_has_no_cost_has_no_reward():
    costs = np.array([np.nan, np.inf, 0.0, 1.0])
    reward = weigh_cost(lambda rows: np.full(4, 0.5), lambda rows: costs, target=2.0)(ROWS)
    assert (reward[:3] == -np.inf).all()
    assert reward[3] > 0.5
    for words, options in (
        ("target must be above 0, found 0", {"target": 0.0}),
        ("exponents must be at most 0, found 0.1", {"target": 1.0, "above": 0.1}),
    ):
        with pytest.raises(EdgenasError, match=words):
            weigh_cost(lambda rows: costs, lambda rows: costs, **options)
