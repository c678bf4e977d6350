"""The nodes of a graph in an order in which they can run, with functions inlined."""

import heapq
from collections.abc import Iterable, Iterator, Sequence

from onnx import GraphProto, ModelProto, NodeProto, checker, inliner

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.file import shown

MOST_NODES = 100_000  # of a graph, with those of its functions each time they are called
_DEEPEST = 20  # graphs inside operators


def called(node: NodeProto) -> str:
    """How an error names a node."""
    domain = f"{shown(node.domain, most=30)}." if node.domain not in ("", "ai.onnx") else ""
    name = node.name or next(filter(None, node.output), "")
    return f"{domain}{shown(node.op_type, most=30)} {shown(name, most=60)!r}"


def inline(model: ModelProto, *, where: str) -> ModelProto:
    """A model without functions of its own.

    Raises:
        EdgenasError: a function calls itself, or all calls together are too many nodes.
    """
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(key: tuple[str, str], above: tuple[tuple[str, str], ...]) -> int:
        if key in above or len(above) > _DEEPEST:
            raise EdgenasError(
                f"{where}: the function {shown(key[1], most=60)!r} calls itself"
                if key in above
                else f"{where}: its functions call each other more than {_DEEPEST} deep"
            )
        if key not in sizes:
            sizes[key] = count(bodies[key], (*above, key))
        return sizes[key]

    def count(nodes: Iterable[NodeProto], above: tuple[tuple[str, str], ...]) -> int:
        count = 0
        for node in _all(nodes):
            key = node.domain, node.op_type
            count += size(key, above) if key in bodies else 1
            if count > MOST_NODES:
                raise _too_many(where)
        return count

    count(model.graph.node, ())
    for key in bodies:  # what nothing calls may still call itself
        size(key, ())
    try:
        return inliner.inline_local_functions(model)
    # The library asserts what a damaged call breaks, and refuses functions that call themselves.
    except (RuntimeError, checker.ValidationError) as error:
        raise EdgenasError(
            f"{where} calls a function of its own in a way that does not fit it: {shown(error)}",
            hint="export it again",
        ) from error


def _all(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those of the graphs inside them."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for graph in inner(node):
            waiting.extend(graph.node)


def inner(node: NodeProto) -> list[GraphProto]:
    """The graphs inside an operator."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return graphs + [graph for attribute in node.attribute for graph in attribute.graphs]


def _too_many(where: str) -> EdgenasError:
    return EdgenasError(f"{where} has more than {MOST_NODES:,} nodes")


def sort(graph: GraphProto, *, where: str, outside: frozenset[str] = frozenset()) -> None:
    """Put the nodes of a graph, and of the graphs inside them, in an order of execution.

    Nodes that are in order already stay where they are. The order is otherwise the one nearest
    to that of the file.

    Args:
        graph: is changed.
        where: the name of the file.
        outside: names that the graphs around this one define.

    Raises:
        EdgenasError: a name is given twice or by nothing, nodes wait for each other, or there are
            too many nodes.
    """
    _sort(graph, where=where, outside=outside, depth=0)


def _sort(graph: GraphProto, *, where: str, outside: frozenset[str], depth: int) -> None:
    if depth > _DEEPEST:
        raise EdgenasError(f"{where} nests graphs more than {_DEEPEST} deep")
    nodes: Sequence[NodeProto] = graph.node
    if len(nodes) > MOST_NODES:
        raise _too_many(where)
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    given |= {sparse.values.name for sparse in graph.sparse_initializer}
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in maker or name in given:
                raise EdgenasError(f"{where}: two nodes or inputs give {shown(name)!r}")
            maker[name] = i
    here = outside | given | maker.keys()
    needs = [reads(node) for node in nodes]
    for node, names in zip(nodes, needs, strict=True):
        missing = sorted(names - here)
        if missing:
            raise EdgenasError(
                f"{where}: the node {called(node)} reads {shown(missing[0])!r}, which nothing gives"
            )
    waits = [{maker[name] for name in names if name in maker} for names in needs]
    if any(before >= i for i, those in enumerate(waits) for before in those):
        order = _ordered(waits)
        if len(order) < len(nodes):
            stuck = next(i for i in range(len(nodes)) if i not in set(order))
            raise EdgenasError(
                f"{where}: nodes wait for each other in a circle, {called(nodes[stuck])} among them"
            )
        sorted_nodes = [nodes[i] for i in order]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in sorted_nodes]
        del graph.node[:]
        graph.node.extend(copies)
    for node in graph.node:
        for body in inner(node):
            _sort(body, where=where, outside=frozenset(here), depth=depth + 1)


def _ordered(waits: Sequence[set[int]]) -> list[int]:
    """Kahn's algorithm; of all nodes that could be next, the first one of the file."""
    readers: dict[int, list[int]] = {}
    left = [len(those) for those in waits]
    for i, those in enumerate(waits):
        for before in those:
            readers.setdefault(before, []).append(i)
    ready = [i for i, count in enumerate(left) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers.get(i, ()):
            left[reader] -= 1
            if left[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def reads(node: NodeProto) -> set[str]:
    """What a node reads, with what the graphs inside it take from outside."""
    names = {name for name in node.input if name}
    for graph in inner(node):
        names |= captured(graph)
    return names


def captured(graph: GraphProto, *, depth: int = 0) -> set[str]:
    """What a graph inside an operator takes from the graphs around it."""
    if depth > _DEEPEST:
        raise EdgenasError(f"the model nests graphs more than {_DEEPEST} deep")
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    used = {value.name for value in graph.output}
    for node in graph.node:
        own.update(node.output)
        used.update(node.input)
        for body in inner(node):
            used |= captured(body, depth=depth + 1)
    return {name for name in used - own if name}
