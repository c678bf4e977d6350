"""The parts of cells in PyTorch, and the residual blocks that stand between cells."""

from torch import Tensor, nn

from edgenas.model.blocks import ACTIVATIONS, ConvNorm
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

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Tensors of one shape -> their sum."""
        if not self.terms:
            return x * 0
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
