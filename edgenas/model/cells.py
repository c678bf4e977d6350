"""The parts of cells in PyTorch, and the residual blocks that stand between cells."""

import torch
from torch import Tensor, nn

from edgenas.model.blocks import ACTIVATIONS, ConvNorm
from edgenas.model.depthwise import conv2d
from edgenas.space.layer import Layer


class PreConv(nn.Module):
    """Layer kind ``preconv``: activation, conv, batch norm."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[layer.activation]()
        self.unit = ConvNorm(
            layer.inputs,
            layer.outputs,
            kernel=layer.kernel,
            stride=layer.stride,
            epsilon=epsilon,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        return self.unit(self.activation(x))


class SepConv(nn.Module):
    """Layer kind ``sepconv``: twice activation, depthwise conv, 1x1 conv, batch norm."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        inputs, kernel, around = layer.inputs, layer.kernel, layer.kernel // 2
        self.activation = ACTIVATIONS[layer.activation]()
        self.first = nn.Conv2d(
            inputs, inputs, kernel, layer.stride, around, groups=inputs, bias=False
        )
        self.through = ConvNorm(inputs, inputs, epsilon=epsilon)
        self.second = nn.Conv2d(inputs, inputs, kernel, 1, around, groups=inputs, bias=False)
        self.project = ConvNorm(inputs, layer.outputs, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        x = self.through(conv2d(self.first, self.activation(x)))
        return self.project(conv2d(self.second, self.activation(x)))


class DilConv(nn.Module):
    """Layer kind ``dilconv``: activation, spread depthwise conv, 1x1 conv, batch norm."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        inputs, kernel = layer.inputs, layer.kernel
        self.activation = ACTIVATIONS[layer.activation]()
        self.depthwise = nn.Conv2d(
            inputs, inputs, kernel, layer.stride, kernel - 1, 2, groups=inputs, bias=False
        )
        self.project = ConvNorm(inputs, layer.outputs, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        return self.project(self.depthwise(self.activation(x)))


class Factorised(nn.Module):
    """Layer kind ``factorised``: one 1x1 conv of every other pixel, one of those between."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        half, stride = layer.outputs // 2, layer.stride
        self.activation = ACTIVATIONS[layer.activation]()
        self.even = ConvNorm(layer.inputs, half, stride=stride, epsilon=epsilon)
        self.odd = ConvNorm(layer.inputs, half, stride=stride, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        x = self.activation(x)
        return torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1)


class Concat(nn.Module):
    """Layer kind ``concat``: the values that come in, side by side."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()

    def forward(self, *values: Tensor) -> Tensor:
        """Tensors of one shape -> one with the channels of all."""
        return torch.cat(values, 1)


class WindowPool(nn.Module):
    """Layer kinds ``avgpool`` and ``maxpool``: over what there is of each window."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        around = layer.kernel // 2
        if layer.kind == "maxpool":
            self.pool = nn.MaxPool2d(layer.kernel, layer.stride, around)
        else:
            self.pool = nn.AvgPool2d(layer.kernel, layer.stride, around, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, inputs, *out_size)."""
        return self.pool(x)


class Sum(nn.Module):
    """Layer kind ``sum``: of the values that come in; zeros where a node has no edges."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.terms = layer.terms
        self.thin = nn.MaxPool2d(1, layer.stride) if layer.stride > 1 else nn.Identity()

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Tensors of one shape -> their sum."""
        if not self.terms:
            return self.thin(x) * 0
        for other in others:
            x = x + other
        return x


class Basic(nn.Module):
    """Layer kind ``basic``: NAS-Bench-201's residual block (arXiv 2001.00326, section 2.1)."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        inputs, outputs, kernel = layer.inputs, layer.outputs, layer.kernel
        self.average = (
            nn.AvgPool2d(layer.stride, layer.stride, ceil_mode=True)
            if layer.stride > 1
            else nn.Identity()
        )
        self.downsample = nn.Conv2d(inputs, outputs, 1, bias=False) if layer.downsample else None
        self.activation = ACTIVATIONS[layer.activation]()
        self.first = ConvNorm(inputs, outputs, kernel=kernel, stride=layer.stride, epsilon=epsilon)
        self.second = ConvNorm(outputs, outputs, kernel=kernel, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        shortcut = x if self.downsample is None else self.downsample(self.average(x))
        y = self.first(self.activation(x))
        return shortcut + self.second(self.activation(y))
