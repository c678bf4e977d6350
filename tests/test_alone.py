"""Training of one network alone: what it is, and that it can be cut off anywhere."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny
from edgenas.training.alone import Pace, train_alone
from edgenas.training.augment import augment_images
from edgenas.training.recipe import Recipe, learning_rate

PREPARED = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
IMAGES = toy_images(52)
RECIPE = Recipe(epochs=3, batch=16, learning_rate=0.05, warmup=1.0, checkpoint_seconds=0.0)


def network() -> Network:
    space = tiny().with_classes(3)
    return Supernet(space, seed=1).eval().extract(space.largest())


def trained(
    start: Network,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    state: Path | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Network:
    return train_alone(
        start,
        IMAGES,
        recipe=recipe,
        preprocessing=PREPARED,
        seed=seed,
        state=state,
        progress=lambda step, *rest: tell(*rest),
    )


def same(one: Network, two: Network) -> bool:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_is_plain_training_with_the_views_and_the_schedule_of_the_recipe():
    start = network()
    before = copy.deepcopy(start)
    found = trained(start)
    assert same(start, before), "what is given stays as it is"
    assert not found.training

    plain = copy.deepcopy(start).train().to(memory_format=torch.channels_last)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    rest = [p for p in plain.parameters() if p.ndim == 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-4}, {"params": rest}],
        lr=1.0,
        momentum=0.9,
        nesterov=True,
    )
    for step in range(9):
        epoch, place = divmod(step, 3)
        order = np.random.default_rng((0, 2, epoch)).permutation(52)[16 * place : 16 * place + 16]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, 9, 3, RECIPE)
        rng = np.random.default_rng((0, 1, step))
        pixels = augment_images(IMAGES.pixels[order], recipe=RECIPE, rng=rng)
        optimiser.zero_grad()
        logits = plain(PREPARED.prepare(pixels, resolution=16))
        F.cross_entropy(logits, IMAGES.labels[order], label_smoothing=0.1).backward()
        optimiser.step()
    for one, two in zip(found.parameters(), plain.parameters(), strict=True):
        # The same operations in the same order: measured 0 on every processor.
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_weights():
    assert same(trained(network(), seed=1), trained(network(), seed=1))
    assert not same(trained(network(), seed=1), trained(network(), seed=2))


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_was_cut_off_goes_on_to_the_same_weights(tmp_path: Path, ema: float):
    recipe = Recipe(
        epochs=3, batch=8, accumulate=2, learning_rate=0.05, ema=ema, checkpoint_seconds=0.0
    )
    whole, state = trained(network(), recipe=recipe), tmp_path / "state.safetensors"
    for cut in (1, 4, 7):

        def tell(done: int, total: int, words: str, cut: int = cut) -> None:
            if done == cut:
                raise CutOffError

        with pytest.raises(CutOffError):
            trained(network(), recipe=recipe, state=state, tell=tell)
    told: list[int] = []
    again = trained(
        network(), recipe=recipe, state=state, tell=lambda done, *rest: told.append(done)
    )
    assert told == [7, 8, 9], "the step that was cut off is made again"
    assert same(again, whole)
    told.clear()
    ended = trained(network(), recipe=recipe, state=state, tell=lambda *given: told.append(0))
    assert same(ended, whole)
    assert not told


def test_a_training_that_diverges_is_told():
    recipe = Recipe(epochs=20, batch=16, learning_rate=1e30, warmup=0.0)
    with pytest.raises(EdgenasError, match=r"diverged at step \d+.*\n?hint: train with a smaller"):
        trained(network(), recipe=recipe)


def test_fewer_images_than_a_batch_are_one_batch():
    steps: list[int] = []
    recipe = Recipe(epochs=2, batch=512, learning_rate=0.01)
    trained(network(), recipe=recipe, tell=lambda done, total, words: steps.append(total))
    assert steps == [2, 2]


def test_the_classifier_has_a_rate_of_its_own():
    start = network()
    quick = dataclasses.replace(RECIPE, epochs=1, warmup=0.0, momentum=0.0, weight_decay=0.0)
    once = dataclasses.replace(quick, batch=52)
    steps = {}
    for factor in (1.0, 5.0):
        found = trained(start, recipe=dataclasses.replace(once, head_rate=factor))
        steps[factor] = {
            name: (after - before).abs().sum().item()
            for (name, after), before in zip(
                found.named_parameters(), start.parameters(), strict=True
            )
        }
    for name, moved in steps[1.0].items():
        factor = 5.0 if name.startswith("head.classifier") else 1.0
        assert steps[5.0][name] == pytest.approx(factor * moved, rel=1e-3), name


def test_a_pace_may_end_a_training_sooner_and_stays_with_it(tmp_path: Path):
    looks: list[tuple[int, int]] = []

    def look(seen: Network, step: int, steps: int) -> int:
        assert not seen.training
        looks.append((step, steps))
        return 9 if step == 6 else steps

    def run(state: Path, **rest: Any) -> Network:
        return train_alone(
            network(), IMAGES, recipe=RECIPE, preprocessing=PREPARED, state=state,
            pace=Pace(steps=15, look=look), **rest,
        )  # fmt: skip

    found = run(tmp_path / "whole")
    assert looks == [(3, 15), (6, 15), (9, 9)]

    def cut(step: str, done: int, total: int, words: str) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", progress=cut)
    looks.clear()
    again = run(tmp_path / "cut")
    assert looks == [(9, 9)], "it goes on with the shorter pace"
    assert same(found, again)
