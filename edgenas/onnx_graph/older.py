"""Graphs for readers of older ONNX: a lower opset, a lower IR, operators that were there then."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.build import IR_VERSION, OPSET
from edgenas.onnx_graph.graph import attribute
from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.readers import OnnxReader, opset_of

# Operators that some program lacks, or computes wrongly, in each of its versions, and that have
# another form. A file for programs that nobody names does without them. HardSigmoid stands where
# tensors are small, so that the other form takes no longer.
WIDELY_LACKED = frozenset({"HardSigmoid"})

# Operators of our graphs that mean the same from opset 13 to 20 on the types that these graphs
# have: later versions only admit more types or more attributes (onnx/docs/Changelog.md). HardSwish
# is there from opset 14 on.
_SAME_SINCE_13 = frozenset(
    "Add AveragePool Cast Clip Concat Conv DequantizeLinear Flatten Gemm GlobalAveragePool "
    "HardSigmoid HardSwish MaxPool Mul QuantizeLinear Relu Sigmoid Slice Sub".split()
)


class NoOlderFormError(EdgenasError):
    """A graph has an operator that the opset or the reader lacks, and that has no other form."""


def fit_reader(onnx_bytes: bytes, reader: OnnxReader) -> bytes:
    """Write a graph for a reader, see ``lower``."""
    return lower(onnx_bytes, opset=reader.opset, ir=reader.ir, without=reader.lacks)


def lower(
    onnx_bytes: bytes, *, opset: int, ir: int, without: frozenset[str] = frozenset()
) -> bytes:
    """Write a graph in an older opset and IR version; what is older already stays as it is.

    HardSwish becomes HardSigmoid and Mul, HardSigmoid becomes Add, Clip and Mul, and Clip from zero
    becomes the difference of two Relu, where the opset or the reader has them not.

    Args:
        onnx_bytes: the graph.
        opset: of the reader, 13 or above.
        ir: version of the reader's file format.
        without: operators that the reader lacks.

    Raises:
        NoOlderFormError: an operator of it has no older form.
        EdgenasError: the file is no model.
    """
    proto = loads(onnx_bytes).proto
    now = opset_of(proto)
    lacking = without | {"HardSwish"} if opset < 14 else without
    replaced = lacking & {node.op_type for node in proto.graph.node}
    if now <= opset and proto.ir_version <= ir and not replaced:
        return onnx_bytes
    lowered = ModelProto()
    lowered.CopyFrom(proto)
    if "HardSwish" in replaced:
        _replace(lowered, "HardSwish", _spell_hard_swish)
    if "HardSigmoid" in lacking:
        _replace(lowered, "HardSigmoid", _spell_hard_sigmoid)
    if "Clip" in lacking and _clips_from_zero(lowered):
        _replace(lowered, "Clip", _spell_clip)
    if left := sorted(lacking & {node.op_type for node in lowered.graph.node}):
        raise NoOlderFormError(f"the reader lacks {left[0]}, and there is no other form of it")
    if now > opset:
        lowered = _with_opset(lowered, opset)
    lowered.ir_version = min(lowered.ir_version, ir)
    try:
        onnx.checker.check_model(lowered)
    except onnx.checker.ValidationError as error:
        raise _no_older_form(opset, error) from error
    return lowered.SerializeToString(deterministic=True)


def restore(onnx_bytes: bytes) -> bytes:
    """Bring a graph of edgenas that was written for TensorRT back into the form that is built.

    Other graphs stay as they are.
    """
    proto = loads(onnx_bytes).proto
    if opset_of(proto) >= OPSET and proto.ir_version >= IR_VERSION:
        return onnx_bytes
    kept = ModelProto()
    kept.CopyFrom(proto)
    if not {node.op_type for node in kept.graph.node} <= _SAME_SINCE_13:
        return onnx_bytes
    gates = {node.output[0]: node for node in kept.graph.node if node.op_type == "HardSigmoid"}
    nodes: list[NodeProto] = []
    for node in kept.graph.node:
        gate = gates.get(node.input[1]) if node.op_type == "Mul" else None
        if gate is not None and gate.input[0] == node.input[0]:
            nodes.remove(gate)
            node = helper.make_node("HardSwish", [node.input[0]], list(node.output), node.name)
        nodes.append(node)
    del kept.graph.node[:]
    kept.graph.node.extend(nodes)
    kept.ir_version = IR_VERSION
    return _renumber(kept, OPSET).SerializeToString(deterministic=True)


def choose_versions(*, opset: int | None, ir: int | None) -> tuple[int, int]:
    """Opset and IR version of a file where only one of them is told.

    The IR is then the one that came with the opset, and the opset is the highest that came with an
    IR up to the one told (``onnx.helper.OP_SET_ID_VERSION_MAP``).
    """
    came = {
        number: version
        for (domain, number), version in helper.OP_SET_ID_VERSION_MAP.items()
        if domain == "ai.onnx" and number <= OPSET
    }
    if opset is None:
        assert ir is not None, "one of them is told"
        opset = max(number for number, version in came.items() if version <= ir)
    return opset, ir if ir is not None else came[opset]


def _with_opset(model: ModelProto, opset: int) -> ModelProto:
    if {node.op_type for node in model.graph.node} <= _SAME_SINCE_13:
        return _renumber(model, opset)
    try:
        return version_converter.convert_version(model, opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise _no_older_form(opset, error) from error


def _renumber(model: ModelProto, opset: int) -> ModelProto:
    others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", opset), *others])
    return model


def _no_older_form(opset: int, error: Exception) -> NoOlderFormError:
    why = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason is told"
    return NoOlderFormError(f"the graph cannot be written in opset {opset}: {why}")


# Gives the nodes that compute what a node does. The second argument makes a constant of a value
# with the type of the node's input, and tells its name.
_Spell = Callable[[NodeProto, Callable[[float], str]], list[NodeProto]]


def _replace(model: ModelProto, operator: str, spell: _Spell) -> None:
    """Replace an operator by others in the whole graph."""
    kinds = _element_types(model)
    taken = {tensor.name for tensor in model.graph.initializer} | set(kinds)
    constants: dict[tuple[float, int], str] = {}

    def constant(value: float, kind: int) -> str:
        if (value, kind) not in constants:
            name, count = f"spelt_{len(taken)}", len(taken)
            while name in taken:
                count += 1
                name = f"spelt_{count}"
            taken.add(name)
            stored = np.asarray(value, helper.tensor_dtype_to_np_dtype(kind))
            model.graph.initializer.append(numpy_helper.from_array(stored, name))
            constants[value, kind] = name
        return constants[value, kind]

    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != operator:
            nodes.append(node)
            continue
        kind = kinds.get(node.input[0], onnx.TensorProto.FLOAT)
        nodes += spell(node, lambda value, kind=kind: constant(value, kind))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _element_types(model: ModelProto) -> dict[str, int]:
    """The element types of all tensors, as far as inference tells them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _spell_hard_swish(node: NodeProto, constant: Callable[[float], str]) -> list[NodeProto]:
    """HardSwish came with opset 14: x * HardSigmoid(x) with alpha 1/6 and beta 1/2 is the same."""
    x, gate = node.input[0], f"{node.output[0]}_gate"
    return [
        helper.make_node("HardSigmoid", [x], [gate], gate, alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [x, gate], [node.output[0]], node.name),
    ]


