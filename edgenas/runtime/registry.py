"""Runtimes: what turns an ONNX graph into something that runs on a device.

A runtime is a module of this folder, or a value in one, with a ``NAME``, ``PRECISIONS``, ``FORMS``,
``available`` and ``compile``; see `Runtime`. Names are those of targets and of latency tables. A
module is imported when it is asked for, and imports its library when that is needed, so that
listing runtimes works without any of them. `edgenas.runtime.forms` makes the graph that a runtime
wants for a precision.

To add one: write the module, register it in ``_MODULES``, give `edgenas.clock.board` a loader of
the same name if it is to be timed. One that reads no ONNX on a device has ``convert`` and
``why_not_convert`` too, see `for_clock`. ``tests/test_runtimes.py`` runs the contract on every
runtime here.
"""

import importlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError, unknown_name

if TYPE_CHECKING:
    from edgenas.onnx_graph.model import Model

Array = NDArray[Any]

# What graph a runtime wants for a precision: the fp32 one as it is, with fp16 weights, or int8 with
# quantise and dequantise operators: unsigned with integer biases (where "integer" says that hard
# swishes are integers too), or signed symmetric with
# float biases.
Form = Literal["fp32", "fp16", "int8-unsigned", "int8-integer", "int8-signed"]

_MODULES = {
    "ncnn": "edgenas.runtime.ncnn_cpu",
    "onnxruntime": "edgenas.runtime.onnx_runtime",
    "onnxruntime-cuda": "edgenas.runtime.onnx_runtime_gpu:CUDA",
    "onnxruntime-tensorrt": "edgenas.runtime.onnx_runtime_gpu:TENSORRT",
    "openvino": "edgenas.runtime.openvino_cpu",
    "tensorrt": "edgenas.runtime.trt:TENSORRT",
    "tensorrt-rtx": "edgenas.runtime.trt:TENSORRT_RTX",
    "torch-cuda": "edgenas.runtime.torch_cuda",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A piece of work that a runtime says it does in a run.

    Args:
        name: of it, in the runtime's words.
        nodes: of the graph, as far as the runtime tells which they were.
        kind: of kernel, in the runtime's words.
        precision: what it computes in: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        seconds: median over some runs, while being watched: they add up to more than a run takes.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    precision: str
    seconds: float


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs, in the order of the graph.

        Args:
            inputs: by the names of the graph, with the graph's types and shapes.

        Raises:
            EdgenasError: a name, type or shape is not the graph's.
        """
        ...

    def facts(self) -> dict[str, str]:
        """What really runs: ``runtime``, ``version``, ``provider``, ``precision``, ``threads``."""
        ...

    def kernels(self) -> list[Kernel]:
        """What it spends its time on, in the order of execution; made-up inputs."""
        ...


class Runtime(Protocol):
    """The contract of a runtime. Modules fulfil it."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """Of the runtime."""
        ...

    @property
    def PRECISIONS(self) -> tuple[str, ...]:  # noqa: N802
        """What it can compute in; the processor may lack some."""
        ...

    @property
    def FORMS(self) -> Mapping[str, Form]:  # noqa: N802
        """The graph that it wants for each precision."""
        ...

    def available(self) -> str | None:
        """None, or why it cannot be used here, in words that help."""
        ...

    def compile(self, onnx: bytes, *, precision: str | None, threads: int, batch: int) -> Session:
        """A session for this machine.

        Args:
            onnx: the graph, in the form for the precision. Free dimensions of inputs are the batch.
            precision: one of ``PRECISIONS``. What would silently run in another is refused. None:
                whatever the graph asks for, and fp32 where it does not; the facts tell.
            threads: threads of the processor; what runs on a GPU may ignore it.
            batch: images a run.

        Raises:
            EdgenasError: not available here, the graph is refused, or it would not run in the
                precision asked for.
        """
        ...


def names() -> list[str]:
    """The names of all runtimes, present or not."""
    return sorted(_MODULES)


def get(name: str) -> Runtime:
    """The runtime of a name; its library need not be there.

    Raises:
        EdgenasError: there is no such runtime.
    """
    if name not in _MODULES:
        raise unknown_name("runtime", name, names=_MODULES, listing="edgenas list runtimes")
    module, _, attribute = _MODULES[name].partition(":")
    found = importlib.import_module(module)
    return cast(Runtime, getattr(found, attribute) if attribute else found)


def for_clock(name: str, onnx: bytes | Path, *, batch: int) -> bytes | Path:
    """What the clock loads on a runtime: the graph as it is, or in the runtime's own format.

    Args:
        name: of the runtime.
        onnx: the graph in the form for the precision.
        batch: images a run.

    Raises:
        EdgenasError: the graph cannot be converted, or not here.
    """
    convert = getattr(get(name), "convert", None)
    if convert is None:
        return onnx
    return convert(onnx.read_bytes() if isinstance(onnx, Path) else onnx, batch=batch)


def why_not_for_clock(name: str) -> str | None:
    """None, or why no graph can be brought here into the form that the clock loads."""
    missing = getattr(get(name), "why_not_convert", None)
    return None if missing is None else missing()


def node_names(graph: Any) -> dict[str, str]:
    """The nodes of an ONNX graph by all that runtimes call them: their names and their outputs."""
    names = {output: node.name for node in graph.node for output in node.output}
    return names | {node.name: node.name for node in graph.node if node.name}


def origins(name: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The nodes that a runtime's name of a kernel stems from: runtimes append to names.

    Args:
        name: in the runtime's words, e.g. ``Conv_4_nchwc`` or ``Conv_4/WithoutBiases``.
        known: of ``node_names``; the longest that fits is meant.
    """
    fits = [node for node in known if re.match(re.escape(node) + r"(?![0-9A-Za-z])", name)]
    return (known[max(fits, key=len)],) if fits else ()


def check_batch(model: "Model", *, batch: int) -> None:
    """Refuse a graph that is made for another batch; an open one fits any.

    Args:
        model: the graph; its main input tells the batch, not a state or a size beside it.
        batch: what is asked for.

    Raises:
        EdgenasError: they differ.
    """
    if model.batch not in (None, batch):
        raise EdgenasError(
            f"batch must be {model.batch}, which the model was made for, found {batch}"
        )


def read_graph(onnx_bytes: bytes, *, runtime: str) -> "Model":
    """A graph before a runtime sees it. Raises EdgenasError in the name of the runtime."""
    from edgenas.onnx_graph.model import loads

    try:
        return loads(onnx_bytes, where="it")
    except EdgenasError as error:
        raise EdgenasError(
            f"{runtime} refuses the model: {error.message}", hint=error.hint
        ) from error


def check_used(used: str, *, asked: str, runtime: str) -> None:
    """Refuse a model that silently runs in another precision than asked for.

    Raises:
        EdgenasError: names both.
    """
    if used != asked:
        raise EdgenasError(
            f"the model runs in {used} on {runtime}, not in {asked}",
            hint="give a model of that precision, or ask for the precision of the model",
        )


def check_precision(precision: str, *, runtime: str, known: Collection[str]) -> None:
    """Refuse a precision that a runtime does not have.

    Raises:
        EdgenasError: names the precisions that it has.
    """
    if precision not in known:
        raise EdgenasError(
            f"precision of {runtime} must be one of {', '.join(known)}, found {precision!r}"
        )


def check_inputs(
    inputs: Mapping[str, Array], *, expected: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> None:
    """Refuse inputs that are not those of a graph.

    Args:
        inputs: what was given.
        expected: shape and type of each input of the graph.

    Raises:
        EdgenasError: names the first input that differs, what it must be and what was found.
    """
    if set(inputs) != set(expected):
        raise EdgenasError(
            f"inputs must be {', '.join(sorted(expected))}, found {', '.join(sorted(inputs))}"
        )
    for name, (shape, dtype) in expected.items():
        found = inputs[name]
        if found.shape != shape or found.dtype != dtype:
            raise EdgenasError(
                f"input {name} must be {dtype}{list(shape)}, found {found.dtype}{list(found.shape)}"
            )
