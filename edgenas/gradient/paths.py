"""Two paths of a supernet at once, behind gates: what gradients of choices are taken through.

A sampled network runs whole. Where a second alternative is given for a block, its output is
computed from the same input and added behind a gate, so that the loss has a gradient with respect
to both gates (ProxylessNAS, arXiv 1812.00332, section 3.2). The depth of a stage is a gate on the
outputs of its blocks. Resolutions and widths change the shape of everything behind them: their two
alternatives are two whole networks, mixed in their losses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from edgenas.arch import Arch
from edgenas.data import Preprocessing
from edgenas.gradient.policy import Choice, Picks, Policy
from edgenas.network import build
from edgenas.plan import Layer, plan
from edgenas.space import Space
from edgenas.supernet import Supernet

Gates = dict[int, Tensor]


class Paths:
    """The losses of paths of a supernet with fixed weights.

    Batch norms use the statistics of the batch, as in the training of the supernet.

    Args:
        supernet: the weights; nothing in it changes.
        policy: of its space.
        preprocessing: how images become inputs.
    """

    def __init__(self, supernet: Supernet, policy: Policy, *, preprocessing: Preprocessing) -> None:
        self.supernet = supernet
        self.policy = policy
        self.preprocessing = preprocessing
        self._modules: dict[Layer, torch.nn.Module] = {}
        self._slices: dict[tuple[str, Layer], dict[str, Tensor]] = {}

    def loss(self, picks: Picks, *, pixels: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of one network on a batch, without gradients.

        Args:
            picks: of every choice.
            pixels: stored images, uint8, shape (n, 3, stored, stored).
            labels: shape (n,).
        """
        with torch.no_grad():
            return self.gated(picks, {}, {}, pixels=pixels, labels=labels)

    def gated(
        self,
        picks: Picks,
        others: dict[int, int],
        gates: Gates,
        *,
        pixels: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Cross entropy of a network with second alternatives behind gates.

        Args:
            picks: of every choice.
            others: the second alternative, by index of the choice, where it is another one.
            gates: of these choices, shape (2,), of the first and the second alternative: 1 and 0.
            pixels: stored images, uint8, shape (n, 3, stored, stored).
            labels: shape (n,).
        """
        space = self.supernet.space
        first, second, depths = _deep(space, self.policy, picks, others)
        inputs = self.preprocessing.prepare(pixels, resolution=first.resolution)
        one, two = dict(plan(space, first)), dict(plan(space, second))
        found = {(c.stage, c.block, c.field): i for i, c in enumerate(self.policy.choices)}
        x = inputs
        for stage, chosen in enumerate(first.stages):
            outputs: list[Tensor] = []
            for block in range(len(chosen.blocks)):
                name = f"stages.{stage}.{block}"
                y = self._run(name, one[name], x)
                gate = gates.get(found.get((stage, block, "block"), -1))
                if gate is not None and block < depths[stage][0]:
                    y = gate[0] * y + gate[1] * self._run(name, two[name], x)
                outputs.append(y)
                x = y
            shallow, deep = depths[stage]
            gate = gates.get(found.get((stage, -1, "depth"), -1))
            x = outputs[shallow - 1]
            if gate is not None and deep != shallow:
                x = gate[0] * x + gate[1] * outputs[deep - 1]
        return F.cross_entropy(self._run("head", one["head"], x), labels)

    def inside(self, choice: Choice) -> bool:
        """Whether the alternatives of a choice can be mixed inside one network."""
        if choice.field == "block":
            return True
        # A pool behind the last block sits inside that block.
        return choice.field == "depth" and self.supernet.space.stages[choice.stage].pool == 1

    def _run(self, name: str, layer: Layer, x: Tensor) -> Tensor:
        if layer not in self._modules:
            with torch.device("meta"):  # the tensors come from the supernet
                module = build(layer, epsilon=self.supernet.space.epsilon).train()
            for part in module.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.track_running_stats = False
                    part.running_mean = part.running_var = part.num_batches_tracked = None
            self._modules[layer] = module.requires_grad_(False)
        if (name, layer) not in self._slices:
            assert self.supernet.training, "batch norms must use the statistics of the batch"
            tensors = self.supernet.slice(name, layer)
            self._slices[name, layer] = {key: t.detach() for key, t in tensors.items()}
        return functional_call(self._modules[layer], self._slices[name, layer], (x,))


def _deep(
    space: Space, policy: Policy, picks: Picks, others: dict[int, int]
) -> tuple[Arch, Arch, list[tuple[int, int]]]:
    """The network of the picks as deep as either depth; with the other blocks; both depths."""
    first, second = list(picks), list(picks)
    depths = [(max(stage.depths), max(stage.depths)) for stage in space.stages]
    for place, choice in enumerate(policy.choices):
        other = others.get(place, picks[place])
        if choice.field == "depth":
            values = space.stages[choice.stage].depths
            depths[choice.stage] = (values[picks[place]], values[other])
            first[place] = second[place] = max(picks[place], other)  # depths ascend
        elif choice.field == "block":
            second[place] = other
    one, two = space.decode(policy.row(first)), space.decode(policy.row(second))
    return one[0], two[0], depths
