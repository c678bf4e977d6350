"""Constants: which nodes do nothing at inference, and what small constants are.

Shapes follow from small whole numbers (the target of a reshape, the amount of a padding), so those
are computed with the reference operators of the ``onnx`` library. Large constants are weights;
nobody asks for their values.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

from edgenas.onnx_graph.file import external_values

Values = NDArray[Any]
MOST = 16_384  # elements of a constant whose values are kept
_NUMERIC = "biufc"
# Their results differ from run to run, although they read nothing.
RANDOM = frozenset(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial".split()
)
# Their extents depend on the values they read, so no shape is known before.
_COUNTED = frozenset(("NonZero", "Compress", "Unique"))
# What a reference operator raises where a graph asks for what cannot be computed.
_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def known(tensor: TensorProto) -> Values | None:
    """The values of a small tensor that is stored in the model; None: large, or no numbers."""
    count = 1
    for extent in tensor.dims:
        count *= max(0, extent)
    if count > MOST or tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    try:
        values = numpy_helper.to_array(tensor)
    except _REFUSALS:
        return None
    return values if values.size == count else None


def beside(tensor: TensorProto, folder: Path | None) -> TensorProto:
    """A small tensor with its values, which lie in another file; a large one stays as it is."""
    count = 1
    for extent in tensor.dims:
        count *= max(0, extent)
    if count > MOST:
        return tensor
    whole = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    whole.raw_data = external_values(tensor, folder)
    return whole


def of_constant(node: NodeProto) -> TensorProto | None:
    """The tensor that a ``Constant`` node holds; None: it is sparse, a text, or absent."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in ("value_float", "value_floats"):
            value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            return numpy_helper.from_array(np.array(value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            value = attribute.i if attribute.name == "value_int" else list(attribute.ints)
            return numpy_helper.from_array(np.array(value, np.int64))
    return None


def computed(
    node: NodeProto,
    inputs: Mapping[str, Values],
    *,
    shapes: Sequence[tuple[int | None, ...] | None],
    opsets: Sequence[OperatorSetIdProto],
) -> list[Values] | None:
    """What a node gives for constants; None: it is too large, or the library cannot tell.

    Args:
        node: whose inputs are all known.
        inputs: their values by name.
        shapes: of its outputs, as far as inference tells them.
        opsets: the versions of the operators.
    """
    for shape in shapes:
        if shape is None or None in shape:
            if node.op_type not in _COUNTED:
                return None
        elif np.prod([float(extent or 0) for extent in shape], dtype=np.float64) > MOST:
            return None
    from onnx.reference import ReferenceEvaluator  # slow to import, and needed late

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            evaluator: Any = ReferenceEvaluator(
                _alone(node, inputs, opsets) if node.domain or len(opsets) > 0 else node
            )
            outputs = evaluator.run(None, {name: inputs[name] for name in node.input if name})
    except _REFUSALS:
        return None
    arrays = [np.asarray(value) for value in outputs]
    return None if any(a.dtype.kind not in _NUMERIC for a in arrays) else arrays


def _alone(
    node: NodeProto, inputs: Mapping[str, Values], opsets: Sequence[OperatorSetIdProto]
) -> onnx.ModelProto:
    """A model of a single node, so that the versions of its operators are those of the file."""
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(inputs[name].dtype), inputs[name].shape
        )
        for name in dict.fromkeys(filter(None, node.input))
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", values, outputs)
    return helper.make_model(graph, opset_imports=list(opsets))
