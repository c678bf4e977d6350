"""Middle channels in order of importance, so that networks with fewer of them keep the best ones.

A permutation of middle channels leaves the function of a block as it is.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.model.blocks import MBConv
from edgenas.model.supernet import Supernet

_POINTS = 64  # of the quadrature


def sort_channels(supernet: Supernet) -> None:
    """Sort the middle channels of all ``mbconv`` blocks by their importance, in place.

    The function of every network whose blocks have all their channels stays what it is.

    Args:
        supernet: with trained weights and the batch-norm statistics of its largest network.
    """
    with torch.no_grad():
        for module in supernet.modules():
            if isinstance(module, MBConv) and module.expand is not None:
                _permute(module, measure_importance(module).argsort(descending=True, stable=True))


def measure_importance(block: MBConv) -> Tensor:
    """How much each middle channel moves the output of a block, shape (mid,).

    Behind the batch norm of the depthwise conv a channel has the mean beta and the deviation gamma.
    Its deviation behind the activation follows, for a normal distribution, by Gauss-Hermite
    quadrature; times the norm of its column of the projection, in units of the output's own batch
    norm, it is the deviation that is lost with the channel. What the channel adds on average does
    not count: calibration gives it back. Ranking behind the batch norm, and not by weights alone,
    is what arXiv 1802.00124 asks for.
    """
    norm, project = block.depthwise.bn, block.project
    nodes, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    points = torch.tensor(nodes).unsqueeze(1)
    shares = torch.tensor(weights / math.sqrt(2 * math.pi)).unsqueeze(1)
    values = block.activation(norm.bias.double() + norm.weight.double() * points)
    mean = (values * shares).sum(0)
    deviation = ((values - mean).square() * shares).sum(0).sqrt()
    assert project.bn.running_var is not None
    scale = project.bn.weight / (project.bn.running_var + project.bn.eps).sqrt()
    columns = project.conv.weight.flatten(1).double() * scale.double().unsqueeze(1)
    return columns.norm(dim=0) * deviation


def _permute(block: MBConv, order: Tensor) -> None:
    assert block.expand is not None
    for tensor in (*block.expand.state_dict().values(), *block.depthwise.state_dict().values()):
        if tensor.ndim:
            tensor.copy_(tensor[order].clone())
    weight = block.project.conv.weight
    weight.copy_(weight[:, order].clone())
    if block.squeeze is not None:
        _permute_squeeze(block.squeeze.reduce, block.squeeze.expand, order)


def _permute_squeeze(reduce: nn.Conv2d, expand: nn.Conv2d, order: Tensor) -> None:
    """Follow the order of the middle channels, and sort the channels inside the squeeze."""
    reduce.weight.copy_(reduce.weight[:, order].clone())
    expand.weight.copy_(expand.weight[order].clone())
    assert reduce.bias is not None
    assert expand.bias is not None
    expand.bias.copy_(expand.bias[order].clone())
    inner = expand.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
    reduce.weight.copy_(reduce.weight[inner].clone())
    reduce.bias.copy_(reduce.bias[inner].clone())
    expand.weight.copy_(expand.weight[:, inner].clone())
