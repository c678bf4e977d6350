"""A whole plain network: what the supernet extracts, and what is trained further and exported."""

from collections.abc import Callable, Mapping

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
from edgenas.model.cells import (
    Basic,
    Concat,
    DilConv,
    Factorised,
    PreConv,
    SepConv,
    Sum,
    WindowPool,
)
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.plan import PlannedLayer, follow, walk
from edgenas.space.space import Space

_KINDS: dict[str, Callable[..., nn.Module]] = {
    "conv": Conv,
    "mbconv": MBConv,
    "bottleneck": Bottleneck,
    "head": Head,
    "fused": Fused,
    "uib": UniversalBottleneck,
    "rep": Reparameterised,
    "basic": Basic,
    "preconv": PreConv,
    "avgpool": WindowPool,
    "maxpool": WindowPool,
    "sum": Sum,
    "sepconv": SepConv,
    "dilconv": DilConv,
    "factorised": Factorised,
    "concat": Concat,
}


def build(layer: Layer, *, epsilon: float) -> nn.Module:
    """The module of a layer, with fresh weights."""
    return _KINDS[layer.kind](layer, epsilon=epsilon)


def place_of(modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    """What stands at the place of a block: its module, or the parts of its cell by name.

    Args:
        modules: by the names of layers.
        name: of the block. One that is nothing at all has no module.
    """
    if name in modules:
        return modules[name]
    inside = f"{name}."
    parts = {n.removeprefix(inside): m for n, m in modules.items() if n.startswith(inside)}
    return nn.ModuleDict(parts) if parts else nn.Identity()


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
        self._steps = walk(space, arch)
        modules = {s.name: build(s.layer, epsilon=space.epsilon) for s in self._steps}
        self.head = modules.pop("head")
        stages: list[nn.ModuleList] = []
        for i, stage in enumerate(arch.stages):
            names = [f"stages.{i}.{j}" for j in range(len(stage.blocks))]
            stages.append(nn.ModuleList(place_of(modules, name) for name in names))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, inputs, height, width) -> logits (n, classes)."""
        return follow(self._steps, x, self._run)

    def _run(self, step: PlannedLayer, *inputs: Tensor) -> Tensor:
        return self.get_submodule(step.name)(*inputs)

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
