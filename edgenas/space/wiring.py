"""The layers of one cell, and the values that each takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgenas.space.cells import OPERATIONS, CellSpace, Nodes
from edgenas.space.layer import Kind, Layer, Size, divide_size
from edgenas.space.sizes import columns_of, size_before

if TYPE_CHECKING:  # whose cells stand here
    from edgenas.space.space import Space

Value = tuple[int, Size]  # its channels, and its height and width
Step = tuple[str, Layer, tuple[str, ...]]  # the name of a layer, the layer, and what it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlace:
    """Where a cell stands, at one resolution.

    Args:
        cell: its choices.
        name: of its block.
        takes: the values that it takes.
        width: channels of its nodes.
        size: height and width of the nodes that are its inputs.
        stride: from these to all others.
    """

    cell: CellSpace
    name: str
    takes: tuple[Value, ...]
    width: int
    size: Size
    stride: int

    @property
    def behind(self) -> Size:
        """Height and width of the nodes that are computed, and of the output."""
        return divide_size(self.size, self.stride)

    def enter(self, k: int) -> Layer:
        """DARTS: the layer that makes a node of an input (arXiv 1806.09055, section 3.1.1)."""
        channels, size = self.takes[k]
        kind = "preconv" if size == self.size else "factorised"
        stride = 1 if size == self.size else 2
        return replace(self._layer(kind, size), inputs=channels, stride=stride)

    def edge(self, source: int, operation: str) -> Layer | None:
        """The layer of an operation on an edge; None: it computes nothing."""
        kind, kernel = OPERATIONS[operation]
        first = source < self.cell.inputs
        stride = self.stride if first else 1
        size = self.size if first else self.behind
        if operation == "skip_connect" and stride > 1:
            return replace(self._layer("factorised", size), stride=stride)
        if not kind:
            return None
        return replace(self._layer(kind, size), kernel=kernel, stride=stride)

    def join(self, terms: int) -> Layer | None:
        """The layer that adds the terms of a node; None: there is a single one."""
        if terms == 1:
            return None
        if terms:
            return replace(self._layer("sum", self.behind), terms=terms)
        return replace(self._layer("sum", self.size), stride=self.stride)

    def leave(self) -> Layer:
        """DARTS: the layer that puts all nodes that are computed side by side."""
        nodes = self.cell.nodes
        side = self._layer("concat", self.behind)
        return replace(side, outputs=nodes * self.width, terms=nodes)

    def walk(self, nodes: Nodes, values: Sequence[str]) -> tuple[list[Step], str]:
        """The steps of a cell, and the name of its output.

        Args:
            nodes: of the cell.
            values: the names of what it takes.
        """
        steps, darts, known = list[Step](), self.cell.family == "darts", [*values]
        for k, value in enumerate(values if darts else ()):
            known[k] = f"{self.name}.input{k}"
            steps.append((known[k], self.enter(k), (value,)))
        for number, terms in enumerate(nodes, self.cell.inputs):
            added = list[str]()
            for operation, source in terms:
                layer = self.edge(source, operation)
                if layer is not None:
                    name = f"{self.name}.edge{number}from{source}"
                    steps.append((name, layer, (known[source],)))
                    added.append(name)
                elif operation != "none":
                    added.append(known[source])
            layer = self.join(len(added))
            if layer is not None:
                steps.append((f"{self.name}.node{number}", layer, tuple(added) or (known[0],)))
                added = [steps[-1][0]]
            known.append(added[0])
        if darts:
            name = f"{self.name}.output"
            steps.append((name, self.leave(), tuple(known[self.cell.inputs :])))
            known.append(name)
        return steps, known[-1]

    def _layer(self, kind: str, size: Size) -> Layer:
        made: Kind = kind  # pyright: ignore[reportAssignmentType]
        width = self.width
        return Layer(kind=made, inputs=width, outputs=width, size=size[0], columns=columns_of(size))


def cell_place(space: "Space", i: int, j: int, resolution: int) -> CellPlace:
    """Where a cell stands: as block j of stage i."""
    stage, cell = space.stages[i], space.cells[space.stages[i].cell]
    size = size_before(space, i, resolution)
    darts = cell.family == "darts"
    return CellPlace(
        cell=cell,
        name=f"stages.{i}.{j}",
        takes=_blocks_before(space, i, j, resolution) if darts else ((stage.widths[0], size),),
        width=stage.widths[0] // (cell.nodes if darts else 1),
        size=size if j == 0 else divide_size(size, stage.stride),
        stride=stage.stride if j == 0 else 1,
    )


def _blocks_before(space: "Space", i: int, j: int, resolution: int) -> tuple[Value, ...]:
    """The outputs of the two blocks before one; twice that of the first block behind it."""
    depths = [stage.depths[0] for stage in space.stages[:i]] + [j]
    places = [(a, b) for a, depth in enumerate(depths) for b in range(depth)][-2:]
    values = [
        (space.stages[a].widths[0], divide_size(size_before(space, a, resolution), stride))
        for a, stride in ((a, space.stages[a].stride) for a, _ in places)
    ]
    return (values[0], values[-1])
