"""SNIP: what the loss would change by without the weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients


def snip(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of |weight x its gradient|: what the loss would change by without the weights.

    SNIP (Lee et al. 2019, arXiv 1810.02340, equation 5), summed over all weights of convs and
    linears as a score of the network (arXiv 2101.08134, section 3.2).

    Args:
        network: left as it is.
        x: images, shape (n, channels, height, width), or whatever the network takes.
        labels: classes, shape (n,).
    """
    copied, weights = copy_for_scoring(network)
    gradients = take_gradients(F.cross_entropy(copied(x), labels), weights)
    return sum(float((w * g).detach().abs().sum()) for w, g in zip(weights, gradients, strict=True))
