"""Probabilities of the choices of a space: what gradient search learns.

A choice is a resolution, a width, a depth, one block's kernel and expand ratio together, as the
paths of ProxylessNAS are, a block out of a list, or the operation on an edge of a cell, which all
cells of one number share. Choices are independent; those of absent blocks have no effect.

In a cell of DARTS a node also chooses the nodes that it takes. Here that is one more choice beside
both operations; where all edges run instead, see ``relaxed.py``.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
        columns: the genes it sets, as columns of the space's rows; none where an edge need not be
            there.
        shape: how many codes each of them has; without columns, how many alternatives.
        stage: index of its stage; -1 for the resolution.
        block: index of its block; -1 for a choice of the stage.
        field: ``resolution``, ``width``, ``depth``, ``block`` or ``edge``; in a cell whose nodes
            choose what they take ``sources``, ``operation``, or ``node`` for all that one chooses.
        cell: index of its cell; -1 outside of cells.
        edge: index of its edge in this cell, as in ``list_edges``; -1 where it is no edge.
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
        if gene.cell >= 0:
            wired = space.cells[gene.cell].family == "nas-bench-201"
            field = "edge" if wired else "sources" if field == "sources" else "operation"
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
            edge=edge if field == "edge" else -1,
        )
        for (stage, block, field, cell, edge), columns in groups.items()
    )


@functools.lru_cache(maxsize=16)
def list_edges(cell: CellSpace) -> tuple[tuple[int, int], ...]:
    """The edges of a cell with all that there can be: where each leads, and from where."""
    nodes = range(cell.inputs, cell.inputs + cell.nodes)
    return tuple((node, source) for node in nodes for source in range(node))


def list_nodes(space: Space, choices: Sequence[Decision]) -> tuple[tuple[int, ...], ...]:
    """The nodes of cells that several edges with a choice lead to: the indices of these choices."""
    nodes: dict[tuple[int, int], list[int]] = {}
    for i, choice in enumerate(choices):
        if choice.field == "edge":
            node, _ = list_edges(space.cells[choice.cell])[choice.edge]
            nodes.setdefault((choice.cell, node), []).append(i)
    return tuple(tuple(places) for places in nodes.values() if len(places) > 1)


def name_choice(space: Space, choice: Decision) -> str:
    """The name of a choice, e.g. ``cells[0].nodes[1].edges[2]``."""
    if choice.columns:
        return space.genes[choice.columns[0]].name.removesuffix(".kernel")
    cell = space.cells[choice.cell]
    node, source = list_edges(cell)[choice.edge]
    return f"cells[{choice.cell}].nodes[{node - cell.inputs}].edges[{source}]"


def list_values(space: Space, choice: Decision) -> tuple[tuple[Any, ...], ...]:
    """The values of every alternative of a choice, one for each of its genes."""
    if not choice.columns:
        return tuple((name,) for name in space.cells[choice.cell].operations)
    genes = [space.genes[column] for column in choice.columns]
    return tuple(
        tuple(gene.values[code - 1] for gene, code in zip(genes, choice.codes(pick), strict=True))
        for pick in range(choice.size)
    )


def encode_picks(space: Space, decisions: Sequence[Decision], picks: Picks) -> Codes:
    """The canonical row of an alternative of each of some decisions, shape (1, genes)."""
    row = np.zeros((1, len(space.genes)), np.uint8)
    for decision, pick in zip(decisions, picks, strict=True):
        row[0, list(decision.columns)] = decision.codes(pick)
    return space.canonical(row)


class Policy:
    """Logits of every choice, for what is worth most, and what limits take off them.

    Networks are drawn with the probabilities of ``scores``: logits plus tilt. What is learnt goes
    to the logits alone, so that they say what an alternative is worth, not what it costs; the tilt
    makes drawn networks keep the limits, see ``tilt.py``. Uniform at the start.

    Args:
        space: whose choices.
        choices: that have logits; None: one for each gene, as ``list_decisions`` has them.
    """

    def __init__(self, space: Space, choices: tuple[Decision, ...] | None = None) -> None:
        self.space = space
        self.choices = list_decisions(space) if choices is None else choices
        self.logits = [torch.zeros(c.size, requires_grad=True) for c in self.choices]
        self.tilt = [torch.zeros(c.size) for c in self.choices]
        self.edges = [
            torch.zeros(len(n), requires_grad=True) for n in list_nodes(space, self.choices)
        ]
        self.square = torch.zeros(())  # of gradients, a running mean

    def tensors(self) -> dict[str, Tensor]:
        """What learning changes in place, by name."""
        by_name = {f"logits.{i}": logits for i, logits in enumerate(self.logits)}
        by_name |= {f"edges.{i}": logits for i, logits in enumerate(self.edges)}
        return by_name | {"square": self.square}

    def nodes(self) -> list[tuple[tuple[int, ...], Tensor]]:
        """Of each node with several edges, their choices, and a logit of each edge as a whole."""
        return list(zip(list_nodes(self.space, self.choices), self.edges, strict=True))

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

    @property
    def parts(self) -> tuple[Decision, ...]:
        """What networks are drawn by: independent decisions, which set all genes."""
        return self.choices

    def join(self, probabilities: Sequence[Tensor]) -> list[Tensor]:
        """The probabilities of what networks are drawn by, from those of the choices.

        Args:
            probabilities: of the alternatives of each choice, shape (size,).

        Returns:
            Of the alternatives of each of ``parts``, shape (size,), with the same gradients.
        """
        return [*probabilities]

    def sample(self, generator: torch.Generator) -> Picks:
        """One alternative of every choice, those of absent blocks included."""
        chances = [p.detach() for p in self.probabilities()]
        return [int(torch.multinomial(p, 1, generator=generator)) for p in chances]

    def draw(self, generator: torch.Generator) -> Codes:
        """A network, as a canonical row, shape (1, genes)."""
        return self.row(self.sample(generator))

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
        return encode_picks(self.space, self.choices, picks)

    def preference(self) -> Callable[[Codes], Vector]:
        """How far rows are from the alternatives worth most: logits below the highest, summed.

        Rows of the alternatives worth most have 0, all others less; absent blocks add nothing. The
        tilt plays no part: who asks for the row with the highest preference within limits keeps
        them by leaving out what breaks them.
        """
        values: list[NDArray[np.float64]] = []
        for part, scores in zip(self.parts, self.worth(), strict=True):
            below = (scores - scores.max()).double().numpy()
            table = np.zeros(tuple(1 + n for n in part.shape))
            table[tuple(slice(1, None) for _ in part.shape)] = below.reshape(part.shape)
            values.append(table)
        return Tables(tuple(part.columns for part in self.parts), tuple(values), "sum")

    def worth(self) -> list[Tensor]:
        """What was learnt of the alternatives of each of ``parts``, shape (size,), no gradients."""
        return self.ranks()

    def ranks(self) -> list[Tensor]:
        """How the alternatives of each choice rank in the end, shape (size,), no gradients."""
        return [logits.detach() for logits in self.logits]
