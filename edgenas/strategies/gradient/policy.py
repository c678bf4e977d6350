"""Probabilities of the choices of a space: what gradient search learns.

A choice is a resolution, a width, a depth, one block's kernel and expand ratio together, as the
paths of ProxylessNAS are, a block out of a list, or the operation on an edge of a cell, which all
cells of one number share. Choices are independent; those of absent blocks have no effect.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenas.space.cells import CellSpace
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space

Picks = list[int]
MIXED = ("block", "edge")  # fields of choices whose alternatives have outputs of one shape
_MEMORY = 0.95  # of the mean square of gradients: 20 steps are remembered


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    Args:
        columns: the genes it sets, as columns of the space's rows.
        shape: how many codes each of them has.
        stage: index of its stage; -1 for the resolution.
        block: index of its block; -1 for a choice of the stage.
        field: ``resolution``, ``width``, ``depth``, ``block`` or ``edge``.
        cell: index of its cell; -1 outside of cells.
        edge: index of its edge in this cell.
    """

    columns: tuple[int, ...]
    shape: tuple[int, ...]
    stage: int
    block: int
    field: str
    cell: int = -1
    edge: int = -1

    @property
    def mixed(self) -> bool:
        """Whether outputs of its alternatives can be added up."""
        return self.field in MIXED

    @property
    def size(self) -> int:
        """How many alternatives there are."""
        return int(np.prod(self.shape))

    def codes(self, pick: int) -> tuple[int, ...]:
        """The codes of an alternative, one a column, from 1."""
        return tuple(1 + int(i) for i in np.unravel_index(pick, self.shape))

    def pick(self, codes: Sequence[int]) -> int:
        """The alternative of codes: the inverse of ``codes``."""
        return int(np.ravel_multi_index(tuple(c - 1 for c in codes), self.shape))


@functools.lru_cache(maxsize=16)
def list_decisions(space: Space) -> tuple[Decision, ...]:
    """The choices of a space, in the order of its genes."""
    groups: dict[tuple[int, int, str, int, int], list[int]] = {}
    for column, gene in enumerate(space.genes):
        field = "block" if gene.block >= 0 else gene.name.rpartition(".")[2]
        field = "edge" if gene.cell >= 0 else field
        place = gene.stage, gene.block, field, gene.cell, gene.choice
        groups.setdefault(place, []).append(column)
    return tuple(
        Decision(
            columns=tuple(columns),
            shape=tuple(len(space.genes[c].values) for c in columns),
            stage=stage,
            block=block,
            field=field,
            cell=cell,
            edge=edge,
        )
        for (stage, block, field, cell, edge), columns in groups.items()
    )


@functools.lru_cache(maxsize=16)
def list_edges(cell: CellSpace) -> tuple[tuple[int, int], ...]:
    """The edges of a cell whose nodes take all before them: where each leads, and from where."""
    nodes = enumerate(cell.sources, cell.inputs)
    return tuple((node, source) for node, (sources,) in nodes for source in sources)


@functools.lru_cache(maxsize=16)
def list_nodes(space: Space) -> tuple[tuple[int, ...], ...]:
    """The nodes of cells that several edges with a choice lead to: the indices of these choices."""
    nodes: dict[tuple[int, int], list[int]] = {}
    for i, choice in enumerate(list_decisions(space)):
        if choice.cell >= 0 and space.cells[choice.cell].family == "nas-bench-201":
            node, _ = list_edges(space.cells[choice.cell])[choice.edge]
            nodes.setdefault((choice.cell, node), []).append(i)
    return tuple(tuple(places) for places in nodes.values() if len(places) > 1)


