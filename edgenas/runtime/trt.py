"""TensorRT and TensorRT-RTX through one code path: parse ONNX, build an engine, run it.

Both libraries have the API of TensorRT 10 and 11; TensorRT 8 (JetPack 5) differs in how precision
is asked for, and has a branch. From version 10 on networks are strongly typed: an engine computes
in the types of the graph, fp16 because the graph was converted, int8 because it has quantise and
dequantise operators. Nothing falls back silently.

TensorRT-RTX parses and builds on machines without a GPU, so that path is tested everywhere; its
engines are for desktop GPUs and never run on a Jetson. Engines of TensorRT are built on the very
device that runs them; see `edgenas.runtime.engines` for how that is held to.
"""

import contextlib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.machine import read_environment
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
from edgenas.runtime.contract import Kernel
from edgenas.runtime.cuda import Cuda, why_no_cuda

if TYPE_CHECKING:
    from edgenas.onnx_graph.forms import Form

_PROFILED_RUNS = 20
_WORKSPACE = 1 << 30


@dataclass(frozen=True, slots=True)
class TensorRT:
    """One of the two libraries: it builds engines and runs them.

    Args:
        name: the name of the runtime.
        module: the Python module of the library.
        install: what to do where it is missing.
    """

    name: str
    module: str
    install: str

    @property
    def forms(self) -> "Mapping[str, Form]":
        """The form of graph for each precision, of a library that types networks strongly."""
        return {"fp32": "fp32", "fp16": "fp16", "int8": "int8-signed"}

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that engines compute in."""
        return tuple(self.forms)

    def choose_form(self, precision: str) -> "Form":
        """The form for a precision. TensorRT 8 chooses fp16 kernels for an fp32 graph."""
        if precision == "fp16" and self.why_not_build() is None and self.is_weakly_typed():
            return "fp32"
        return self.forms[precision]

    def why_not_build(self) -> str | None:
        """None, or why no engine can be built here."""
        try:
            importlib.import_module(self.module)
        except (ImportError, OSError) as error:
            return f"{self.module} cannot be imported ({error}); {self.install}"
        return None

    def available(self) -> str | None:
        """None, or why no engine can be run here."""
        missing = self.why_not_build()
        if missing:
            return missing
        no_gpu = why_no_cuda()
        return f"engines can be built but not run: {no_gpu}" if no_gpu else None

    def version(self) -> str:
        """Of the library, which must be there."""
        return str(importlib.import_module(self.module).__version__)

    def is_weakly_typed(self) -> bool:
        """Whether networks are typed weakly, as in TensorRT 8. TensorRT-RTX counts from 1."""
        return self.module == "tensorrt" and int(self.version().split(".")[0]) < 10

    def build(
        self,
        onnx_bytes: bytes,
        *,
        precision: str,
        batches: tuple[int, int, int] = (1, 1, 1),
        timing_cache: "TimingCache | None" = None,
    ) -> bytes:
        """The serialised engine of a graph in the form for the precision.

        Args:
            onnx_bytes: the graph.
            precision: one of ``PRECISIONS``; must be that of the graph (TensorRT 8: fp16 is asked
                for here).
            batches: least, usual and largest images a run, where the graph leaves that open.
            timing_cache: what was timed in earlier builds on this device; updated.

        Raises:
            EdgenasError: the library is not here, or does not accept the graph, in its own words.
        """
        check_precision(precision, runtime=self.name, precisions=self.precisions)
        missing = self.why_not_build()
        if missing:
            raise EdgenasError(f"{self.name} cannot build engines here: {missing}")
        weakly = self.is_weakly_typed()
        model = read_graph(onnx_bytes, runtime=self.name)
        used = model.precision()
        if not (weakly and precision == "fp16" and used == "fp32"):
            check_used(used, asked=precision, runtime=self.name)
        trt = importlib.import_module(self.module)
        logger, said = _logger(trt)
        builder = trt.Builder(logger)
        if builder is None:
            raise self._refusal("cannot start", said)
        flag = trt.NetworkDefinitionCreationFlag
        typed = flag.EXPLICIT_BATCH if weakly else flag.STRONGLY_TYPED
        network = builder.create_network(1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(onnx_bytes):
            nodes = model.proto.graph.node
            errors = [_words(parser.get_error(i), nodes) for i in range(parser.num_errors)]
            raise self._refusal("refuses the model", errors or said)
        config = builder.create_builder_config()
        if weakly:
            _ask_for(trt, config, precision=precision)
        # fp32 means fp32: by default, the multiplications of new GPUs would have ten bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        _bound_workspace(trt, config)
        _add_profile(builder, network, config, batches=batches)
        with contextlib.ExitStack() as finally_:
            if timing_cache is not None:
                finally_.callback(timing_cache.attach(config))
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._refusal("cannot build an engine of the model", said)
        return bytes(plan)

    def compile(
        self, onnx: bytes, *, precision: str | None, threads: int, batch: int
    ) -> "TensorRTSession":
        """See `Runtime`. Threads are those of the GPU."""
        model = read_graph(onnx, runtime=self.name)
        chosen = precision or model.precision()
        check_precision(chosen, runtime=self.name, precisions=self.precisions)
        why_not = self.available()
        if why_not:
            raise EdgenasError(f"runtime {self.name} is not available here: {why_not}")
        check_batch(model, batch=batch)
        plan = self.build(onnx, precision=chosen, batches=(batch, batch, batch))
        return self.session(plan, precision=chosen, batch=batch, onnx_bytes=onnx)

    def session(
        self, plan: bytes, *, precision: str, batch: int, onnx_bytes: bytes = b""
    ) -> "TensorRTSession":
        """An engine that is ready to run.

        Args:
            plan: a serialised engine.
            precision: that it was built for.
            batch: images a run.
            onnx_bytes: what it was built from; without it, kernels name no nodes.

        Raises:
            EdgenasError: there is no GPU, or the engine is of another device or version.
        """
        trt = importlib.import_module(self.module)
        logger, said = _logger(trt)
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._refusal("cannot load the engine", said)
        facts = {
            "runtime": self.name,
            "version": self.version(),
            "provider": str(read_environment(threads=1)["gpu"]),
            "precision": precision,
            "threads": "1",
        }
        return TensorRTSession(
            trt, engine, keep=(logger, runtime), batch=batch, facts=facts, onnx_bytes=onnx_bytes
        )

    def _refusal(self, what: str, said: list[str]) -> EdgenasError:
        words = "; ".join(said[-3:]) or "without saying why"
        return EdgenasError(f"{self.name} {self.version()} {what}: {words}")


TENSORRT_BUILDER = TensorRT(
    "tensorrt",
    "tensorrt",
    "JetPack brings it, elsewhere: pip install 'edgenas[tensorrt]'",
)
TENSORRT_RTX_BUILDER = TensorRT(
    "tensorrt-rtx", "tensorrt_rtx", "pip install 'edgenas[tensorrt-rtx]' (x86 and desktop GPUs)"
)


class TimingCache:
    """Timings of kernels that the builder of TensorRT keeps between builds.

    They are valid for one version on one device. TensorRT-RTX has none that does anything.

    Args:
        data: of an earlier build; empty at first.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def attach(self, config: Any) -> Callable[[], None]:
        """Give it to a build; call what is returned when that is over."""
        cache = config.create_timing_cache(self.data)
        config.set_timing_cache(cache, False)

        def update() -> None:
            self.data = bytes(cache.serialize())

        return update


