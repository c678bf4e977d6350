"""The images that proxies look at."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.saved import TrainedSupernet


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyBatch:
    """The images that proxies look at.

    Args:
        pixels: uint8, shape (n, 3, height, width), n at least 2.
        labels: classes, shape (n,).
        preprocessing: how pixels become inputs.
        source: what they are, in words.
    """

    pixels: Tensor
    labels: Tensor
    preprocessing: Preprocessing
    source: str


def draw_batch(
    images: Images, *, count: int, preprocessing: Preprocessing, seed: int = 0
) -> ProxyBatch:
    """Some images of a data set, as many of each class as can be.

    Args:
        images: labelled.
        count: how many.
        preprocessing: of the networks.
        seed: of the draw.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels[order].numpy()
    # The first of every class, then the second of every class, and so on.
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turn = np.empty(len(labels), np.intp)
    turn[by_class] = np.arange(len(labels)) - starts
    chosen = order[torch.from_numpy(np.argsort(turn, kind="stable")[:count])]
    return ProxyBatch(
        pixels=images.pixels[chosen],
        labels=images.labels[chosen],
        preprocessing=preprocessing,
        source=f"{len(chosen)} images of {images.source}",
    )


def draw_synthetic_batch(trained: TrainedSupernet, *, count: int, seed: int = 0) -> ProxyBatch:
    """Synthetic images that a supernet carries, with labels drawn at random.

    Raises:
        EdgenasError: the supernet carries none.
    """
    pixels = trained.calibration_images()[:count]
    generator = torch.Generator().manual_seed(seed)
    return ProxyBatch(
        pixels=pixels,
        labels=torch.randint(len(trained.classes), (len(pixels),), generator=generator),
        preprocessing=trained.preprocessing,
        source=f"{len(pixels)} synthetic images with random labels",
    )