class Policy:
    """Logits of every choice, for what is worth most, and what limits take off them.

    Networks are drawn with the probabilities of ``scores``: logits plus tilt. What is learnt goes
    to the logits alone, so that they say what an alternative is worth, not what it costs; the tilt
    makes drawn networks keep the limits, see ``tilt.py``. Uniform at the start.

    Args:
        space: whose choices.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.choices = list_decisions(space)
        self.logits = [torch.zeros(c.size, requires_grad=True) for c in self.choices]
        self.tilt = [torch.zeros(c.size) for c in self.choices]
        self.edges = [torch.zeros(len(n), requires_grad=True) for n in list_nodes(space)]
        self.square = torch.zeros(())  # of gradients, a running mean

    def tensors(self) -> dict[str, Tensor]:
        """What learning changes in place, by name."""
        by_name = {f"logits.{i}": logits for i, logits in enumerate(self.logits)}
        by_name |= {f"edges.{i}": logits for i, logits in enumerate(self.edges)}
        return by_name | {"square": self.square}

    def nodes(self) -> list[tuple[tuple[int, ...], Tensor]]:
        """Of each node with several edges, their choices, and a logit of each edge as a whole."""
        return list(zip(list_nodes(self.space), self.edges, strict=True))

    def move(self, loss: Tensor, *, rate: float, step: int) -> None:
        """Go down the gradient of a loss; the steps are of one size for all logits together.

        Adam, which the papers take, would divide the gradient of every logit by its own size: what
        hardly matters would come to count as much as what decides, and noise as much as either.

        Args:
            loss: with gradients to the logits; without any, nothing moves.
            rate: see ``GradientSettings``.
            step: number of the step.
        """
        if not loss.requires_grad:  # nothing to choose
            return
        every = [*self.logits, *self.edges]
        gradients = torch.autograd.grad(loss, every, materialize_grads=True)
        mean = torch.cat(gradients[: len(self.logits)]).square().mean()
        self.square.mul_(_MEMORY).add_((1 - _MEMORY) * mean)
        size = float((self.square / (1 - _MEMORY ** (step + 1))).sqrt())
        with torch.no_grad():
            for logits, gradient in zip(every, gradients, strict=True):
                logits -= gradient * (rate / size if size else 0.0)

    def scores(self) -> list[Tensor]:
        """Logits plus tilt of each choice, shape (size,), with gradients to the logits."""
        return [x + t for x, t in zip(self.logits, self.tilt, strict=True)]

    def probabilities(self) -> list[Tensor]:
        """Of the alternatives of each choice, shape (size,), with gradients to the logits."""
        return [torch.softmax(scores, 0) for scores in self.scores()]

    def sample(self, generator: torch.Generator) -> Picks:
        """One alternative of every choice, those of absent blocks included."""
        chances = [p.detach() for p in self.probabilities()]
        return [int(torch.multinomial(p, 1, generator=generator)) for p in chances]

    def entropy(self) -> Tensor:
        """The mean entropy of the choices, as a part of its maximum."""
        parts = [
            -(torch.softmax(x, 0) * torch.log_softmax(x, 0)).sum() / np.log(len(x))
            for x in self.scores()
            if len(x) > 1
        ]
        return torch.stack(parts).detach().mean() if parts else torch.zeros(())

    def row(self, picks: Picks) -> Codes:
        """The canonical row of picks, shape (1, genes)."""
        row = np.zeros((1, len(self.space.genes)), np.uint8)
        for choice, pick in zip(self.choices, picks, strict=True):
            row[0, list(choice.columns)] = choice.codes(pick)
        return self.space.canonical(row)

    def preference(self) -> Callable[[Codes], Vector]:
        """How far rows are from the alternatives worth most: logits below the highest, summed.

        Rows of the alternatives worth most have 0, all others less; absent blocks add nothing. The
        tilt plays no part: who asks for the row with the highest preference within limits keeps
        them by leaving out what breaks them.
        """
        values: list[NDArray[np.float64]] = []
        for choice, logits in zip(self.choices, self.logits, strict=True):
            below = (logits.detach() - logits.detach().max()).double().numpy()
            table = np.zeros(tuple(1 + n for n in choice.shape))
            table[tuple(slice(1, None) for _ in choice.shape)] = below.reshape(choice.shape)
            values.append(table)
        return Tables(tuple(c.columns for c in self.choices), tuple(values), "sum")
