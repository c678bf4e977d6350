"""OpenVINO on the CPU."""

import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.openvino_cpu import compile_model
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.runs import make_inputs
from edgenas.runtime.checks import (
    Array,
    check_batch,
    check_inputs,
    check_precision,
    check_used,
    find_origins,
    node_names,
    read_graph,
)
from edgenas.runtime.contract import ExportFormat, Kernel, Runtime

NAME = "openvino"

_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_WITH_MACS = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
_PROFILED_RUNS = 20


def available() -> str | None:
    """None, or why OpenVINO cannot be used here."""
    try:
        importlib.import_module("openvino")
    except ImportError as error:
        return f"openvino cannot be imported ({error}); pip install 'edgenas[openvino]'"
    return None


class OpenvinoSession:
    """A graph on the CPU plugin. Made by `compile_graph`."""

    def __init__(self, model: Any, *, onnx: bytes, batch: int, facts: dict[str, str]) -> None:
        self._model, self._onnx, self._batch, self._facts = model, onnx, batch, facts
        self._request = model.create_infer_request()
        self._inputs = {
            port.any_name: (tuple(port.shape), np.dtype(port.element_type.to_dtype()))
            for port in model.inputs
        }

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        check_inputs(inputs, expected=self._inputs)
        outputs = self._request.infer(dict(inputs))
        return [outputs[port] for port in self._model.outputs]

    def facts(self) -> dict[str, str]:
        """See `Session`."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. From the runtime's performance counters."""
        model = compile_model(
            self._onnx,
            threads=int(self._facts["threads"]),
            batch=self._batch,
            precision=self._facts["precision"],
            profile=True,
        )
        request = model.create_infer_request()
        inputs = make_inputs([(n, s, kind.name) for n, (s, kind) in self._inputs.items()])
        seconds: dict[str, list[float]] = {}
        kinds: dict[str, str] = {}
        for _ in range(_PROFILED_RUNS):
            request.infer(inputs)
            for info in request.profiling_info:
                if info.status == info.Status.EXECUTED:
                    kinds[info.node_name] = info.exec_type
                    seconds.setdefault(info.node_name, []).append(info.real_time.total_seconds())
        nodes = node_names(self._onnx)
        merged = {name: layers for name, layers, _, _ in _operators(model)}
        return [
            Kernel(
                name=name,
                nodes=tuple(
                    dict.fromkeys(
                        node
                        for layer in merged.get(name, [name])
                        for node in find_origins(layer, nodes)
                    )
                ),
                kind=kinds[name],
                precision=_precision(kinds[name]),
                seconds=float(np.median(runs)),
            )
            for name, runs in seconds.items()
        ]


def compile_graph(
    onnx: bytes, *, precision: str | None, threads: int, batch: int
) -> OpenvinoSession:
    """See `Runtime`. Sessions are those that the clock times."""
    if precision is not None:
        check_precision(precision, runtime=NAME, precisions=RUNTIME.precisions)
    why_not = available()
    if why_not:
        raise EdgenasError(f"runtime {NAME} is not available here: {why_not}")
    try:
        model = compile_model(onnx, threads=threads, batch=batch, precision=precision or "fp32")
    except UnitError as error:
        raise EdgenasError(f"{NAME} refuses the model: {error}") from error
    used = precision_of(model)
    if precision is not None:
        check_used(used, asked=precision, runtime=NAME)
    check_batch(read_graph(onnx, runtime=NAME), batch=batch)
    facts = {
        "runtime": NAME,
        "version": importlib.import_module(NAME).__version__,
        "provider": "CPU",
        "precision": used,
        "threads": str(model.get_property("INFERENCE_NUM_THREADS")),
    }
    return OpenvinoSession(model, onnx=onnx, batch=batch, facts=facts)


def precision_of(model: Any) -> str:
    """The precision of most convs and matrix products of a compiled model.

    Where the processor has no fp16 kernels, for example, bf16 ones may run instead.
    """
    used = Counter(
        _precision(kernel) for _, _, kind, kernel in _operators(model) if kind in _WITH_MACS
    )
    return used.most_common(1)[0][0] if used else "fp32"


def _operators(model: Any) -> list[tuple[str, list[str], str, str]]:
    """Name, original layers, kind and kernel of each operator that really runs."""
    operators: list[tuple[str, list[str], str, str]] = []
    for operator in model.get_runtime_model().get_ops():
        info = operator.get_rt_info()
        texts = [
            str(getattr(info[key], "value", info[key])) if key in info else ""
            for key in ("originalLayersNames", "layerType", "primitiveType")
        ]
        operators.append((operator.get_friendly_name(), texts[0].split(","), texts[1], texts[2]))
    return operators


def _precision(kernel: str) -> str:
    """The precision at the end of a kernel's name, e.g. ``brgconv_avx512_1x1_I8``."""
    return _NAMES.get(kernel.rpartition("_")[2].lower(), "fp32")


def save_export(
    onnx: bytes, folder: Path, *, precision: str, batches: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write a graph as ``model.xml`` and ``model.bin``, see `SaveExport`."""
    openvino: Any = importlib.import_module("openvino")
    model = openvino.Core().read_model(onnx)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return ()


_FILES = ("model.xml", "model.bin")
RUNTIME = Runtime(
    name=NAME,
    forms={"fp32": "fp32", "bf16": "fp32", "fp16": "fp32", "int8": "int8-unsigned"},
    available=available,
    compile=compile_graph,
    part="edgenas.clock.board.openvino_cpu:PART",
    exports=(
        ExportFormat("openvino", "fp32", "fp32", "OpenVINO", files=_FILES, save=save_export),
        ExportFormat(
            "openvino-int8", "int8", "int8-unsigned", "OpenVINO", files=_FILES, save=save_export
        ),
    ),
)
