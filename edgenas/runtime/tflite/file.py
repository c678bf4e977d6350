"""A .tflite file: its tensors and operators as values, and how they become bytes.

The schema is `tensorflow/lite/schema/schema.fbs`; its Python classes come with LiteRT.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError

Array = NDArray[Any]

SIGNATURE = "serving_default"  # what TensorFlow calls the one function of a model
_VERSION = 3  # of the schema
_ALIGNED = 16  # bytes: `force_align` of Buffer.data in the schema
_OLD_CODES = 127  # the deprecated field holds a byte
_KINDS = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8"}
# Of operators, the version that has what we write; of others, 1. A program refuses a file with a
# version that it does not know (tensorflow/lite/tools/versioning/op_version.cc).
_VERSIONS = {
    ("float32", "DEQUANTIZE"): 1, ("float16", "DEQUANTIZE"): 3, ("int8", "DEQUANTIZE"): 2,
    ("int8", "ADD"): 2, ("int8", "AVERAGE_POOL_2D"): 2, ("int8", "CONCATENATION"): 2,
    ("int8", "CONV_2D"): 3, ("int8", "DEPTHWISE_CONV_2D"): 3, ("int8", "FULLY_CONNECTED"): 12,
    ("int8", "LOGISTIC"): 2, ("int8", "MAX_POOL_2D"): 2, ("int8", "MEAN"): 2, ("int8", "MUL"): 2,
    ("int8", "PAD"): 2, ("int8", "QUANTIZE"): 2, ("int8", "RELU"): 2, ("int8", "RELU6"): 2,
    ("int8", "SLICE"): 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Steps:
    """How integers stand for real numbers: ``scale * (integer - zero point)``.

    Args:
        scales: one, or one for each channel.
        zero_points: as many.
        axis: of the channels.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of a graph.

    Args:
        name: its name, unique.
        shape: of images (batch, height, width, channels).
        kind: numpy's name of its type.
        values: those of a constant; None: it is computed.
        steps: of integers.
    """

    name: str
    shape: tuple[int, ...]
    kind: str = "float32"
    values: Array | None = None
    steps: Steps | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of a graph.

    Args:
        code: its name in the schema's ``BuiltinOperator``.
        reads: names of tensors; empty where an input is left out.
        writes: the name of its output.
        options: the fields of its options in the schema.
        table: the name of these options in the schema; empty: it has none.
        node: the name of the ONNX node that it stems from.
    """

    code: str
    reads: tuple[str, ...]
    writes: str
    options: Mapping[str, int | float | bool | str] = field(default_factory=dict[str, Any])
    table: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TfliteGraph:
    """What a file holds.

    Args:
        tensors: by name, in the order of the file.
        operators: in order of execution.
        inputs: their tensors, by the names that programs call them by.
        outputs: the same of its outputs.
        turned: those of both whose channels come last, and in ONNX first.
        metadata: texts by name, as the ONNX graph has them.
    """

    tensors: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    turned: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def why_not() -> str | None:
    """None, or why no file can be written here."""
    try:
        _schema()
    except (ImportError, OSError) as error:
        return f"ai_edge_litert cannot be imported ({error}); pip install 'edgenas[litert]'"
    return None


