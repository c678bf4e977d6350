"""An ensemble of graph networks on cells: information flows through them as images do.

Each node has a state: the sum over its edges of the state that they take, through a matrix, times a
gate that the operation opens (GATES, Ning et al. 2020, arXiv 2004.01899, section 3.1). An edge of
``none`` lets nothing through. So what no output needs changes nothing, and equal cells are equal.
All members are trained at once, each on its own draw of the networks.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenas.accuracy.encoding import Matrix
from edgenas.accuracy.ensemble import Ensemble, draw_bags, join_members
from edgenas.basics.errors import EdgenasError
from edgenas.space.cells import CellSpace
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes, layout
from edgenas.space.space import Space

_WIDTH, _HIDDEN, _STEPS = 24, 32, 200
_RATE, _DECAY = 0.01, 0.01  # of AdamW
_CHUNK = 4096  # networks that are asked at once
Weights = Mapping[str, Tensor]
Edges = NDArray[np.int64]


def fit_graph_ensemble(space: Space, *, seed: int = 0) -> Callable[[Codes, Vector], Ensemble]:
    """How an ensemble of graph networks is fitted to cells of a space, for ``fit_believer``.

    Raises:
        EdgenasError: the space has no cells.
    """
    if not space.cells:
        raise EdgenasError(
            f"a graph network needs a space with cells, found {space.name}",
            hint="use an ensemble of perceptrons, or a process",
        )

    def fit(rows: Codes, scores: Vector) -> Ensemble:
        learnt = draw_bags(len(rows), seed=seed)
        weights = _train(space, rows, torch.from_numpy(scores).float(), learnt, seed=seed)

        def say(asked: Codes) -> Matrix:
            parts = [asked[i : i + _CHUNK] for i in range(0, len(asked), _CHUNK)]
            with torch.inference_mode():
                said = [_flow(space, edges_of(space, part), weights).double() for part in parts]
            return torch.cat(said, 1).numpy()

        return join_members(say, rows, scores, learnt=learnt)

    return fit


def edges_of(space: Space, rows: Codes) -> list[Edges]:
    """The edges of each cell: which operation stands between two nodes; 0: none.

    Args:
        space: with cells.
        rows: shape (n, genes).

    Returns:
        For each cell, shape (n, nodes that are computed, all nodes).
    """
    columns = layout(space).cells
    every = list[Edges]()
    for number, cell in enumerate(space.cells):
        picks = [
            rows[:, columns[number, k]].astype(np.intp) - 1
            if (number, k) in columns
            else np.zeros(len(rows), np.intp)
            for k in range(len(cell.choices))
        ]
        every.append(_edges(cell, picks, len(rows)))
    return every


def _edges(cell: CellSpace, picks: list[NDArray[np.intp]], n: int) -> Edges:
    """The edges of one cell from the places of the chosen values."""
    codes = np.array([0 if name == "none" else 1 + k for k, name in enumerate(cell.operations)])
    edges = np.zeros((n, cell.nodes, cell.inputs + cell.nodes), np.int64)
    left, lines = list(picks), np.arange(n)
    for node, among in enumerate(cell.sources):
        chosen = left.pop(0) if cell.family == "darts" else np.zeros(n, np.intp)
        sources = np.array(among)[chosen]
        for term in range(sources.shape[1]):
            edges[lines, node, sources[:, term]] = codes[left.pop(0)]
    return edges


def _start(space: Space, members: int, *, seed: int) -> dict[str, Tensor]:
    """Weights before the training; the first extent is the member."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float) -> Tensor:
        return torch.randn(members, *shape, generator=generator) * scale

    weights = dict[str, Tensor]()
    for i, cell in enumerate(space.cells):
        weights[f"{i}.inputs"] = draw(cell.inputs, _WIDTH, scale=1.0)
        weights[f"{i}.gates"] = draw(1 + len(cell.operations), _WIDTH, scale=1.0)
        weights[f"{i}.matrix"] = draw(_WIDTH, _WIDTH, scale=_WIDTH**-0.5)
    wide = _WIDTH * len(space.cells)
    weights["hidden"] = draw(wide, _HIDDEN, scale=(2 / wide) ** 0.5)
    weights["shift"] = torch.zeros(members, 1, _HIDDEN)
    weights["last"] = draw(_HIDDEN, 1, scale=_HIDDEN**-0.5)
    weights["bias"] = torch.zeros(members, 1, 1)
    return weights


def _flow(space: Space, edges: list[Edges], weights: Weights) -> Tensor:
    """The score of each network by each member, shape (members, n)."""
    ends = list[Tensor]()
    for i, (cell, codes) in enumerate(zip(space.cells, edges, strict=True)):
        gates = weights[f"{i}.gates"].sigmoid()
        # Nothing passes where there is no edge.
        gates = torch.cat([torch.zeros_like(gates[:, :1]), gates[:, 1:]], 1)
        operations, matrix = torch.from_numpy(codes), weights[f"{i}.matrix"]
        first = weights[f"{i}.inputs"]
        count = codes.shape[0]
        states = [first[:, k : k + 1].expand(-1, count, -1) for k in range(cell.inputs)]
        passed = [state @ matrix for state in states]
        for node in range(cell.nodes):
            terms = (
                gates[:, operations[:, node, source]] * passed[source]
                for source in range(cell.inputs + node)
            )
            states.append(sum(terms, torch.zeros(())).relu())
            passed.append(states[-1] @ matrix)
        computed = states[cell.inputs :]
        ends.append(torch.stack(computed).mean(0) if cell.family == "darts" else computed[-1])
    hidden = (torch.cat(ends, 2) @ weights["hidden"] + weights["shift"]).relu()
    return (hidden @ weights["last"] + weights["bias"])[:, :, 0]


def _train(
    space: Space, rows: Codes, targets: Tensor, learnt: NDArray[np.bool_], *, seed: int
) -> Weights:
    weights = _start(space, len(learnt), seed=seed)
    for weight in weights.values():
        weight.requires_grad_()
    optimiser = torch.optim.AdamW(weights.values(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    edges, counted = edges_of(space, rows), torch.from_numpy(learnt).float()
    for _ in range(_STEPS):
        optimiser.zero_grad()
        off = (_flow(space, edges, weights) - targets).square() * counted
        # Members share no weights, so each has the gradients of its own mean.
        (off.sum(1) / counted.sum(1)).sum().backward()
        optimiser.step()
        schedule.step()
    return {name: weight.detach() for name, weight in weights.items()}
