"""Convs that compute what several modules compute, in float64: batch norms and branches folded."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenas.model.blocks import ConvNorm, Reparameterised

Values = NDArray[np.float64]


def fold(unit: ConvNorm) -> tuple[Values, Values]:
    """Weight and bias of the conv that a conv and its batch norm are, in evaluation mode."""
    scale, bias = _affine(unit.bn)
    return double(unit.conv.weight) * scale[:, None, None, None], bias


def merge(block: Reparameterised) -> tuple[Values, Values]:
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
        point = point + np.diag(scale)
        bias = bias + through_bias
    top, left = block.main.corner
    weight[:, :, top, left] += point
    return weight, bias


def double(tensor: Tensor) -> Any:
    """The values of a tensor in float64."""
    return tensor.detach().cpu().double().numpy()


def _affine(norm: nn.BatchNorm2d) -> tuple[Values, Values]:
    """Factor and summand of a batch norm in evaluation mode, shape (channels,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = double(norm.weight) / np.sqrt(double(norm.running_var) + norm.eps)
    return scale, double(norm.bias) - double(norm.running_mean) * scale
