"""Paths of a supernet: one whole network, second alternatives behind gates, one choice swapped.

A sampled network runs whole. Where a second alternative is given for a block, its output is
computed from the same input and added behind a gate, so that the loss has a gradient with respect
to both gates (ProxylessNAS, arXiv 1812.00332, section 3.2). Depths, widths and resolutions are
swapped instead: two whole networks are compared. A gate on the depth of a stage would say what the
first bit of a further block is worth, which was seen to be many times what the whole block is; and
what changes a shape has no gate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import build
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.strategies.gradient.policy import Picks, Policy

Gates = dict[int, Tensor]


class Paths:
    """The losses of paths of a supernet, whose weights have no part in any gradient.

    Batch norms use the statistics of the batch, as in the training of the supernet.

    Args:
        supernet: the weights; nothing in it changes.
        policy: of its space.
        preprocessing: how images become inputs.
    """

    def __init__(self, supernet: Supernet, policy: Policy, *, preprocessing: Preprocessing) -> None:
        if supernet.space.cells:
            raise EdgenasError(
                f"a gradient search needs a space without cells, found {supernet.space.name}",
                hint="search with --strategy evolution",
            )
        self.supernet = supernet
        self.policy = policy
        self.preprocessing = preprocessing
        self._modules: dict[Layer, torch.nn.Module] = {}
        self._slices: dict[tuple[str, Layer], dict[str, Tensor]] = {}

    def forget(self) -> None:
        """The weights have changed: nothing that was made of them is used again."""
        self._slices.clear()

    def arch(self, picks: Picks) -> Arch:
        """The network of picks."""
        return self.supernet.space.decode(self.policy.row(picks))[0]

    def loss(self, picks: Picks, *, pixels: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of one network on a batch, without gradients.

        Args:
            picks: of every choice.
            pixels: stored images, uint8, shape (n, 3, height, width).
            labels: shape (n,).
        """
        with torch.no_grad():
            return self.gated(picks, {}, {}, pixels=pixels, labels=labels)[0]

    def gated(
        self,
        picks: Picks,
        others: dict[int, int],
        gates: Gates,
        *,
        pixels: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross entropy of a network with second alternatives of blocks behind gates.

        Args:
            picks: of every choice.
            others: the second alternative, by index of the choice; of blocks.
            gates: of these choices, shape (2,), of the first and the second alternative: 1 and 0.
            pixels: stored images, uint8, shape (n, 3, height, width).
            labels: shape (n,).

        Returns:
            The loss, and the input of every stage, without gradients.
        """
        first = self.arch(picks)
        second = self.arch([others.get(i, pick) for i, pick in enumerate(picks)])
        x = self.preprocessing.prepare(pixels, resolution=first.resolution)
        return self._through(first, second, gates, x=x, labels=labels)

    def swapped(
        self,
        picks: Picks,
        place: int,
        other: int,
        inputs: list[Tensor],
        *,
        pixels: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Cross entropy, without gradients, of a network with another alternative of one choice.

        Args:
            picks: of every choice.
            place: index of the choice.
            other: its alternative.
            inputs: of every stage, as ``gated`` gave them for the picks: what stands before the
                choice is not computed again.
            pixels: stored images, uint8, shape (n, 3, height, width).
            labels: shape (n,).
        """
        arch = self.arch([*picks[:place], other, *picks[place + 1 :]])
        stage = self.policy.choices[place].stage
        with torch.no_grad():
            if stage < 0:
                x = self.preprocessing.prepare(pixels, resolution=arch.resolution)
            else:
                x = inputs[stage]
            return self._through(arch, arch, {}, x=x, labels=labels, start=max(stage, 0))[0]

    def _through(
        self,
        first: Arch,
        second: Arch,
        gates: Gates,
        *,
        x: Tensor,
        labels: Tensor,
        start: int = 0,
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss behind all stages from ``start`` on, whose input is ``x``; their inputs."""
        space = self.supernet.space
        one, two = dict(plan(space, first)), dict(plan(space, second))
        found = {(c.stage, c.block): i for i, c in enumerate(self.policy.choices) if c.block >= 0}
        inputs: list[Tensor] = []
        for stage in range(start, len(first.stages)):
            inputs.append(x.detach())
            for block in range(len(first.stages[stage].blocks)):
                name = f"stages.{stage}.{block}"
                y = self._run(name, one.get(name), x)
                gate = gates.get(found.get((stage, block), -1))
                if gate is not None:
                    y = gate[0] * y + gate[1] * self._run(name, two.get(name), x)
                x = y
        return F.cross_entropy(self._run("head", one["head"], x), labels), inputs

    def _run(self, name: str, layer: Layer | None, x: Tensor) -> Tensor:
        if layer is None:  # a block that is nothing at all
            return x
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
