"""Plain modules: what a layer is in PyTorch, and a whole extracted network.

This is the only place that says how a layer computes; the supernet runs these same modules on
slices of its weights.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.model.depthwise import conv2d
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer, primitives
from edgenas.space.plan import plan
from edgenas.space.space import Space

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "silu": nn.SiLU,
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
        self.activation = _ACTIVATIONS[layer.squeeze_activation]()
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
            pads=_pads(layer),
        )
        self.activation = _ACTIVATIONS[layer.activation]()
        self.pool = _pool(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        y = self.activation(self.unit(x))
        return self.pool(x + y if self.residual else y)


class MBConv(nn.Module):
    """Layer kind ``mbconv``: expand, depthwise, squeeze-and-excitation, project."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        self.residual = layer.residual
        self.activation = _ACTIVATIONS[layer.activation]()
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
            pads=_pads(layer),
        )
        self.squeeze = SqueezeExcite(layer) if layer.squeeze else None
        self.project = ConvNorm(layer.mid, layer.outputs, epsilon=epsilon)
        self.pool = _pool(layer)

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
        self.activation = _ACTIVATIONS[layer.activation]()
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
        self.pool = _pool(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> (n, outputs, *out_size)."""
        shortcut = x if self.downsample is None else self.downsample(self.average(x))
        y = self.activation(self.reduce(x))
        y = self.activation(self.spatial(y))
        return self.pool(self.activation(shortcut + self.restore(y)))


class Head(nn.Module):
    """Layer kind ``head``: optional conv, global pooling, optional mix, classifier."""

    def __init__(self, layer: Layer, *, epsilon: float) -> None:
        super().__init__()
        channels = layer.inputs
        self.final = None
        if layer.final:
            self.final = ConvNorm(channels, layer.final, epsilon=epsilon)
            channels = layer.final
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mix = None
        if layer.mix:
            self.mix = nn.Conv2d(channels, layer.mix, 1, bias=layer.mix_bias)
            channels = layer.mix
        self.activation = _ACTIVATIONS[layer.activation]()
        self.classifier = nn.Linear(channels, layer.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, *in_size) -> logits (n, classes)."""
        if self.final is not None:
            x = self.activation(self.final(x))
        x = self.pool(x)
        if self.mix is not None:
            x = self.activation(self.mix(x))
        return self.classifier(x.flatten(1))


_KINDS: dict[str, type[Conv | MBConv | Bottleneck | Head]] = {
    "conv": Conv,
    "mbconv": MBConv,
    "bottleneck": Bottleneck,
    "head": Head,
}


def build(layer: Layer, *, epsilon: float) -> nn.Module:
    """The module of a layer, with fresh weights."""
    return _KINDS[layer.kind](layer, epsilon=epsilon)


class Network(nn.Module):
    """One plain network: nothing elastic is left in it.

    Args:
        space: the space of the arch.
        arch: the arch; its layers are built with fresh weights.

    ``keeps_statistics`` says that the statistics of its batch norms belong to its weights, as those
    of a published network do. Then calibration leaves them alone. Training ends it.
    """

    def __init__(self, space: Space, arch: Arch) -> None:
        super().__init__()
        space.check(arch)
        self.space = space
        self.arch = arch
        self.keeps_statistics = False
        modules = [build(layer, epsilon=space.epsilon) for _, layer in plan(space, arch)]
        self.head = modules.pop()
        stages: list[nn.ModuleList] = []
        for stage in arch.stages:
            stages.append(nn.ModuleList(modules[: len(stage.blocks)]))
            modules = modules[len(stage.blocks) :]
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, inputs, height, width) -> logits (n, classes)."""
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x = block(x)
        return self.head(x)

    def train(self, mode: bool = True) -> "Network":
        """Set the mode, as of any module."""
        self.keeps_statistics = self.keeps_statistics and not mode
        return super().train(mode)


def initialise(module: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Random weights in place of all that a module has, trained ones too.

    He initialisation by fan-out for convs (arXiv 1502.01852), small normals for linears; batch
    norms scale by one, shift by zero and forget their statistics. A module on the meta device has
    no values, and stays as it is: random numbers there would load torch's compiler.
    """
    if all(parameter.is_meta for parameter in module.parameters()):
        return
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.out_channels // part.groups * part.kernel_size[0] * part.kernel_size[1]
            nn.init.normal_(part.weight, 0.0, (2.0 / fan_out) ** 0.5, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.01, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()


def _pads(layer: Layer) -> tuple[int, int, int, int]:
    """Of the conv with the kernel; they depend on the size of the input."""
    return next(p.pads for p in primitives(layer) if p.kernel[0] == layer.kernel)


def _pool(layer: Layer) -> nn.Module:
    return nn.MaxPool2d(3, layer.pool, 1) if layer.pool > 1 else nn.Identity()
