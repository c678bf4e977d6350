"""Paths of a supernet: one network, or mixtures of alternatives behind gates.

What runs is a ``Mixture``. A single network runs whole. Where several alternatives of a block or of
an operation in a cell run, each is computed from the same input, and the sum of their outputs times
their gates goes on, so that the loss has a gradient with respect to every gate (ProxylessNAS, arXiv
1812.00332, section 3.2; DARTS, 1806.09055, section 2.2). Depths, widths and resolutions are swapped
instead: two whole networks are compared. A gate on the depth of a stage would say what the first
bit of a further block is worth, which was seen to be many times what the whole block is; and what
changes a shape has no gate.

Cells of DARTS run as they will be extracted, only that every node is the sum of all edges that
there can be (section 2.2). So no norm stands behind pools, as DARTS has it while it searches.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import build
from edgenas.model.supernet import Supernet
from edgenas.space.arch import CELL, Arch
from edgenas.space.cells import parse_cell
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.space.space import Space
from edgenas.space.wiring import CellPlace, cell_place
from edgenas.strategies.gradient.mixture import Mixture, one_network
from edgenas.strategies.gradient.policy import Picks, Policy, list_edges

Gates = dict[int, Tensor]
_Edge = tuple[int, int, list[str]]  # from which node, its choice or -1, its alternatives
_Step = Layer | Literal["none"] | None  # of an alternative: nothing is passed on, or the input


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Running:
    """A mixture, and its alternatives as archs: the first ones of all choices, the second ones."""

    mixture: Mixture
    archs: Sequence[Arch]
    layers: Sequence[Mapping[str, Layer]]


class Paths:
    """The losses of paths of a supernet.

    Batch norms use the statistics of the batch, as in the training of the supernet.

    Args:
        supernet: the weights; nothing in it changes.
        policy: of its space.
        preprocessing: how images become inputs.
        weights: ``fixed``: they have no part in any gradient. ``free``: losses have gradients with
            respect to them. Scales and shifts of norms behind gates stay as they are, also then: a
            scale would hide what a gate is (DARTS, appendix A.1.1).
    """

    def __init__(
        self,
        supernet: Supernet,
        policy: Policy,
        *,
        preprocessing: Preprocessing,
        weights: Literal["fixed", "free"] = "fixed",
    ) -> None:
        self.supernet = supernet
        self.policy = policy
        self.preprocessing = preprocessing
        self._free = weights == "free"
        self._blocks = {(c.stage, c.block): i for i, c in enumerate(policy.choices) if c.block >= 0}
        self._edges = {(c.cell, c.edge): i for i, c in enumerate(policy.choices) if c.edge >= 0}
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
            return self.mixed(one_network(picks), pixels=pixels, labels=labels)[0]

    def gated(
        self,
        picks: Picks,
        others: dict[int, int],
        gates: Gates,
        *,
        pixels: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross entropy of a network with second alternatives of some choices behind gates.

        Args:
            picks: of every choice.
            others: the second alternative, by index of the choice; of what can be mixed.
            gates: of these choices, shape (2,), of the first and the second alternative: 1 and 0.
            pixels: stored images, uint8, shape (n, 3, height, width).
            labels: shape (n,).

        Returns:
            The loss, and the input of every stage, without gradients.
        """
        pairs = tuple((p, others[i]) if i in others else (p,) for i, p in enumerate(picks))
        opened = tuple(gates.get(i) for i in range(len(picks)))
        mixture = Mixture(picks=pairs, gates=opened)
        return self.mixed(mixture, pixels=pixels, labels=labels)

    def mixed(
        self, mixture: Mixture, *, pixels: Tensor, labels: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross entropy of a mixture, with gradients to its gates.

        Args:
            mixture: what runs.
            pixels: stored images, uint8, shape (n, 3, height, width).
            labels: shape (n,), or the share of every class, shape (n, classes).

        Returns:
            The loss, and the input of every stage, without gradients.
        """
        run = self._open(mixture)
        x = self.preprocessing.prepare(pixels, resolution=run.archs[0].resolution)
        return self._through(run, x=x, labels=labels)

    def exchanged(
        self,
        mixture: Mixture,
        place: int,
        other: int,
        inputs: list[Tensor],
        *,
        pixels: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Cross entropy, without gradients, of a mixture with another alternative of one choice.

        Args:
            mixture: what runs.
            place: index of the choice.
            other: its alternative.
            inputs: of every stage, as ``mixed`` gave them for the mixture: what stands before the
                choice is not computed again.
            pixels: stored images, uint8, shape (n, 3, height, width).
            labels: shape (n,).
        """
        run, stage = self._open(mixture.exchange(place, other)), self.policy.choices[place].stage
        with torch.no_grad():
            if stage < 0:
                x = self.preprocessing.prepare(pixels, resolution=run.archs[0].resolution)
            else:
                x = inputs[stage]
            return self._through(run, x=x, labels=labels, start=max(stage, 0))[0]

    def _open(self, mixture: Mixture) -> _Running:
        columns = [[p[min(n, len(p) - 1)] for p in mixture.picks] for n in range(mixture.most)]
        archs = [self.arch(picks) for picks in columns]
        layers = [_layers_of(self.supernet.space, arch) for arch in archs]
        return _Running(mixture=mixture, archs=archs, layers=layers)

    def _through(
        self, run: _Running, *, x: Tensor, labels: Tensor, start: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss behind all stages from ``start`` on, whose input is ``x``; their inputs."""
        logits, inputs = self._logits(run, x=x, start=start)
        return F.cross_entropy(logits, labels), inputs

    def _logits(self, run: _Running, *, x: Tensor, start: int = 0) -> tuple[Tensor, list[Tensor]]:
        """The logits behind all stages from ``start`` on, and the inputs of these stages.

        Only cells of DARTS take what the block before the last one gives. No choice stands before
        them, so they never are the first to run.
        """
        inputs: list[Tensor] = []
        before: Tensor | None = None
        for i, stage in list(enumerate(run.archs[0].stages))[start:]:
            inputs.append(x.detach())
            for j, block in enumerate(stage.blocks):
                name = f"stages.{i}.{j}"
                if block == CELL:
                    place = cell_place(self.supernet.space, i, j, run.archs[0].resolution)
                    two = (x if before is None else before, x)
                    y = self._cell(run, place, self.supernet.space.stages[i].cell, two)
                else:
                    steps = [layers.get(name) for layers in run.layers]
                    mixed = self._mix(run, name, self._blocks.get((i, j), -1), steps=steps, x=x)
                    assert isinstance(mixed, Tensor), "a block that is nothing passes its input on"
                    y = mixed
                before, x = (None if i == j == 0 else x), y  # the image is no output of a block
        return self._run("head", run.layers[0]["head"], x), inputs

    def _cell(
        self, run: _Running, place: CellPlace, number: int, two: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The output of a cell: every node is the sum of the edges that lead to it.

        Args:
            run: the mixture.
            place: where the cell stands.
            number: of the cell in the space.
            two: what the two blocks before give.
        """
        cell = place.cell
        values = [*two[-cell.inputs :]]
        if cell.family == "darts":
            values = [
                self._run(f"{place.name}.input{k}", place.enter(k), x) for k, x in enumerate(values)
            ]
        for node, edges in enumerate(self._list_edges(run, number), cell.inputs):
            terms: list[Tensor] = []
            for source, choice, operations in edges:
                steps: list[_Step] = [
                    "none" if name == "none" else place.edge(source, name) for name in operations
                ]
                inside = f"{place.name}.edge{node}from{source}"
                term = self._mix(run, inside, choice, steps=steps, x=values[source])
                if term is not None:
                    scale = run.mixture.scales.get(choice)
                    terms.append(term if scale is None else term * scale)
            first, *rest = terms or [values[0][:, :, :: place.stride, :: place.stride] * 0]
            values.append(functools.reduce(torch.add, rest, first))
        return torch.cat(values[cell.inputs :], 1) if cell.family == "darts" else values[-1]

    def _list_edges(self, run: _Running, number: int) -> list[list[_Edge]]:
        """The edges of each node that is computed, of those that run."""
        cell, chosen = self.supernet.space.cells[number], run.archs[0].cells[number]
        if cell.family == "darts" and (number, 0) not in self._edges:  # one network alone
            return [[(source, -1, [name]) for name, source in node] for node in parse_cell(chosen)]
        nodes: list[list[_Edge]] = [[] for _ in range(cell.nodes)]
        for k, (node, source) in enumerate(list_edges(cell)):
            place = self._edges.get((number, k), -1)
            picks = run.mixture.picks[place] if place >= 0 else (0,)
            operations = [cell.operations[pick] for pick in picks]
            nodes[node - cell.inputs].append((source, place, operations))
        return nodes

    def _mix(
        self,
        run: _Running,
        name: str,
        place: int,
        *,
        steps: Sequence[_Step],
        x: Tensor,
    ) -> Tensor | None:
        """The sum of alternatives times their gates; None where nothing is passed on.

        Args:
            run: the mixture.
            name: of the layer.
            place: index of its choice; -1: there is nothing to choose.
            steps: of every alternative.
            x: the input.
        """
        gates = run.mixture.gates[place] if place >= 0 else None
        if gates is None:
            return None if steps[0] == "none" else self._run(name, steps[0], x)
        edge = self.policy.choices[place].field == "edge"
        parts = run.mixture.parts if _can_part(steps, run.mixture.parts, x, edge=edge) else 1
        through = x[:, : x.shape[1] // parts]
        total: Tensor | None = None
        for gate, step in zip(gates, steps, strict=False):
            if step == "none":
                continue
            layer = step if step is None or parts == 1 else _thin(step, parts)
            y = self._run(name, layer, through, gated=True)
            if layer is None and run.mixture.skip_dropout:
                y = _drop(y, run.mixture)
            total = gate * y if total is None else total + gate * y
        if parts == 1:
            return total
        rest = x[:, x.shape[1] // parts :]
        if (stride := _stride_of(steps)) > 1:  # as the code of PC-DARTS does
            rest = F.max_pool2d(rest, stride)
        total = torch.zeros_like(through) if total is None else total
        whole = torch.cat([total, rest], 1)
        n, channels, *size = whole.shape  # the shuffle: every part meets the alternatives in turn
        return whole.view(n, parts, channels // parts, *size).transpose(1, 2).reshape(whole.shape)

    def _run(self, name: str, layer: Layer | None, x: Tensor, *, gated: bool = False) -> Tensor:
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
        tensors = self._tensors(name, layer, gated=gated)
        return functional_call(self._modules[layer], tensors, (x,))

    def _tensors(self, name: str, layer: Layer, *, gated: bool) -> dict[str, Tensor]:
        assert self.supernet.training, "batch norms must use the statistics of the batch"
        if self._free:
            tensors = self.supernet.slice(name, layer)
            still = _norms(self._modules[layer]) if gated else ()
            return {k: t.detach() if k.startswith(still) else t for k, t in tensors.items()}
        if (name, layer) not in self._slices:
            tensors = self.supernet.slice(name, layer)
            self._slices[name, layer] = {key: t.detach() for key, t in tensors.items()}
        return self._slices[name, layer]


@functools.lru_cache(maxsize=256)
def _layers_of(space: Space, arch: Arch) -> Mapping[str, Layer]:
    return dict(plan(space, arch))


def _norms(module: torch.nn.Module) -> tuple[str, ...]:
    named = module.named_modules()
    return tuple(f"{name}." for name, part in named if isinstance(part, torch.nn.BatchNorm2d))


def _stride_of(steps: Sequence[_Step]) -> int:
    return max((step.stride for step in steps if isinstance(step, Layer)), default=1)


def _can_part(steps: Sequence[_Step], parts: int, x: Tensor, *, edge: bool) -> bool:
    """Whether a part of the channels can go through alternatives, and the rest pass by.

    Args:
        steps: the alternatives.
        parts: of the channels.
        x: the input.
        edge: whether this is an edge of a cell, on which the rest can pass a stride by.
    """
    used, stride = [step for step in steps if isinstance(step, Layer)], _stride_of(steps)
    keeps = all(step.inputs == step.outputs and step.pool == 1 for step in used)
    keeps = keeps and any(step != "none" for step in steps)
    # A layer of two halves needs an even part.
    unit = parts * (2 if any(step.kind == "factorised" for step in used) else 1)
    return keeps and (stride == 1 or edge) and x.shape[1] % unit == 0


def _thin(layer: Layer, parts: int) -> Layer:
    """The layer on one of so many parts of the channels."""
    names = ("inputs", "outputs", "mid", "squeeze")
    return replace(layer, **{name: getattr(layer, name) // parts for name in names})


def _drop(x: Tensor, mixture: Mixture) -> Tensor:
    """Lose a share of the values and enlarge the others, as P-DARTS does to skips (1904.12760)."""
    kept = torch.rand(x.shape, generator=mixture.generator) >= mixture.skip_dropout
    return x * kept / (1 - mixture.skip_dropout)
