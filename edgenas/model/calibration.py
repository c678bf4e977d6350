"""Batch-norm statistics of extracted networks, and what calibrated networks predict.

The statistics of a supernet mean nothing for one of its networks until they are computed anew
(once-for-all, arXiv 1908.09791, section 3.3). So every network is calibrated before it is used.
"""

import torch
from torch import Tensor, nn

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network

BATCH = 250
_SIDE = 128  # pixels of inputs, up to which so many images fit into memory at once


def batch_for(size: tuple[int, int]) -> int:
    """How many images run through a network at once: fewer of large ones, which take memory.

    Args:
        size: height and width of the inputs in pixels.
    """
    return max(2, min(BATCH, BATCH * _SIDE**2 // (size[0] * size[1])))


def calibrate(network: Network, pixels: Tensor, *, preprocessing: Preprocessing) -> None:
    """Set the batch-norm statistics of a network to those of its inputs, in place.

    Mean and variance are averaged over batches of equal size (precise BN, arXiv 2105.07576,
    section 3). The network is left in evaluation mode. A published network whose weights nobody
    has trained further keeps the statistics that were published with them.

    Args:
        network: an extracted network.
        pixels: stored images, uint8, shape (n, 3, height, width), n at least 2.
        preprocessing: how they become inputs.
    """
    assert len(pixels) >= 2, "the variance of a single image is none"
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.eval()
    if network.keeps_statistics:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    batch = min(batch_for(preprocessing.size(network.arch.resolution)), len(pixels))
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
            for part in pixels.split(batch_for(preprocessing.size(resolution)))
        ]
    return torch.cat(parts)
