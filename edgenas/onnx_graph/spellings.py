"""Activations that an exporter spelt out in several operators."""

from collections.abc import Mapping

from onnx import NodeProto

from edgenas.onnx_graph.graph import Graph


def gates(graph: Graph, maker: Mapping[str, NodeProto]) -> dict[int, str]:
    """Nodes that are part of an activation spelt out; the last of each holds its name."""
    kinds: dict[int, str] = {}
    for node in graph.nodes:
        factors = graph.varying(node)
        if node.op_type != "Mul" or len(factors) != 2:
            continue
        for x, name in (factors, factors[::-1]):
            gate = maker.get(name)
            if gate is None or graph.users[name] != 1:
                continue
            if gate.op_type in ("Sigmoid", "HardSigmoid") and gate.input[0] == x:
                kinds |= {id(gate): "", id(node): _GATED[gate.op_type]}
            chain = _ramp(graph, maker, name, x)
            if chain:
                last = _scaled(graph, node) if len(chain) == 2 else None
                kinds |= dict.fromkeys(map(id, (*chain, node)), "")
                kinds[id(last or node)] = "hswish"
    return kinds


_GATED = {"Sigmoid": "silu", "HardSigmoid": "hswish"}


def _ramp(graph: Graph, maker: Mapping[str, NodeProto], name: str, x: str) -> list[NodeProto]:
    """The nodes of ``clip(x + 3, 0, 6)``, with or without ``/ 6``, that end in a tensor."""
    chain: list[NodeProto] = []
    for kinds in (("Div", "Mul"), ("Clip",), ("Add",)):
        node = maker.get(name)
        if node is None or len(graph.varying(node)) != 1:
            return []
        if node.op_type in kinds:
            chain.append(node)
            name = graph.varying(node)[0]
        elif kinds != ("Div", "Mul"):
            return []
    return chain if name == x else []


def _scaled(graph: Graph, node: NodeProto) -> NodeProto | None:
    """The division by a constant that alone reads a node."""
    readers = [other for other in graph.nodes if node.output[0] in other.input]
    alone = len(readers) == 1 and graph.users[node.output[0]] == 1
    if alone and readers[0].op_type in ("Div", "Mul") and len(graph.varying(readers[0])) == 1:
        return readers[0]
    return None
