"""Progressive shrinking: its phases, and the order of channels."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from test_export import residual
from test_train import RECIPE, CutOffError, cut_off_at, metrics
from toys import toy_images

from edgenas.model.saved import load_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.presets import load_space, mbv3_cifar, tiny
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace
from edgenas.training.loop import train
from edgenas.training.phases import plan_phases, sort_channels
from edgenas.training.recipe import Recipe
from edgenas.training.runs import CHECKPOINT

PROGRESSIVE = Recipe(method="progressive")


@pytest.mark.parametrize(
    "space", [tiny(), mbv3_cifar(), load_space("ofa-resnet50")], ids=lambda s: s.name
)
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_the_phases_share_the_steps_and_grow_to_the_whole_space(space: Space, steps: int):
    found = plan_phases(space, PROGRESSIVE, steps=steps)
    assert [p.first for p in found] == list(
        itertools.accumulate([0, *(p.steps for p in found[:-1])])
    )
    assert sum(p.steps for p in found) == steps
    if steps > 1:
        assert found[-1].space == space
    if steps == 1000:
        names = [p.elastic for p in found]
        assert names == [n for n in ("", "kernels", "depths", "expands", "widths") if n in names]
        assert found[0].space.largest().stages == found[0].space.smallest().stages
        assert found[0].space.resolutions == space.resolutions
        for smaller, larger in itertools.pairwise(p.space for p in found):
            assert smaller.size < larger.size
            assert larger.contains(smaller.smallest())
            assert smaller.largest() == space.largest()
        for phase in found:
            rates = [
                phase.learning_rate(s, 10, PROGRESSIVE)
                for s in range(phase.first, phase.first + phase.steps)
            ]
            assert max(rates) == pytest.approx(PROGRESSIVE.learning_rate * phase.rate)
            assert rates[-1] < 0.01 * rates[10]
    assert plan_phases(space, Recipe(), steps=steps)[0].steps == steps


def wide() -> Space:
    """Stages of several widths, one of them read by a classifier."""
    return Space(
        name="wide",
        resolutions=(16,),
        stages=(
            StageSpace(kind="conv", widths=(8, 16), stride=2),
            StageSpace(kind="mbconv", widths=(24, 32), depths=(1, 2), expands=(2.0, 3.0), stride=2),
            # Its inputs are added to its outputs, where both are 32.
            StageSpace(kind="mbconv", widths=(32, 40), expands=(2.0, 3.0)),
            StageSpace(kind="mbconv", widths=(48, 64), expands=(2.0, 3.0), stride=2),
        ),
    )


# What reads the channels that are sorted, group by group.
INSIDE = (".project.conv.weight", ".restore.conv.weight")
RESIDUAL = ["stages.2.1.reduce", "stages.3.0.reduce", "stages.3.0.downsample"]


@pytest.mark.parametrize(
    ("space", "elastic", "readers"),
    [
        (tiny(), "expands", None),
        (residual(), "expands", None),
        (residual(), "widths", [[f"{name}.conv.weight" for name in RESIDUAL]]),
        (wide(), "widths", [["stages.1.0.expand.conv.weight"], ["head.classifier.weight"]]),
    ],
    ids=["tiny", "residual", "residual-widths", "wide-widths"],
)
def test_sorted_channels_compute_and_learn_the_same(
    space: Space, elastic: str, readers: list[list[str]] | None
):
    supernet = Supernet(space, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.01, momentum=0.9)
    arch = space.largest()
    size = (4, 3, arch.resolution, arch.resolution)
    x = torch.randn(size, generator=generator, dtype=torch.float64)

    def step() -> torch.Tensor:
        logits = supernet(x, arch)
        optimiser.zero_grad()
        logits.square().sum().backward()
        optimiser.step()
        return supernet(x, arch).detach()

    step()
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    momenta = {p: dict(optimiser.state[p]) for p in supernet.parameters()}
    momenta = {p: {k: v.clone() for k, v in state.items()} for p, state in momenta.items()}
    plain = supernet(x, arch).detach(), step()
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            parameter.copy_(before[name])
            optimiser.state[parameter].update(momenta[parameter])
    average = {name: tensor.clone() for name, tensor in before.items()}
    sort_channels(supernet, optimiser, average, elastic=elastic)
    # The next step too: momenta moved with their weights.
    assert all(torch.equal(average[n], p) for n, p in supernet.named_parameters())
    moved = [n for n, p in supernet.named_parameters() if not torch.equal(p, before[n])]
    assert moved
    in_order = supernet(x, arch).detach(), step()
    for one, other in zip(plain, in_order, strict=True):
        # In float64: sums of up to a thousand products in another order, each rounded by 2**-53.
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for group in readers or [[name] for name in moved if name.endswith(INSIDE)]:
        norms = [average[name].abs().transpose(0, 1).flatten(1).sum(1) for name in group]
        assert (torch.stack(norms).sum(0).diff() <= 0).all(), group
    if space.name == "wide":  # where a stage is added to another, their order stays
        assert not any(name.startswith("stages.2") for name in moved)


@pytest.mark.slow
def test_a_progressive_training_learns_and_goes_on_where_it_was(tmp_path: Path):
    toys = toy_images(60)
    recipe = dataclasses.replace(RECIPE, method="progressive", epochs=6, learning_rate=0.05)
    told: list[float] = []
    whole = tmp_path / "whole"
    trained = train(tiny(), toys, recipe=recipe, out=whole, progress=lambda p: told.append(p.loss))
    assert told[-1] < 0.95 * told[0]
    planned = plan_phases(tiny().with_classes(3), recipe, steps=18)
    boundary = next(p.first for p in planned if p.elastic == "expands")
    # Right before the channels are sorted, right after, and elsewhere.
    for step in (boundary, boundary + 1, 3):
        out = tmp_path / str(step)
        with pytest.raises(CutOffError):
            train(tiny(), toys, recipe=recipe, out=out, progress=cut_off_at(step))
        train(tiny(), toys, recipe=recipe, out=out, resume=True)
        ends = [load_tensors(folder / CHECKPOINT) for folder in (whole, out)]
        assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
        assert metrics(out) == metrics(whole)
    lines = [line for line in metrics(whole) if "losses" in line]
    assert len(lines[0]["losses"]) == 1  # the largest alone
    assert len(lines[-1]["losses"]) == 4
    assert not trained.supernet.training


def test_large_inputs_are_not_trained_where_the_recipe_says_so():
    space = tiny()
    assert len(space.resolutions) > 1
    least, most = min(space.resolutions), max(space.resolutions)
    (phase,) = plan_phases(space, Recipe(largest_resolution=most - 1), steps=10)
    assert phase.space.resolutions == tuple(r for r in space.resolutions if r < most)
    assert phase.space.stages == space.stages
    # A space always keeps a resolution.
    (phase,) = plan_phases(space, Recipe(largest_resolution=1), steps=10)
    assert phase.space.resolutions == (least,)
