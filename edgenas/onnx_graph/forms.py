"""Forms of a graph: an fp32 graph becomes the one that a runtime wants for a precision.

Tables are measured on the very forms that ship. A layer that is timed in int8 is quantised as it
will be in a network.
"""

import functools
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.quantize import quantized, with_integer_activations, with_integer_ends

Array = NDArray[Any]

# The fp32 graph as it is, the same in fp16, the same with weights stored in fp16 and computed in
# fp32 ("fp16-weights"), or an int8 one with quantise and dequantise
# operators. "int8-unsigned" has unsigned activations and integer biases. "int8-integer" has integer
# hard swishes too. "int8-signed" is symmetric and has float biases.
Form = Literal["fp32", "fp16", "fp16-weights", "int8-unsigned", "int8-integer", "int8-signed"]

_RANDOM_IMAGES = 2


def convert_to_form(
    onnx_bytes: bytes, *, form: Form, images: Array | None = None, keep: tuple[str, ...] = ()
) -> bytes:
    """Convert a model to another form.

    Args:
        onnx_bytes: an fp32 model with one float32 input and output.
        form: the form to convert to.
        images: what int8 is calibrated with, shape (n, ...) as the input. None: random images, for
            graphs that are only timed.
        keep: parts that stay in float in int8, see `edgenas.space.space.Space`.

    Raises:
        EdgenasError: int8 is wanted of a model without convs and matrix products.
    """
    if form == "fp32":
        return onnx_bytes
    if form == "fp16":
        return convert_to_half(onnx_bytes)
    if form == "fp16-weights":
        return store_weights_in_half(onnx_bytes)
    images = make_random_images(onnx_bytes) if images is None else images
    graph = quantized(onnx_bytes, signed=form == "int8-signed", images=images, keep=keep)
    return with_integer_activations(graph) if form == "int8-integer" else graph


@functools.lru_cache(maxsize=512)  # a unit is timed several times
def convert_layer_to_form(
    onnx_bytes: bytes, *, form: Form, first: bool, last: bool, keep: tuple[str, ...] = ()
) -> bytes:
    """Convert a layer alone to another form, as it will be amid its neighbours.

    Args:
        onnx_bytes: a graph of `edgenas.onnx_graph.build.layer_graph`.
        form: the form to convert to.
        first: whether it is the first of its network, and reads the image.
        last: whether it is the last of its network, and gives the logits.
        keep: parts that stay in float in int8.
    """
    graph = convert_to_form(onnx_bytes, form=form, keep=keep)
    if form in ("int8-integer", "int8-unsigned"):
        return with_integer_ends(graph, first=not first, last=not last)
    return graph


def convert_to_half(onnx_bytes: bytes) -> bytes:
    """Convert a model to fp16 weights and operators. Its input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(loads(onnx_bytes).proto, keep_io_types=True)
    OnnxModel(model).topological_sort()  # the casts of inputs come last
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def store_weights_in_half(onnx_bytes: bytes) -> bytes:
    """Store the weights of convs and matrix products in fp16. All is computed in fp32."""
    model = ModelProto()
    model.CopyFrom(loads(onnx_bytes).proto)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    casts: list[NodeProto] = []
    for node in graph.node:
        name = node.input[1] if node.op_type in ("Conv", "Gemm", "MatMul") else ""
        if name not in tensors or tensors[name].data_type != TensorProto.FLOAT:
            continue
        halves = numpy_helper.to_array(tensors[name]).astype(np.float16)
        tensors[name].CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        casts.append(
            helper.make_node(
                "Cast", [f"{name}_half"], [name], f"{name}_cast", to=int(TensorProto.FLOAT)
            )
        )
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def widen_half(onnx_bytes: bytes) -> bytes:
    """Write a model of `convert_to_half` with float32 types; its weights keep the values of fp16.

    Programs that choose the precision of each operator themselves want such a file. A model that
    mixes types in another way stays as it is.
    """
    proto = loads(onnx_bytes).proto
    graph = proto.graph
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    ends = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Cast" and (node.input[0] in inputs or node.output[0] in outputs)
    }
    mixed = len(ends) != sum(node.op_type in ("Cast", "Constant") for node in graph.node)
    kinds = {tensor.data_type for tensor in graph.initializer}
    types = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    if mixed or TensorProto.FLOAT16 not in kinds or types != {TensorProto.FLOAT}:
        return onnx_bytes
    widened = onnx.ModelProto()
    widened.CopyFrom(proto)
    names = {made: node.input[0] for made, node in ends.items() if node.input[0] in inputs}
    names |= {node.input[0]: made for made, node in ends.items() if made in outputs}
    nodes = [node for node in widened.graph.node if node.output[0] not in ends]
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for tensor in widened.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    del widened.graph.node[:], widened.graph.value_info[:]
    widened.graph.node.extend(nodes)
    onnx.checker.check_model(widened)
    return widened.SerializeToString(deterministic=True)


def make_random_images(onnx_bytes: bytes, *, seed: int = 0) -> Array:
    """Normal random inputs of a model. An open batch becomes a small one."""
    closed = loads(onnx_bytes).closed()
    sizes = list(closed.inputs[0].shape)
    sizes[0] = max(sizes[0], _RANDOM_IMAGES)
    return np.random.default_rng(seed).standard_normal(sizes, np.float32)
