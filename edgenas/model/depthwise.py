"""Depthwise convs whose weights get their gradients quickly on a CPU.

oneDNN, which computes convs for torch, has fast code for the gradients of depthwise weights that
are at most 3 wide; wider ones get that of grouped convs, which takes 5 to 30 times as long.
A kernel 5 or 7 wide is several narrow ones side by side, each of which sees the image shifted.
Measured in docs/results/training.md.
"""

import functools
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDEST = 3

# Bytes of inputs that a thread shifts at a time, so that the copies stay in the caches of its core.
_NEAR = 3 << 20


def conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a conv without bias makes of ``x``; where its weights learn, by the fast gradients.

    Args:
        conv: any conv with one padding for all sides. Where it is not depthwise, not wider than
            ``WIDEST``, not on the CPU, not learning or in half precision, torch does everything.
        x: shape (n, channels, h, w).
    """
    # What is no tensor is torch.fx, which writes down the modules that are called.
    if isinstance(x, Tensor) and _in_parts(conv):
        return cast(
            Tensor, _InParts.apply(x, conv.weight, conv.stride[0], cast(int, conv.padding[0]))
        )
    return conv(x)


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int, pad: int) -> Tensor:
    """A depthwise conv whose weight may be computed; where it learns, by the fast gradients.

    Args:
        x: shape (n, channels, h, w).
        weight: shape (channels, 1, height, width).
        stride: in both directions.
        pad: zeros on all sides.
    """
    if _learns_in_parts(weight):
        return cast(Tensor, _InParts.apply(x, weight, stride, pad))
    return F.conv2d(x, weight, None, stride, pad, groups=len(weight))


def _in_parts(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    return depthwise and _learns_in_parts(conv.weight)


def _learns_in_parts(weight: Tensor) -> bool:
    return (
        weight.shape[-1] > WIDEST
        and weight.device.type == "cpu"
        and weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


class _InParts(torch.autograd.Function):
    """A depthwise conv; the gradient of its weights is computed ``WIDEST`` columns at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, pad: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pad = stride, pad
        return F.conv2d(x, weight, None, stride, pad, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (grad,), (x, weight), stride, pad = grads, ctx.saved_tensors, ctx.stride, ctx.pad
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _gradients(grad, x, weight, stride, pad=pad, of_weight=False)
        near = _NEAR * torch.get_num_threads()
        few = max(1, near // (x[0].numel() * x.element_size()))
        parts = [
            _of_weight(some, images, weight, stride, pad)
            for some, images in zip(grad.split(few), x.split(few), strict=True)
        ]
        return of_x, functools.reduce(torch.add, parts), None, None


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int, pad: int) -> Tensor:
    left = pad
    columns: list[Tensor] = []
    for part in weight.tensor_split(math.ceil(weight.shape[-1] / WIDEST), -1):
        right = (grad.shape[-1] - 1) * stride + part.shape[-1] - x.shape[-1] - left
        seen = F.pad(x, (left, right, pad, pad))
        columns.append(_gradients(grad, seen, part, stride, pad=0, of_weight=True))
        left -= part.shape[-1]
    return torch.cat(columns, -1)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, *, pad: int, of_weight: bool
) -> Tensor:
    gradients = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [stride, stride],
        [pad, pad],
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [not of_weight, of_weight, False],
    )
    return gradients[int(of_weight)]
