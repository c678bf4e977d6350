"""From an ONNX graph to a .tflite file."""

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.order import called
from edgenas.runtime.tflite.draft import Draft, NotKnownError, Value
from edgenas.runtime.tflite.file import TfliteGraph, write
from edgenas.runtime.tflite.rules import RULES
from edgenas.runtime.tflite.source import Source, read

RUNTIME = "litert"

_KNOWN = frozenset(RULES)


def convert(onnx_bytes: bytes, *, batch: int = 1, runtime: str = RUNTIME) -> bytes:
    """The .tflite file of an ONNX graph, with images whose channels come last.

    What stands between quantise and dequantise operators computes in integers. Weights that the
    graph stores in fp16 stay so.

    Args:
        onnx_bytes: the graph, with float32 inputs and outputs.
        batch: what an open batch becomes.
        runtime: in whose name a graph is refused.

    Raises:
        EdgenasError: it is no graph, or has an operator that is not known, which it names; or
            LiteRT's schema is not here.
    """
    return write(draft(onnx_bytes, batch=batch, runtime=runtime))


def draft(onnx_bytes: bytes, *, batch: int = 1, runtime: str = RUNTIME) -> TfliteGraph:
    """The graph of the file of ``convert``. Raises the same errors."""
    source = read(onnx_bytes, batch=batch, known=_KNOWN, runtime=runtime)
    growing = Draft(source)
    for name in source.inputs:
        growing.input(name, _input(source, name))
    for node in source.nodes:
        if id(node) in growing.done:
            continue
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            raise EdgenasError(f"{runtime} refuses the model: {called(node)} is not known to it")
        growing.node = node.name or node.output[0]
        try:
            rule(growing, node)
        except NotKnownError as error:
            raise EdgenasError(f"{runtime} refuses the model: {called(node)} {error}") from None
    return growing.graph()


def _input(source: Source, name: str) -> Value:
    """An input: an image with its channels last, as a graph may have it already."""
    shape, readers = source.shapes[name], source.readers.get(name, ())
    turned = all(node.op_type == "Transpose" for node in readers)
    return Value(name, shape, channels_last=len(shape) == 4 and not (turned and readers))
