"""Mixtures of alternatives in a supernet, and the property that names each way to mix."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_gradient import (
    PREPARED,
    batch,
    check_against_differences,
    random_policy,
    step_of,
)

from edgenas.model.supernet import Supernet
from edgenas.space.cells import CellSpace
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace
from edgenas.strategies.gradient.estimators import MIXTURES, STRATEGIES
from edgenas.strategies.gradient.fair_darts import mix_sigmoid, zero_one_loss
from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import mix, mix_all, one_network
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.pc_darts import mix_partial, weigh_edges
from edgenas.strategies.gradient.policy import Policy, list_edges
from edgenas.strategies.gradient.snas import mix_concrete
from edgenas.strategies.gradient.step import GradientSettings

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def cells(*, nodes: int = 3, width: int = 8) -> Space:
    """A stem and two cells with the operations of NAS-Bench-201."""
    return Space(
        name="cells",
        resolutions=(16,),
        stages=(
            StageSpace(kind="conv", widths=(width,), activation="none", stride=2),
            StageSpace(kind="cell", widths=(width,), depths=(2,)),
        ),
        cells=(CellSpace(operations=OPERATIONS, nodes=nodes),),
        head_norm=True,
        activation="relu",
        classes=3,
    )


def listed() -> Space:
    """Blocks out of a list, as those of NAS-Bench-Macro."""
    return Space(
        name="listed",
        resolutions=(16,),
        stages=(
            StageSpace(kind="conv", widths=(8,)),
            StageSpace(
                kind="mbconv",
                widths=(12,),
                depths=(2,),
                stride=2,
                blocks=("none", "3x3", "5x6"),
            ),
        ),
        final=16,
        activation="relu",
        classes=3,
    )


SPACES = {"cells": cells, "listed": listed}


def paths_of(space: Space, *, seed: int = 0) -> tuple[Paths, Policy]:
    policy = random_policy(space, seed=seed)
    return Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED), policy


def loss_of(paths: Paths, picks: list[int]) -> float:
    """The plain loss of one network: by the supernet itself."""
    space = paths.supernet.space
    (arch,) = space.decode(paths.policy.row(picks))
    pixels, labels = batch(space)
    with torch.no_grad():
        x = PREPARED.prepare(pixels, resolution=arch.resolution)
        return float(F.cross_entropy(paths.supernet(x, arch), labels))


def draw(policy: Policy, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(rng.integers(choice.size)) for choice in policy.choices]


@pytest.mark.parametrize("name", SPACES)
def test_a_mixture_with_certain_gates_is_that_network(name: str):
    paths, policy = paths_of(SPACES[name]())
    pixels, labels = batch(paths.supernet.space)
    for seed in range(6):
        picks = draw(policy, seed)
        certain = [
            F.one_hot(torch.tensor(p), c.size) for p, c in zip(picks, policy.choices, strict=True)
        ]
        whole = mix_all(policy, step_of(paths.supernet.space), [g.float() for g in certain])
        for mixture in (one_network(picks), whole):
            found, _ = paths.mixed(mixture, pixels=pixels, labels=labels)
            # The sum of nothing and an output is the output; only the order of sums can differ.
            assert float(found) == pytest.approx(loss_of(paths, picks), rel=1e-5)


def test_a_mixture_is_the_sum_of_its_alternatives_times_their_gates():
    """By hand, on the one edge of a cell of one node."""
    paths, policy = paths_of(cells(nodes=1))
    space, supernet = paths.supernet.space, paths.supernet
    pixels, labels = batch(space)
    gates = torch.tensor([0.3, 0.1, 0.25, 0.15, 0.2])
    x = PREPARED.prepare(pixels, resolution=16)
    with torch.no_grad():
        layers = [dict(plan(space, paths.arch([k]))) for k in range(5)]
        x = F.batch_norm(
            F.conv2d(x, supernet.get_parameter("stages.0.0.unit.conv.weight"), None, 2, 1),
            None,
            None,
            training=True,
        )
        for j in range(2):
            name = f"stages.1.{j}.edge1from0"
            total = gates[1] * x
            for k in (2, 3, 4):
                total = total + gates[k] * paths._run(name, layers[k][name], x)
            x = total
        wanted = F.cross_entropy(paths._run("head", layers[0]["head"], x), labels)
    found, _ = paths.mixed(mix_all(policy, step_of(space), [gates]), pixels=pixels, labels=labels)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("strategy", sorted(MIXTURES.keys() - {"gdas", "darts-v2"}))
@pytest.mark.parametrize("name", SPACES)
def test_the_gradient_of_every_mixture_is_that_of_its_loss(name: str, strategy: str):
    policy = random_policy(SPACES[name](), seed=0)
    check_against_differences(policy, strategy, places=((0, 1), (1, 2)))


def test_gdas_runs_one_path_and_has_the_gradient_of_the_softmax(monkeypatch: pytest.MonkeyPatch):
    space = cells()
    paths, policy = paths_of(space)
    ran: list[str] = []
    run = Paths._run

    def counted(self: Paths, name: str, layer: Layer | None, x: torch.Tensor, **gated: bool):
        ran.extend([name] if layer is not None else [])
        return run(self, name, layer, x, **gated)

    monkeypatch.setattr(Paths, "_run", counted)
    for seed in range(4):
        step = step_of(space, seed=seed, number=50, settings=GradientSettings(steps=101))
        mixture = MIXTURES["gdas"](policy, step)
        assert all(len(picks) == 1 for picks in mixture.picks)
        # One path: the layers of one network, of its nodes none but sums, and nothing else.
        ran.clear()
        loss, value = mixed_loss(paths, step, mixture)
        (arch,) = space.decode(policy.row(mixture.first))
        assert ran == [name for name, layer in plan(space, arch) if layer.kind != "sum"]
        assert value == pytest.approx(loss_of(paths, mixture.first), rel=1e-5)
        # Back: the gradient of the gate that ran goes to all logits through the soft one.
        temperature = 10 * (0.1 / 10) ** 0.5
        uniform = torch.Generator().manual_seed(seed)
        gradients = torch.autograd.grad(
            loss, policy.logits, retain_graph=True, materialize_grads=True
        )
        for i, logits in enumerate(policy.logits):
            noise = -torch.log(-torch.log(torch.rand(len(logits), generator=uniform)))
            soft = torch.softmax((logits.detach() + noise) / temperature, 0)
            (pick,) = mixture.picks[i]
            assert int(soft.argmax()) == pick
            gate = mixture.gates[i]
            assert gate is not None
            assert gate.tolist() == [1.0]
            (back,) = torch.autograd.grad(loss, gate, retain_graph=True, materialize_grads=True)
            wanted = back * soft[pick] * (F.one_hot(torch.tensor(pick), 5) - soft) / temperature
            # Logarithms of float32 numbers near 1 multiply their rounding.
            assert gradients[i].tolist() == pytest.approx(wanted.tolist(), rel=1e-3, abs=1e-7)


def test_snas_draws_gates_that_sum_to_one_and_become_certain():
    policy = random_policy(cells(), seed=0)
    highest = []
    for number in (0, 100):
        step = step_of(cells(), number=number, settings=GradientSettings(steps=101))
        drawn = [g for _ in range(20) for g in mix_concrete(policy, step).gates if g is not None]
        assert all(float(g.detach().sum()) == pytest.approx(1) for g in drawn)
        highest.append(np.mean([float(g.detach().max()) for g in drawn]))
    assert highest[0] < 0.8 < 0.9 < highest[1]


def test_the_zero_one_loss_is_that_of_the_paper():
    """By hand: minus the mean of (sigmoid - 1/2)^2; gates do not compete."""
    policy = random_policy(cells(), seed=0)
    flat = torch.cat([x.detach() for x in policy.logits]).double().numpy()
    wanted = -np.mean((1 / (1 + np.exp(-flat)) - 0.5) ** 2)
    assert float(zero_one_loss(policy).detach()) == pytest.approx(wanted, rel=1e-5)
    gates = mix_sigmoid(policy, step_of(cells())).gates
    for gate, logits in zip(gates, policy.logits, strict=True):
        assert gate is not None
        jacobian = [torch.autograd.grad(g, logits, retain_graph=True)[0] for g in gate]
        assert (
            torch.count_nonzero(torch.stack(jacobian) - torch.diag(torch.stack(jacobian).diag()))
            == 0
        )


def test_three_quarters_of_the_channels_pass_a_pc_darts_edge_by():
    space = cells(nodes=1)
    paths, policy = paths_of(space)
    mixture = mix_partial(policy, step_of(space))
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    archs = paths._open(mixture)
    name = "stages.1.0.edge1from0"
    steps = ["none", *(layers.get(name) for layers in archs.layers[1:])]
    y = paths._mix(archs, name, 0, steps=steps, x=x)
    assert y is not None
    # Behind the shuffle, channels stand as (of part 0, 1, 2, 3), (of part 0, 1, 2, 3).
    assert torch.equal(y[:, [1, 5]], x[:, [2, 3]])
    assert torch.equal(y[:, [2, 6]], x[:, [4, 5]])
    assert torch.equal(y[:, [3, 7]], x[:, [6, 7]])
    assert not torch.allclose(y[:, [0, 4]], x[:, [0, 1]])
    # What is mixed sees the first quarter alone.
    noisy = x.clone()
    noisy[:, 2:] += 1
    again = paths._mix(archs, name, 0, steps=steps, x=noisy)
    assert again is not None
    assert torch.equal(again[:, [0, 4]], y[:, [0, 4]])


def test_the_weights_of_edges_that_lead_to_a_node_sum_to_one_and_learn():
    space = cells()
    paths, policy = paths_of(space)
    scales = weigh_edges(policy)
    sums: dict[int, float] = {}
    for place, scale in scales.items():
        node, _ = list_edges(space.cells[0])[policy.choices[place].edge]
        sums[node] = sums.get(node, 0.0) + float(scale.detach())
    assert sums == {2: pytest.approx(1), 3: pytest.approx(1)}
    loss, _ = STRATEGIES["pc-darts"](policy, paths, step_of(space))
    policy.move(loss, rate=0.1, step=0)
    assert all(float(logits.detach().abs().max()) > 0 for logits in policy.edges)


def test_sdarts_smooths_what_the_weights_learn_from_alone():
    policy = random_policy(cells(), seed=0)
    for number in (0, 100):
        step = step_of(cells(), number=number, settings=GradientSettings(steps=101))
        gates = MIXTURES["sdarts-rs"](policy, step).gates
        for gate, logits in zip(gates, policy.logits, strict=True):
            assert gate is not None
            assert not gate.requires_grad
            # Logits move by 0.03 at most, so the ratio of two gates by exp(0.06).
            moved = (gate / torch.softmax(logits.detach(), 0)).log()
            assert float(moved.max() - moved.min()) <= 0.06 * number / 100 + 1e-5
            assert (float(moved.abs().max()) > 1e-4) == (number > 0)


def test_what_changes_shapes_is_compared_as_whole_mixtures():
    """A resolution beside the edges of a cell: its gradient is p_a p_b (L_a - L_b)."""
    space = dataclasses.replace(cells(nodes=2), resolutions=(12, 16))
    paths, policy = paths_of(space)
    step = step_of(space)
    mixture = MIXTURES["darts-v1"](policy, step)
    assert [*mixture.others] == [0]
    loss, _ = mixed_loss(paths, step, mixture)
    (found,) = torch.autograd.grad(loss, policy.logits[0])
    losses = {}
    for pick in (0, 1):
        other = mixture.exchange(0, pick)
        losses[pick], _ = paths.mixed(other, pixels=step.pixels, labels=step.labels)
    p = torch.softmax(policy.logits[0].detach(), 0)
    wanted = float(p[0] * p[1]) * float((losses[0] - losses[1]).detach())
    assert found.tolist() == pytest.approx([wanted, -wanted], rel=1e-3)


def test_skips_lose_the_share_of_values_that_is_asked_for():
    space = cells(nodes=1)
    paths, policy = paths_of(space)
    settings = GradientSettings(skip_dropout=0.4, steps=101)
    for number, share in ((0, 0.4), (50, 0.2), (100, 0.0)):
        step = step_of(space, number=number, settings=settings)
        gate = torch.tensor([1.0])
        mixture = mix(policy, step, picks=[(1,)], gates=[gate])
        x = torch.ones(8, 8, 20, 20)
        y = paths._mix(paths._open(mixture), "stages.1.0.edge1from0", 0, steps=[None], x=x)
        assert y is not None
        # A share of 25,600 values: its deviation is 0.003.
        assert float((y == 0).float().mean()) == pytest.approx(share, abs=0.015)
        assert float(y.mean()) == pytest.approx(1, abs=0.03)
