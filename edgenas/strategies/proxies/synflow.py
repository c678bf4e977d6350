"""SynFlow: how much of a signal all paths of weights pass on."""

import torch
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients


def synflow(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of weight x gradient of the summed outputs, all weights positive and the input ones.

    SynFlow (Tanaka et al. 2020, arXiv 2006.05467, equation 1 with the objective of section 6).
    Batch norms do nothing, as in arXiv 2101.08134; numbers are doubles, for the sums grow with
    depth. No image and no label is looked at: of ``x`` only the shape counts.
    """
    weights, gradients = _flow(network, x)
    return sum(float((w * g).detach().sum()) for w, g in zip(weights, gradients, strict=True))


def logsynflow(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of weight x log(1 + gradient), of the weights and the gradients of ``synflow``.

    The logarithm keeps the deepest layers from deciding alone (Cavagnero et al. 2022, arXiv
    2207.05135, section 3.2). Arguments as in ``synflow``.
    """
    weights, gradients = _flow(network, x)
    pairs = zip(weights, gradients, strict=True)
    return sum(float((w * g.log1p()).detach().sum()) for w, g in pairs)


def _flow(network: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of a network without signs, and the gradients of its summed outputs in them."""
    copied, weights = copy_for_scoring(network)
    copied = copied.double().eval()
    for part in copied.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.eps = 0.0
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.abs_()
    one = torch.ones_like(x[:1], dtype=torch.float64)
    return weights, take_gradients(copied(one).sum(), weights)