class TensorRTSession:
    """An engine with its buffers on the GPU. Made by `TensorRT.session`."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        *,
        keep: tuple[Any, ...],
        batch: int,
        facts: dict[str, str],
        onnx_bytes: bytes,
    ) -> None:
        self._trt, self._engine, self._keep, self._facts = trt, engine, keep, facts
        self._onnx = onnx_bytes
        self._context = engine.create_execution_context()
        self._cuda = Cuda()
        self._stream = self._cuda.stream()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        reads = trt.TensorIOMode.INPUT
        self._inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for name in (n for n in names if engine.get_tensor_mode(n) == reads):
            shape = tuple(engine.get_tensor_shape(name))
            if shape and shape[0] == -1:
                shape = (batch, *shape[1:])
            self._context.set_input_shape(name, shape)
            self._inputs[name] = (shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name))))
        self._outputs = {
            name: np.empty(
                tuple(self._context.get_tensor_shape(name)),
                trt.nptype(engine.get_tensor_dtype(name)),
            )
            for name in names
            if name not in self._inputs
        }
        self._pointers: dict[str, int] = {}
        for name in names:
            if name in self._inputs:
                shape, kind = self._inputs[name]
                size = int(np.prod(shape)) * kind.itemsize
            else:
                size = self._outputs[name].nbytes
            self._pointers[name] = self._cuda.allocate(size)
            self._context.set_tensor_address(name, self._pointers[name])

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        check_inputs(inputs, expected=self._inputs)
        for name, value in inputs.items():
            self._cuda.to_device(self._pointers[name], np.ascontiguousarray(value))
        self.enqueue()
        for name, value in self._outputs.items():
            self._cuda.to_host(value, self._pointers[name])
        return [value.copy() for value in self._outputs.values()]

    def enqueue(self) -> None:
        """One run of what is in the buffers, to its end."""
        if not self._context.execute_async_v3(self._stream):
            raise EdgenasError("TensorRT could not run the engine")
        self._cuda.synchronize(self._stream)

    def facts(self) -> dict[str, str]:
        """See `Session`."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. From the profiler of the execution context."""
        trt, seconds = self._trt, dict[str, list[float]]()

        class Profiler(trt.IProfiler):
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                seconds.setdefault(layer_name, []).append(ms * 1e-3)

        for name, (shape, kind) in self._inputs.items():
            values = make_inputs([(name, shape, kind.name)])[name]
            self._cuda.to_device(self._pointers[name], values)
        self._context.profiler = Profiler()
        for _ in range(_PROFILED_RUNS):
            self.enqueue()
        names = node_names(self._onnx) if self._onnx else {}
        return [
            Kernel(
                name=name,
                nodes=tuple(
                    dict.fromkeys(n for part in _fused(name) for n in find_origins(part, names))
                ),
                kind="layer",
                precision=self._facts["precision"],
                seconds=float(np.median(runs)),
            )
            for name, runs in seconds.items()
        ]


