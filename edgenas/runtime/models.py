"""What the bytes of an ONNX graph say before any runtime sees them."""

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from edgenas.basics.errors import EdgenasError
from edgenas.runtime.registry import check_batch


def parsed(onnx_bytes: bytes, *, runtime: str) -> ModelProto:
    """A graph.

    Args:
        onnx_bytes: of it.
        runtime: in whose name it is refused.

    Raises:
        EdgenasError: it is no ONNX model.
    """
    try:
        model = onnx.load_from_string(onnx_bytes)
    except DecodeError as error:
        raise EdgenasError(f"{runtime} refuses the model: it is no ONNX file ({error})") from error
    if not model.graph.node:
        raise EdgenasError(f"{runtime} refuses the model: it has no operators")
    return model


def inputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that a graph has no values for."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def check_batches(model: ModelProto, *, batch: int) -> None:
    """Refuse a graph of which an input is made for another batch; an open one fits any.

    Raises:
        EdgenasError: says which batch it was made for.
    """
    for value in inputs_of(model):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value:
            check_batch(dims[0].dim_value, batch=batch)


def precision_of(model: ModelProto) -> str:
    """The precision that a graph asks for, and a strongly typed network of it computes in."""
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    kinds = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1]
    return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"
