"""Mixtures and random operations."""

import dataclasses

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_images

from edgenas.images.preprocessing import resize
from edgenas.training.augment import crop, mix_images, randaugment
from edgenas.training.recipe import Recipe


@given(seed=st.integers(0, 999), kind=st.sampled_from(["mixup", "cutmix"]))
def test_mixtures_share_pixels_as_they_share_labels(seed: int, kind: str):
    rng = np.random.default_rng(seed)
    recipe = dataclasses.replace(Recipe(), **{kind: 1.0})
    # Image i is all i * 20, and of class i: what an image is made of can be read off it.
    pixels = (torch.arange(6) * 20).to(torch.uint8).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    found, labels = mix_images(pixels, torch.arange(6), recipe=recipe, classes=6, rng=rng)
    assert found.shape == pixels.shape
    assert found.dtype == torch.uint8
    assert labels.shape == (6, 6)
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    wanted = (labels * torch.arange(6) * 20).sum(1)
    tolerance = 0.51 if kind == "mixup" else 1e-3  # a mixture is rounded, a patch is not
    torch.testing.assert_close(found.float().mean((1, 2, 3)), wanted, rtol=0, atol=tolerance)


def test_without_mixtures_a_batch_stays_as_it_is():
    toys = toy_images(9)
    pixels, labels = mix_images(
        toys.pixels, toys.labels, recipe=Recipe(), classes=3, rng=np.random.default_rng(0)
    )
    assert pixels is toys.pixels
    assert labels is toys.labels


def test_random_operations():
    toys = toy_images(64)
    kinds = {"operations": 2, "magnitude": 9}
    found = randaugment(toys.pixels, **kinds, rng=np.random.default_rng(0))
    assert (found.shape, found.dtype) == (toys.pixels.shape, torch.uint8)
    assert torch.equal(found, randaugment(toys.pixels, **kinds, rng=np.random.default_rng(0)))
    changed = (found != toys.pixels).flatten(1).any(1).float().mean()
    assert changed > 0.7
    # None at all is none; strength 0 leaves what has a strength as it is.
    none = randaugment(toys.pixels, operations=0, magnitude=9, rng=np.random.default_rng(0))
    assert torch.equal(none, toys.pixels)
    weak, strong = (
        randaugment(toys.pixels, operations=1, magnitude=m, rng=np.random.default_rng(1))
        for m in (1, 30)
    )
    distance = [(x.float() - toys.pixels).abs().mean() for x in (weak, strong)]
    assert distance[0] < distance[1]


def test_crops_go_straight_to_the_size_of_a_network():
    pixels = torch.randint(256, (6, 3, 64, 48), dtype=torch.uint8)
    views = crop(pixels, smallest=0.7, size=(32, 24), rng=np.random.default_rng(0))
    assert views.shape == (6, 3, 32, 24)
    # The same parts of the same images: what the longer way gives differs by what resampling twice
    # blurs. Noise shows that most.
    longer = resize(crop(pixels, smallest=0.7, rng=np.random.default_rng(0)), size=(32, 24))
    one, two = ((v.float() - v.float().mean((1, 2, 3), keepdim=True)) for v in (views, longer))
    cosine = torch.nn.functional.cosine_similarity(one.flatten(1), two.flatten(1))
    assert (cosine > 0.7).all()


def test_the_smallest_crop_is_as_the_recipe_says():
    ramp = (torch.arange(64) * 3).to(torch.uint8)
    pixels = ramp.expand(400, 3, 64, 64).contiguous()
    views = crop(pixels, smallest=0.9, rng=np.random.default_rng(0))[:, 0, 32].float()
    widths = (views[:, 48] - views[:, 16]).abs() / 32 / 3 * 64
    assert widths.min() >= np.sqrt(0.9 * 3 / 4) * 64 - 1.5
