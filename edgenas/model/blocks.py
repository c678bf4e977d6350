"""What a layer is in PyTorch: one plain module for each kind.

This is the only place that says how a layer computes; the supernet runs these same modules on
slices of its weights.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.model.depthwise import conv2d
from edgenas.space.layer import Layer
from edgenas.space.primitives import primitives

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
_GATES: dict[str, type[nn.Module]] = {"hsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


class ConvNorm(nn.Module):
    """A conv without bias and its batch norm; zeros around the input keep its size.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: kernel size.
        stride: stride.
        groups: groups of the conv.
        epsilon: of the batch norm.
        pads: zeros at the top, left, bottom and right; None: ``kernel // 2`` on all sides.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        epsilon: float = 1e-5,
        pads: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.pads = None
        around = kernel // 2
        if pads is not None and pads != (around,) * 4:
            top, left, bottom, right = pads
            self.pads, around = (left, right, top, bottom), 0  # in the order of F.pad
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, around, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=epsilon)

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the kernel that see the first pixel in the first window."""
        around = cast(tuple[int, int], self.conv.padding)
        return around if self.pads is None else (self.pads[2], self.pads[0])

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return self.bn(conv2d(self.conv, x if self.pads is None else F.pad(x, self.pads)))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507).

    The gate is a hard sigmoid in MobileNetV3 (arXiv 1905.02244, section 5.3), a sigmoid in others.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(layer.mid, layer.squeeze, 1)
        self.activation = ACTIVATIONS[layer.squeeze_activation]()
        self.expand = nn.Conv2d(layer.squeeze, layer.mid, 1)
        self.gate = _GATES[layer.gate]()

    def forward(self, x: Tensor) -> Tensor:
        """(n, mid, h, w) -> the same shape, channels weighted."""
        return x * self.gate(self.expand(self.activation(self.reduce(self.pool(x)))))


class Conv(nn.Module):
    """Layer kind ``conv``."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.residual = layer.residual
        self.unit = ConvNorm(
            layer.inputs,
            layer.outputs,
            kernel=layer.kernel,
            stride=layer.stride,
            epsilon=epsilon,
            pads=pads_of(layer),
        )
        self.activation = ACTIVATIONS[layer.activation]()
        self.pool = pool_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        y = self.activation(self.unit(x))
        return self.pool(x + y if self.residual else y)


class MBConv(nn.Module):
    """Layer kind ``mbconv``: expand, depthwise, squeeze-and-excitation, project."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        self.expand = (
            ConvNorm(layer.inputs, layer.mid, epsilon=epsilon)
            if layer.mid != layer.inputs
            else None
        )
        self.depthwise = ConvNorm(
            layer.mid,
            layer.mid,
            kernel=layer.kernel,
            stride=layer.stride,
            groups=layer.mid,
            epsilon=epsilon,
            pads=pads_of(layer),
        )
        self.squeeze = SqueezeExcite(layer) if layer.squeeze else None
        self.project = ConvNorm(layer.mid, layer.outputs, epsilon=epsilon)
        self.pool = pool_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        y = x if self.expand is None else self.activation(self.expand(x))
        y = self.activation(self.depthwise(y))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return self.pool(x + y if self.residual else y)


class Bottleneck(nn.Module):
    """Layer kind ``bottleneck``: ResNet-D's (arXiv 1812.01187, section 4.1), stride in the 3x3."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[layer.activation]()
        self.average = (
            nn.AvgPool2d(layer.stride, layer.stride, ceil_mode=True)
            if layer.downsample and layer.stride > 1
            else nn.Identity()
        )
        self.downsample = (
            ConvNorm(layer.inputs, layer.outputs, epsilon=epsilon) if layer.downsample else None
        )
        self.reduce = ConvNorm(layer.inputs, layer.mid, epsilon=epsilon)
        self.spatial = ConvNorm(
            layer.mid, layer.mid, kernel=layer.kernel, stride=layer.stride, epsilon=epsilon
        )
        self.restore = ConvNorm(layer.mid, layer.outputs, epsilon=epsilon)
        self.pool = pool_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        shortcut = x if self.downsample is None else self.downsample(self.average(x))
        y = self.activation(self.reduce(x))
        y = self.activation(self.spatial(y))
        return self.pool(self.activation(shortcut + self.restore(y)))


