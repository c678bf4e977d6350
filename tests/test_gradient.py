"""Gradient search: exact expectations, gates that swap networks, and what the loop keeps to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import seeds, spaces
from test_table import fake_seconds
from toys import toy_images

from edgenas.cost import Tables, compile_tables, macs_table, params_table
from edgenas.data import Preprocessing
from edgenas.errors import EdgenasError
from edgenas.gradient import (
    STRATEGIES,
    Ceiling,
    Expected,
    Learnt,
    Policy,
    Settings,
    WeightTraining,
    learn,
)
from edgenas.gradient.paths import Paths
from edgenas.gradient.tilt import tilt
from edgenas.recipe import Recipe
from edgenas.search.neighbours import every
from edgenas.space import Space
from edgenas.spaces import load_space, tiny
from edgenas.supernet import Supernet
from edgenas.train import train_alone

PREPARED = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


def random_policy(space: Space, *, seed: int) -> Policy:
    policy = Policy(space)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in policy.logits:
            logits.copy_(torch.randn(len(logits), generator=generator))
    return policy


def enumerated(policy: Policy, tables: Tables) -> float:
    """The readable expectation: the sum over all networks of probability times value."""
    rows = every(policy.space)
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
    assert table(every(space)).max() == 0
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
        values = table(every(space))
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


def test_a_ceiling_that_no_network_keeps_brings_the_policy_to_the_least():
    space = tiny()
    tables = macs_table(space)
    policy = Policy(space)
    ceilings = [Ceiling(name="macs", tables=tables, limit=1.0)]
    (found,), _ = tilt(policy, ceilings, [Expected(space, tables)])
    assert found == pytest.approx(tables(every(space)).min(), rel=0.01)
    policy.sample(torch.Generator().manual_seed(0))


# Paths


def batch(space: Space):
    images = toy_images(24, side=16, classes=space.classes)
    return images.pixels, images.labels


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
        found = paths.swapped(picks, place, other, inputs, pixels=pixels, labels=labels)
        assert float(found) == pytest.approx(loss_of(changed), rel=1e-4)
        if choice.field != "block":
            continue
        for gate, wanted in (((1.0, 0.0), picks), ((0.0, 1.0), changed)):
            gates = {place: torch.tensor(gate)}
            found, _ = paths.gated(picks, {place: other}, gates, pixels=pixels, labels=labels)
            assert float(found) == pytest.approx(loss_of(wanted), rel=1e-4)


def _pooled() -> Space:
    from edgenas.stage import StageSpace

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
    supernet = Supernet(space, seed=1).train()
    policy = random_policy(space, seed=0)
    ((place, choice),) = [(i, c) for i, c in enumerate(policy.choices) if c.size > 1]
    assert choice.field == field
    paths = Paths(supernet, policy, preprocessing=PREPARED)
    pixels, labels = batch(space)
    losses = []
    for i in (0, 1):
        picks = [i if j == place else 0 for j in range(len(policy.choices))]
        losses.append(float(paths.loss(picks, pixels=pixels, labels=labels)))
    loss, value = STRATEGIES["proxyless"](
        policy,
        paths,
        pixels=pixels,
        labels=labels,
        progress=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    loss.backward()
    p = torch.softmax(policy.logits[place].detach(), 0)
    wanted = float(p[0] * p[1]) * (losses[0] - losses[1])
    found = policy.logits[place].grad
    assert found is not None
    assert found.tolist() == pytest.approx([wanted, -wanted], rel=1e-3)
    assert min(abs(value - one) for one in losses) < 1e-4


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_gumbel_has_the_gradient_of_a_softmax_over_the_two_that_run(progress: float):
    """By hand: s_a s_b (L_a - L_b) / temperature, and nothing for the alternatives that did not."""
    space = tiny().restrict(depth=(2,), kernel=(3,), expand=(2.0,))
    space = dataclasses.replace(space, resolutions=(8, 12, 16, 20))
    policy = random_policy(space, seed=0)
    paths = Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED)
    losses = [0.5, 2.0, 1.1, 4.0]
    paths.gated = lambda picks, *rest, **given: (torch.tensor(losses[picks[0]]), [])  # quick
    paths.swapped = lambda picks, place, other, *rest, **given: torch.tensor(losses[other])
    pixels, labels = batch(space)
    temperature = 5.0 if progress == 0 else 0.5
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        loss, value = STRATEGIES["gumbel"](
            policy, paths, pixels=pixels, labels=labels, progress=progress, generator=generator
        )
        (found,) = torch.autograd.grad(loss, policy.logits[0])
        uniform = torch.rand(4, generator=torch.Generator().manual_seed(seed)).double().numpy()
        noisy = policy.logits[0].detach().double().numpy() - np.log(-np.log(uniform))
        b, a = np.argsort(noisy)[-2:]
        s = 1 / (1 + np.exp((noisy[b] - noisy[a]) / temperature))
        wanted = np.zeros(4)
        wanted[[a, b]] = s * (1 - s) * (losses[a] - losses[b]) / temperature * np.array([1, -1])
        assert value == pytest.approx(losses[a])
        assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-7)


def test_reinforce_is_unbiased():
    """Averaged over many draws, its gradient is that of the expected loss."""
    space = tiny().restrict(depth=(2,), kernel=(3,), expand=(2.0,))
    supernet = Supernet(space, seed=1).train()
    policy = random_policy(space, seed=0)
    paths = Paths(supernet, policy, preprocessing=PREPARED)
    pixels, labels = batch(space)
    rest = [0] * (len(policy.choices) - 1)
    losses = [float(paths.loss([i, *rest], pixels=pixels, labels=labels)) for i in (0, 1)]
    paths.loss = lambda picks, **given: torch.tensor(losses[picks[0]])  # quick
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        surrogate, _ = STRATEGIES["reinforce"](
            policy, paths, pixels=pixels, labels=labels, progress=0.0, generator=generator
        )
        (surrogate / 300).backward()
    p = torch.softmax(policy.logits[0].detach(), 0)
    wanted = float(p[0] * p[1]) * (losses[0] - losses[1])
    found = policy.logits[0].grad
    assert found is not None
    assert found.tolist() == pytest.approx([wanted, -wanted], rel=0.15)


# The loop


def learnt(
    strategy: str,
    *,
    seed: int = 0,
    steps: int = 60,
    training: WeightTraining | None = None,
    folder: Path | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Learnt:
    space = tiny()
    supernet = Supernet(space, seed=1)
    latency = compile_tables(space, fake_seconds)
    start = float(Expected(space, latency)(Policy(space).probabilities()).detach())
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    found = learn(
        supernet,
        strategy=strategy,
        images=toy_images(48, side=16, classes=space.classes),
        preprocessing=PREPARED,
        ceilings=[Ceiling(name="latency", tables=latency, limit=0.8 * start)],
        seed=seed,
        settings=Settings(steps=steps, batch=8),
        training=training,
        folder=folder,
        tell=tell,
    )
    after = supernet.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert supernet.training
    return found


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_expected_latency_keeps_its_limit_at_every_step(strategy: str):
    found = learnt(strategy)
    latency = compile_tables(tiny(), fake_seconds)
    expected = Expected(tiny(), latency)
    start = float(expected(Policy(tiny()).probabilities()).detach())
    assert all(line["expected latency"] <= 0.8 * 1.003 * start for line in found.history)
    assert found.history[0]["price latency"] > 0
    assert float(expected(found.policy.probabilities()).detach()) <= 0.8 * 1.003 * start
    assert len(found.history) == 60


def taught() -> WeightTraining:
    """Weights that learn from 64 images, an average of them kept."""
    images = toy_images(64, side=16, classes=tiny().classes, seed=1)
    return WeightTraining(images=images, recipe=Recipe(batch=16, learning_rate=0.05, ema=0.9))


VARIANTS = [(name, None) for name in sorted(STRATEGIES)] + [("proxyless", taught())]


def assert_same(one: Learnt, two: Learnt) -> None:
    pairs = list(zip(one.policy.logits, two.policy.logits, strict=True))
    assert (one.supernet is None) == (two.supernet is None)
    if one.supernet is not None and two.supernet is not None:
        pairs += zip(one.supernet.parameters(), two.supernet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.history == two.history


@pytest.mark.parametrize(("strategy", "training"), VARIANTS)
def test_the_same_seed_learns_the_same(strategy: str, training: WeightTraining | None):
    one, two, other = (
        learnt(strategy, seed=seed, steps=6, training=training) for seed in (1, 1, 2)
    )
    assert_same(one, two)
    assert one.history != other.history


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_weights_are_trained_beside_the_choices(strategy: str):
    """Those of another supernet: ``learnt`` sees to it that those given stay."""
    fixed, joint = (learnt(strategy, steps=20, training=training) for training in (None, taught()))
    assert fixed.supernet is None
    assert joint.supernet is not None
    start = Supernet(tiny(), seed=1)
    pairs = zip(start.named_parameters(), joint.supernet.parameters(), strict=True)
    assert not [name for (name, a), b in pairs if torch.equal(a, b)]
    assert joint.history[-1]["loss"] < fixed.history[-1]["loss"]


def test_of_one_network_alone_weights_are_trained_as_ever():
    """Where there is nothing to choose, the result is that of training this network."""
    space = tiny().restrict(resolution=(16,), depth=(2,), kernel=(3,), expand=(2.0,))
    supernet, training = Supernet(space, seed=1), taught()
    recipe = dataclasses.replace(training.recipe, epochs=3, warmup=0.5)
    found = learn(
        supernet,
        strategy="proxyless",
        images=toy_images(8, side=16, classes=space.classes),
        preprocessing=PREPARED,
        seed=3,
        settings=Settings(steps=12, batch=8),
        training=dataclasses.replace(training, recipe=recipe),
    ).supernet
    assert found is not None
    alone = train_alone(
        supernet.extract(space.largest()),
        training.images,
        recipe=recipe,
        preprocessing=PREPARED,
        seed=3,
    )
    wanted = dict(alone.named_parameters())
    for name, tensor in found.extract(space.largest()).named_parameters():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(("strategy", "training"), VARIANTS)
def test_a_killed_search_goes_on_to_the_same_result(
    strategy: str, training: WeightTraining | None, tmp_path: Path
):
    def go_on(tell: Callable[[int, int, str], None], seed: int = 0, steps: int = 35) -> Learnt:
        return learnt(
            strategy, seed=seed, steps=steps, training=training, folder=tmp_path, tell=tell
        )

    whole = learnt(strategy, steps=35, training=training)
    for kill in (4, 13, 29):

        def tell(done: int, total: int, words: str, kill: int = kill) -> None:
            if done == kill:
                raise StoppedError

        with pytest.raises(StoppedError):
            go_on(tell)
    started: list[int] = []
    again = go_on(lambda done, *_: started.append(done))
    assert started[0] == 20
    assert_same(again, whole)
    # One that ended is only read; any other search is its own.
    started.clear()
    ended = go_on(lambda done, *_: started.append(done))
    assert started == [35]
    assert_same(ended, whole)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    go_on(lambda *_: None, seed=1, steps=11)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_path_that_is_better_is_found():
    """One alternative's weights are noise: every strategy learns to avoid it."""
    space = tiny().restrict(resolution=(16,), depth=(2,), expand=(3.0,))
    supernet = Supernet(space, seed=1).train()
    images = toy_images(48, side=16, classes=space.classes)
    arch = space.largest()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9)
    x = PREPARED.prepare(images.pixels, resolution=16)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(supernet(x, arch), images.labels).backward()
        optimiser.step()
    # Only kernel 5 was trained; kernel 3 gets noise in its place.
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if "kernel_5to3" in name:
                torch.nn.init.normal_(parameter, std=1.0, generator=noise)
    for strategy in STRATEGIES:
        found = learn(
            supernet,
            strategy=strategy,
            images=images,
            preprocessing=PREPARED,
            settings=Settings(steps=60, batch=24),
        )
        kernels = [
            space.genes[c.columns[0]].values[int(logits.argmax())]
            for c, logits in zip(found.policy.choices, found.policy.logits, strict=True)
            if c.field == "block" and c.size > 1
        ]
        assert kernels == [5] * len(kernels), strategy
        assert len(kernels) == 4


def test_the_history_is_a_table(tmp_path: Path):
    import pandas as pd

    found = learnt("reinforce", steps=13, folder=tmp_path)
    (path,) = tmp_path.glob("reinforce-*.csv")
    table = pd.read_csv(path)
    names = ["step", "loss", "entropy", "expected latency", "price latency"]
    assert table.columns.tolist() == names
    assert table.loss.tolist() == [line["loss"] for line in found.history]


def test_what_cannot_be_learnt_is_refused():
    space = tiny()
    images = toy_images(8, side=16, classes=space.classes)
    with pytest.raises(EdgenasError, match="unknown strategy 'proxylss'\nhint: did you mean prox"):
        learn(Supernet(space), strategy="proxylss", images=images, preprocessing=PREPARED)
    with pytest.raises(EdgenasError, match="needs at least 2 images, found 1"):
        learn(
            Supernet(space),
            strategy="proxyless",
            images=images.take(torch.arange(1)),
            preprocessing=PREPARED,
        )
