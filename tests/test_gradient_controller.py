"""The controller: its probabilities, its masks, and the two ways in which it learns."""

import numpy as np
import pytest
import torch
from test_gradient import PREPARED, step_of
from test_gradient_mixtures import cells

from edgenas.model.supernet import Supernet
from edgenas.space.cost import macs_table
from edgenas.space.presets import tiny
from edgenas.space.space import Space
from edgenas.strategies.gradient.controller import Controller
from edgenas.strategies.gradient.enas import draw_networks, enas
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.ppo import CLIP, clipped_loss, ppo
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.tilt import Ceiling
from edgenas.strategies.neighbours import list_all


def depths() -> Space:
    """Blocks that may be absent."""
    return tiny().restrict(resolution=(16,), expand=(2.0, 3.0))


SPACES = {"cells": lambda: cells(nodes=2), "depths": depths}


def controller_of(space: Space, *, part: float | None = None, seed: int = 0) -> Controller:
    """One with large weights, so that probabilities differ; within a limit of MACs."""
    tables = macs_table(space)
    values = tables(list_all(space))
    ceilings = []
    if part is not None:
        limit = float(values.min() + part * (values.max() - values.min()))
        ceilings = [Ceiling(name="macs", tables=tables, limit=limit)]
    controller = Controller(space, ceilings, seed=seed)
    with torch.no_grad():
        for name, tensor in controller.tensors().items():
            if name.startswith("controller.") and name.count(".") == 1:
                tensor.mul_(12)
    return controller


def chances(controller: Controller, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logs, _ = controller.log_probabilities(rows, masks=controller.masks)
    return logs.double().exp().numpy()


@pytest.mark.parametrize("part", [None, 0.3])
@pytest.mark.parametrize("name", SPACES)
def test_the_probabilities_of_all_networks_sum_to_one(name: str, part: float | None):
    space = SPACES[name]()
    controller = controller_of(space, part=part)
    rows = list_all(space)
    p = chances(controller, rows)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert p.max() > 3 / len(rows)  # they are not all alike
    kept = controller.masks.keeps(rows)
    assert kept.all() == (part is None)
    # Masks leave nothing, or next to nothing, for what breaks the limit.
    assert p[~kept].sum() < 0.05


def test_networks_are_drawn_as_often_as_their_probabilities_say():
    space = cells(nodes=2)
    controller, rows = controller_of(space), list_all(space)
    controller.write(4000, torch.Generator().manual_seed(0))
    sizes = [len(gene.values) for gene in space.genes]
    places = np.ravel_multi_index((controller.written.astype(int) - 1).T, sizes)
    found = np.bincount(places, minlength=len(rows)) / 4000
    p = np.zeros(len(rows))
    p[np.ravel_multi_index((rows.astype(int) - 1).T, sizes)] = chances(controller, rows)
    # Chi square with at most 124 degrees of freedom: above 190 in one of 10,000 draws.
    expected = p * 4000
    often = expected > 5
    assert (((found * 4000 - expected) ** 2)[often] / expected[often]).sum() < 190


@pytest.mark.parametrize("name", SPACES)
def test_every_network_that_is_written_keeps_the_limits(name: str):
    space = SPACES[name]()
    controller = controller_of(space, part=0.1)
    picks = controller.write(200, torch.Generator().manual_seed(0))
    assert controller.masks.keeps(controller.written).all()
    assert np.array_equal(controller.written, np.concatenate([controller.row(p) for p in picks]))
    assert space.encode(space.decode(controller.written)).tolist() == controller.written.tolist()
    assert controller.expectations()[0] <= controller._ceilings[0].limit


def test_a_limit_that_no_network_keeps_brings_the_least_ones():
    space = cells(nodes=2)
    tables = macs_table(space)
    controller = Controller(space, [Ceiling(name="macs", tables=tables, limit=1.0)], seed=0)
    controller.write(3, torch.Generator().manual_seed(0))
    assert tables(controller.written).max() == tables(list_all(space)).min()


def test_the_network_is_a_lstm_of_two_layers():
    """Torch's own, on the same embeddings, gives the same log-probabilities."""
    space = cells(nodes=2)
    controller = controller_of(space)
    lstm = torch.nn.LSTM(64, 64, num_layers=2, batch_first=True)
    for layer, cell in enumerate(controller._cells):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(lstm, f"{name}_l{layer}").data.copy_(getattr(cell, name))
    rows = list_all(space)[::7]
    picks = torch.tensor(controller._picks(rows))
    tokens = torch.tensor([0, 5, 10]) + picks
    begin = controller._embedding[-1].expand(len(rows), 1, 64)
    with torch.no_grad():
        out, _ = lstm(torch.cat([begin, controller._embedding[tokens[:, :2]]], 1))
        wanted = torch.zeros(len(rows))
        for at in range(3):
            scores = out[:, at] @ controller._scores[5 * at : 5 * at + 5].T
            logs = torch.log_softmax(2.5 * torch.tanh(scores / 5), 1)
            wanted = wanted + logs[torch.arange(len(rows)), picks[:, at]]
        found, entropy = controller.log_probabilities(rows, masks=None)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert float(entropy.max()) <= 3 * np.log(5) + 1e-4


def priced(space: Space, part: float | None = None) -> tuple[Controller, Paths]:
    controller = controller_of(space, part=part)
    paths = Paths(Supernet(space, seed=1).train(), controller, preprocessing=PREPARED)
    paths.loss = lambda picks, **given: torch.tensor(float(sum(picks)))  # quick
    return controller, paths


def test_enas_has_the_gradient_of_advantages_times_log_probabilities():
    space = cells(nodes=2)
    controller, paths = priced(space)
    settings = GradientSettings(entropy=0.3)
    step = step_of(space, seed=3, past=(4.0, 6.0), settings=settings)
    loss, value = enas(controller, paths, step)
    found = torch.autograd.grad(loss, controller._parameters)
    rows = controller.written
    costs = torch.tensor(rows.astype(float).sum(1) - 3, dtype=torch.float)
    assert value == pytest.approx(float(costs.mean()))
    baseline = 0.95 * 4.0 + 0.05 * 6.0
    logs, entropy = controller.log_probabilities(rows, masks=None)
    wanted = -((baseline - costs) * logs).sum() / 8 - 0.3 * entropy.mean()
    for a, b in zip(found, torch.autograd.grad(wanted, controller._parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_ppo_gains_nothing_beyond_its_clip_and_is_reinforce_at_first():
    space = cells(nodes=2)
    controller, paths = priced(space)
    rows, _, _ = draw_networks(controller, paths, step_of(space))
    now, _ = controller.log_probabilities(rows, masks=None)
    advantages = torch.tensor([1.0, -1.0] * 4)

    def slope(shift: torch.Tensor) -> torch.Tensor:
        """Of the loss, in the log-probabilities alone."""
        loss = clipped_loss(
            controller, rows, before=now.detach() - shift, advantages=advantages, entropy=0.0
        )
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, controller._parameters)])

    wanted = torch.autograd.grad(-(advantages * now).mean(), controller._parameters)
    flat = torch.cat([g.flatten() for g in wanted])
    torch.testing.assert_close(slope(torch.zeros(8)), flat, rtol=1e-3, atol=1e-6)
    # What is better has become more likely than the clip, what is worse less: nothing is left.
    beyond = advantages * float(np.log(1 + CLIP + 0.1))
    assert float(slope(beyond).abs().max()) == 0
    assert float(slope(-beyond).abs().max()) > 0  # but the way back is open


