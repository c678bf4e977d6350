"""ONNX files of other people: read, checked, and with the sizes filled in that they leave open."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from edgenas.basics.errors import EdgenasError

_KINDS = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class Input:
    """An input that is made up to run a model: whole numbers are 0 or 1, others normal.

    Args:
        name: of the input.
        shape: with the sizes that were filled in.
        kind: numpy's name of its type.
        filled: whether sizes were left open by the model.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    filled: bool = False

    def __str__(self) -> str:
        how = "0 or 1" if "int" in self.kind or self.kind == "bool" else "normal numbers"
        return f"{self.name} {self.kind}[{', '.join(map(str, self.shape))}], {how}"


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and sizes of a text like ``image=1x3x224x224``.

    Raises:
        EdgenasError: the text reads otherwise.
    """
    name, equals, sizes = text.rpartition("=")
    if not equals or not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise EdgenasError(
            f"--shape must read like image=1x3x224x224, found {text!r}",
            hint="one for each input whose sizes are open",
        )
    return name, tuple(int(size) for size in sizes.split("x"))


def read_model(
    path: Path, *, batch: int = 1, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[bytes, list[Input]]:
    """A model whose inputs have no open sizes any more, and those inputs.

    The first size of an input that is open becomes the batch; others must be given.

    Args:
        path: of an ONNX file; weights that lie beside it are read too.
        batch: images a run.
        shapes: of inputs by name, where more is open than the batch.

    Raises:
        EdgenasError: absent, no ONNX model, of a type that cannot be made up, too large, or sizes
            that are open or contradict the model.
    """
    model = _read(path)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    given = dict(shapes or {})
    if unknown := sorted(set(given) - {value.name for value in inputs}):
        known = ", ".join(value.name for value in inputs)
        raise EdgenasError(f"inputs of {path} are {known}, found {unknown[0]!r} in --shape")
    made = [_filled(value, batch=batch, given=given.get(value.name)) for value in inputs]
    try:
        return model.SerializeToString(), made
    except (ValueError, EncodeError) as error:
        raise EdgenasError(f"{path} is too large: an ONNX model has at most 2 GB") from error


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise EdgenasError(f"no file {missing}") from None
    except OSError as error:
        raise EdgenasError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        said = " ".join(str(error).split()) or "it cannot be parsed"
        raise EdgenasError(f"{path} is no ONNX model: {said}") from error
    if not model.graph.node:
        raise EdgenasError(f"{path} is no ONNX model: it has no operators")
    return model


def _filled(value: onnx.ValueInfoProto, *, batch: int, given: Sequence[int] | None) -> Input:
    """An input whose open sizes have been set in the model."""
    tensor = value.type.tensor_type
    kind = _KINDS.get(onnx.TensorProto.DataType.Name(tensor.elem_type), "")
    if value.type.WhichOneof("value") != "tensor_type" or not kind:
        raise EdgenasError(f"the input {value.name} has a type that cannot be made up")
    dims = list(tensor.shape.dim)
    fixed = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in dims]
    sizes = list(given) if given is not None else list(fixed)
    if given is None and sizes and sizes[0] is None:
        sizes[0] = batch
    asked = f"--shape {value.name}=" + "x".join(str(size or "?") for size in sizes)
    if not tensor.HasField("shape") or None in sizes:
        raise EdgenasError(f"the input {value.name} has open sizes", hint=f"give them: {asked}")
    if len(sizes) != len(fixed) or any(
        f not in (None, s) for f, s in zip(fixed, sizes, strict=True)
    ):
        shape = "x".join(str(size or "?") for size in fixed)
        raise EdgenasError(f"the input {value.name} must have the shape {shape}, found {asked}")
    shape = tuple(int(size) for size in sizes if size is not None)
    for dim, size in zip(dims, shape, strict=True):
        dim.dim_value = size
    return Input(value.name, shape, kind, filled=None in fixed)
