"""Measures the accuracy of networks on labelled images; each network is calibrated first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate, predict_logits
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch


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
