"""The step that every reader of an ONNX file asks: a model, checked, in order, with its inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import EncodeError
from onnx import ModelProto, TensorProto

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.file import parse, read_file, shown, take_in
from edgenas.onnx_graph.inputs import (
    Declared,
    Input,
    declared,
    fill,
    main_of,
    values_of,
)
from edgenas.onnx_graph.order import inline, sort


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """An ONNX model whose nodes are in order and whose functions are inlined.

    Args:
        proto: the message; open extents of inputs have no value in it.
        where: the file, as errors name it.
        folder: where weights beside the file lie; None: it has no folder.
        inputs: those without a value, told apart.
    """

    proto: ModelProto
    where: str
    folder: Path | None
    inputs: tuple[Declared, ...]

    @property
    def batch(self) -> int | None:
        """The batch that the model is made for; None: it is open, or no input has one."""
        return _batch(self.inputs)

    def precision(self) -> str:
        """The precision that it asks for: int8, fp16 or fp32, see ``precision_of``."""
        return precision_of(self.proto)

    def serialized(self) -> bytes:
        """The file, complete with the weights that lay beside it.

        Raises:
            EdgenasError: it is larger than 2 GB, or weights are absent or outside its folder.
        """
        return _serialized(self.proto, where=self.where, folder=self.folder)

    def closed(
        self,
        *,
        batch: int | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        size: tuple[int, int] | None = None,
        hint: str = "",
    ) -> "Closed":
        """The model with every size of its inputs filled in.

        Args:
            batch: what an open batch becomes; None: one.
            shapes: of inputs by name, where more is open than the batch.
            size: height and width of images.
            hint: what else than ``--shape`` gives the size of an image.

        Raises:
            EdgenasError: see `edgenas.onnx_graph.inputs.fill`.
        """
        return self._with(
            fill(
                self.inputs, where=self.where, batch=batch or 1, shapes=shapes, size=size, hint=hint
            )
        )

    def of_other_sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> "Closed":
        """The model with inputs of any sizes, also where the file fixes others.

        Args:
            shapes: of every input by name.
        """
        return self._with(
            tuple(Input(one.name, shapes[one.name], one.kind, filled=True) for one in self.inputs)
        )

    def _with(self, filled: tuple[Input, ...]) -> "Closed":
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        known = {one.name: one.shape for one in filled}
        for value in values_of(proto):
            tensor = value.type.tensor_type
            del tensor.shape.dim[:]
            tensor.shape.SetInParent()
            for length in known[value.name]:
                tensor.shape.dim.add().dim_value = length
        given = {one.name: one.extents for one in self.inputs}
        if any(one.shape != given[one.name] for one in filled):
            _forget_shapes(proto)
        main, run = main_of(self.inputs), 1
        if main is not None and main.batch_at is not None:
            run = known[main.name][main.batch_at] if len(known[main.name]) > 1 else 1
        return Closed(proto, self.where, self.folder, filled, run)


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A model whose inputs have no open size any more.

    Args:
        proto: the message.
        where: the file, as errors name it.
        folder: where weights beside the file lie.
        inputs: with their sizes.
        batch: images of a run.
    """

    proto: ModelProto
    where: str
    folder: Path | None
    inputs: tuple[Input, ...]
    batch: int

    def serialized(self) -> bytes:
        """The file, see ``Model.serialized``."""
        return _serialized(self.proto, where=self.where, folder=self.folder)


def load(path: Path) -> Model:
    """The model of a file.

    Raises:
        EdgenasError: absent, no ONNX file, too large, or not a graph that could ever run: a name
            is given twice or not at all, or nodes wait for each other.
    """
    return _made(read_file(path), where=shown(path, most=120), folder=path.parent)


def loads(data: bytes, *, where: str = "the ONNX model") -> Model:
    """The model that bytes hold. Raises EdgenasError like ``load``."""
    return _made(parse(data, where=where), where=where, folder=None)


def _made(proto: ModelProto, *, where: str, folder: Path | None) -> Model:
    proto = inline(proto, where=where)
    sort(proto.graph, where=where)
    known = {name for node in proto.graph.node for name in node.output}
    known |= {value.name for value in proto.graph.input}
    known |= {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.output:
        if value.name not in known:
            raise EdgenasError(f"{where}: nothing gives the output {shown(value.name)!r}")
    inputs = declared(proto)
    opened = {one.name: one.extents for one in inputs}
    for value in values_of(proto):
        dims = value.type.tensor_type.shape.dim
        for dim, extent in zip(dims, opened[value.name] or (), strict=False):
            if not isinstance(extent, int):
                dim.ClearField("dim_value")
                if isinstance(extent, str):
                    dim.dim_param = extent
    return Model(proto, where, folder, inputs)


def _serialized(proto: ModelProto, *, where: str, folder: Path | None) -> bytes:
    take_in(proto, folder=folder, where=where)
    try:
        return proto.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise EdgenasError(f"{where} is too large: an ONNX model has at most 2 GB") from error


def _forget_shapes(proto: ModelProto) -> None:
    """Shapes inside the graph and of its outputs were perhaps for other sizes."""
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")


def precision_of(model: ModelProto) -> str:
    """The precision that a graph asks for, and a strongly typed network of it computes in."""
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    kinds = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1]
    return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"


def batch_of(proto: ModelProto) -> int | None:
    """The batch that a graph is made for, see ``Model.batch``."""
    return _batch(declared(proto))


def _batch(inputs: Sequence[Declared]) -> int | None:
    main = main_of(inputs)
    if main is None or main.extents is None or main.batch_at is None:
        return None
    if len(main.extents) == 1 and isinstance(main.extents[0], int):
        return 1  # one vector, not a batch of numbers
    extent = main.extents[main.batch_at]
    return extent if isinstance(extent, int) else None


def opset_of(model: ModelProto, domain: str = "") -> int:
    """The version of the operators of a domain; 0: the model has none of it."""
    for entry in model.opset_import:
        if ("" if entry.domain == "ai.onnx" else entry.domain) == domain:
            return entry.version
    return 0
