"""Graphs for readers of older ONNX: a lower opset, a lower IR, operators that were there then."""

import onnx
from onnx import ModelProto, NodeProto, helper, version_converter

from edgenas.onnx_graph.model import loads

# Operators of our graphs that mean the same from opset 13 to 20 on the types that these graphs
# have: later versions only admit more types or more attributes (onnx/docs/Changelog.md).
_SAME_SINCE_13 = frozenset(
    "Add AveragePool Cast Clip Conv DequantizeLinear Flatten Gemm GlobalAveragePool HardSigmoid "
    "MaxPool Mul QuantizeLinear Relu".split()
)


def lower_opset(onnx_bytes: bytes, *, opset: int, ir: int) -> bytes:
    """Bring a graph to an older opset and IR version; one that is older already stays as it is.

    Args:
        onnx_bytes: the graph.
        opset: of the reader, 13 or above.
        ir: version of the reader's file format.

    Raises:
        EdgenasError: the file is no model.
    """
    proto = loads(onnx_bytes).proto
    now = next((i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")), 0)
    if now <= opset and proto.ir_version <= ir:
        return onnx_bytes
    lowered = ModelProto()
    lowered.CopyFrom(proto)
    if opset < 14:
        _spell_out_hard_swish(lowered)
    if now > opset:
        if {node.op_type for node in lowered.graph.node} <= _SAME_SINCE_13:
            del lowered.opset_import[:]
            lowered.opset_import.append(helper.make_opsetid("", opset))
        else:
            lowered = version_converter.convert_version(lowered, opset)
    lowered.ir_version = min(lowered.ir_version, ir)
    onnx.checker.check_model(lowered)
    return lowered.SerializeToString(deterministic=True)


def _spell_out_hard_swish(model: ModelProto) -> None:
    """HardSwish came with opset 14: x * HardSigmoid(x) with alpha 1/6 is the same."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "HardSwish":
            nodes.append(node)
            continue
        gate = f"{node.output[0]}_gate"
        nodes += [
            helper.make_node("HardSigmoid", [node.input[0]], [gate], gate, alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [node.input[0], gate], [node.output[0]], node.name),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