def write(graph: TfliteGraph) -> bytes:
    """The bytes of the file of a graph. The same graph gives the same bytes.

    Raises:
        EdgenasError: LiteRT's schema is not here.
    """
    if reason := why_not():
        raise EdgenasError(f"no .tflite file can be written here: {reason}")
    schema, numbers = _schema(), {name: i for i, name in enumerate(graph.tensors)}
    constants = [t.values for t in graph.tensors.values() if t.values is not None]
    texts = [np.frombuffer(text.encode(), np.uint8) for text in graph.metadata.values()]
    places = {t.name: i for i, t in enumerate(
        (t for t in graph.tensors.values() if t.values is not None), start=1
    )}  # fmt: skip
    versions = {(one.code, _version(one, graph.tensors)): None for one in graph.operators}
    codes = {code: i for i, code in enumerate(versions)}
    subgraph = schema.SubGraphT(
        name="main",
        tensors=[_tensor(schema, t, places.get(t.name, 0)) for t in graph.tensors.values()],
        inputs=[numbers[tensor] for tensor in graph.inputs.values()],
        outputs=[numbers[tensor] for tensor in graph.outputs.values()],
        operators=[
            _operator(schema, one, codes[one.code, _version(one, graph.tensors)], numbers)
            for one in graph.operators
        ],
    )
    model = schema.ModelT(
        version=_VERSION,
        description="edgenas",
        operatorCodes=[_code(schema, code, version) for code, version in codes],
        subgraphs=[subgraph],
        # The first buffer is the empty one of what is computed.
        buffers=[schema.BufferT(), *(_Buffer(schema, v) for v in (*constants, *texts))],
        metadata=[
            schema.MetadataT(name=name, buffer=1 + len(constants) + i)
            for i, name in enumerate(graph.metadata)
        ],
        signatureDefs=[_signature(schema, graph, numbers)],
    )
    builder = importlib.import_module("flatbuffers").Builder(
        4096 + sum(values.nbytes for values in constants)
    )
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_metadata(data: bytes) -> dict[str, str]:
    """The texts that a file of ours holds, by name.

    Raises:
        EdgenasError: LiteRT's schema is not here.
    """
    if reason := why_not():
        raise EdgenasError(f"no .tflite file can be read here: {reason}")
    model = _schema().Model.GetRootAs(data)
    texts: dict[str, str] = {}
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        data_of = model.Buffers(entry.Buffer())
        held = data_of.DataAsNumpy() if data_of.DataLength() else b""
        texts[entry.Name().decode()] = bytes(held).decode()
    return texts


def _schema() -> Any:
    return importlib.import_module("ai_edge_litert.schema_py_generated")


def _version(operator: Operator, tensors: Mapping[str, Tensor]) -> int:
    # A quantise operator tells itself apart by what it reads, all others do so too.
    return _VERSIONS.get((tensors[operator.reads[0]].kind, operator.code), 1)


class _Buffer:
    """The data of a constant. The schema's own class does not align it."""

    def __init__(self, schema: Any, values: Array) -> None:
        self._schema, self._data = schema, np.ascontiguousarray(values).tobytes()

    def Pack(self, builder: Any) -> Any:  # noqa: N802 as the schema's classes call it
        builder.StartVector(1, len(self._data), _ALIGNED)
        builder.head -= len(self._data)
        builder.Bytes[builder.head : builder.head + len(self._data)] = self._data
        data = builder.EndVector()
        self._schema.BufferStart(builder)
        self._schema.BufferAddData(builder, data)
        return self._schema.BufferEnd(builder)


def _tensor(schema: Any, tensor: Tensor, place: int) -> Any:
    made = schema.TensorT(
        shape=list(tensor.shape),
        type=getattr(schema.TensorType, _KINDS[tensor.kind]),
        buffer=place,
        name=tensor.name,
        hasRank=True,
    )
    if tensor.steps is not None:
        made.quantization = schema.QuantizationParametersT(
            scale=list(tensor.steps.scales),
            zeroPoint=list(tensor.steps.zero_points),
            quantizedDimension=tensor.steps.axis,
        )
    return made


def _operator(schema: Any, operator: Operator, code: int, numbers: Mapping[str, int]) -> Any:
    made = schema.OperatorT(
        opcodeIndex=code,
        inputs=[numbers[name] if name else -1 for name in operator.reads],
        outputs=[numbers[operator.writes]],
    )
    if operator.table:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, operator.table)
        given = {name: _number(schema, name, v) for name, v in operator.options.items()}
        made.builtinOptions = getattr(schema, operator.table + "T")(**given)
    return made


def _number(schema: Any, name: str, value: int | float | bool | str) -> Any:
    """The number of a word of the schema; other values stay as they are."""
    if isinstance(value, str):
        words = "Padding" if name == "padding" else "ActivationFunctionType"
        return getattr(getattr(schema, words), value)
    return value


def _code(schema: Any, code: str, version: int) -> Any:
    number = getattr(schema.BuiltinOperator, code)
    return schema.OperatorCodeT(
        builtinCode=number, deprecatedBuiltinCode=min(number, _OLD_CODES), version=version
    )


def _signature(schema: Any, graph: TfliteGraph, numbers: Mapping[str, int]) -> Any:
    def maps(tensors: Mapping[str, str]) -> list[Any]:
        return [schema.TensorMapT(name=n, tensorIndex=numbers[t]) for n, t in tensors.items()]

    return schema.SignatureDefT(
        signatureKey=SIGNATURE, inputs=maps(graph.inputs), outputs=maps(graph.outputs)
    )
