"""Cells while logits are learnt: every edge runs, and of each node of DARTS two edges are kept.

In such a cell a node chooses two nodes to take, and an operation on each of these edges. Learnt are
the operations on all edges from all nodes before it (arXiv 1806.09055, section 2.2). Of them each
node keeps the two edges whose strongest operation other than none is strongest (section 2.4).

Limits need more: how likely each network is. A node draws two edges, and on each an operation with
its probability, until the edges differ and neither operation is none. So two edges a and b with
operations o and p have a probability in proportion to p(a, o) p(b, p), and what DARTS keeps is the
likeliest. The expected latency is that over these networks, exactly. Weights of edges, which
PC-DARTS learns (arXiv 1907.05737, section 3.3), say how likely a node draws each edge.

Where an edge is the sum of its alternatives, none comes last on the edges of all cells: its gate
only scales what a node gets, and the next batch norm takes that away (1806.09055, section 2.4).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgenas.space.genes import Codes, layout
from edgenas.space.space import Space
from edgenas.strategies.gradient.policy import (
    Decision,
    Picks,
    Policy,
    encode_picks,
    list_decisions,
    list_edges,
    list_values,
)

_LEAST = 1e-30  # a probability, so that a node where all edges are certain of none has networks
_BELOW = 1.0  # what none is worth less than the worst other operation of its node or edge


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChoosingNode:
    """A node that chooses what it takes.

    Args:
        decision: all that it chooses, as one; shape (pairs, operations, operations), without the
            axes that have a single value.
        places: the choices of its edges, by the nodes that they come from.
        pairs: the edges that it may take together.
        kept: of each operation, whether it is other than none.
    """

    decision: Decision
    places: tuple[int, ...]
    pairs: tuple[tuple[int, ...], ...]
    kept: tuple[bool, ...]

    def combine(self, edges: Sequence[Tensor], *, by: Literal["sum", "product"]) -> Tensor:
        """Join what its edges have into what its pairs of edges have.

        Args:
            edges: a number for each operation of each edge, shape (operations,).
            by: how two of them become one.

        Returns:
            Shape (size,), of the alternatives of ``decision``.
        """
        table = torch.stack([*edges])
        first, second = (table[[pair[k] for pair in self.pairs]] for k in (0, 1))
        first, second = first[:, :, None], second[:, None, :]
        return (first + second if by == "sum" else first * second).reshape(-1)


@functools.lru_cache(maxsize=16)
def list_relaxed(space: Space) -> tuple[Decision, ...]:
    """The choices with logits: in cells of DARTS operations on all edges, elsewhere of genes."""
    edges = (
        Decision(
            columns=(),
            shape=(len(cell.operations),),
            stage=-1,
            block=-1,
            field="edge",
            cell=i,
            edge=k,
        )
        for i, cell in enumerate(space.cells)
        if cell.family == "darts"
        for k in range(len(list_edges(cell)))
    )
    return (*_list_others(space), *edges)


def _list_others(space: Space) -> tuple[Decision, ...]:
    """The choices outside of cells whose nodes choose what they take."""
    inside = ("sources", "operation")
    return tuple(choice for choice in list_decisions(space) if choice.field not in inside)


@functools.lru_cache(maxsize=16)
def _list_nodes(space: Space) -> tuple[_ChoosingNode, ...]:
    """The nodes that choose what they take."""
    nodes, columns, place = list[_ChoosingNode](), layout(space).cells, len(_list_others(space))
    for i, cell in enumerate(space.cells):
        if cell.family != "darts":
            continue
        width = len(cell.choices) // cell.nodes  # choices of a node
        for k, pairs in enumerate(cell.sources):
            read = [columns[i, c] for c in range(width * k, width * (k + 1)) if (i, c) in columns]
            decision = Decision(
                columns=tuple(read),
                shape=tuple(len(space.genes[column].values) for column in read),
                stage=-1,
                block=-1,
                field="node",
                cell=i,
            )
            count = cell.inputs + k
            kept = tuple(name != "none" for name in cell.operations)
            nodes.append(
                _ChoosingNode(
                    decision=decision,
                    places=tuple(range(place, place + count)),
                    pairs=pairs,
                    kept=kept if any(kept) else (True,) * len(kept),
                )
            )
            place += count
    return tuple(nodes)


class RelaxedPolicy(Policy):
    """Logits of the operation on every edge of cells of DARTS; of all else as in ``Policy``.

    Args:
        space: whose choices.
        gates: what logits become on an edge: ``softmax``, or the ``sigmoid`` of FairDARTS. It says
            how strong an edge is. The probabilities of networks are those of a softmax.
        summed: whether the alternatives of an edge are added up, weighted by their gates.
    """

    def __init__(
        self,
        space: Space,
        *,
        gates: Literal["softmax", "sigmoid"] = "softmax",
        summed: bool = True,
    ) -> None:
        super().__init__(space, list_relaxed(space))
        self._gates, self._summed = gates, summed
        self._others, self._nodes = _list_others(space), _list_nodes(space)
        self._ranked = [self._find_ranked(choice) for choice in self.choices]

    @property
    def parts(self) -> tuple[Decision, ...]:
        """What networks are drawn by: a node of DARTS decides all that it chooses at once."""
        return (*self._others, *(node.decision for node in self._nodes))

    def join(self, probabilities: Sequence[Tensor]) -> list[Tensor]:
        """The probabilities of what nodes choose, from those of operations on edges."""
        joined, weights = [*probabilities[: len(self._others)]], self._log_weights()
        for node in self._nodes:
            kept = torch.tensor(node.kept, dtype=torch.double)
            edges = [
                probabilities[i].double().clamp_min(_LEAST) * kept * weights[i].double().exp()
                for i in node.places
            ]
            together = node.combine(edges, by="product")
            joined.append(together / together.sum())
        return joined

    def draw(self, generator: torch.Generator) -> Codes:
        """A network, as a canonical row, shape (1, genes)."""
        chances = [p.detach() for p in self.join(self.probabilities())]
        drawn = [int(torch.multinomial(p, 1, generator=generator)) for p in chances]
        return self._encode(drawn)

    def row(self, picks: Picks) -> Codes:
        """The canonical row of picks, shape (1, genes); each node keeps its two strongest edges."""
        count, strengths = len(self._others), self._strengths()
        chosen = picks[:count]
        for node in self._nodes:
            left = [torch.full_like(strengths[i], -torch.inf) for i in node.places]
            for edge, i in zip(left, node.places, strict=True):
                edge[picks[i]] = strengths[i][picks[i]]
            chosen = [*chosen, int(node.combine(left, by="sum").argmax())]
        return self._encode(chosen)

    def worth(self) -> list[Tensor]:
        """What was learnt of the alternatives of each of ``parts``: of nodes, sums over edges."""
        strengths = self._strengths()
        nodes = [
            node.combine([strengths[i] for i in node.places], by="sum") for node in self._nodes
        ]
        return [*self.ranks()[: len(self._others)], *nodes]

    def ranks(self) -> list[Tensor]:
        """As in ``Policy``, but none comes last where its logit says nothing."""
        return [
            torch.where(ranked, logits, logits[ranked].min() - _BELOW)
            for ranked, logits in zip(self._ranked, super().ranks(), strict=True)
        ]

    def _find_ranked(self, choice: Decision) -> Tensor:
        """Whether each alternative of a choice ranks by its logit, shape (size,); some do."""
        of_darts = not choice.columns
        ranked = torch.ones(choice.size, dtype=torch.bool)
        if choice.field == "edge" and (self._summed or of_darts):
            names = [name for (name,) in list_values(self.space, choice)]
            ranked = torch.tensor([name != "none" for name in names])
        return ranked if ranked.any() else ~ranked

    def _strengths(self) -> dict[int, Tensor]:
        """By choice of an edge, logarithms of its gates times its weight, shape (operations,).

        None comes behind all others of the node: it is chosen only where limits leave nothing else.
        """
        by_choice, weights = dict[int, Tensor](), self._log_weights()
        logs = F.logsigmoid if self._gates == "sigmoid" else functools.partial(F.log_softmax, dim=0)
        for node in self._nodes:
            kept = torch.tensor(node.kept)
            edges = [logs(self.logits[i].detach()) + weights[i] for i in node.places]
            least = torch.stack(edges)[:, kept].min() - _BELOW
            by_choice |= {
                i: torch.where(kept, x, least) for i, x in zip(node.places, edges, strict=True)
            }
        return by_choice

    def _log_weights(self) -> dict[int, Tensor]:
        """By choice of an edge, the logarithm of the weight of the edge in its node."""
        by_choice: dict[int, Tensor] = {}
        for places, logits in self.nodes():
            by_choice |= dict(zip(places, torch.log_softmax(logits.detach(), 0), strict=True))
        return by_choice

    def _encode(self, picks: Picks) -> Codes:
        """The canonical row of alternatives of ``parts``, shape (1, genes)."""
        return encode_picks(self.space, self.parts, picks)
