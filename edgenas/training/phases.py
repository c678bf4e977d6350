"""The phases of a training: one for the sandwich rule, several for progressive shrinking.

Progressive shrinking (once-for-all, arXiv 1908.09791, section 3.3) trains the largest network
first and lets smaller ones join phase by phase: smaller kernels, then depths, expands, widths.
Resolutions are elastic from the start. Before expands become elastic, the channels inside every
block are sorted by importance, so that smaller blocks keep the important ones; before widths do,
those between blocks are. Differing from the paper, the teacher is the largest network as it is now,
not as it was after the first phase.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgenas.model.blocks import (
    Bottleneck,
    Conv,
    ConvNorm,
    Fused,
    Head,
    MBConv,
    UniversalBottleneck,
)
from edgenas.model.supernet import Supernet
from edgenas.space.layer import Layer
from edgenas.space.plan import slots
from edgenas.space.space import Space
from edgenas.training.recipe import Recipe, learning_rate

# In the order in which they become elastic.
_DIMENSIONS = ("kernels", "depths", "expands", "widths")
_FIRST = 0.3  # of the steps are for the largest network alone, as in the paper's ImageNet training
_LATER_RATE = 0.4  # of the learning rate; the paper: 0.96 after 2.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Some steps of a training.

    Args:
        first: its first step.
        steps: how many.
        space: the networks that are trained in it.
        elastic: what has become elastic with it; empty at the start.
        rate: factor of the learning rate.
    """

    first: int
    steps: int
    space: Space
    elastic: str = ""
    rate: float = 1.0

    def learning_rate(self, step: int, steps_per_epoch: int, recipe: Recipe) -> float:
        """The warm-up and cosine of each phase of its own."""
        of_phase = learning_rate(step - self.first, self.steps, steps_per_epoch, recipe)
        return self.rate * of_phase


def plan_phases(space: Space, recipe: Recipe, *, steps: int) -> list[Phase]:
    """The phases of a training, in order; together they have all its steps."""
    if recipe.largest_resolution:
        few = [r for r in space.resolutions if r <= recipe.largest_resolution]
        space = replace(space, resolutions=tuple(few) or (min(space.resolutions),))
    if recipe.method == "sandwich":
        return [Phase(first=0, steps=steps, space=space)]
    names = [n for n in _DIMENSIONS if any(len(getattr(s, n)) > 1 for s in space.stages)]
    ends = [
        round(steps * (_FIRST + (1 - _FIRST) * i / max(1, len(names)))) for i in range(len(names))
    ]
    starts, ends = [0, *ends], [*ends, steps]
    return [
        Phase(
            first=start,
            steps=end - start,
            space=_elastic(space, names[:i]),
            elastic=names[i - 1] if i else "",
            rate=_LATER_RATE if i else 1.0,
        )
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end > start
    ]


def _elastic(space: Space, names: list[str]) -> Space:
    """The space with the largest value of everything that is not named."""
    stages = []
    for stage in space.stages:
        fixed = {n: (max(getattr(stage, n)),) for n in _DIMENSIONS if n not in names}
        stages.append(replace(stage, **fixed))
    return replace(space, stages=tuple(stages))


Places = list[tuple[str, int]]  # parameters, by name, and their dimension along some channels

_SORTABLE = {"conv", "mbconv", "bottleneck"}
SORTED = ("expands", "widths")  # channels are sorted before these become elastic


@torch.no_grad()
def sort_channels(
    supernet: Supernet,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
    *,
    elastic: str,
) -> None:
    """Put channels in order of importance, the most important first.

    Importance is the L1 norm of the weights that read a channel (once-for-all, section 3.3). What
    the largest network computes stays the same; so do momenta and averages, which move along.

    Args:
        supernet: the weights, changed in place.
        optimiser: its momenta move along.
        average: of the weights, by name; moves along.
        elastic: of ``SORTED``: the channels inside every block, or the outputs of stages that have
            several widths.
    """
    for readers, places in _inside(supernet) if elastic == "expands" else _between(supernet):
        norms = [_along(supernet.get_parameter(name), place) for name, place in readers]
        order = torch.stack(norms).sum(0).argsort(descending=True, stable=True)
        for name, dimension in places:
            parameter = supernet.get_parameter(name)
            momentum = optimiser.state[parameter].get("momentum_buffer")
            for tensor in (parameter, momentum, average.get(name)):
                if tensor is not None:
                    tensor.copy_(tensor.index_select(dimension, order))


