"""Batch-norm calibration and accuracy of extracted networks.

The statistics of a supernet mean nothing for one of its networks until they are computed anew
(once-for-all, arXiv 1908.09791, section 3.3; AlphaNet #3 and others forgot). So nothing here
evaluates a network that was not calibrated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgenas.images.data import Images, Preprocessing
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch

BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAccuracy:
    """A measured accuracy.

    Args:
        value: fraction of images classified correctly.
        n: images.
        split: which images: ``validation`` or ``test``.
    """

    value: float
    n: int
    split: str


def calibrate(network: Network, pixels: Tensor, *, preprocessing: Preprocessing) -> None:
    """Set the batch-norm statistics of a network to those of its inputs, in place.

    Mean and variance are averaged over batches of equal size (precise BN, arXiv 2105.07576,
    section 3). The network is left in evaluation mode.

    Args:
        network: an extracted network.
        pixels: stored images, uint8, shape (n, 3, height, width), n at least 2.
        preprocessing: how they become inputs.
    """
    assert len(pixels) >= 2, "the variance of a single image is none"
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    batch = min(BATCH, len(pixels))
    with torch.inference_mode():
        for part in pixels[: len(pixels) // batch * batch].split(batch):
            inputs = part.to(next(network.parameters()).device)
            network(preprocessing.prepare(inputs, resolution=network.arch.resolution))
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


def predict_logits(network: Network, pixels: Tensor, *, preprocessing: Preprocessing) -> Tensor:
    """Logits of stored images in evaluation mode, shape (n, classes)."""
    network.eval()
    place, resolution = next(network.parameters()).device, network.arch.resolution
    with torch.inference_mode():
        parts = [
            network(preprocessing.prepare(part.to(place), resolution=resolution)).cpu()
            for part in pixels.split(BATCH)
        ]
    return torch.cat(parts)


def measure_accuracy(
    network: Network, images: Images, *, preprocessing: Preprocessing, split: str
) -> ImageAccuracy:
    """The accuracy of a calibrated network on a split."""
    logits = predict_logits(network, images.pixels, preprocessing=preprocessing)
    right = (logits.argmax(1) == images.labels).double().mean().item()
    return ImageAccuracy(value=right, n=len(images), split=split)


def evaluate_archs(
    supernet: Supernet,
    archs: Sequence[Arch],
    *,
    images: Images,
    calibration: Tensor,
    preprocessing: Preprocessing,
    split: str,
) -> Iterator[ImageAccuracy]:
    """Extract, calibrate and evaluate archs, one after the other.

    Args:
        supernet: their weights.
        archs: networks of its space.
        images: to be classified.
        calibration: stored training images for the batch-norm statistics.
        preprocessing: how images become inputs.
        split: the name of the split that ``images`` are.
    """
    for arch in archs:
        network = supernet.extract(arch).to(memory_format=torch.channels_last)
        calibrate(network, calibration, preprocessing=preprocessing)
        yield measure_accuracy(network, images, preprocessing=preprocessing, split=split)
