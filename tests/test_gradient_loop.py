"""The loop of gradient search: what it keeps to, the weights it trains, and how it goes on."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_gradient import PREPARED
from test_table import fake_seconds
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.model.supernet import Supernet
from edgenas.space.cost import compile_tables
from edgenas.space.presets import tiny
from edgenas.strategies.gradient.estimators import CONTROLLERS, MIXTURES, STRATEGIES
from edgenas.strategies.gradient.expected import Expected
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.run import LearntPolicy, SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.tilt import Ceiling
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.training.alone import train_alone
from edgenas.training.recipe import Recipe


def learnt(
    strategy: str,
    *,
    seed: int = 0,
    steps: int = 60,
    warmup: int = 0,
    training: WeightTraining | None = None,
    folder: Path | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> LearntPolicy:
    space = tiny()
    supernet = Supernet(space, seed=1)
    latency = compile_tables(space, fake_seconds)
    start = float(Expected(space, latency)(Policy(space).probabilities()).detach())
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    found = learn(
        supernet,
        strategy=strategy,
        data=SearchData(
            images=toy_images(48, side=16, classes=space.classes),
            preprocessing=PREPARED,
            training=training,
        ),
        ceilings=[Ceiling(name="latency", tables=latency, limit=0.8 * start)],
        seed=seed,
        settings=GradientSettings(steps=steps, batch=8, warmup=warmup),
        folder=folder,
        progress=lambda step, *rest: tell(*rest),
    )
    after = supernet.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert supernet.training
    return found


# What looks a step of the weights ahead needs weights that are trained.
FIXED = sorted(STRATEGIES.keys() - {"darts-v2"})
QUICK = ("gdas", "proxyless")  # they differ most; the slow tests have the others


def marked(*cases: tuple[Any, ...]) -> list[Any]:
    """Cases whose first value is a strategy; only those of ``QUICK`` are no slow tests."""
    slow = pytest.mark.slow
    return [pytest.param(*case, marks=[slow] * (case[0] not in QUICK)) for case in cases]


@pytest.mark.parametrize("strategy", marked(*((name,) for name in FIXED)))
def test_the_expected_latency_keeps_its_limit_at_every_step(strategy: str):
    found = learnt(strategy)
    latency = compile_tables(tiny(), fake_seconds)
    expected = Expected(tiny(), latency)
    start = float(expected(Policy(tiny()).probabilities()).detach())
    assert all(line["expected latency"] <= 0.8 * 1.003 * start for line in found.history)
    assert (found.history[0]["price latency"] > 0) == (strategy not in CONTROLLERS)
    if strategy not in CONTROLLERS:  # which draw from no probabilities of single choices
        assert float(expected(found.policy.probabilities()).detach()) <= 0.8 * 1.003 * start
    assert len(found.history) == 60


def taught() -> WeightTraining:
    """Weights that learn from 64 images, an average of them kept."""
    images = toy_images(64, side=16, classes=tiny().classes, seed=1)
    return WeightTraining(images=images, recipe=Recipe(batch=16, learning_rate=0.05, ema=0.9))


VARIANTS = [(name, None) for name in FIXED]
VARIANTS += [(name, taught()) for name in ("proxyless", "pc-darts", "sdarts-rs", "darts-v2")]


def assert_same(one: LearntPolicy, two: LearntPolicy) -> None:
    pairs = list(zip(one.policy.logits, two.policy.logits, strict=True))
    assert (one.supernet is None) == (two.supernet is None)
    if one.supernet is not None and two.supernet is not None:
        pairs += zip(one.supernet.parameters(), two.supernet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.history == two.history


@pytest.mark.parametrize("strategy", ["proxyless", "darts-v1"])
def test_logits_stay_while_the_weights_warm_up(strategy: str):
    found = learnt(strategy, steps=6, warmup=4, training=taught())
    assert not found.trail[:4].any()
    # The first move has the size of all others.
    assert float(found.trail[4].square().mean().sqrt()) == pytest.approx(0.05)
    assert found.supernet is not None
    # Fixed weights have nothing to warm up.
    assert learnt(strategy, steps=2, warmup=2).trail.any(1).all()


@pytest.mark.parametrize(("strategy", "training"), marked(*VARIANTS))
def test_the_same_seed_learns_the_same(strategy: str, training: WeightTraining | None):
    one, two, other = (
        learnt(strategy, seed=seed, steps=6, training=training) for seed in (1, 1, 2)
    )
    assert_same(one, two)
    assert one.history != other.history


@pytest.mark.parametrize("strategy", marked(*((name,) for name in FIXED)))
def test_weights_are_trained_beside_the_choices(strategy: str):
    """Those of another supernet: ``learnt`` sees to it that those given stay."""
    fixed, joint = (learnt(strategy, steps=20, training=training) for training in (None, taught()))
    assert fixed.supernet is None
    assert joint.supernet is not None
    start = Supernet(tiny(), seed=1)
    pairs = zip(start.named_parameters(), joint.supernet.parameters(), strict=True)
    left = [name for (name, a), b in pairs if torch.equal(a, b)]
    # Nothing is left but what may not have been drawn: kernels, and blocks of deeper stages.
    # Norms behind the gates of mixtures stay.
    drawn = [n for n in left if not n.startswith(("stages.1.1", "stages.2.1"))]
    norms = [name for name in drawn if ".bn." in name]
    assert all("kernel_" in name for name in drawn if name not in norms)
    assert (len(norms) > 0) == (strategy in MIXTURES)
    assert joint.history[-1]["loss"] < fixed.history[-1]["loss"]


def test_of_one_network_alone_weights_are_trained_as_ever():
    """Where there is nothing to choose, the result is that of training this network."""
    space = tiny().restrict(resolution=(16,), depth=(2,), kernel=(3,), expand=(2.0,))
    supernet, training = Supernet(space, seed=1), taught()
    recipe = dataclasses.replace(training.recipe, epochs=3, warmup=0.5)
    found = learn(
        supernet,
        strategy="proxyless",
        data=SearchData(
            images=toy_images(8, side=16, classes=space.classes),
            preprocessing=PREPARED,
            training=dataclasses.replace(training, recipe=recipe),
        ),
        seed=3,
        settings=GradientSettings(steps=12, batch=8),
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


@pytest.mark.parametrize(("strategy", "training"), marked(*VARIANTS))
def test_a_killed_search_goes_on_to_the_same_result(
    strategy: str, training: WeightTraining | None, tmp_path: Path
):
    def go_on(tell: Callable[[int, int, str], None], *, seed: int = 0, steps: int) -> LearntPolicy:
        return learnt(
            strategy, seed=seed, steps=steps, training=training, folder=tmp_path, tell=tell
        )

    steps, kills = (25, (4, 13, 21)) if training is None else (15, (4, 13))
    whole = learnt(strategy, steps=steps, training=training)
    for kill in kills:

        def tell(done: int, total: int, words: str, kill: int = kill) -> None:
            if done == kill:
                raise StoppedError

        with pytest.raises(StoppedError):
            go_on(tell, steps=steps)
    started: list[int] = []
    again = go_on(lambda done, *_: started.append(done), steps=steps)
    assert started[0] == kills[-1] // 10 * 10
    assert_same(again, whole)
    # One that ended is only read; any other search is its own.
    started.clear()
    ended = go_on(lambda done, *_: started.append(done), steps=steps)
    assert started == [steps]
    assert_same(ended, whole)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    go_on(lambda *_: None, seed=1, steps=11)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


KILLED = """
import sys, time
from pathlib import Path
from test_gradient_loop import learnt, taught