def _along(weight: Tensor, dimension: int) -> Tensor:
    """L1 norms of the slices along a dimension."""
    return weight.abs().sum([d for d in range(weight.ndim) if d != dimension])


def _unit(name: str) -> Places:
    """The outputs of a conv and its batch norm."""
    return [(f"{name}.conv.weight", 0), (f"{name}.bn.weight", 0), (f"{name}.bn.bias", 0)]


def _inside(supernet: Supernet) -> Iterator[tuple[Places, Places]]:
    """What reads each group of channels inside a block, and all parameters along the group."""
    for name, block in supernet.named_modules():
        if isinstance(block, Bottleneck):
            for unit, reader in (("spatial", "restore"), ("reduce", "spatial")):
                read = [(f"{name}.{reader}.conv.weight", 1)]
                yield read, [*_unit(f"{name}.{unit}"), *read]
        elif isinstance(block, UniversalBottleneck):
            read = [(f"{name}.project.conv.weight", 1)]
            depthwise = [] if block.depthwise is None else _unit(f"{name}.depthwise")
            yield read, [*_unit(f"{name}.expand"), *depthwise, *read]
        elif isinstance(block, Fused) and block.project is not None:
            read = [(f"{name}.project.conv.weight", 1)]
            yield read, [*_unit(f"{name}.expand"), *read]
        # Without an expansion the channels are those of the block's input, which others read too.
        elif isinstance(block, MBConv) and block.expand is not None:
            read = [(f"{name}.project.conv.weight", 1)]
            places = [*_unit(f"{name}.expand"), *_unit(f"{name}.depthwise"), *read]
            if block.squeeze is not None:
                places += [(f"{name}.squeeze.reduce.weight", 1)]
                places += [(f"{name}.squeeze.expand.{part}", 0) for part in ("weight", "bias")]
            yield read, places


def _between(supernet: Supernet) -> Iterator[tuple[Places, Places]]:
    """The same for the outputs of every stage that has several widths.

    Stages whose channels another stage's may be added to are left out, and those that a depthwise
    conv reads: their order is not theirs alone. So are stages beside which kinds of blocks stand
    that are not known here.
    """
    space = supernet.space
    firsts = [f"stages.{i}.0" for i in range(len(space.stages))]
    tied = {slot.name for slot in slots(space) if any(map(_adds, slot.layers.values()))}
    for i, stage in enumerate(space.stages):
        known = all({*s.kinds} <= _SORTABLE and not s.blocks for s in space.stages[i : i + 2])
        if len(stage.widths) == 1 or not known or tied & {*firsts[i : i + 2]}:
            continue
        blocks = [f"stages.{i}.{j}" for j in range(max(stage.depths))]
        follower = firsts[i + 1] if i + 1 < len(firsts) else "head"
        made = [place for name in blocks for place in _made(supernet, name)]
        read = [_read(supernet, name) for name in [*blocks[1:], follower]]
        if all(read):
            readers = [place for places in read for place in places]
            yield readers, [*made, *readers]


def _adds(layer: Layer | None) -> bool:
    """Whether a layer adds its inputs to its outputs as they are."""
    if layer is None:
        return False
    return not layer.downsample if layer.kind == "bottleneck" else layer.residual


def _made(supernet: Supernet, name: str) -> Places:
    """The outputs of a block."""
    block = supernet.get_submodule(name)
    if isinstance(block, Bottleneck):
        shortcut = [] if block.downsample is None else _unit(f"{name}.downsample")
        return [*_unit(f"{name}.restore"), *shortcut]
    return _unit(f"{name}.unit" if isinstance(block, Conv) else f"{name}.project")


def _read(supernet: Supernet, name: str) -> Places:
    """What reads the inputs of a block or of the head; nothing where they do not stay apart."""
    block = supernet.get_submodule(name)
    if isinstance(block, Bottleneck):
        units = ["reduce"] if block.downsample is None else ["reduce", "downsample"]
        return [(f"{name}.{unit}.conv.weight", 1) for unit in units]
    if isinstance(block, MBConv):
        return [] if block.expand is None else [(f"{name}.expand.conv.weight", 1)]
    if isinstance(block, Head):
        part = "classifier"
        if block.final is None and block.mix is not None:
            part = "mix.conv" if isinstance(block.mix, ConvNorm) else "mix"
        return [
            (f"{name}.final.conv.weight" if block.final is not None else f"{name}.{part}.weight", 1)
        ]
    return [(f"{name}.unit.conv.weight", 1)]
