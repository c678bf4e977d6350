"""Which networks a step trains: candidates of the same MACs, and the best or the worst of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import RECIPE, CutOffError, cut_off_at, metrics
from toys import toy_images

from edgenas.cost import macs_table
from edgenas.data import Preprocessing
from edgenas.spaces import mbv3_cifar, tiny
from edgenas.supernet import Supernet
from edgenas.train import CHECKPOINT, train
from edgenas.train.phases import phases
from edgenas.train.sampling import alike, attended, drawn
from edgenas.trained import load_tensors

ATTENTIVE = dataclasses.replace(RECIPE, sampling="best-up")


def test_candidates_are_different_and_of_the_same_macs():
    space, rng = mbv3_cifar(), np.random.default_rng(0)
    macs = macs_table(space)
    spread = macs(space.sample(1000, rng=rng, by="gene")).std()
    groups = [alike(space, 5, rng=rng) for _ in range(50)]
    for rows in groups:
        assert len(np.unique(rows, axis=0)) == len(rows) == 5
        assert np.array_equal(space.canonical(rows), rows)
    assert np.median([macs(rows).std() for rows in groups]) < 0.03 * spread
    # Their MACs are those of networks drawn by gene.
    means = np.array([macs(rows).mean() for rows in groups])
    usual = macs(space.sample(1000, rng=rng, by="gene"))
    assert abs(means.mean() - usual.mean()) < 4 * usual.std() / np.sqrt(50)
    # A space of fewer networks gives all that it has.
    few = tiny().restrict(resolution=[16], depth=[1], kernel=[3])
    assert len(alike(few, 100, rng=rng)) <= few.size < 100


def test_a_step_draws_the_same_whenever_it_is_made():
    space = tiny().with_classes(3)
    one, two = (drawn(space, ATTENTIVE, seed=3, step=7) for _ in range(2))
    assert (one.corners, one.groups) == (two.corners, two.groups)
    assert one.chance.random() == two.chance.random()
    assert [len(group) for group in one.groups] == [3, 3]
    assert drawn(space, ATTENTIVE, seed=3, step=8).groups != one.groups
    assert drawn(space, ATTENTIVE, seed=4, step=7).groups != one.groups
    # What joins later is not drawn earlier.
    first = phases(space, dataclasses.replace(ATTENTIVE, method="progressive"), steps=100)[1].space
    for group in drawn(first, ATTENTIVE, seed=3, step=7).groups:
        assert all(first.contains(arch) for arch in group)


@pytest.mark.parametrize("shares", [False, True], ids=["labels", "mixtures"])
def test_the_best_or_the_worst_on_the_batch_is_trained(shares: bool):
    space, toys = tiny().with_classes(3), toy_images(24)
    preprocessing = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    supernet = Supernet(space, seed=5)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    labels = toys.labels
    if shares:
        labels = F.one_hot(labels, 3).float().lerp(F.one_hot(labels.flip(0), 3).float(), 0.3)
    groups = drawn(space, ATTENTIVE, seed=1, step=0).groups
    groups.append([space.smallest()])
    for sampling, pick in (("best-up", min), ("worst-up", max)):
        recipe = dataclasses.replace(ATTENTIVE, sampling=sampling)
        found = attended(
            supernet, groups, toys.pixels, labels, recipe=recipe, preprocessing=preprocessing
        )
        for group, chosen in zip(groups, found, strict=True):
            losses = []
            for arch in group:
                inputs = preprocessing.prepare(toys.pixels, resolution=arch.resolution)
                logits = supernet.extract(arch).train()(inputs)
                losses.append(F.cross_entropy(logits, labels).item())
            assert losses[group.index(chosen)] == pytest.approx(pick(losses), abs=1e-6)
    assert all(torch.equal(tensor, before[n]) for n, tensor in supernet.state_dict().items())
    assert all(parameter.grad is None for parameter in supernet.parameters())


@pytest.mark.parametrize("sampling", ["best-up", "worst-up"])
def test_an_attentive_training_goes_on_where_it_was(tmp_path: Path, sampling: str):
    torch.set_num_threads(1)
    toys, whole, cut = toy_images(60), tmp_path / "whole", tmp_path / "cut"
    recipe = dataclasses.replace(RECIPE, sampling=sampling)
    train(tiny(), toys, recipe=recipe, out=whole)
    with pytest.raises(CutOffError):
        train(tiny(), toys, recipe=recipe, out=cut, tell=cut_off_at(4))
    train(tiny(), toys, recipe=recipe, out=cut, resume=True)
    ends = [load_tensors(out / CHECKPOINT) for out in (whole, cut)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert metrics(whole) == metrics(cut)
    assert len(metrics(whole)[0]["losses"]) == 4