class Head(nn.Module):
    """Layer kind ``head``: global pooling, classifier, and optional parts before and between."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        channels = layer.inputs
        self.norm = nn.BatchNorm2d(channels, eps=epsilon) if layer.head_norm else None
        self.final = None
        if layer.final:
            self.final = ConvNorm(channels, layer.final, epsilon=epsilon)
            channels = layer.final
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mix = None
        if layer.mix:
            self.mix = (
                ConvNorm(channels, layer.mix, epsilon=epsilon)
                if layer.mix_norm
                else nn.Conv2d(channels, layer.mix, 1, bias=layer.mix_bias)
            )
            channels = layer.mix
        self.activation = ACTIVATIONS[layer.activation]()
        self.classifier = nn.Linear(channels, layer.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> logits (n, classes)."""
        if self.norm is not None:
            x = self.activation(self.norm(x))
        if self.final is not None:
            x = self.activation(self.final(x))
        x = self.pool(x)
        if self.mix is not None:
            x = self.activation(self.mix(x))
        return self.classifier(x.flatten(1))


class Fused(nn.Module):
    """Layer kind ``fused``: one conv in place of expand and depthwise; EfficientNetV2's.

    arXiv 2104.00298, section 3.2. Without expansion it is that conv with its activation alone.
    """

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        expands = layer.mid != layer.inputs
        self.expand = ConvNorm(
            layer.inputs,
            layer.mid if expands else layer.outputs,
            kernel=layer.kernel,
            stride=layer.stride,
            epsilon=epsilon,
            pads=pads_of(layer),
        )
        self.project = ConvNorm(layer.mid, layer.outputs, epsilon=epsilon) if expands else None
        self.pool = pool_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        y = self.activation(self.expand(x))
        if self.project is not None:
            y = self.project(y)
        return self.pool(x + y if self.residual else y)


class UniversalBottleneck(nn.Module):
    """Layer kind ``uib``: MobileNetV4's universal inverted bottleneck.

    arXiv 2404.10518, section 4. Two optional depthwise convs give its four forms: an inverted
    bottleneck (the one in the middle), ConvNeXt-like (the one at the start), both, or none. The
    stride is in the middle, or else at the start.
    """

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = ACTIVATIONS[layer.activation]()
        spatial = [p for p in primitives(layer) if p.op == "conv" and p.kernel != (1, 1)]
        convs = [
            ConvNorm(
                part.inputs,
                part.outputs,
                kernel=part.kernel[0],
                stride=part.stride,
                groups=part.groups,
                epsilon=epsilon,
                pads=part.pads,
            )
            for part in spatial
        ]
        self.start = convs.pop(0) if layer.start else None
        self.expand = ConvNorm(layer.inputs, layer.mid, epsilon=epsilon)
        self.depthwise = convs.pop(0) if layer.kernel else None
        self.project = ConvNorm(layer.mid, layer.outputs, epsilon=epsilon)
        self.pool = pool_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        y = x if self.start is None else self.start(x)
        y = self.activation(self.expand(y))
        if self.depthwise is not None:
            y = self.activation(self.depthwise(y))
        y = self.project(y)
        return self.pool(x + y if self.residual else y)


class Reparameterised(nn.Module):
    """Layer kind ``rep``: branches in training that ship as one conv; RepVGG's.

    arXiv 2101.03697, section 3.3: the conv, a 1x1 conv, and where shapes agree the input itself,
    each with a batch norm. ``merge`` gives the one conv that computes their sum.
    """

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.main = ConvNorm(
            layer.inputs,
            layer.outputs,
            kernel=layer.kernel,
            stride=layer.stride,
            epsilon=epsilon,
            pads=pads_of(layer),
        )
        self.point = ConvNorm(layer.inputs, layer.outputs, stride=layer.stride, epsilon=epsilon)
        self.through = nn.BatchNorm2d(layer.inputs, eps=epsilon) if layer.residual else None
        self.activation = ACTIVATIONS[layer.activation]()
        self.pool = pool_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        y = self.main(x) + self.point(x)
        if self.through is not None:
            y = y + self.through(x)
        return self.pool(self.activation(y))


def pads_of(layer: Layer) -> tuple[int, int, int, int]:
    """Of the conv with the kernel; they depend on the size of the input."""
    return next(p.pads for p in primitives(layer) if p.kernel[0] == layer.kernel)


def pool_of(layer: Layer) -> nn.Module:
    """The max-pool at the end of a layer."""
    return nn.MaxPool2d(3, layer.pool, 1) if layer.pool > 1 else nn.Identity()