def _spell_hard_sigmoid(node: NodeProto, constant: Callable[[float], str]) -> list[NodeProto]:
    """max(0, min(1, a x + b)) is Clip(x + b/a, 0, 1/a) * a for a above 0."""
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    moved, held = f"{node.output[0]}_moved", f"{node.output[0]}_held"
    scale, least, most = constant(alpha), constant(0.0), constant(1 / alpha)
    return [
        helper.make_node("Add", [node.input[0], constant(beta / alpha)], [moved], moved),
        helper.make_node("Clip", [moved, least, most], [held], held),
        helper.make_node("Mul", [held, scale], [node.output[0]], node.name),
    ]


def _clips_from_zero(model: ModelProto) -> bool:
    """Whether every Clip of a graph has a maximum and the constant zero as minimum."""
    zeros = {t.name for t in model.graph.initializer if not numpy_helper.to_array(t).any()}
    clips = [node.input for node in model.graph.node if node.op_type == "Clip"]
    return all(len(names) == 3 and names[1] in zeros and names[2] for names in clips)


def _spell_clip(node: NodeProto, constant: Callable[[float], str]) -> list[NodeProto]:
    """Clip(x, 0, m) is Relu(x) - Relu(x - m)."""
    x, _, most = node.input
    low, over, high = (f"{node.output[0]}_{part}" for part in ("low", "over", "high"))
    return [
        helper.make_node("Relu", [x], [low], low),
        helper.make_node("Sub", [x, most], [over], over),
        helper.make_node("Relu", [over], [high], high),
        helper.make_node("Sub", [low, high], [node.output[0]], node.name),
    ]