def tell(done, total, words):
    if done == 13:
        print("at step 13", flush=True)
        time.sleep(600)

learnt(sys.argv[1], steps=25, training=taught(), folder=Path(sys.argv[2]), tell=tell)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["pc-darts", "ppo"])
def test_a_search_that_kill_9_ends_goes_on_to_the_same_result(strategy: str, tmp_path: Path):
    command = [sys.executable, "-c", KILLED, strategy, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT / "tests"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at step 13\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    started: list[int] = []
    training = taught()
    again = learnt(
        strategy,
        steps=25,
        training=training,
        folder=tmp_path,
        tell=lambda done, *_: started.append(done),
    )
    assert started[0] == 10
    assert_same(again, learnt(strategy, steps=25, training=training))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [name for name in FIXED if name != "gdas"])
def test_a_path_that_is_better_is_found(strategy: str):
    """One alternative's weights are noise: a strategy learns to avoid it.

    GDAS is not held to this. It has the slope of the loss in the gate of the one path that it drew,
    which says little of an alternative that never helps; 240 steps kept one of four such blocks.
    """
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
    found = learn(
        supernet,
        strategy=strategy,
        data=SearchData(images=images, preprocessing=PREPARED),
        settings=GradientSettings(steps=60, batch=24),
    )
    kernels = [
        space.genes[c.columns[0]].values[int(logits.argmax())]
        for c, logits in zip(found.policy.choices, found.policy.logits, strict=True)
        if c.field == "block" and c.size > 1
    ]
    assert kernels == [5] * 4


def test_a_step_ahead_needs_weights_that_are_trained():
    with pytest.raises(EdgenasError, match="darts-v2 looks one step of the weights ahead: they"):
        learnt("darts-v2", steps=2)


def test_the_history_is_a_table(tmp_path: Path):
    import pandas as pd

    found = learnt("reinforce", steps=13, folder=tmp_path)
    (path,) = tmp_path.glob("reinforce-*.csv")
    table = pd.read_csv(path, float_precision="round_trip")
    names = ["step", "loss", "entropy", "expected latency", "price latency"]
    assert table.columns.tolist() == names
    assert table.loss.tolist() == [line["loss"] for line in found.history]


def test_what_cannot_be_learnt_is_refused():
    space = tiny()
    images = toy_images(8, side=16, classes=space.classes)
    with pytest.raises(EdgenasError, match="unknown strategy 'proxylss'\nhint: did you mean prox"):
        data = SearchData(images=images, preprocessing=PREPARED)
        learn(Supernet(space), strategy="proxylss", data=data)
    with pytest.raises(EdgenasError, match="needs at least 2 images, found 1"):
        learn(
            Supernet(space),
            strategy="proxyless",
            data=SearchData(images=images.take(torch.arange(1)), preprocessing=PREPARED),
        )
