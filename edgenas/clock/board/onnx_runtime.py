"""The board part of ONNX Runtime on the CPU, and the sessions that all its providers share."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import BoardPart, UnitError
from edgenas.clock.board.runs import make_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

# `edgenas/__init__.py` says why. On a board that file does not run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

CPU = "CPUExecutionProvider"
# An option of ONNX Runtime's sessions. Processors of the x86 family without VNNI add products of
# 8-bit integers in 16 bits, and cut off what does not fit: seen to double the error of int8
# networks. With this option they add in 32 bits, which is slower and exact. Others take no notice.
EXACT_INT8 = ("session.x64quantprecision", "1")


def import_onnxruntime() -> Any:
    """ONNX Runtime with its telemetry switched off."""
    ort: Any = importlib.import_module("onnxruntime")
    ort.disable_telemetry_events()
    return ort


def open_session(
    source: bytes | str,
    *,
    threads: int,
    batch: int,
    optimized: str = "",
    profile: str = "",
    level: str = "ALL",
    provider: str = CPU,
    provider_options: dict[str, str] | None = None,
) -> Any:
    """A session of ONNX Runtime, with the options that edgenas times and ships with.

    Integers are multiplied exactly on every processor, see ``EXACT_INT8``.

    Args:
        source: the ONNX file's bytes or path.
        threads: threads of one operator; operators never run side by side.
        batch: the value of the free dimensions of inputs.
        optimized: where to write the graph that really runs; empty: nowhere.
        profile: how the name of the file begins that gets the time of each operator; empty: none.
        level: of graph optimisations. ``ALL`` has the blocked layout, which is worth a factor of
            three; ``BASIC`` leaves a graph of ONNX's own operators.
        provider: what all operators run on. A graph that would run elsewhere is refused.
        provider_options: options of the provider.

    Raises:
        UnitError: the runtime refuses the graph, in the runtime's words.
    """
    ort = import_onnxruntime()
    options = _session_options(ort, threads=threads, optimized=optimized, profile=profile)
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    if provider != CPU:
        _forbid_cpu(ort, options, provider=provider)

    def open_once() -> Any:
        session = ort.InferenceSession(
            source, options, providers=[(provider, provider_options or {})]
        )
        if session.get_providers()[0] != provider:
            raise UnitError(f"it would run on {session.get_providers()[0]}, not on {provider}")
        session.disable_fallback()
        return session

    with _refusals():
        session = open_once()
        sizes = {size for value in session.get_inputs() for size in value.shape}
        if None in sizes:
            raise UnitError("an input has a free dimension without a name")
        free = sorted(size for size in sizes if isinstance(size, str))
        if not free:
            return session
        for name in free:
            options.add_free_dimension_override_by_name(name, batch)
        return open_once()


def _session_options(ort: Any, *, threads: int, optimized: str, profile: str) -> Any:
    """Options of a session.

    Execution is sequential. Threads spin during a run, as is the default. They do not spin after
    it, where they would burn the processors that the canary looks at.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # a failed run raises; its log would stand beside our line
    if optimized:
        options.optimized_model_filepath = optimized
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*EXACT_INT8)
    return options


def _forbid_cpu(ort: Any, options: Any, *, provider: str) -> None:
    """Let no operator fall back to the CPU, and load the libraries of a GPU's provider."""
    if provider not in ort.get_available_providers():
        raise UnitError(f"this onnxruntime was built without {provider}")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN where they were installed as wheels


@contextlib.contextmanager
def _refusals() -> Generator[None, None, None]:
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    refusals = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    refusals += (state.InvalidArgument, state.NoSuchFile, state.RuntimeException, state.EPFail)
    try:
        yield
    except refusals as error:
        raise UnitError(" ".join(str(error).split())) from error


NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def load_onnxruntime(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of an ONNX graph on the CPU, with fixed random inputs, called as users call it.

    Bound inputs and outputs save some microseconds a run, which is several percent of a small
    network: a budget held to them would be missed by all who call the model plainly.

    Args:
        source: the ONNX file's bytes or path.
        threads: threads of one operator.
        batch: the value of free dimensions.
        precision: the precision of the graph; the session takes it from there.
    """
    session = open_session(source, threads=threads, batch=batch)
    inputs = make_session_inputs(session)
    names = [value.name for value in session.get_outputs()]
    with _refusals():
        session.run(names, inputs)
    return lambda: session.run(names, inputs)


def make_session_inputs(session: Any) -> dict[str, Any]:
    """Fixed random inputs of a session, by name."""
    wanted: list[tuple[str, Sequence[int], str]] = []
    for value in session.get_inputs():
        if value.type not in NUMPY_TYPES:
            raise UnitError(f"input {value.name} has the type {value.type}")
        wanted.append((value.name, value.shape, NUMPY_TYPES[value.type]))
    return make_inputs(wanted)


def bind_session(session: Any, *, device: str) -> Callable[[], Any]:
    """One run of a session whose inputs and outputs stay on a device, to its end.

    Args:
        session: a session of ONNX Runtime; its inputs are made up here.
        device: ``cuda`` or ``cpu``, in the words of ONNX Runtime.
    """
    values = import_onnxruntime().OrtValue
    binding, inputs = session.io_binding(), make_session_inputs(session)
    # The binding keeps no inputs alive.
    held = {name: values.ortvalue_from_numpy(array, device, 0) for name, array in inputs.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for value in session.get_outputs():
        binding.bind_output(value.name, device)

    def run(_held: Any = held) -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    with _refusals():
        run()
    return run


PART = BoardPart(runtime="onnxruntime", library="onnxruntime", load=load_onnxruntime)
