"""Every estimator finds the optimum of a toy that is known exactly, within three budgets."""

import numpy as np
import pytest
import torch
from test_gradient import PREPARED
from test_gradient_mixtures import cells
from toys import toy_images

from edgenas.model.supernet import Supernet
from edgenas.space.cost import Tables
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.gradient import run, weights
from edgenas.strategies.gradient.choosing import find_most_preferred, list_ceilings
from edgenas.strategies.gradient.estimators import STRATEGIES
from edgenas.strategies.gradient.mixture import Mixture
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.run import SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.strategies.neighbours import list_all
from edgenas.training.recipe import Recipe

SPACE = cells()
# What the operations of an edge add to the loss, and their prices. The best one is dear, and the
# best cheap one is worse by another amount on every edge; the budget says on how many edges to pay.
GAINS = (0.3, 1.0, 0.12, 0.7, 0.48, 0.2)
ORDERS = [np.random.default_rng(edge).permutation(5) for edge in range(6)]
LOSSES = np.array(
    [np.array([g + 0.7, g, g + 0.4, 0.0, 0.5])[o] for g, o in zip(GAINS, ORDERS, strict=True)]
)
PRICES = np.array([np.array([0.2, 0.2, 0.5, 1.0, 1.0])[order] for order in ORDERS])


class ToyPaths(Paths):
    """The loss is a sum over edges: of the gates of what runs times what that adds."""

    def mixed(self, mixture: Mixture, *, pixels: torch.Tensor, labels: torch.Tensor):
        # Of no weight: the loss of a mixture has a gradient with respect to the weights.
        loss = 0.0 * next(self.supernet.parameters()).sum()
        for edge, (picks, gates) in enumerate(zip(mixture.picks, mixture.gates, strict=True)):
            added = torch.tensor(LOSSES[edge, list(picks)], dtype=torch.float)
            loss = loss + (added[0] if gates is None else (gates * added).sum())
        return loss, []


def tables_of(values: np.ndarray) -> Tables:
    padded = [np.concatenate([[np.nan], row]) for row in values]
    return Tables(tuple((edge,) for edge in range(6)), tuple(padded), "sum")


@pytest.mark.parametrize(
    "dear", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "strategy",
    [
        # One of each family; the others take their time.
        pytest.param(name, marks=() if name in ("darts-v1", "gdas") else pytest.mark.slow)
        for name in sorted(STRATEGIES)
    ],
)
def test_the_optimum_of_a_toy_is_found(strategy: str, dear: int, monkeypatch: pytest.MonkeyPatch):
    for module in (run, weights):
        monkeypatch.setattr(module, "Paths", ToyPaths)
    images = toy_images(8, classes=3)
    training = WeightTraining(images=images, recipe=Recipe(batch=4, warmup=0))
    prices, losses, rows = tables_of(PRICES), tables_of(LOSSES), list_all(SPACE)
    most = 6 * 0.2 + 0.8 * dear + 0.05
    allowed = rows[prices(rows) <= most]
    best = float(losses(allowed).min())
    limit = Limit(constraint=parse_constraint(f"latency<={most!r}s"), values=prices)
    learnt = learn(
        Supernet(SPACE, seed=1),
        strategy=strategy,
        data=SearchData(
            images=images,
            preprocessing=PREPARED,
            training=training if strategy == "darts-v2" else None,
        ),
        ceilings=list_ceilings(SPACE, [limit]),
        settings=GradientSettings(steps=200, rate=0.1),
    )
    assert all(line["expected latency"] <= 1.003 * most for line in learnt.history)
    chosen = find_most_preferred(SPACE, learnt.policy.preference(), limits=[limit], seed=0)
    values = losses(SPACE.encode([candidate.arch for candidate in chosen]))
    assert (prices(SPACE.encode([c.arch for c in chosen])) <= most).all()
    assert float(values.min()) == pytest.approx(best), (values, best)
