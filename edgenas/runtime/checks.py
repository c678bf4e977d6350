"""Checks that runtimes share: of graphs, batches, precisions and inputs, in the same words."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError

if TYPE_CHECKING:
    from edgenas.onnx_graph.model import Model

Array = NDArray[Any]


def node_names(onnx_bytes: bytes) -> dict[str, str]:
    """The names of the nodes of an ONNX graph, by their names and by their outputs.

    Runtimes call a node by either.
    """
    from edgenas.onnx_graph.model import loads

    graph = loads(onnx_bytes).proto.graph
    names = {output: node.name for node in graph.node for output in node.output}
    return names | {node.name: node.name for node in graph.node if node.name}


def find_origins(name: str, nodes: Mapping[str, str]) -> tuple[str, ...]:
    """The node that a runtime's name of a kernel stems from. Runtimes append to names of nodes.

    Args:
        name: in the runtime's words, for example ``Conv_4_nchwc`` or ``Conv_4/WithoutBiases``.
        nodes: the names of the nodes, see `node_names`. The longest one that fits is meant.
    """
    fits = [node for node in nodes if re.match(re.escape(node) + r"(?![0-9A-Za-z])", name)]
    return (nodes[max(fits, key=len)],) if fits else ()


def check_batch(model: "Model", *, batch: int) -> None:
    """Refuse a graph that was made for another batch. An open batch fits any.

    Args:
        model: the graph. Its main input tells the batch, not a state or a size beside it.
        batch: images a run.

    Raises:
        EdgenasError: they differ.
    """
    if model.batch not in (None, batch):
        raise EdgenasError(
            f"batch must be {model.batch}, which the model was made for, found {batch}"
        )


def read_graph(onnx_bytes: bytes, *, runtime: str) -> "Model":
    """A graph, read before a runtime sees it.

    Raises:
        EdgenasError: it is no graph, in the name of the runtime.
    """
    from edgenas.onnx_graph.model import loads

    try:
        return loads(onnx_bytes, where="it")
    except EdgenasError as error:
        raise EdgenasError(
            f"{runtime} refuses the model: {error.message}", hint=error.hint
        ) from error


def check_used(used: str, *, asked: str, runtime: str) -> None:
    """Refuse a model that would run in another precision than the one asked for.

    Raises:
        EdgenasError: names both.
    """
    if used != asked:
        raise EdgenasError(
            f"the model runs in {used} on {runtime}, not in {asked}",
            hint="give a model of that precision, or ask for the precision of the model",
        )


def check_precision(precision: str, *, runtime: str, precisions: Collection[str]) -> None:
    """Refuse a precision that a runtime does not have.

    Raises:
        EdgenasError: names the precisions that it has.
    """
    if precision not in precisions:
        raise EdgenasError(
            f"precision of {runtime} must be one of {', '.join(precisions)}, found {precision!r}"
        )


def check_inputs(
    inputs: Mapping[str, Array], *, expected: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> None:
    """Refuse inputs that are not those of a graph.

    Args:
        inputs: the arrays by name.
        expected: shape and type of each input of the graph.

    Raises:
        EdgenasError: names the first input that differs, what it must be and what it is.
    """
    if set(inputs) != set(expected):
        raise EdgenasError(
            f"inputs must be {', '.join(sorted(expected))}, found {', '.join(sorted(inputs))}"
        )
    for name, (shape, dtype) in expected.items():
        value = inputs[name]
        if value.shape != shape or value.dtype != dtype:
            raise EdgenasError(
                f"input {name} must be {dtype}{list(shape)}, found {value.dtype}{list(value.shape)}"
            )
