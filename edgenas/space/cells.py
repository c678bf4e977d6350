"""Cells: blocks that are a graph with an operation on every edge, and their text form.

Two families of cells differ in their wiring. All cells of one number in a network are the same.

NAS-Bench-201 (arXiv 2001.00326, section 2.1): node 0 is the input of a cell. Every other node is
the sum of the operations on the edges from all nodes before it, and the last one is the output.

DARTS (arXiv 1806.09055, section 2.1): nodes 0 and 1 are the outputs of the two blocks before, each
behind a 1x1 conv. Every other node is the sum of the operations on two edges, from nodes that it
chooses among all before it. The output is all these nodes side by side.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.ranges import Id, Length, Range

# The operations, from the lightest to the heaviest: the kind of their layer and its kernel size.
OPERATIONS: Mapping[str, tuple[str, int]] = {
    "none": ("", 0),  # no edge
    "skip_connect": ("", 0),  # the node as it is
    "max_pool_3x3": ("maxpool", 3),
    "avg_pool_3x3": ("avgpool", 3),
    "nor_conv_1x1": ("preconv", 1),
    "dil_conv_3x3": ("dilconv", 3),
    "dil_conv_5x5": ("dilconv", 5),
    "sep_conv_3x3": ("sepconv", 3),
    "sep_conv_5x5": ("sepconv", 5),
    "nor_conv_3x3": ("preconv", 3),
}
Family = Literal["nas-bench-201", "darts"]
Term = tuple[str, int]  # an operation and the node that it takes
Nodes = tuple[tuple[Term, ...], ...]  # the terms of each node that is computed
_TERMS = 2  # of a node of DARTS
_NUMBERS = frozenset(map(str, range(20)))  # of nodes


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a cell.

    Args:
        name: the path in the cell, e.g. ``edges[3]`` or ``nodes[1].sources``.
        values: to choose from: operations, or the nodes that a node takes.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpace:
    """The choices of one cell.

    Args:
        operations: to choose from on every edge, of ``OPERATIONS``.
        nodes: nodes that are computed.
        family: how the nodes are wired.
    """

    operations: Annotated[tuple[Id, ...], Length(1, 100)]
    nodes: Annotated[int, Range(1, 9, "count")]
    family: Family = "nas-bench-201"

    @property
    def inputs(self) -> int:
        """Values that a cell takes. They are its first nodes."""
        return 2 if self.family == "darts" else 1

    @property
    def sources(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each node that is computed, the nodes that it may take together."""
        before = range(self.inputs, self.inputs + self.nodes)
        if self.family == "darts":
            return tuple(tuple(itertools.combinations(range(n), _TERMS)) for n in before)
        return tuple((tuple(range(n)),) for n in before)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What there is to choose, in the order of genes."""
        return _choices(self)

    def text(self, values: Sequence[Any]) -> str:
        """The text form of the cell with these values of its choices."""
        left, nodes = list(values), list[list[Term]]()
        for among in self.sources:
            sources = left.pop(0) if self.family == "darts" else among[0]
            nodes.append([(left.pop(0), source) for source in sources])
        return cell_text(nodes)

    def values(self, text: str) -> tuple[Any, ...]:
        """The values of the choices of a cell of this space."""
        values = list[Any]()
        for terms in parse_cell(text):
            if self.family == "darts":
                values.append(tuple(source for _, source in terms))
            values += [operation for operation, _ in terms]
        return tuple(values)

    def corner(self, pick: Callable[[Sequence[float]], float]) -> str:
        """The heaviest or lightest cell without missing edges; ``pick`` is ``max`` or ``min``.

        Nodes of DARTS take the first two nodes in the heaviest, the last two in the lightest.
        """
        ranks = [i for i, name in enumerate(OPERATIONS) if name in self.operations]
        operation = [*OPERATIONS][int(pick([i for i in ranks if i] or ranks))]
        end = 0 if pick([0, 1]) else -1
        return cell_text([[(operation, s) for s in among[end]] for among in self.sources])


@functools.lru_cache(maxsize=64)
def _choices(cell: CellSpace) -> tuple[Choice, ...]:
    operations = cell.operations
    if cell.family == "nas-bench-201":
        edges = range(sum(len(among[0]) for among in cell.sources))
        return tuple(Choice(f"edges[{k}]", operations) for k in edges)
    choices = list[Choice]()
    for k, among in enumerate(cell.sources):
        choices.append(Choice(f"nodes[{k}].sources", among))
        choices += [Choice(f"nodes[{k}].operations[{t}]", operations) for t in range(_TERMS)]
    return tuple(choices)


def cell_text(nodes: Sequence[Sequence[Term]]) -> str:
    """The text form of a cell: ``|skip_connect~0|+|none~0|nor_conv_3x3~1|``.

    Args:
        nodes: the terms of each node that is computed, by the nodes that they take.
    """
    parts = ("".join(f"|{name}~{source}" for name, source in terms) + "|" for terms in nodes)
    return "+".join(parts)


@functools.lru_cache(maxsize=65536)
def parse_cell(text: str) -> Nodes:
    """The terms of each node of a cell.

    Raises:
        EdgenasError: the text does not describe a cell.
    """
    parts = [node.strip("|").split("|") for node in text.split("+")]
    split = [[part.partition("~") for part in node] for node in parts]
    nodes = tuple(
        tuple((name, int(source) if source in _NUMBERS else -1) for name, _, source in node)
        for node in split
    )
    # A node comes after those that it takes, and takes each once, in their order.
    sources = [[source for _, source in terms] for terms in nodes]
    first = len(nodes[0])
    ordered = all(
        taken == sorted({*taken}) and taken[0] >= 0 and taken[-1] < first + n
        for n, taken in enumerate(sources)
    )
    known = all(name in OPERATIONS for terms in nodes for name, _ in terms)
    if not (ordered and known and cell_text(nodes) == text):
        raise EdgenasError(
            f"a cell must read like |skip_connect~0|+|none~0|nor_conv_3x3~1|, found {quote(text)}",
            hint=f"operations: {', '.join(OPERATIONS)}",
        )
    return nodes


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
        EdgenasError: names the first part that does not fit.
    """
    nodes = parse_cell(text)
    edges = sum(map(len, nodes))
    wanted = sum(len(among[0]) for among in cell.sources)
    if edges != wanted:
        raise EdgenasError(f"{path} must have {wanted} edges in space {space}, found {edges}")
    for n, (terms, among) in enumerate(zip(nodes, cell.sources, strict=False)):
        sources = tuple(source for _, source in terms)
        if sources not in among:
            takes = f"two of the nodes 0 to {among[-1][-1]}"
            rule = takes if cell.family == "darts" else f"the nodes 0 to {n}"
            taken = ", ".join(map(str, sources))
            raise EdgenasError(
                f"{path}.nodes[{n}] must take {rule} in space {space}, found {taken}"
            )
    for edge, (name, _) in enumerate(term for terms in nodes for term in terms):
        if name not in cell.operations:
            known = ", ".join(cell.operations)
            raise EdgenasError(
                f"{path}.edges[{edge}] must be one of {known} in space {space}, found {name}"
            )
