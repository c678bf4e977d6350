"""Pillow's resizing of 8-bit images as exact matrix products, for devices that Pillow cannot use.

Pillow (src/libImaging/Resample.c) weighs pixels with whole numbers of 22 bits, first along rows and
then along columns, and rounds to 8 bits after each. All sums are whole numbers below 2^53, so in
float64 they are exact, in whatever order a device adds them up.

Pillow 13 takes the columns first for some images that change their shape. Inputs of networks keep
theirs, and for those every version takes the rows first.
"""

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenas.space.framing import Filter

_BITS = 22
_REACH: dict[Filter, float] = {"bilinear": 1.0, "bicubic": 2.0}
_IMAGES = 32  # at a time: float64 takes eight times the memory


def resample(pixels: Tensor, *, size: tuple[int, int], filter: Filter) -> Tensor:
    """Resize images as Pillow does.

    Args:
        pixels: uint8, shape (n, 3, height, width), on any device with float64.
        size: height and width of the result.
        filter: of the resizing.
    """
    height, width = size
    down = torch.from_numpy(_weights(pixels.shape[2], height, filter)).to(pixels.device)
    across = torch.from_numpy(_weights(pixels.shape[3], width, filter)).to(pixels.device)
    parts = [
        _round(down @ _round(part.double() @ across.T)).to(torch.uint8)
        for part in pixels.split(_IMAGES)
    ]
    return torch.cat(parts) if parts else pixels.new_empty((0, 3, height, width))


def _round(sums: Tensor) -> Tensor:
    """Sums of weighted pixels to whole levels from 0 to 255."""
    return sums.add_(2 ** (_BITS - 1)).mul_(2.0**-_BITS).floor_().clamp_(0, 255)


@functools.lru_cache(maxsize=64)
def _weights(before: int, after: int, filter: Filter) -> NDArray[np.float64]:
    """Whole weights of pixels, shape (after, before); Pillow's ``precompute_coeffs``."""
    if before == after:
        return np.eye(after) * 2.0**_BITS
    scale = before / after
    wide = max(scale, 1.0)
    reach = _REACH[filter] * wide
    weights = np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), before)
        shares = [_kernel((x - centre + 0.5) * (1 / wide), filter) for x in range(first, last)]
        total = 0.0
        for share in shares:  # in this order: the bits of the sum depend on it
            total += share
        for x, share in zip(range(first, last), shares, strict=True):
            exact = share / total * 2**_BITS
            weights[row, x] = math.trunc(exact + math.copysign(0.5, exact))
    return weights


def _kernel(x: float, filter: Filter) -> float:
    """The weight at a distance from the centre, in pixels of the smaller image."""
    x = abs(x)
    if filter == "bilinear":
        return max(1 - x, 0.0)
    # Keys, 1981, equation 4, with a = -0.5.
    a = -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
