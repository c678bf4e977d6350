"""Gradient search: exact expectations, limits, and what each estimator gives the gradient of."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import seeds, spaces
from test_table import fake_seconds
from toys import toy_images

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.cost import Tables, compile_tables, macs_table, params_table
from edgenas.space.presets import load_space, tiny
from edgenas.space.space import Space
from edgenas.strategies.gradient.estimators import STRATEGIES
from edgenas.strategies.gradient.expected import Expected
from edgenas.strategies.gradient.mixture import one_network
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientSettings, GradientStep
from edgenas.strategies.gradient.tilt import Ceiling, tilt
from edgenas.strategies.neighbours import list_all

PREPARED = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


class Double(Preprocessing):
    """Gives float64, so that the losses of a float64 supernet differ by no rounding that counts."""

    def prepare(self, pixels: torch.Tensor, *, resolution: int) -> torch.Tensor:
        return super().prepare(pixels, resolution=resolution).double()


def random_policy(space: Space, *, seed: int) -> Policy:
    policy = Policy(space)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in policy.logits:
            logits.copy_(torch.randn(len(logits), generator=generator))
    return policy


def check_against_differences(
    policy: Policy, strategy: str, *, places: tuple[tuple[int, int], ...]
) -> None:
    """The gradient of a strategy's loss is that of finite differences in single logits.

    In float64, and with the same chance.

    Args:
        policy: whose logits; they become float64.
        strategy: a name in ``STRATEGIES``.
        places: a choice and an alternative of it, for each logit that is moved.
    """
    space = policy.space
    policy.logits = [x.detach().double().requires_grad_() for x in policy.logits]
    double = Double(stored=16, mean=PREPARED.mean, std=PREPARED.std)
    paths = Paths(Supernet(space, seed=1).train().double(), policy, preprocessing=double)

    def loss() -> torch.Tensor:
        step = step_of(space, number=2, settings=GradientSettings(steps=5))
        return STRATEGIES[strategy](policy, paths, step)[0]

    found = torch.autograd.grad(loss(), policy.logits)
    for place, pick in places:
        ends = []
        for shift in (1e-4, -1e-4):
            with torch.no_grad():
                policy.logits[place][pick] += shift
                ends.append(float(loss()))
                policy.logits[place][pick] -= shift
        wanted = (ends[0] - ends[1]) / 2e-4
        # Gates pass through float32 nowhere; the second difference is of order 1e-8.
        assert float(found[place][pick]) == pytest.approx(wanted, rel=1e-3, abs=1e-7)


def enumerated(policy: Policy, tables: Tables) -> float:
    """The readable expectation: the sum over all networks of probability times value."""
    rows = list_all(policy.space)
    chance = np.ones(len(rows))
    for choice, p in zip(policy.choices, policy.probabilities(), strict=True):
        codes = rows[:, list(choice.columns)]
        there = (codes > 0).all(1)
        picks = np.ravel_multi_index((codes[there] - 1).T, choice.shape)
        chance[there] *= p.detach().double().numpy()[picks]
    assert chance.sum() == pytest.approx(1, abs=1e-5)
    return float((chance * tables(rows)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_latency_of_tiny_is_the_enumerated_one(seed: int):
    space = tiny()
    policy = random_policy(space, seed=seed)
    latency = compile_tables(space, fake_seconds, constant=0.001)
    for tables in (latency, macs_table(space), params_table(space)):
        found = float(Expected(space, tables)(policy.probabilities()).detach())
        assert found == pytest.approx(enumerated(policy, tables), rel=1e-5)


@settings(max_examples=40)
@given(space=spaces(most=3), seed=seeds)
def test_expectations_of_any_space_are_the_enumerated_ones(space: Space, seed: int):
    assume(space.size <= 5000)
    policy = random_policy(space, seed=seed)
    tables = params_table(space)
    found = float(Expected(space, tables)(policy.probabilities()).detach())
    assert found == pytest.approx(enumerated(policy, tables), rel=1e-5)


def test_the_expectation_of_a_certain_policy_is_the_value_and_has_gradients():
    space = load_space("mbv3-cifar")
    tables = macs_table(space)
    policy = Policy(space)
    rng = np.random.default_rng(0)
    picks = [int(rng.integers(c.size)) for c in policy.choices]
    with torch.no_grad():
        for logits, pick in zip(policy.logits, picks, strict=True):
            logits[pick] = 60.0
    expected = Expected(space, tables)
    found = float(expected(policy.probabilities()).detach())
    assert found == pytest.approx(tables(policy.row(picks))[0])
    # A larger probability of the larger alternative costs more: every gradient sums to zero.
    policy = Policy(space)
    expected(policy.probabilities()).backward()
    for logits in policy.logits:
        assert logits.grad is not None
        assert float(logits.grad.sum()) == pytest.approx(0, abs=1.0)
        assert len(logits) == 1 or float(logits.grad.abs().max()) > 0


def test_preferences_are_logits_below_the_best_whatever_the_tilt():
    space = tiny()
    policy = random_policy(space, seed=1)
    policy.tilt = [torch.arange(c.size, dtype=torch.float) for c in policy.choices]
    best = policy.row([int(x.argmax()) for x in policy.logits])
    table = policy.preference()
    assert table(best)[0] == 0
    assert table(list_all(space)).max() == 0
    for choice in policy.choices:
        for pick in range(choice.size):
            assert choice.pick(choice.codes(pick)) == pick


# Limits while learning


@settings(max_examples=25)
@given(space=spaces(most=3), seed=seeds, part=st.floats(0.05, 1.2))
def test_a_tilted_policy_keeps_its_ceilings(space: Space, seed: int, part: float):
    assume(space.size <= 5000)
    policy = random_policy(space, seed=seed)
    ceilings, expected = [], []
    for table in (macs_table(space), params_table(space)):
        values = table(list_all(space))
        least, start = float(values.min()), enumerated(policy, table)
        limit = least + part * (start - least) + 1
        ceilings.append(Ceiling(name=str(len(ceilings)), tables=table, limit=limit))
        expected.append(Expected(space, table))
    found, prices = tilt(policy, ceilings, expected)
    for value, price, ceiling in zip(found, prices, ceilings, strict=True):
        assert value == pytest.approx(enumerated(policy, ceiling.tables), rel=1e-4)
        assert value <= 1.003 * ceiling.limit
        assert price >= 0
        if part >= 1:
            assert price == 0
    if part < 1:
        assert max(v / c.limit for v, c in zip(found, ceilings, strict=True)) >= 0.9


def test_a_tilt_is_the_least_change_that_keeps_a_ceiling():
    """Of other distributions with the same expectation, none is nearer in relative entropy."""
    space = tiny().restrict(resolution=(16,), depth=(2,), expand=(3.0,))
    tables = macs_table(space)
    policy = random_policy(space, seed=3)
    start = [p.detach() for p in policy.probabilities()]
    limit = 0.98 * enumerated(policy, tables)
    tilt(policy, [Ceiling(name="macs", tables=tables, limit=limit)], [Expected(space, tables)])

    def distance(policy: Policy) -> float:
        pairs = zip(policy.probabilities(), start, strict=True)
        return sum(float((p * (p / q).log()).sum().detach()) for p, q in pairs)

    found = distance(policy)
    for seed in range(20):
        other = random_policy(space, seed=seed)
        with torch.no_grad():
            for logits, tilt_, base in zip(other.logits, policy.tilt, start, strict=True):
                logits.mul_(0.2).add_(base.log() + tilt_)
        if enumerated(other, tables) <= limit:
            assert distance(other) > found - 1e-4


def test_expectations_are_true_also_where_steps_run_out(monkeypatch: pytest.MonkeyPatch):
    space = tiny()
    monkeypatch.setattr("edgenas.strategies.gradient.tilt._STEPS", 1)
    policy, tables = random_policy(space, seed=0), macs_table(space)
    ceiling = Ceiling(name="macs", tables=tables, limit=0.3 * enumerated(policy, tables))
    (found,), _ = tilt(policy, [ceiling], [Expected(space, tables)])
    assert found > 1.01 * ceiling.limit  # one step does not suffice
    assert found == pytest.approx(enumerated(policy, tables), rel=1e-4)


def test_a_ceiling_that_no_network_keeps_brings_the_policy_to_the_least():
    space = tiny()
    tables = macs_table(space)
    policy = Policy(space)
    ceilings = [Ceiling(name="macs", tables=tables, limit=1.0)]
    (found,), _ = tilt(policy, ceilings, [Expected(space, tables)])
    assert found == pytest.approx(tables(list_all(space)).min(), rel=0.01)
    policy.sample(torch.Generator().manual_seed(0))


# Paths


def batch(space: Space):
    images = toy_images(24, side=16, classes=space.classes)
    return images.pixels, images.labels


def step_of(
    space: Space,
    *,
    seed: int = 0,
    number: int = 0,
    settings: GradientSettings | None = None,
    past: tuple[float, ...] = (),
) -> GradientStep:
    pixels, labels = batch(space)
    return GradientStep(
        number=number,
        settings=settings or GradientSettings(),
        pixels=pixels,
        labels=labels,
        past=past,
        generator=torch.Generator().manual_seed(seed),
    )


@settings(max_examples=12)
@given(seed=seeds, which=st.sampled_from(("tiny", "resnet")))
def test_one_network_is_swapped_for_another(seed: int, which: str):
    """With gates of 1 and 0 the first block runs, with 0 and 1 the second; all else is swapped."""
    space = tiny() if which == "tiny" else _pooled()
    supernet = Supernet(space, seed=1).train()
    policy = Policy(space)
    paths = Paths(supernet, policy, preprocessing=PREPARED)
    pixels, labels = batch(space)
    rng = np.random.default_rng(seed)
    picks = [int(rng.integers(c.size)) for c in policy.choices]

    def loss_of(picks: list[int]) -> float:
        (arch,) = space.decode(policy.row(picks))
        x = PREPARED.prepare(pixels, resolution=arch.resolution)
        with torch.no_grad():
            return float(F.cross_entropy(supernet(x, arch), labels))

    found = paths.loss(picks, pixels=pixels, labels=labels)
    assert float(found) == pytest.approx(loss_of(picks), rel=1e-4)
    _, inputs = paths.gated(picks, {}, {}, pixels=pixels, labels=labels)
    open_ = [place for place, choice in enumerate(policy.choices) if choice.size > 1]
    for place in rng.permutation(open_)[:3].tolist():
        choice = policy.choices[place]
        other = int((picks[place] + 1 + rng.integers(choice.size - 1)) % choice.size)
        changed = [*picks[:place], other, *picks[place + 1 :]]
        one = one_network(picks)
        found = paths.exchanged(one, place, other, inputs, pixels=pixels, labels=labels)
        assert float(found) == pytest.approx(loss_of(changed), rel=1e-4)
        if choice.field != "block":
            continue
        for gate, wanted in (((1.0, 0.0), picks), ((0.0, 1.0), changed)):
            gates = {place: torch.tensor(gate)}
            found, _ = paths.gated(picks, {place: other}, gates, pixels=pixels, labels=labels)
            assert float(found) == pytest.approx(loss_of(wanted), rel=1e-4)


def _pooled() -> Space:
    from edgenas.space.stage import StageSpace

    return Space(
        name="pooled",
        resolutions=(12, 16),
        stages=(
            StageSpace(kind="conv", widths=(8, 16), depths=(1, 2), kernels=(3, 5), pool=2),
            StageSpace(kind="bottleneck", widths=(16,), depths=(1, 2, 3), expands=(0.5, 1.0)),
        ),
    )


@pytest.mark.parametrize("field", ["resolution", "depth"])
def test_what_is_swapped_has_the_gradient_of_two_losses(field: str):
    """Its gradient is p_a p_b (L_a - L_b), that of the mixture of both networks."""
    narrow = {"depth": (2,)} if field == "resolution" else {"resolution": (16,)}
    space = tiny().restrict(kernel=(3,), expand=(2.0,), **narrow)
    if field == "depth":
        stages = (*space.stages[:2], dataclasses.replace(space.stages[2], depths=(1,)))
        space = dataclasses.replace(space, stages=stages)
    supernet = Supernet(space, seed=1).train().double()
    policy = random_policy(space, seed=0)
    ((place, choice),) = [(i, c) for i, c in enumerate(policy.choices) if c.size > 1]
    assert choice.field == field
    # The two losses differ by 1e-3 only. In float32, their rounding moves that by 1e-4 of it.
    double = Double(stored=16, mean=PREPARED.mean, std=PREPARED.std)
    paths = Paths(supernet, policy, preprocessing=double)
    pixels, labels = batch(space)
    losses = []
    for i in (0, 1):
        picks = [i if j == place else 0 for j in range(len(policy.choices))]
        losses.append(float(paths.loss(picks, pixels=pixels, labels=labels)))
    loss, value = STRATEGIES["proxyless"](policy, paths, step_of(space))
    loss.backward()
    p = torch.softmax(policy.logits[place].detach(), 0)
    wanted = float(p[0] * p[1]) * (losses[0] - losses[1])
    found = policy.logits[place].grad
    assert found is not None
    # The losses are float64, but logits are float32: a softmax and its gradient are some ten
    # operations, each of which rounds by 2**-24 at most. Ten times that leaves room.
    assert found.tolist() == pytest.approx([wanted, -wanted], rel=100 * 2**-24)
    assert min(abs(value - one) for one in losses) < 1e-9  # the same operations in float64


@pytest.mark.parametrize(("number", "temperature"), [(0, 5.0), (50, 2.75), (100, 0.5)])
def test_gumbel_has_the_gradient_of_a_softmax_over_the_two_that_run(
    number: int, temperature: float
):
    """By hand: s_a s_b (L_a - L_b) / temperature, and nothing for the alternatives that did not."""
    space = tiny().restrict(depth=(2,), kernel=(3,), expand=(2.0,))
    space = dataclasses.replace(space, resolutions=(8, 12, 16, 20))
    policy = random_policy(space, seed=0)
    paths = Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED)
    losses = [0.5, 2.0, 1.1, 4.0]
    paths.gated = lambda picks, *rest, **given: (torch.tensor(losses[picks[0]]), [])  # quick
    paths.exchanged = lambda mixture, place, other, *rest, **given: torch.tensor(losses[other])
    for seed in range(20):
        step = step_of(space, seed=seed, number=number, settings=GradientSettings(steps=101))
        loss, value = STRATEGIES["gumbel"](policy, paths, step)
        (found,) = torch.autograd.grad(loss, policy.logits[0])
        uniform = torch.rand(4, generator=torch.Generator().manual_seed(seed)).double().numpy()
        noisy = policy.logits[0].detach().double().numpy() - np.log(-np.log(uniform))
        b, a = np.argsort(noisy)[-2:]
        s = 1 / (1 + np.exp((noisy[b] - noisy[a]) / temperature))
        wanted = np.zeros(4)
        wanted[[a, b]] = s * (1 - s) * (losses[a] - losses[b]) / temperature * np.array([1, -1])
        assert value == pytest.approx(losses[a])
        # Measured: 2e-5 of the value at most. The noise is two logarithms in float32 of a number
        # near 0 or 1, each of which multiplies the rounding of 2**-24.
        assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("baseline", "past"), [("others", ()), ("average", ()), ("average", (1.5, 0.5))]
)
def test_reinforce_is_unbiased(baseline: Literal["others", "average"], past: tuple[float, ...]):
    """Averaged over many draws, its gradient is that of the expected loss."""
    space = tiny().restrict(depth=(2,), kernel=(3,), expand=(2.0,))
    policy = random_policy(space, seed=0)
    paths = Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED)
    losses = [0.5, 1.5]
    paths.loss = lambda picks, **given: torch.tensor(losses[picks[0]])  # quick
    step = step_of(space, settings=GradientSettings(baseline=baseline, entropy=0.0), past=past)
    for _ in range(600):
        surrogate, _ = STRATEGIES["reinforce"](policy, paths, step)
        (surrogate / 600).backward()
    p = torch.softmax(policy.logits[0].detach(), 0)
    wanted = float(p[0] * p[1]) * (losses[0] - losses[1])
    found = policy.logits[0].grad
    assert found is not None
    assert found.tolist() == pytest.approx([wanted, -wanted], rel=0.15)


def test_the_baseline_is_the_moving_average_of_the_steps_before():
    """By hand: of two alternatives whose networks cost the same, so that the baseline decides."""
    space = tiny().restrict(depth=(2,), kernel=(3,), expand=(2.0,))
    policy = random_policy(space, seed=0)
    paths = Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED)
    paths.loss = lambda picks, **given: torch.tensor(2.0)
    settings = GradientSettings(baseline="average", entropy=0.0)
    step = step_of(space, seed=5, settings=settings, past=(4.0, 1.0, 3.0))
    loss, value = STRATEGIES["reinforce"](policy, paths, step)
    (found,) = torch.autograd.grad(loss, policy.logits[0])
    generator = torch.Generator().manual_seed(5)
    drawn = [policy.sample(generator)[0] for _ in range(8)]
    average = 0.95 * (0.95 * 4.0 + 0.05 * 1.0) + 0.05 * 3.0
    p = torch.softmax(policy.logits[0].detach(), 0)
    wanted = sum((2.0 - average) / 8 * (torch.eye(2)[pick] - p) for pick in drawn)
    assert isinstance(wanted, torch.Tensor)
    assert value == 2.0
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


def test_the_entropy_bonus_has_the_gradient_of_the_entropy():
    """Where all networks cost the same, nothing else moves the logits: -w p (log p + H)."""
    policy = random_policy(tiny(), seed=0)
    paths = Paths(Supernet(tiny(), seed=1).train(), policy, preprocessing=PREPARED)
    paths.loss = lambda picks, **given: torch.tensor(2.0)
    step = step_of(tiny(), settings=GradientSettings(entropy=0.3))
    loss, _ = STRATEGIES["reinforce"](policy, paths, step)
    for logits, found in zip(
        policy.logits, torch.autograd.grad(loss, policy.logits, materialize_grads=True), strict=True
    ):
        p = torch.softmax(logits.detach().double(), 0).numpy()
        wanted = 0.3 * p * (np.log(p) - (p * np.log(p)).sum())
        assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
