"""Branches and loops whose course is known before they run: followed, turn after turn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, helper

from edgenas.onnx_graph.graph import attribute
from edgenas.onnx_graph.values import Values

if TYPE_CHECKING:
    from edgenas.onnx_graph.walk import _Walk

_MOST_TURNS = 4096  # of one loop


def follow(walk: "_Walk", node: NodeProto, scope: dict[str, str]) -> bool:
    """Add what a branch or a loop runs to a walk; False: its course depends on the data."""
    if node.op_type == "If":
        return _branch(walk, node, scope)
    return _loop(walk, node, scope) if node.op_type == "Loop" else _scan(walk, node, scope)


def _body(node: NodeProto, name: str) -> GraphProto | None:
    for one in node.attribute:
        if one.name == name and one.HasField("g"):
            return one.g
    return None


def _state(walk: "_Walk", name: str) -> tuple[TypeProto, Values | None, bool]:
    return walk.types[name], walk.values.get(name), name in walk.constants


def _branch(walk: "_Walk", node: NodeProto, scope: dict[str, str]) -> bool:
    known = walk.values.get(node.input[0]) if node.input else None
    if known is None or known.size != 1:
        return False
    chosen = _body(node, "then_branch" if bool(known.reshape(())) else "else_branch")
    if chosen is None:
        return False
    for name, source in zip(node.output, walk.body(chosen, scope, []), strict=False):
        if name:
            walk.alias(name, source)
    return True


def _loop(walk: "_Walk", node: NodeProto, scope: dict[str, str]) -> bool:
    body = _body(node, "body")
    most, goes_on, *carried = node.input
    if body is None or not all(name in walk.types for name in carried):
        return False
    turns = walk.values.get(most) if most else np.array(_MOST_TURNS)
    alive = walk.values.get(goes_on) if goes_on else np.array(True)
    if turns is None or alive is None or turns.size != 1 or alive.size != 1:
        return False
    count = int(turns.reshape(()))
    names, stacked = list(carried), [[] for _ in range(len(node.output) - len(carried))]
    turn = 0
    while turn < count and bool(alive.reshape(())):
        if turn >= _MOST_TURNS:
            return False
        number = helper.make_tensor_type_proto(TensorProto.INT64, ())
        truth = helper.make_tensor_type_proto(TensorProto.BOOL, ())
        given = [(number, np.array(turn), True), (truth, alive, True)]
        given += [_state(walk, name) for name in names]
        after, *results = walk.body(body, scope, given)
        alive = walk.values.get(after)
        if alive is None or alive.size != 1 or len(results) < len(names):
            return False
        for kept, name in zip(stacked, results[len(names) :], strict=False):
            kept.append(name)
        names = results[: len(names)]
        turn += 1
    _finish(walk, node, names, stacked, axes=[0] * len(stacked))
    return True


def _scan(walk: "_Walk", node: NodeProto, scope: dict[str, str]) -> bool:
    body = _body(node, "body")
    scanned = int(attribute(node, "num_scan_inputs", 0))
    if body is None or scanned < 1 or len(node.input) < scanned or "" in node.input:
        return False
    names, read = list(node.input[:-scanned]), list(node.input[-scanned:])
    axes = list(attribute(node, "scan_input_axes", [0] * scanned))
    shapes = [_shape(walk.types.get(name)) for name in read]
    if len(axes) != scanned or any(
        s is None or not -len(s) <= a < len(s) for s, a in zip(shapes, axes, strict=True)
    ):
        return False
    turns = {s[a] for s, a in zip(shapes, axes, strict=True) if s is not None}
    if len(turns) != 1 or max(turns) > _MOST_TURNS:
        return False
    stacked: list[list[str]] = [[] for _ in range(len(node.output) - len(names))]
    for turn in range(max(turns)):
        given = [_state(walk, name) for name in names]
        given += [_slice(walk, n, a, turn) for n, a in zip(read, axes, strict=True)]
        results = walk.body(body, scope, given)
        if len(results) < len(names):
            return False
        for kept, name in zip(stacked, results[len(names) :], strict=False):
            kept.append(name)
        names = results[: len(names)]
    places = list(attribute(node, "scan_output_axes", [0] * len(stacked)))
    if len(places) != len(stacked):
        return False
    _finish(walk, node, names, stacked, axes=places)
    return True


def _shape(kind: TypeProto | None) -> tuple[int, ...] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _slice(walk: "_Walk", name: str, axis: int, turn: int) -> tuple[TypeProto, Any, bool]:
    kind, known, fixed = _state(walk, name)
    shape = list(_shape(kind) or ())
    del shape[axis]
    part = helper.make_tensor_type_proto(kind.tensor_type.elem_type, shape)
    return part, None if known is None else np.take(known, turn, axis), fixed


def _finish(
    walk: "_Walk",
    node: NodeProto,
    names: Sequence[str],
    stacked: Sequence[Sequence[str]],
    *,
    axes: Sequence[int],
) -> None:
    """What a loop gives: the last states, and what its turns gave, stacked."""
    for name, source in zip(node.output, names, strict=False):
        if name:
            walk.alias(name, source)
    for name, parts, axis in zip(node.output[len(names) :], stacked, axes, strict=True):
        if not name:
            continue
        shapes = {_shape(walk.types.get(part)) for part in parts}
        shape = next(iter(shapes), None)
        element = walk.types[parts[0]].tensor_type.elem_type if parts else TensorProto.FLOAT
        whole = None
        if len(shapes) == 1 and shape is not None:
            at = axis if axis >= 0 else axis + len(shape) + 1
            whole = (*shape[:at], len(parts), *shape[at:])
        walk.types[name] = helper.make_tensor_type_proto(element, whole)
        known = [walk.values[part] for part in parts if part in walk.values]
        if all(part in walk.constants for part in parts):
            walk.constants.add(name)
            if len(known) == len(parts) > 0 and len(shapes) == 1:
                walk.values[name] = np.stack(known, axis)
        else:
            walk.nodes.append(helper.make_node("Concat", list(parts), [name], axis=axis))
