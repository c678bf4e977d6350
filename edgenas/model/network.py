"""A whole plain network: what the supernet extracts, and what is trained further and exported."""

from typing import cast

import torch
from torch import Tensor, nn

from edgenas.model.blocks import (
    Bottleneck,
    Conv,
    Fused,
    Head,
    MBConv,
    Reparameterised,
    UniversalBottleneck,
)
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.space.space import Space

Block = Conv | MBConv | Bottleneck | Head | Fused | UniversalBottleneck | Reparameterised
_KINDS: dict[str, type[Block]] = {
    "conv": Conv,
    "mbconv": MBConv,
    "bottleneck": Bottleneck,
    "head": Head,
    "fused": Fused,
    "uib": UniversalBottleneck,
    "rep": Reparameterised,
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
        modules = {n: build(layer, epsilon=space.epsilon) for n, layer in plan(space, arch)}
        self.head = modules.pop("head")
        stages: list[nn.ModuleList] = []
        for i, stage in enumerate(arch.stages):
            places = [f"stages.{i}.{j}" for j in range(len(stage.blocks))]
            # A block that is nothing at all has no layer.
            stages.append(nn.ModuleList(modules.get(name) or nn.Identity() for name in places))
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
