"""Which networks a step trains: candidates of the same MACs, and the best or the worst of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import RECIPE, CutOffError, cut_off_at, metrics
from toys import toy_images

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.saved import load_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import macs_table
from edgenas.space.genes import Codes
from edgenas.space.presets import mbv3_cifar, tiny
from edgenas.training.guide import Guide
from edgenas.training.loop import train
from edgenas.training.phases import plan_phases
from edgenas.training.runs import CHECKPOINT
from edgenas.training.sampling import draw_archs, draw_similar, measure_losses, select_attentively
from edgenas.training.step import TrainingBatch

ATTENTIVE = dataclasses.replace(RECIPE, sampling="best-up")


def test_candidates_are_different_and_of_the_same_macs():
    space, rng = mbv3_cifar(), np.random.default_rng(0)
    macs = macs_table(space)
    spread = macs(space.sample(1000, rng=rng, by="gene")).std()
    groups = [draw_similar(space, 5, rng=rng) for _ in range(50)]
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
    assert len(draw_similar(few, 100, rng=rng)) <= few.size < 100


def test_a_step_draws_the_same_whenever_it_is_made():
    space = tiny().with_classes(3)
    one, two = (draw_archs(space, ATTENTIVE, seed=3, step=7) for _ in range(2))
    assert (one.corners, one.groups) == (two.corners, two.groups)
    assert one.chance.random() == two.chance.random()
    assert [len(group) for group in one.groups] == [3, 3]
    assert draw_archs(space, ATTENTIVE, seed=3, step=8).groups != one.groups
    assert draw_archs(space, ATTENTIVE, seed=4, step=7).groups != one.groups
    # What joins later is not drawn earlier.
    first = plan_phases(space, dataclasses.replace(ATTENTIVE, method="progressive"), steps=100)[
        1
    ].space
    for group in draw_archs(first, ATTENTIVE, seed=3, step=7).groups:
        assert all(first.contains(arch) for arch in group)


@pytest.mark.parametrize("shares", [False, True], ids=["labels", "mixtures"])
def test_losses_on_the_batch_are_those_of_the_networks(shares: bool):
    space, toys = tiny().with_classes(3), toy_images(24)
    preprocessing = Preprocessing(stored=16, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    supernet = Supernet(space, seed=5)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    labels = toys.labels
    if shares:
        labels = F.one_hot(labels, 3).float().lerp(F.one_hot(labels.flip(0), 3).float(), 0.3)
    archs = [space.smallest(), *draw_archs(space, ATTENTIVE, seed=1, step=0).groups[0]]
    found = measure_losses(
        archs,
        supernet=supernet,
        batch=TrainingBatch(pixels=toys.pixels, labels=labels),
        recipe=ATTENTIVE,
        preprocessing=preprocessing,
    )
    for arch, loss in zip(archs, found, strict=True):
        inputs = preprocessing.prepare(toys.pixels, resolution=arch.resolution)
        logits = supernet.extract(arch).train()(inputs)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    assert all(torch.equal(tensor, before[n]) for n, tensor in supernet.state_dict().items())
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_the_best_or_the_worst_candidate_is_trained():
    space = tiny().with_classes(3)
    groups = draw_archs(space, ATTENTIVE, seed=1, step=0).groups
    macs = macs_table(space)

    def losses(archs: Sequence[Arch]) -> list[float]:
        return macs(space.encode(archs)).tolist()

    for worst, pick in ((False, min), (True, max)):
        for group, chosen in zip(
            groups, select_attentively(groups, losses, worst=worst), strict=True
        ):
            assert losses([chosen])[0] == pick(losses(group))
    # The one that was drawn, where nothing is known of any.
    assert select_attentively(groups, Guide.of(space).predict, worst=True) == [
        group[0] for group in groups
    ]


@pytest.mark.slow
def test_the_guide_learns_what_choices_are_worth():
    space, rng = mbv3_cifar(), np.random.default_rng(0)
    guide = Guide.of(space)
    worth = [rng.normal(size=1 + len(gene.values)) for gene in space.genes]

    def loss(rows: Codes) -> np.ndarray:
        return sum((w[rows[:, i]] for i, w in enumerate(worth)), np.zeros(len(rows)))

    for hardness in rng.normal(size=1000):  # of the images of a step, the same for all networks
        rows = space.sample(2, rng=rng, by="gene")
        noisy = loss(rows) + hardness + rng.normal(size=2)
        guide.learn(space.decode(rows), noisy.tolist(), smallest=hardness)
    rows = space.sample(300, rng=rng, by="gene")
    predicted = np.array(guide.predict(space.decode(rows)))
    assert np.corrcoef(predicted, loss(rows))[0, 1] > 0.97
    assert np.abs(predicted - loss(rows)).mean() < 0.15 * loss(rows).std()
    # Weights change: what was true long ago is forgotten.
    for _ in range(5000):
        rows = space.sample(2, rng=rng, by="gene")
        guide.learn(space.decode(rows), (-loss(rows)).tolist(), smallest=0.0)
    predicted = np.array(guide.predict(space.decode(rows)))
    assert np.allclose(predicted, -loss(rows), atol=0.3)


@pytest.mark.parametrize(
    ("sampling", "guide"),
    [
        ("best-up", "batch"),
        pytest.param("best-up", "predictor", marks=pytest.mark.slow),
        pytest.param("worst-up", "predictor", marks=pytest.mark.slow),
    ],
)
def test_an_attentive_training_goes_on_where_it_was(tmp_path: Path, sampling: str, guide: str):
    toys, whole, cut = toy_images(60), tmp_path / "whole", tmp_path / "cut"
    recipe = dataclasses.replace(RECIPE, sampling=sampling, guide=guide)
    train(tiny(), toys, recipe=recipe, out=whole)
    with pytest.raises(CutOffError):
        train(tiny(), toys, recipe=recipe, out=cut, progress=cut_off_at(4))
    train(tiny(), toys, recipe=recipe, out=cut, resume=True)
    ends = [load_tensors(out / CHECKPOINT) for out in (whole, cut)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert metrics(whole) == metrics(cut)
    assert len(metrics(whole)[0]["losses"]) == 4
    assert ("guide.sums" in ends[0]) == (guide == "predictor")
    assert all(ends[0][name].abs().sum() > 0 for name in ends[0] if name.startswith("guide."))
