"""ZiCo: how large gradients are, and how little they differ from batch to batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients


def zico(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum over layers of log of the sum of mean / deviation of the sizes of gradients.

    Li et al. 2023, arXiv 2301.11300, equation 14: over batches, of each weight of convs and
    linears. The images are the two batches that the authors take, the even and the odd ones. What
    does not differ between them is left out. Arguments as in ``snip``.
    """
    copied, weights = copy_for_scoring(network)
    batches = [
        take_gradients(F.cross_entropy(copied(x[k::2]), labels[k::2]), weights) for k in (0, 1)
    ]
    score = 0.0
    for one, other in zip(*batches, strict=True):
        sizes = torch.stack([one.abs(), other.abs()])
        mean, deviation = sizes.mean(0), sizes.std(0, correction=0)
        total = float((mean[deviation > 0] / deviation[deviation > 0]).sum())
        score += math.log(total) if total > 0 else 0.0
    return score
