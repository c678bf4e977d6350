"""The norm of the gradient: how steep the loss of an untrained network is."""

import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients


def gradient_norm(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum over convs and linears of the Euclidean norm of the gradient of their weights.

    Abdelfattah et al. 2021, arXiv 2101.08134, section 3.2. Arguments as in ``snip``.
    """
    copied, weights = copy_for_scoring(network)
    gradients = take_gradients(F.cross_entropy(copied(x), labels), weights)
    return sum(float(g.norm()) for g in gradients)
