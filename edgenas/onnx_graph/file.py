"""An ONNX file as bytes and as a message; what is too large, damaged or elsewhere is refused.

The functions here know nothing of operators. They protect what comes after them: a file is looked
at before it is parsed, so that neither its size nor what it unpacks to can fill the memory, and
weights beside a file are only taken from the folder of that file.
"""

import functools
import math
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from edgenas.basics.errors import EdgenasError

LARGEST = 2**31 - 1  # bytes of a message: the limit of protobuf itself
_SCANNED_FROM = 2**20  # bytes; a smaller file cannot unpack to more than the memory of a phone
_MOST_FIELDS = 600_000
_MOST_UNPACKED = 2**29  # bytes of numbers that are stored as varints
_DEEPEST = 90  # messages inside messages; protobuf itself stops at 100


def shown(text: object, *, most: int = 80) -> str:
    """A text of a foreign file, short and printable: fit for one line of a terminal."""
    clean = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


def read_file(path: Path) -> ModelProto:
    """The message of an ONNX file; weights beside it are not read.

    Args:
        path: of a regular file of at most 2 GB.

    Raises:
        EdgenasError: absent, not a regular file, too large, damaged, or no ONNX file.
    """
    where = shown(path, most=120)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise EdgenasError(
                f"{where} is damaged or no ONNX file: it is not a regular file",
                hint="give the path of an ONNX file",
            )
        if status.st_size > LARGEST:
            raise EdgenasError(
                f"{where} is too large: an ONNX file has at most 2 GB, found "
                f"{status.st_size / 1e9:.1f} GB",
                hint="store the weights beside it, as external data",
            )
        if status.st_size > _SCANNED_FROM:
            with path.open("rb") as file:
                _scan_file(file.fileno(), where)
        data = path.read_bytes()
    except FileNotFoundError:
        raise EdgenasError(
            f"there is no file {where}", hint="give the path of an ONNX file"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise EdgenasError(f"cannot read {where}: {shown(why or error)}") from error
    return _parsed(data, where=where)


def _scan_file(descriptor: int, where: str) -> None:
    """Look at a file without reading it whole."""
    with (
        mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        _Scan(where).message(view, onnx.ModelProto.DESCRIPTOR, depth=0)


def parse(data: bytes, *, where: str) -> ModelProto:
    """The message that bytes hold.

    Args:
        data: of an ONNX file.
        where: what the bytes are called in an error.

    Raises:
        EdgenasError: they are no ONNX file, or unpack to too much.
    """
    if len(data) > _SCANNED_FROM:
        _scan(data, where=where)
    return _parsed(data, where=where)


@functools.lru_cache(maxsize=4)
def _scan(data: bytes, *, where: str) -> None:
    """Walk over bytes before they are unpacked; the same bytes once."""
    _Scan(where).message(memoryview(data), onnx.ModelProto.DESCRIPTOR, depth=0)


def _parsed(data: bytes, *, where: str) -> ModelProto:
    try:
        model = onnx.load_from_string(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise _no_file(where, shown(error) or "it cannot be parsed") from error
    if not model.graph.node:
        raise _no_file(where, "it has no operators")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise _no_file(where, "it has a name that is not UTF-8")
    for tensor in tensors_of(model):
        if not is_external(tensor) and _count_values(tensor) > _most_stored(tensor):
            raise _no_file(
                where, f"its tensor {shown(tensor.name)!r} has fewer values than it says"
            )
    return model


def _texts(model: ModelProto) -> Iterator[Any]:
    """Every name of a model; the library gives bytes for what is not UTF-8."""
    nodes: list[Any] = [node for function in model.functions for node in function.node]
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    for graph in graphs_of(model.graph):
        nodes.extend(graph.node)
        for value in (*graph.input, *graph.output):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
        yield from (tensor.name for tensor in graph.initializer)
    for node in nodes:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    yield from (entry.domain for entry in model.opset_import)


def _no_file(where: str, why: str) -> EdgenasError:
    return EdgenasError(
        f"{where} is damaged or no ONNX file: {why}", hint="export or download it again"
    )


class _Scan:
    """Walks over the fields of a message without unpacking them, and counts."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.fields = 0
        self.unpacked = 0

    def message(self, data: memoryview, descriptor: Any, *, depth: int) -> None:
        """Count the fields of one message and of those inside it."""
        if depth > _DEEPEST:
            raise _no_file(self.where, f"it nests more than {_DEEPEST} messages")
        known = {number: _kind(field) for number, field in descriptor.fields_by_number.items()}
        at, end = 0, len(data)
        while at < end:
            self.fields += 1
            if self.fields > _MOST_FIELDS:
                raise _no_file(self.where, f"it has more than {_MOST_FIELDS:,} fields")
            tag, at = self._varint(data, at)
            wire = tag & 7
            if tag < 8:
                raise _no_file(self.where, "it cannot be parsed")
            if wire == 2:
                length, at = self._varint(data, at)
                if length > end - at:
                    raise _no_file(self.where, "it ends too early")
                kind = known.get(tag >> 3)
                if kind is not None and not isinstance(kind, str):
                    with data[at : at + length] as part:
                        self.message(part, kind, depth=depth + 1)
                elif kind == "packed":
                    self.unpacked += 8 * length
                    if self.unpacked > _MOST_UNPACKED:
                        raise _no_file(self.where, "its numbers unpack to more than 512 MB")
                at += length
            elif wire == 0:
                _, at = self._varint(data, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise _no_file(self.where, "it cannot be parsed")

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise _no_file(self.where, "it ends too early")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7


def _kind(field: Any) -> Any:
    """The descriptor of a message, ``packed`` for numbers of varying length, else ``bytes``."""
    if field.message_type is not None:
        return field.message_type
    varying = (field.TYPE_INT32, field.TYPE_INT64, field.TYPE_UINT64, field.TYPE_ENUM)
    return "packed" if field.type in varying else "bytes"


# Weights beside a file


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and those inside its operators (``If``, ``Loop``, ``Scan``)."""
    waiting = [graph]
    while waiting:
        one = waiting.pop()
        yield one
        for node in one.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model stores, those of attributes and functions too."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _held(graph.node)
    for function in model.functions:
        yield from _held(function.node)


def _held(nodes: Any) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def is_external(tensor: TensorProto) -> bool:
    """Whether the values of a tensor lie in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def external_values(tensor: TensorProto, folder: Path | None) -> bytes:
    """The values of a tensor that lie in a file beside the model.

    Args:
        tensor: whose ``external_data`` names the file, and an offset and a length where it has
            them.
        folder: of the model; None: the model came without one.

    Raises:
        EdgenasError: the file is outside the folder, reached through a link, absent, not a
            regular file, or shorter than the tensor.
    """
    told = {entry.key: entry.value for entry in tensor.external_data}
    location, name = told.get("location", ""), shown(tensor.name)
    if folder is None:
        raise EdgenasError(f"the values of {name} lie in another file, {shown(location)}")
    offset, length = (_whole(told.get(key), key, name) for key in ("offset", "length"))
    length = length or bytes_of(tensor)
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts or "\0" in location:
        raise EdgenasError(
            f"the values of {name} must lie in the folder of the model, found {shown(location)!r}"
        )
    path = folder
    try:
        for part in parts:
            path = path / part
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise EdgenasError(
                    f"the values of {name} must lie in the folder of the model, "
                    f"{shown(location)!r} is a link"
                )
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise EdgenasError(f"{shown(location)}, the values of {name}, is not a regular file")
        if offset + length > status.st_size:
            raise EdgenasError(
                f"{shown(location)} is too short: the values of {name} end at byte "
                f"{offset + length}, the file at {status.st_size}"
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise EdgenasError(
            f"cannot read {shown(path, most=120)}, the values of {name}: "
            f"{shown(error.strerror or error)}",
            hint="keep the files of a model together",
        ) from error


def _whole(text: str | None, key: str, name: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise EdgenasError(
            f"the {key} of the values of {name} must be a whole number, found {shown(text)!r}"
        )
    return int(text)


def bytes_of(tensor: TensorProto) -> int:
    """How many bytes the values of a tensor take by its shape and its type."""
    try:
        each = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        each = np.dtype(np.float32).itemsize
    return _count_values(tensor) * each


def _count_values(tensor: TensorProto) -> int:
    return math.prod(max(0, extent) for extent in tensor.dims)


def _most_stored(tensor: TensorProto) -> int:
    """How many values a tensor stores at most: integers of 2 bits lie four to a byte."""
    typed = (tensor.float_data, tensor.double_data, tensor.string_data)
    whole = (tensor.int32_data, tensor.int64_data, tensor.uint64_data)
    return 4 * (len(tensor.raw_data) + sum(map(len, (*typed, *whole))))


def take_in(model: ModelProto, *, folder: Path | None, where: str) -> None:
    """Put the values that lie in other files into a model.

    Raises:
        EdgenasError: see ``external_values``, or they are more than 2 GB.
    """
    outside = [tensor for tensor in tensors_of(model) if is_external(tensor)]
    if sum(map(bytes_of, outside)) > LARGEST:
        raise EdgenasError(f"{where} is too large: an ONNX model has at most 2 GB with its weights")
    for tensor in outside:
        tensor.raw_data = external_values(tensor, folder)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
