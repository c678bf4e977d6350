"""The graph that a runtime wants for a precision, made from the fp32 one.

Tables are measured on the very forms that ship: a layer that is timed in int8 is quantised as it
will be in a network.
"""

import functools
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.quantize import quantized, with_integer_activations, with_integer_ends
from edgenas.runtime import registry as runtimes
from edgenas.runtime.registry import Form, check_precision

Array = NDArray[Any]

_RANDOM_IMAGES = 2


def form(runtime: str, precision: str) -> Form:
    """The form that a runtime wants for a precision.

    Raises:
        EdgenasError: the runtime is unknown or lacks the precision.
    """
    known = runtimes.get(runtime)
    check_precision(precision, runtime=runtime, known=known.PRECISIONS)
    return known.FORMS[precision]


def formed(
    onnx_bytes: bytes, *, wanted: Form, images: Array | None = None, keep: tuple[str, ...] = ()
) -> bytes:
    """A model in another form.

    Args:
        onnx_bytes: one float32 input and output.
        wanted: the form.
        images: what int8 is calibrated with, shape (n, ...) as the input; None: random ones, for
            graphs that are only timed.
        keep: parts that stay in float in int8, see `edgenas.space.space.Space`.

    Raises:
        EdgenasError: int8 is wanted of a model without convs and matrix products.
    """
    if wanted == "fp32":
        return onnx_bytes
    if wanted == "fp16":
        return half(onnx_bytes)
    given = random_images(onnx_bytes) if images is None else images
    made = quantized(onnx_bytes, signed=wanted == "int8-signed", images=given, keep=keep)
    return with_integer_activations(made) if wanted == "int8-integer" else made


@functools.lru_cache(maxsize=512)  # a unit is timed several times
def formed_layer(
    onnx_bytes: bytes, *, wanted: Form, first: bool, last: bool, keep: tuple[str, ...] = ()
) -> bytes:
    """A layer alone in another form, as it will be amid its neighbours.

    Args:
        onnx_bytes: of `edgenas.onnx_graph.build.layer_graph`.
        wanted: the form.
        first: whether it is the first of its network, and reads the image.
        last: whether it is the last of its network, and gives the logits.
        keep: parts that stay in float in int8.
    """
    made = formed(onnx_bytes, wanted=wanted, keep=keep)
    if wanted in ("int8-integer", "int8-unsigned"):
        return with_integer_ends(made, first=not first, last=not last)
    return made


def half(onnx_bytes: bytes) -> bytes:
    """A model with fp16 weights and operators; its input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    made = convert_float_to_float16(loads(onnx_bytes).proto, keep_io_types=True)
    OnnxModel(made).topological_sort()  # the casts of inputs come last
    onnx.checker.check_model(made)
    return made.SerializeToString(deterministic=True)


def random_images(onnx_bytes: bytes, *, seed: int = 0) -> Array:
    """Normal inputs of a model; an open batch becomes a small one."""
    closed = loads(onnx_bytes).closed()
    sizes = list(closed.inputs[0].shape)
    sizes[0] = max(sizes[0], _RANDOM_IMAGES)
    return np.random.default_rng(seed).standard_normal(sizes, np.float32)