def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger of the library, and the errors it was told so far."""
    said: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                said.append(" ".join(msg.split()))

    return Logger(), said


def _words(error: Any, nodes: Sequence[Any]) -> str:
    """An error of the parser; lines that begin with a place in the library are its own troubles."""
    lines = [line.strip() for line in str(error.desc()).splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("["))
    i = error.node()
    where = f"{nodes[i].op_type} {nodes[i].name}".strip() if 0 <= i < len(nodes) else f"node {i}"
    return f"{where}: {said} ({error.code()})"


def _ask_for(trt: Any, config: Any, *, precision: str) -> None:
    """TensorRT 8: which kernels it may choose from."""
    if precision in ("fp16", "int8"):
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)


def _bound_workspace(trt: Any, config: Any) -> None:
    """At most a gigabyte of scratch memory: boards share theirs with everything else."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)


def _add_profile(builder: Any, network: Any, config: Any, *, batches: tuple[int, int, int]) -> None:
    """Say which batches an engine is for, where the graph leaves that open."""
    profile, free = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        value = network.get_input(i)
        shape = tuple(value.shape)
        if -1 in shape[1:]:
            raise EdgenasError(f"the input {value.name} has more open sizes than the batch")
        if shape and shape[0] == -1:
            free = True
            profile.set_shape(value.name, *((batch, *shape[1:]) for batch in batches))
    if free:
        config.add_optimization_profile(profile)


def _fused(name: str) -> list[str]:
    """The parts of a layer's name, which joins the names of the nodes that were fused."""
    return [part for part in re.split(r"[\s+,()\[\]{}|]+", name) if part]
