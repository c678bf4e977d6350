"""LiteRT (TensorFlow Lite) on the CPU: with its delegate XNNPACK, and with its own kernels (Ruy).

Both run the same .tflite file, whose writer is `edgenas.runtime.tflite`. They are two runtimes,
``litert`` and ``tflite``, because their times differ by a factor of two: a target names its
delegate. Published times of TensorFlow Lite on boards are of Ruy.
"""

import functools
import importlib
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board import litert_cpu as board
from edgenas.clock.board.part import UnitError
from edgenas.runtime.checks import Array, check_inputs, check_precision, check_used
from edgenas.runtime.contract import BundleFile, ExportFormat, Kernel, Runtime
from edgenas.runtime.tflite.convert import draft
from edgenas.runtime.tflite.draft import TO_LAST
from edgenas.runtime.tflite.file import Operator, TfliteGraph, why_not, write

LITERT, TFLITE = "litert", "tflite"
FILE = "model.tflite"
PRECISIONS = ("fp32", "int8")

_TO_FIRST = (0, 3, 1, 2)
_PROFILED_RUNS = 20


def available() -> str | None:
    """None, or why LiteRT cannot be used here."""
    try:
        importlib.import_module("ai_edge_litert.interpreter")
    except (ImportError, OSError) as error:
        return f"ai_edge_litert cannot be imported ({error}); pip install 'edgenas[litert]'"
    return why_not()


@functools.lru_cache(maxsize=4)  # a network is checked, evaluated and timed several times
def _drafted(onnx_bytes: bytes, batch: int, name: str) -> tuple[TfliteGraph, bytes]:
    graph = draft(onnx_bytes, batch=batch, runtime=name)
    return graph, write(graph)


def convert(onnx_bytes: bytes, *, batch: int = 1, name: str = LITERT) -> bytes:
    """An ONNX graph as the clock reads it: a .tflite file.

    Args:
        onnx_bytes: the graph.
        batch: images of a run.
        name: of the runtime, for errors.

    Raises:
        EdgenasError: it has an operator that is not known, or LiteRT's schema is not here.
    """
    return _drafted(onnx_bytes, batch, name)[1]


