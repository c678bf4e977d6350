"""The shape of every tensor: a walk over the nodes as they would run, that computes only shapes.

Node after node is asked what it gives, by the inference of the ``onnx`` library, with the values of
the small constants that shapes are made of. Because the sizes of the inputs are known, arithmetic
on shapes is arithmetic on constants. Everything else that starts at an input is data, whole numbers
too. A branch whose condition is known is followed; a loop whose count is known runs so often.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, helper

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph import control, rules, values
from edgenas.onnx_graph.file import is_external, shown
from edgenas.onnx_graph.graph import Graph, Shape
from edgenas.onnx_graph.inputs import LARGEST_EXTENT, LONGEST_SHAPE
from edgenas.onnx_graph.model import Closed
from edgenas.onnx_graph.order import called
from edgenas.onnx_graph.values import Values

_MOST_STEPS = 60_000  # nodes that are looked at, those of loops each time
_NEWEST = 10_000  # version of operators that is asked for
_MOST_ELEMENTS = 2**33  # of one tensor
_CONTROL = ("If", "Loop", "Scan")
_WHOLE = frozenset(
    (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT64, TensorProto.UINT32)
)
_REFUSED = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError)
_MISFITS = (*_REFUSED, ValueError, TypeError, RuntimeError, KeyError, IndexError)

Extents = tuple[int | None, ...]


class TooLargeError(EdgenasError):
    """A tensor of a model is larger than any machine could hold."""


def infer(closed: Closed) -> Graph:
    """The graph of a model, with the shapes that it has for the sizes of its inputs.

    Args:
        closed: the model; it stays as it is.

    Raises:
        EdgenasError: shapes do not fit together, a tensor is too large, or loops run too long.
    """
    walk = _Walk(closed)
    graph = closed.proto.graph
    for one in closed.inputs:
        element = next(v.type.tensor_type.elem_type for v in graph.input if v.name == one.name)
        walk.types[one.name] = helper.make_tensor_type_proto(element, one.shape)
    walk.store(graph, scope={}, prefix="")
    scope: dict[str, str] = {}
    walk.run(graph.node, scope=scope, prefix="")
    users: dict[str, int] = {}
    outputs = [scope.get(value.name, value.name) for value in graph.output]
    for name in (*(n for node in walk.nodes for n in node.input), *outputs):
        users[name] = users.get(name, 0) + 1
    shapes = {
        name: whole for name, kind in walk.types.items() if (whole := _closed(kind)) is not None
    }
    return Graph(
        where=closed.where,
        nodes=tuple(walk.nodes),
        shapes=shapes,
        constants=frozenset(walk.constants),
        users=users,
        inputs={one.name: one.shape for one in closed.inputs},
        batch=closed.batch,
        whole=frozenset(n for n, k in walk.types.items() if k.tensor_type.elem_type in _WHOLE),
    )


def check_sizes(closed: Closed) -> None:
    """Refuse a model with a tensor that is too large, before a runtime tries to hold it.

    What else inference has against a model is left to the runtime.

    Raises:
        TooLargeError: names the tensor.
    """
    try:
        infer(closed)
    except TooLargeError:
        raise
    except EdgenasError:
        return


def extents_of(kind: TypeProto | None) -> Extents | None:
    """The shape of a type as far as it is known; None: not even the rank is."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim
    )


def _closed(kind: TypeProto) -> Shape | None:
    extents = extents_of(kind)
    if extents is None or None in extents:
        return None
    return tuple(extent for extent in extents if extent is not None)


