"""Cells: blocks that are a graph with an operation on every edge, and their text form.

A cell has nodes in a row. Node 0 is its input; every other node is the sum of the operations on the
edges from all nodes before it, and the last one is its output (NAS-Bench-201, arXiv 2001.00326,
section 2.1). All cells of one number in a network have the same operations.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.ranges import Id, Length, Range

# The operations, from the lightest to the heaviest: the kind of their layer and its kernel size.
OPERATIONS: Mapping[str, tuple[str, int]] = {
    "none": ("", 0),  # no edge
    "skip_connect": ("", 0),  # the node as it is
    "max_pool_3x3": ("maxpool", 3),
    "avg_pool_3x3": ("avgpool", 3),
    "nor_conv_1x1": ("preconv", 1),
    "nor_conv_3x3": ("preconv", 3),
}
Edge = tuple[int, int]  # the node that it leads to, and the one that it comes from


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpace:
    """The choices of one cell.

    Args:
        operations: to choose from on every edge, of ``OPERATIONS``.
        nodes: nodes that are computed.
    """

    operations: Annotated[tuple[Id, ...], Length(1, 100)]
    nodes: Annotated[int, Range(1, 9, "count")]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges in their order: (1, 0), (2, 0), (2, 1), (3, 0) ..."""
        return tuple((n, s) for n in range(1, self.nodes + 1) for s in range(n))

    def corner(self, pick: Callable[[Sequence[float]], float]) -> str:
        """The heaviest or lightest cell without missing edges; ``pick`` is ``max`` or ``min``."""
        ranks = [i for i, name in enumerate(OPERATIONS) if name in self.operations]
        rank = int(pick([i for i in ranks if i] or ranks))
        return cell_text([[*OPERATIONS][rank]] * len(self.edges))


def cell_text(operations: Sequence[str]) -> str:
    """The text form of a cell: ``|skip_connect~0|+|none~0|nor_conv_3x3~1|``.

    Args:
        operations: of all edges, in the order of ``CellSpace.edges``.
    """
    left, nodes = [*operations], list[str]()
    while left:
        count = len(nodes) + 1
        nodes.append("".join(f"|{name}~{source}" for source, name in enumerate(left[:count])) + "|")
        left = left[count:]
    return "+".join(nodes)


@functools.lru_cache(maxsize=65536)
def parse_cell(text: str) -> tuple[str, ...]:
    """The operations of all edges of a cell, in the order of ``CellSpace.edges``.

    Raises:
        EdgenasError: the text does not describe a cell.
    """
    nodes = [node.strip("|").split("|") for node in text.split("+")]
    operations = tuple(part.partition("~")[0] for node in nodes for part in node)
    whole = all(len(node) == n for n, node in enumerate(nodes, 1)) and cell_text(operations) == text
    if not whole or not all(name in OPERATIONS for name in operations):
        raise EdgenasError(
            f"a cell must read like |skip_connect~0|+|none~0|nor_conv_3x3~1|, found {quote(text)}",
            hint=f"operations: {', '.join(OPERATIONS)}",
        )
    return operations


def check_cell_space(cell: CellSpace, path: str) -> None:
    """Refuse a cell that breaks a rule.

    Raises:
        EdgenasError: names the path and the rule.
    """
    for name in cell.operations:
        if name not in OPERATIONS:
            known = ", ".join(OPERATIONS)
            raise EdgenasError(f"{path}.operations must be of {known}, found {quote(name)}")
    if len(set(cell.operations)) < len(cell.operations):
        listed = [*cell.operations]
        raise EdgenasError(f"{path}.operations must be listed once each, found {listed}")


def check_cell(text: str, cell: CellSpace, path: str, space: str) -> None:
    """Refuse a cell that is not among those of a space.

    Raises:
        EdgenasError: names the first edge that does not fit.
    """
    operations = parse_cell(text)
    if len(operations) != len(cell.edges):
        raise EdgenasError(
            f"{path} must have {len(cell.edges)} edges in space {space}, found {len(operations)}"
        )
    for edge, name in enumerate(operations):
        if name not in cell.operations:
            known = ", ".join(cell.operations)
            raise EdgenasError(
                f"{path}.edges[{edge}] must be one of {known} in space {space}, found {name}"
            )
