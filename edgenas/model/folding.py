"""Convs that compute what several modules compute, in float64: batch norms and branches folded.

All of it passes gradients on, so that what ships can be imitated while the modules learn.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgenas.model.blocks import ConvNorm, Head, Reparameterised
from edgenas.model.network import Network
from edgenas.space.plan import plan


def fold_network(network: Network) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Path, weight and bias of each conv and linear that a network ships, in order of the plan.

    Modules are declared in the order of the primitives; the graph builder checks every shape.

    Args:
        network: its batch norms are folded in by their statistics.
    """
    for name, _ in plan(network.space, network.arch):
        inside: list[nn.Module] = []
        for path, part in network.get_submodule(name).named_modules():
            if isinstance(part, Reparameterised):
                yield f"{name}.{path}", *merge(part)
                inside += part.modules()
            elif isinstance(part, Head) and part.norm is not None:
                factor, summand = (v[None, :, None, None] for v in _affine(part.norm))
                yield f"{name}.norm", factor, summand
            elif isinstance(part, ConvNorm) and part not in inside:
                yield f"{name}.{path}", *fold(part)
                inside.append(part.conv)
            elif isinstance(part, (nn.Conv2d, nn.Linear)) and part not in inside:
                bias = None if part.bias is None else _double(part.bias)
                yield f"{name}.{path}", _double(part.weight), bias


def fold(unit: ConvNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the conv that a conv and its batch norm are, in evaluation mode."""
    scale, bias = _affine(unit.bn)
    return _double(unit.conv.weight) * scale[:, None, None, None], bias


def merge(block: Reparameterised) -> tuple[Tensor, Tensor]:
    """Weight and bias of the conv that the branches of a block are, in evaluation mode.

    A 1x1 conv is a larger one whose weights are zero but for the place that sees the same pixel;
    the input itself is a 1x1 conv with the identity matrix (arXiv 2101.03697, section 3.3).
    """
    weight, bias = fold(block.main)
    point, point_bias = fold(block.point)
    point = point[:, :, 0, 0]
    bias = bias + point_bias
    if block.through is not None:
        scale, through_bias = _affine(block.through)
        point = point + torch.diag(scale)
        bias = bias + through_bias
    top, left = block.main.corner
    weight[:, :, top, left] += point
    return weight, bias


def _double(tensor: Tensor) -> Tensor:
    return tensor.cpu().double()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and summand of a batch norm in evaluation mode, shape (channels,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = _double(norm.weight) / (_double(norm.running_var) + norm.eps).sqrt()
    return scale, _double(norm.bias) - _double(norm.running_mean) * scale