class LitertSession:
    """A .tflite file in an interpreter. Made by `compile_graph`."""

    def __init__(
        self, interpreter: Any, *, graph: TfliteGraph, delegate: str, facts: dict[str, str]
    ) -> None:
        self._interpreter, self._graph = interpreter, graph
        self._delegate, self._facts = delegate, facts
        self._places = dict(
            zip(
                graph.inputs, (one["index"] for one in interpreter.get_input_details()), strict=True
            )
        )
        self._outputs = [one["index"] for one in interpreter.get_output_details()]
        self._inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for name, tensor in graph.inputs.items():
            shape = graph.tensors[tensor].shape
            turned = name in graph.turned
            shape = tuple(shape[i] for i in _TO_FIRST) if turned else shape
            self._inputs[name] = shape, np.dtype(np.float32)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`. Images are brought into LiteRT's order, and back."""
        check_inputs(inputs, expected=self._inputs)
        for name, value in inputs.items():
            turned = value.transpose(TO_LAST) if name in self._graph.turned else value
            self._interpreter.set_tensor(self._places[name], np.ascontiguousarray(turned))
        self._interpreter.invoke()
        outputs: list[Array] = []
        for name, place in zip(self._graph.outputs, self._outputs, strict=True):
            value = self._interpreter.get_tensor(place)
            outputs.append(value.transpose(_TO_FIRST) if name in self._graph.turned else value)
        return outputs

    def facts(self) -> dict[str, str]:
        """See `Session`. ``outside`` names the operators that run outside of the delegate."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. LiteRT's Python has no profile: each operator is run alone."""
        threads = int(self._facts["threads"])
        return [
            Kernel(
                name=operator.writes,
                nodes=(operator.node,) if operator.node else (),
                kind=operator.code,
                precision=_precision_of(self._graph, operator),
                seconds=_time_alone(
                    self._graph, operator, threads=threads, delegate=self._delegate
                ),
            )
            for operator in self._graph.operators
            if any(self._graph.tensors[name].values is None for name in operator.reads)
        ]


def _precision_of(graph: TfliteGraph, operator: Operator) -> str:
    kinds = {graph.tensors[name].kind for name in (operator.reads[0], operator.writes)}
    return "int8" if kinds == {"int8"} else "fp32"


def _time_alone(graph: TfliteGraph, operator: Operator, *, threads: int, delegate: str) -> float:
    """The median seconds of one operator, as a graph of its own."""
    operators, needed = [operator], list(operator.reads)
    for other in graph.operators:  # what makes float32 of weights that are stored in fp16
        if other.writes in operator.reads and graph.tensors[other.reads[0]].values is not None:
            operators.insert(0, other)
            needed += other.reads
    made = {one.writes for one in operators}
    inputs = [n for n in needed if graph.tensors[n].values is None and n not in made]
    alone = TfliteGraph(
        tensors={name: graph.tensors[name] for name in dict.fromkeys((*needed, *made))},
        operators=tuple(operators),
        inputs={name: name for name in dict.fromkeys(inputs)},
        outputs={operator.writes: operator.writes},
    )
    interpreter = board.open_interpreter(write(alone), threads=threads, delegate=delegate)
    board.set_random_inputs(interpreter)
    seconds: list[float] = []
    for _ in range(_PROFILED_RUNS):
        start = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def compile_graph(
    onnx: bytes, *, precision: str | None, threads: int, batch: int, name: str, delegate: str
) -> LitertSession:
    """See `Runtime`. Files are loaded as the clock loads them."""
    if precision is not None:
        check_precision(precision, runtime=name, precisions=PRECISIONS)
    if reason := available():
        raise EdgenasError(f"runtime {name} is not available here: {reason}")
    graph, file = _drafted(onnx, batch, name)
    try:
        interpreter = board.open_interpreter(file, threads=threads, delegate=delegate)
    except UnitError as error:
        raise EdgenasError(f"{name} refuses the model: {error}") from error
    facts = tell_facts(interpreter, name=name, delegate=delegate, threads=threads)
    if precision is not None:
        check_used(facts["precision"], asked=precision, runtime=name)
    return LitertSession(interpreter, graph=graph, delegate=delegate, facts=facts)


def tell_facts(interpreter: Any, *, name: str, delegate: str, threads: int) -> dict[str, str]:
    """What runs in an interpreter, see `Session`.

    Args:
        interpreter: with its tensors.
        name: of the runtime.
        delegate: that it was opened with.
        threads: of one operator.
    """
    facts = {
        "runtime": name,
        "version": importlib.import_module("ai_edge_litert").__version__,
        "provider": f"CPU, delegate {delegate}",
        "precision": board.find_precision(interpreter),
        "threads": str(threads),
    }
    if delegate == board.XNNPACK:
        facts["outside"] = tell_outside(board.find_operators_outside(interpreter))
    return facts


def tell_outside(operators: list[str]) -> str:
    """The operators outside of a delegate, in words: ``2: HARD_SWISH (2)``; ``0`` for none."""
    kinds = sorted({kind: operators.count(kind) for kind in operators}.items())
    told = ", ".join(f"{kind} ({count})" for kind, count in kinds)
    return f"{len(operators)}: {told}" if told else "0"


def save_export(
    onnx: bytes, folder: Path, *, precision: str, batches: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write a graph as ``model.tflite``, see `SaveExport`.

    Raises:
        EdgenasError: the batch is to stay open, or an operator is not known.
    """
    if batches[0] != batches[2]:
        raise EdgenasError(
            f"{FILE} is written for one batch, not for {batches[0]} to {batches[2]} images",
            hint="leave out --dynamic-batch; a bundle of --batch 8 gives a file for 8 images",
        )
    (folder / FILE).write_bytes(convert(onnx, batch=batches[1]))
    return ("images go into model.tflite with their channels last: (batch, height, width, 3)",)


def _runtime(name: str, part: str, delegate: str, exports: tuple[ExportFormat, ...]) -> Runtime:
    return Runtime(
        name=name,
        forms={"fp32": "fp32", "int8": "int8-unsigned"},
        available=available,
        compile=partial(compile_graph, name=name, delegate=delegate),
        method="networks",
        part=f"edgenas.clock.board.litert_cpu:{part}",
        convert=partial(convert, name=name),
        why_not_convert=why_not,
        bundle_file=BundleFile(FILE, "example_litert.py"),
        exports=exports,
    )


def _format(kind: str, precision: str, form: Any, runs_in: str = "") -> ExportFormat:
    return ExportFormat(
        kind,
        precision,
        form,
        "LiteRT (TensorFlow Lite)",
        files=(FILE,),
        save=save_export,
        runs_in=runs_in,
    )


RUNTIME = _runtime(
    LITERT,
    "LITERT",
    board.XNNPACK,
    (
        _format("tflite", "fp32", "fp32"),
        _format("tflite-fp16", "fp16", "fp16-weights", runs_in="fp32"),
        _format("tflite-int8", "int8", "int8-unsigned"),
    ),
)
WITHOUT_DELEGATE = _runtime(TFLITE, "TFLITE", board.NO_DELEGATE, ())
