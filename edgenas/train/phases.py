"""The phases of a training: one for the sandwich rule, several for progressive shrinking.

Progressive shrinking (once-for-all, arXiv 1908.09791, section 3.3) trains the largest network
first and lets smaller ones join phase by phase: smaller kernels, then depths, expands, widths.
Resolutions are elastic from the start. Before expands become elastic, the channels inside every
block are sorted by importance, so that smaller blocks keep the important ones. Differing from the
paper, the teacher is the largest network as it is now, not as it was after the first phase.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgenas.network import Bottleneck, MBConv
from edgenas.recipe import Recipe, learning_rate
from edgenas.space import Space
from edgenas.supernet import Supernet

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


def phases(space: Space, recipe: Recipe, *, steps: int) -> list[Phase]:
    """The phases of a training, in order; together they have all its steps."""
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


@torch.no_grad()
def sort_channels(
    supernet: Supernet, optimiser: torch.optim.Optimizer, average: dict[str, Tensor]
) -> None:
    """Put the channels inside every block in order of importance, the most important first.

    Importance is the L1 norm of the weights that read a channel (once-for-all, section 3.3). What
    the largest network computes stays the same; so do momenta and averages, which move along.

    Args:
        supernet: the weights, changed in place.
        optimiser: its momenta move along.
        average: of the weights, by name; moves along.
    """
    for name, block in supernet.named_modules():
        for reader, places in _channels(block):
            weight = block.get_parameter(reader)
            order = weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
            for key, dimension in places:
                parameter = block.get_parameter(key)
                momentum = optimiser.state[parameter].get("momentum_buffer")
                for tensor in (parameter, momentum, average.get(f"{name}.{key}")):
                    if tensor is not None:
                        tensor.copy_(tensor.index_select(dimension, order))


def _channels(block: nn.Module) -> list[tuple[str, list[tuple[str, int]]]]:
    """What reads each group of channels inside a block, and all parameters along the group."""

    def norm(name: str) -> list[tuple[str, int]]:
        return [(f"{name}.conv.weight", 0), (f"{name}.bn.weight", 0), (f"{name}.bn.bias", 0)]

    if isinstance(block, Bottleneck):
        first, second = "spatial.conv.weight", "restore.conv.weight"
        return [(second, [*norm("spatial"), (second, 1)]), (first, [*norm("reduce"), (first, 1)])]
    # Without an expansion the channels are those of the block's input, which others read too.
    if not isinstance(block, MBConv) or block.expand is None:
        return []
    reader = "project.conv.weight"
    places = [*norm("expand"), *norm("depthwise"), (reader, 1)]
    if block.squeeze is not None:
        places += [("squeeze.reduce.weight", 1)]
        places += [("squeeze.expand.weight", 0), ("squeeze.expand.bias", 0)]
    return [(reader, places)]
