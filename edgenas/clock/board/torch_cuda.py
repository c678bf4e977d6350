"""The board part of PyTorch on an NVIDIA GPU."""

from __future__ import annotations

import importlib
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import BoardPart, UnitError
from edgenas.clock.board.runs import make_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

TORCH_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TORCH_HEAD = "edgenas.json"  # beside the program: names and shapes of its inputs


def load_program(
    source: bytes | str, *, device: str, precision: str
) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """A program of PyTorch on a device, channels last, and the names and shapes of its inputs.

    fp32 is fp32: by default, the convs of new GPUs would have ten bits (TF32).

    Args:
        source: what `edgenas.runtime.torch_cuda` makes of an ONNX graph, as bytes or a path.
        device: ``cuda`` or ``cpu``.
        precision: a key of `TORCH_TYPES`.

    Raises:
        UnitError: this is no such program, or one of a PyTorch that this one cannot read.
    """
    torch: Any = importlib.import_module("torch")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def stream() -> Any:
        return io.BytesIO(source) if isinstance(source, bytes) else source

    files = {TORCH_HEAD: ""}
    if not zipfile.is_zipfile(stream()):
        raise UnitError("this is no program that PyTorch can read")
    try:
        program = torch.export.load(stream(), extra_files=files)
        head = json.loads(files[TORCH_HEAD])
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UnitError(f"this is no program that PyTorch can read: {said}") from None
    module = program.module()
    module.to(device=device, dtype=getattr(torch, TORCH_TYPES[precision]))
    module.to(memory_format=torch.channels_last)
    return module, [(name, tuple(shape)) for name, shape in head["inputs"]]


def make_tensor(value: Any, *, device: str, precision: str) -> Any:
    """An array as an input of a program of `load_program`."""
    torch: Any = importlib.import_module("torch")
    kind = getattr(torch, TORCH_TYPES[precision])
    tensor = torch.from_numpy(value).to(device=device, dtype=kind)
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def load_torch_cuda(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], int]:
    """One run of a program of PyTorch on the GPU: a captured graph, by the GPU's own clock.

    Args:
        source: see `load_program`.
        threads: threads of the processor, which only starts the graph.
        batch: images a run; the program has its own.
        precision: a key of `TORCH_TYPES`.

    Returns:
        A run that tells its nanoseconds.
    """
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise UnitError("torch finds no NVIDIA GPU here")
    torch.backends.cudnn.benchmark = True  # shapes never change: the fastest kernels are looked for
    module, wanted = load_program(source, device="cuda", precision=precision)
    arrays = make_inputs([(name, shape, "float32") for name, shape in wanted])
    inputs = [make_tensor(value, device="cuda", precision=precision) for value in arrays.values()]
    return _capture(torch, lambda: module(*inputs))


def _capture(torch: Any, work: Callable[[], Any]) -> Callable[[], int]:
    """Capture work on the GPU as one graph. A run of it returns nanoseconds between two events."""
    with torch.inference_mode():
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            for _ in range(3):  # what is chosen or allocated once must not be captured
                work()
        aside.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(_outputs: Any = outputs) -> int:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return round(start.elapsed_time(end) * 1e6)

    return run


def _load_product() -> Callable[[], int]:
    """One product of matrices on the GPU, the canary."""
    torch: Any = importlib.import_module("torch")
    x = torch.ones(1024, 1024, device="cuda")
    return _capture(torch, lambda: x @ x)


PART = BoardPart(
    runtime="torch-cuda", library="torch", load=load_torch_cuda, load_canary=_load_product
)