class _Walk:
    """What is known of the tensors so far; names inside branches and loops are made unique."""

    def __init__(self, closed: Closed) -> None:
        self.where, self.folder = closed.where, closed.folder
        self.opsets: list[OperatorSetIdProto] = list(closed.proto.opset_import)
        self.versions = {
            "" if o.domain == "ai.onnx" else o.domain: max(0, min(o.version, _NEWEST))
            for o in self.opsets
        }
        self.ir = closed.proto.ir_version
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, Values] = {}
        self.constants: set[str] = set()
        self.nodes: list[NodeProto] = []
        self.steps = 0
        self.bodies = 0

    def store(self, graph: GraphProto, *, scope: dict[str, str], prefix: str) -> None:
        """Take the constants that a graph stores."""
        for tensor in graph.initializer:
            name = prefix + tensor.name
            scope[tensor.name] = name
            self.hold(name, tensor)
        for sparse in graph.sparse_initializer:
            name = prefix + sparse.values.name
            scope[sparse.values.name] = name
            self.constants.add(name)
            self.types[name] = helper.make_tensor_type_proto(
                sparse.values.data_type, list(sparse.dims)
            )

    def hold(self, name: str, tensor: TensorProto) -> None:
        """Take a stored tensor: its shape, and its values where they are few."""
        dims = list(tensor.dims)
        self.constants.add(name)
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, dims)
        self.check(self.types[name], name, "the constant")
        if is_external(tensor):
            tensor = values.beside(tensor, self.folder)
        found = values.known(tensor)
        if found is not None:
            self.values[name] = found

    def check(self, kind: TypeProto, name: str, what: str) -> None:
        """Refuse a tensor that no machine could hold."""
        found = extents_of(kind) or ()
        count = 1
        for extent in found:
            count *= 1 if extent is None else extent
        if len(found) > LONGEST_SHAPE or any(e is not None and e < 0 for e in found):
            raise EdgenasError(
                f"{self.where}: the shapes do not fit together: {what} {shown(name)} would have "
                f"the shape {shown(found, most=60)}"
            )
        if count > _MOST_ELEMENTS or any(e is not None and e > LARGEST_EXTENT for e in found):
            raise TooLargeError(
                f"{self.where}: {what} {shown(name)} would have {count:.3g} elements, "
                "more than is read"
            )

    def run(self, nodes: Iterable[NodeProto], *, scope: dict[str, str], prefix: str) -> None:
        """Walk over nodes in order."""
        for node in nodes:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise EdgenasError(
                    f"{self.where} runs more than {_MOST_STEPS:,} operators, those of loops each "
                    "time; so many are not read"
                )
            for name in node.output:
                if name:
                    scope[name] = prefix + name
            if any(scope.get(name, name) != name for name in (*node.input, *node.output)):
                node = _renamed(node, scope)
            if node.op_type in _CONTROL and node.domain in ("", "ai.onnx"):
                self.control(node, scope)
            else:
                self.step(node)

    def step(self, node: NodeProto) -> None:
        """One operator."""
        if node.op_type == "Constant":
            tensor = values.of_constant(node)
            if tensor is not None:
                self.hold(node.output[0], tensor)
                return
        kinds = self.infer(node)
        for name, kind in kinds.items():
            self.check(kind, name, "the tensor")
        self.types.update(kinds)
        fixed = node.op_type not in values.RANDOM and all(
            name in self.constants for name in node.input if name
        )
        if node.op_type in ("Shape", "Size") or fixed:
            self.constants.update(filter(None, node.output))
            self.compute(node)
        else:
            self.nodes.append(node)

    def compute(self, node: NodeProto) -> None:
        """The values of a constant that a node makes, where they are few and known."""
        shape = extents_of(self.types.get(node.input[0])) if node.input else None
        results: Sequence[Values] | None = None
        if node.op_type in ("Shape", "Size"):
            results = _measured(node, shape)
        elif all(name in self.values for name in node.input if name):
            outputs = [extents_of(self.types.get(name)) for name in node.output if name]
            results = values.computed(node, self.values, shapes=outputs, opsets=self.opsets)
        for name, value in zip(filter(None, node.output), results or (), strict=False):
            element = self.types[name].tensor_type.elem_type if name in self.types else 0
            self.types[name] = helper.make_tensor_type_proto(
                element or helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            if value.size <= values.MOST:
                self.values[name] = value

    # What an operator gives

    def infer(self, node: NodeProto) -> dict[str, TypeProto]:
        """Types and shapes of the outputs of an operator, as far as they can be known."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self.versions.get(domain, 1 if domain else 0)
        try:
            schema = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError:
            return self.foreign(node)
        kinds = {name: self.types.get(name) or _unknown() for name in node.input if name}
        data = {
            name: onnx.numpy_helper.from_array(self.values[name], name)
            for name in kinds
            if name in self.values
        }
        return self.asked(schema, node, kinds, data)

    def asked(
        self,
        schema: Any,
        node: NodeProto,
        kinds: dict[str, TypeProto],
        data: dict[str, TensorProto],
    ) -> dict[str, TypeProto]:
        """What the library says of an operator of ONNX."""
        try:
            return onnx.shape_inference.infer_node_outputs(
                schema, node, kinds, data, opset_imports=self.opsets, ir_version=self.ir
            )
        except _MISFITS as error:
            said = str(error).strip().splitlines()
            raise EdgenasError(
                f"{self.where}: the shapes do not fit together at {called(node)}: "
                f"{shown(said[-1] if said else type(error).__name__, most=100)}"
            ) from error

    def foreign(self, node: NodeProto) -> dict[str, TypeProto]:
        """Types and shapes of an operator that is not in ONNX."""
        known = [self.types.get(name) or _unknown() for name in node.input]
        shapes = [
            extents_of(kind) if name else None for name, kind in zip(node.input, known, strict=True)
        ]
        elements = [kind.tensor_type.elem_type for kind in known]
        try:
            told = rules.made(node, shapes, elements)
            alike = None if told is not None else rules.substitute(node)
            if alike is not None and max(alike[1], default=-1) < len(known):
                told = self._alike(node, *alike, shapes=shapes, elements=elements)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise self.misfit(node) from error
        outputs = list(node.output)
        types = {name: _unknown() for name in outputs if name}
        for name, (element, shape) in zip(outputs, told or (), strict=False):
            if name:
                types[name] = _type(element, shape)
        return types

    def misfit(self, node: NodeProto) -> EdgenasError:
        """The error for an operator that lacks inputs or attributes."""
        return EdgenasError(
            f"{self.where}: the inputs or attributes of {called(node)} do not fit its kind"
        )

    def _alike(
        self,
        node: NodeProto,
        other: NodeProto,
        read: tuple[int, ...],
        *,
        shapes: Sequence[Extents | None],
        elements: Sequence[int],
    ) -> list[rules.Made]:
        """The shapes of an operator that ONNX knows by another name."""
        last = rules.is_channels_last(node)
        given = [shapes[i] for i in read]
        if last and given[0] is not None and len(given[0]) > 2:
            given[0] = (given[0][0], given[0][-1], *given[0][1:-1])
        if other.op_type == "LSTM" and given[1] is not None and len(given[1]) == 3:
            given[1] = (given[1][0], given[1][2], given[1][1])
        kinds = {f"i{i}": _type(TensorProto.FLOAT, shape) for i, shape in enumerate(given)}
        answer = self.asked(onnx.defs.get_schema(other.op_type, 13), other, kinds, {})
        element, told = rules.element_of(node, elements), []
        for name in other.output:
            shape = extents_of(answer.get(name))
            if last and shape is not None and len(shape) > 2:
                shape = (shape[0], *shape[2:], shape[1])
            told.append((element, shape))
        return told

    # Branches and loops

    def control(self, node: NodeProto, scope: dict[str, str]) -> None:
        """A branch or a loop: what runs of it, where that is known; else the node itself."""
        before = len(self.nodes), self.bodies
        try:
            followed = control.follow(self, node, scope)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise self.misfit(node) from error
        if not followed:
            del self.nodes[before[0] :]
            for name in filter(None, node.output):
                self.types[name] = _unknown()
            self.nodes.append(node)

    def body(
        self, graph: GraphProto, scope: dict[str, str], given: Sequence[tuple[TypeProto, Any, bool]]
    ) -> list[str]:
        """Run a graph inside an operator once; the unique names of its outputs.

        Args:
            graph: the body.
            scope: of the names around it; stays as it is.
            given: type, values (or None) and whether it is a constant, of each input.
        """
        self.bodies += 1
        prefix, inside = f"{self.bodies}/", dict(scope)
        for value, (kind, known, fixed) in zip(graph.input, given, strict=False):
            name = prefix + value.name
            inside[value.name] = name
            self.types[name] = kind
            if known is not None:
                self.values[name] = known
            if fixed:
                self.constants.add(name)
        self.store(graph, scope=inside, prefix=prefix)
        self.run(graph.node, scope=inside, prefix=prefix)
        return [inside.get(value.name, value.name) for value in graph.output]

    def alias(self, name: str, source: str) -> None:
        """Let a name stand for another tensor, through an operator that costs nothing."""
        self.types[name] = self.types.get(source) or _unknown()
        if source in self.values:
            self.values[name] = self.values[source]
        if source in self.constants:
            self.constants.add(name)
        else:
            self.nodes.append(helper.make_node("Identity", [source], [name]))


def _renamed(node: NodeProto, scope: dict[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        for i, name in enumerate(names):
            names[i] = scope.get(name, name)
    return copy


def _measured(node: NodeProto, shape: Extents | None) -> list[Values] | None:
    if shape is None or None in shape:
        return None
    if node.op_type == "Size":
        return [np.array(math.prod(e or 0 for e in shape))]
    limits = {a.name: a.i for a in node.attribute}
    return [np.array(shape[limits.get("start", 0) : limits.get("end")], np.int64)]


def _type(element: int, shape: Extents | None) -> TypeProto:
    return helper.make_tensor_type_proto(element, shape)


def _unknown() -> TypeProto:
    return helper.make_tensor_type_proto(TensorProto.FLOAT, None)
