"""The step of second order, and collapse: how it is seen, told and held off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_gradient import PREPARED, random_policy
from test_gradient_mixtures import cells, listed
from toys import toy_images

from edgenas.model.supernet import Supernet
from edgenas.strategies.gradient import run
from edgenas.strategies.gradient.collapse import (
    describe_collapse,
    dominant_eigenvalue,
    find_skips,
    has_grown,
    share_of_skips,
)
from edgenas.strategies.gradient.darts_v2 import hessian_vector_product, unrolled_gradient
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.run import LearntPolicy, SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings

# The step of second order


class Toy:
    """A small mixed network in float64: logits of three operations, weights of two layers."""

    def __init__(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=rng, dtype=torch.double)

        self.x, self.y = draw(2, 12, 4), draw(2, 12)
        self.weights = [draw(4, 5).requires_grad_(), draw(5).requires_grad_()]
        self.logits = [draw(3).requires_grad_(), draw(2).requires_grad_()]

    def loss(self, split: int, weights: list[torch.Tensor]) -> torch.Tensor:
        one, two = (torch.softmax(logits, 0) for logits in self.logits)
        x = self.x[split] @ weights[0]
        mixed = one[0] * x.tanh() + one[1] * torch.sin(x) + one[2] * x
        out = (two[0] * mixed + two[1] * mixed.sigmoid()) @ weights[1]
        return (out - self.y[split]).square().mean()


@pytest.mark.parametrize("seed", range(5))
def test_the_finite_difference_is_the_exact_hessian_vector_product(seed: int):
    toy = Toy(seed)
    rng = torch.Generator().manual_seed(seed)
    vector = [torch.randn(w.shape, generator=rng, dtype=torch.double) for w in toy.weights]
    kept = [w.detach().clone() for w in toy.weights]
    found = hessian_vector_product(
        toy.logits, toy.weights, train=lambda: toy.loss(0, toy.weights), vector=vector
    )
    assert all(torch.equal(a, b) for a, b in zip(kept, toy.weights, strict=True))
    slopes = torch.autograd.grad(toy.loss(0, toy.weights), toy.weights, create_graph=True)
    along = torch.stack([(s * v).sum() for s, v in zip(slopes, vector, strict=True)]).sum()
    for a, b in zip(found, torch.autograd.grad(along, toy.logits), strict=True):
        # The error is a third derivative times the square of the shift, which is 1e-4.
        assert float((a - b).norm()) <= 1e-4 * max(1.0, float(b.norm()))


@pytest.mark.parametrize("seed", range(5))
def test_the_step_ahead_has_the_exact_gradient(seed: int):
    """Of the search loss at w - rate * (gradient of the training loss), by autograd through it."""
    toy, rate = Toy(seed), 0.05
    found = unrolled_gradient(
        toy.logits,
        toy.weights,
        train=lambda: toy.loss(0, toy.weights),
        search=lambda: toy.loss(1, toy.weights),
        rate=rate,
    )
    slopes = torch.autograd.grad(toy.loss(0, toy.weights), toy.weights, create_graph=True)
    ahead = [w - rate * s for w, s in zip(toy.weights, slopes, strict=True)]
    for a, b in zip(found, torch.autograd.grad(toy.loss(1, ahead), toy.logits), strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())
    first = torch.autograd.grad(toy.loss(1, toy.weights), toy.logits)
    assert float((found[0] - first[0]).norm()) > 1e-3  # not that of first order


# What is seen


def test_power_iteration_finds_the_eigenvalue_of_largest_size():
    for seed in range(4):
        toy = Toy(seed)

        def flat(logits: torch.Tensor, toy: Toy = toy) -> torch.Tensor:
            toy.logits = [*logits.split([3, 2])]
            return toy.loss(0, toy.weights)

        start = torch.cat([x.detach() for x in toy.logits])
        hessian = torch.autograd.functional.hessian(flat, start)
        assert isinstance(hessian, torch.Tensor)
        values = torch.linalg.eigvalsh(hessian)
        wanted = float(values[values.abs().argmax()])
        toy.logits = [x.clone().requires_grad_() for x in start.split([3, 2])]
        vector = torch.ones(5, dtype=torch.double) / 5**0.5
        vector[0] += 0.1
        found = 0.0
        for _ in range(40):  # each goes on where the last one ended
            found = dominant_eigenvalue(
                lambda toy=toy: toy.loss(0, toy.weights), toy.logits, vector=vector
            )
        # The differences are off by the square of the shift of 0.01.
        assert found == pytest.approx(wanted, rel=1e-3)


def test_skips_are_those_of_cells_and_of_blocks_that_are_nothing():
    assert find_skips(Policy(cells())) == dict.fromkeys(range(6), 1)
    # The first block changes the shape: there, nothing at all is a conv.
    assert find_skips(Policy(listed())) == {1: 0}


def test_the_share_of_skips_counts_what_is_preferred():
    policy = Policy(cells())
    assert share_of_skips(policy) == 0  # all are equal
    with torch.no_grad():
        for i, logits in enumerate(policy.logits):
            logits[1 if i < 4 else 3] = 1.0
    assert share_of_skips(policy) == pytest.approx(4 / 6)


def lines(values: list[float]) -> list[dict[str, float]]:
    return [{"eigenvalue": value} for value in values for _ in range(5)]


def prefer_skips(count: int) -> Policy:
    policy = Policy(cells())
    with torch.no_grad():
        for i, logits in enumerate(policy.logits):
            logits[1 if i < count else 3] = 1.0
    return policy


def test_a_collapse_is_told_in_one_plain_line_and_nothing_else_is():
    calm, loud = lines([0.2, 0.21, 0.19, 0.2, 0.22, 0.2]), lines([0.2, 0.2, 0.2, 0.3, 0.4, 0.6])
    # The eigenvalue also grows while new weights learn: alone it is no sign.
    for policy in (Policy(cells()), prefer_skips(1)):
        assert describe_collapse(loud, policy, every=5) == ()
    for count in (2, 3):
        policy = prefer_skips(count)
        assert describe_collapse(calm, policy, every=5) == ()
        assert describe_collapse(loud, policy, every=0) == ()
        (told,) = describe_collapse(loud, policy, every=5)
        assert told == (
            f"the search shows signs of collapse: skip connections are preferred at {count} of 6 "
            "places and the dominant eigenvalue went from 0.2 to 0.6; remedies: --skip-dropout, "
            "--logit-decay, --early-stop"
        )
    (told,) = describe_collapse(calm, prefer_skips(6), every=5)
    assert "skip connections are preferred at 6 of 6 places; remedies: --skip-dropout" in told


def test_an_eigenvalue_has_grown_where_its_average_has():
    """By hand: DARTS-ES stops where an average is below 0.75 of the one behind it."""
    assert not has_grown(lines([1, 1, 1, 1.3, 1.3, 1.3]), 5)
    assert has_grown(lines([1, 1, 1, 1.4, 1.4, 1.4]), 5)
    assert not has_grown(lines([1, 1, 1, 9, 9]), 5)
    assert not has_grown([], 5)


# Remedies


def searched(
    tmp_path: Path, settings: GradientSettings, *, kill: int = -1, seed: int = 0
) -> LearntPolicy:
    def tell(step: str, done: int, total: int, words: str) -> None:
        if done == kill:
            raise KeyboardInterrupt

    return learn(
        Supernet(cells(nodes=2), seed=1),
        strategy="darts-v1",
        data=SearchData(images=toy_images(24, side=16, classes=3), preprocessing=PREPARED),
        settings=settings,
        seed=seed,
        folder=tmp_path,
        progress=tell,
    )


def test_a_search_stops_early_with_the_logits_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    growing = iter(range(1, 1000))
    monkeypatch.setattr(run, "dominant_eigenvalue", lambda *_, vector: 2.0 ** next(growing))
    settings = GradientSettings(steps=40, batch=8, measure=2, early_stop=True)
    found = searched(tmp_path, settings)
    # Six measurements, at the steps 0, 2 ... 10; the last three are larger.
    assert len(found.history) == 11
    assert found.trail.shape == (11, 15)
    now = torch.cat([logits.detach() for logits in found.policy.logits])
    assert torch.equal(now, found.trail[10 - 6])
    (note,) = found.notes
    assert note.startswith("the search stopped at step 11, because the dominant eigenvalue grew")
    again = searched(tmp_path, settings)  # only read
    assert again.history == found.history
    assert torch.equal(torch.cat([x.detach() for x in again.policy.logits]), now)


def test_a_search_that_measures_eigenvalues_goes_on_to_the_same_result(tmp_path: Path):
    settings = GradientSettings(steps=16, batch=8, measure=3, skip_dropout=0.2)
    whole = searched(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "killed", settings, kill=13)
    again = searched(tmp_path / "killed", settings)
    assert again.history == whole.history
    assert torch.equal(again.trail, whole.trail)
    values = [line["eigenvalue"] for line in whole.history]
    assert [*np.flatnonzero(np.diff(values)) + 1] == [3, 6, 9, 12, 15]
    assert 0 <= whole.history[-1]["skips"] <= 1


def test_the_decay_of_logits_is_the_gradient_of_their_squares():
    one, two = (random_policy(cells(), seed=0) for _ in range(2))
    flat = torch.cat([x.detach() for x in one.logits])
    loss = 0.3 / 2 * torch.cat(one.logits).square().sum()
    one.move(loss, rate=0.1, step=0)
    moved = torch.cat([x.detach() for x in one.logits]) - flat
    wanted = -0.1 * flat / float(flat.square().mean().sqrt())
    torch.testing.assert_close(moved, wanted)
    assert torch.equal(torch.cat([x.detach() for x in two.logits]), flat)


def test_decay_keeps_logits_small(tmp_path: Path):
    sizes = [
        float(searched(tmp_path, GradientSettings(steps=30, batch=8, decay=d)).trail[-1].norm())
        for d in (0.0, 0.5)
    ]
    assert sizes[1] < 0.8 * sizes[0]
