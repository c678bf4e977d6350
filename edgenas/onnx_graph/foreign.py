"""An ONNX file with the shape of every tensor; no weight is looked at."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, inliner

from edgenas.basics.errors import EdgenasError

Shape = tuple[int, ...]

_WHOLE_NUMBERS = frozenset(
    (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT64, TensorProto.UINT32)
)


@dataclass(frozen=True, slots=True)
class Graph:
    """The operators of a file that run at inference.

    Args:
        nodes: in order of execution, without what works on constants and shapes alone.
        shapes: of tensors, of constants too; what inference cannot tell is absent.
        constants: names of tensors that do not depend on the input.
        users: how many nodes read a tensor; an output of the graph counts as one.
        inputs: shapes of the inputs.
    """

    nodes: tuple[NodeProto, ...]
    shapes: Mapping[str, Shape]
    constants: frozenset[str]
    users: Mapping[str, int]
    inputs: Mapping[str, Shape]

    def shape(self, name: str) -> Shape:
        """The shape of a tensor.

        Raises:
            EdgenasError: inference cannot tell it.
        """
        if name not in self.shapes:
            raise EdgenasError(
                f"the ONNX model does not tell the shape of {name}",
                hint="export it with fixed sizes, or simplify it with onnxsim first",
            )
        return self.shapes[name]

    def varying(self, node: NodeProto) -> list[str]:
        """The inputs of a node that depend on the input of the graph."""
        return [name for name in node.input if name and name not in self.constants]


def read_graph(path: Path, *, size: tuple[int, int] | None = None) -> Graph:
    """The graph of an ONNX file; large weights beside it are not needed.

    Args:
        path: the file.
        size: height and width of the image; None: as the file has it. An open batch is one image.

    Raises:
        EdgenasError: absent, no ONNX file, open dimensions that ``size`` does not tell, or shapes
            that do not fit together.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise EdgenasError(
            f"there is no file {path}", hint="give the path of an ONNX file"
        ) from None
    except (DecodeError, IsADirectoryError) as error:
        raise EdgenasError(f"{path} is damaged or no ONNX file: {error}") from error
    if not model.graph.node:
        raise EdgenasError(f"{path} is damaged or no ONNX file: it has no operators")
    if model.functions:
        model = inliner.inline_local_functions(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    for value in given:
        _close(value, size=size, path=path)
    del model.graph.value_info[:]  # made for other sizes, perhaps
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        message = str(error).strip().splitlines()[-1]
        raise EdgenasError(
            f"{path}: the shapes do not fit together: {message}",
            hint="give the size that the network is made for: --size 224" if size else "",
        ) from error
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        types[value.name] = kind.elem_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            known[value.name] = tuple(dim.dim_value for dim in dims)
    constants = set(weights)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if _is_constant(node, constants, types):
            constants.update(node.output)
            known.update(_constant_shapes(node))
        else:
            nodes.append(node)
    users: dict[str, int] = {}
    for name in (*(n for node in nodes for n in node.input), *(v.name for v in graph.output)):
        users[name] = users.get(name, 0) + 1
    return Graph(
        nodes=tuple(nodes),
        shapes=known,
        constants=frozenset(constants),
        users=users,
        inputs={value.name: known[value.name] for value in given},
    )


def _close(value: ValueInfoProto, *, size: tuple[int, int] | None, path: Path) -> None:
    """Set the open dimensions of an input: one image, of the given size."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise EdgenasError(
            f"{path}: the input {value.name} has no shape", hint="export it with fixed sizes"
        )
    dims = value.type.tensor_type.shape.dim
    image = len(dims) == 4
    if image and size is not None:
        # Channels come last where the last dimension is that small.
        last = dims[3].dim_value in (1, 3, 4) and dims[1].dim_value not in (1, 3, 4)
        for dim, extent in zip(dims[1:3] if last else dims[2:], size, strict=True):
            dim.dim_value = extent
    for i, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            continue
        if i:
            shown = ", ".join(d.dim_param or str(d.dim_value or "?") for d in dims)
            raise EdgenasError(
                f"{path}: the input {value.name} ({shown}) leaves its size open",
                hint="say it: --size 224, or --size 320x224 (height x width)"
                if image
                else "export it with fixed sizes",
            )
        dim.dim_value = 1
    batch = dims[0].dim_value if dims else 1
    if image and batch > 1:
        raise EdgenasError(
            f"{path}: the input {value.name} holds {batch} images",
            hint="export it with a batch of one, or an open one",
        )


def _is_constant(node: NodeProto, constants: set[str], types: Mapping[str, int]) -> bool:
    """Whether a node does nothing at inference: its inputs are constants, or it makes shapes."""
    if node.op_type == "Shape" or all(not name or name in constants for name in node.input):
        return node.op_type not in ("RandomNormal", "RandomUniform")
    return node.op_type == "Size" or (
        # Arithmetic on shapes that started at an input which is none.
        bool(node.output)
        and all(types.get(name) in _WHOLE_NUMBERS for name in node.output)
        and all(types.get(name) in _WHOLE_NUMBERS for name in node.input if name)
    )


def _constant_shapes(node: NodeProto) -> Iterator[tuple[str, Shape]]:
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "value":
            yield node.output[0], tuple(helper.get_attribute_value(attribute).dims)


def elements(shape: Shape) -> int:
    """How many elements a tensor of a shape has."""
    return math.prod(shape)