def test_ppo_teaches_several_times_with_the_same_networks():
    space = cells(nodes=2)
    controller, paths = priced(space)
    calls: list[list[int]] = []

    def loss_of(picks: list[int], **given: torch.Tensor) -> torch.Tensor:
        calls.append(picks)
        return torch.tensor(float(sum(picks)))

    paths.loss = loss_of
    before = [p.detach().clone() for p in controller._parameters]
    loss, _ = ppo(controller, paths, step_of(space))
    assert len(calls) == 8
    assert not all(torch.equal(a, b) for a, b in zip(before, controller._parameters, strict=True))
    state = controller._optimiser.state[controller._parameters[0]]
    assert float(state["step"]) == 3
    controller.move(loss, rate=0.0, step=0)
    assert float(state["step"]) == 4


def test_the_gradient_of_a_move_is_cut():
    controller = controller_of(cells(nodes=2))
    start = [p.detach().clone() for p in controller._parameters]
    other = controller_of(cells(nodes=2))
    rows = list_all(cells(nodes=2))[:8]
    for one, size in ((controller, 1e3), (other, 1e6)):
        logs, _ = one.log_probabilities(rows, masks=None)
        one.move(size * logs.sum(), rate=0.0, step=0)
        moments = [one._optimiser.state[p]["exp_avg"] for p in one._parameters]
        # A tenth of the gradient, whose norm is 1.
        length = float(torch.cat([m.flatten() for m in moments]).norm())
        assert length == pytest.approx(0.1, rel=1e-3)
    assert not all(torch.equal(a, b) for a, b in zip(start, controller._parameters, strict=True))


def test_preferences_are_log_probabilities_without_masks():
    space = cells(nodes=2)
    controller = controller_of(space, part=0.3)
    rows = list_all(space)
    scores = controller.preference()(rows)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)
    assert np.isfinite(scores).all()
