"""PyTorch on an NVIDIA GPU: channels last, one captured CUDA graph a run, timed by the GPU's clock.

The ONNX graph becomes a module (`edgenas.runtime.torch_graph`), and that a program of
``torch.export``, which the clock loads here or on a board that has PyTorch and nothing of ours.
fp32 is fp32: TF32, which convs use by default, is switched off. Weights and activations are cast to
fp16 or bf16 as a whole.
"""

import importlib
import io
import json
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.runs import make_inputs
from edgenas.clock.board.torch_cuda import TORCH_HEAD, TORCH_TYPES, load_program, make_tensor
from edgenas.runtime.checks import (
    Array,
    check_batch,
    check_inputs,
    check_precision,
    check_used,
    read_graph,
)
from edgenas.runtime.contract import Kernel, Runtime

if TYPE_CHECKING:
    from torch import Tensor

NAME = "torch-cuda"
_PROFILED_RUNS = 20


def available() -> str | None:
    """None, or why PyTorch cannot use a GPU here."""
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return f"torch cannot be imported ({error}); pip install torch"
    if torch.version.cuda is None:
        return "this torch is built without CUDA; pip install one that is built with it"
    return None if torch.cuda.is_available() else "torch finds no NVIDIA GPU here"


def convert(onnx_bytes: bytes, *, batch: int = 1) -> bytes:
    """An ONNX graph as a program of ``torch.export``, see `edgenas.clock.board.torch_cuda`.

    Args:
        onnx_bytes: the graph.
        batch: what free dimensions of inputs become.

    Raises:
        EdgenasError: an operator is not known, or an input is no float32.
    """
    import torch

    from edgenas.runtime.torch_graph import OnnxModule

    module = OnnxModule(read_graph(onnx_bytes, runtime=NAME).proto, runtime=NAME).eval()
    shapes = _shapes(onnx_bytes, batch=batch)
    examples = tuple(torch.zeros(shape) for shape in shapes.values())
    try:
        with torch.no_grad():
            program = torch.export.export(module, examples)
    except (RuntimeError, TypeError) as error:
        said = str(error).strip().splitlines()[0]
        raise EdgenasError(f"{NAME} refuses the model: {said}") from error
    stream = io.BytesIO()
    head = json.dumps({"inputs": list(shapes.items())})
    torch.export.save(program, stream, extra_files={TORCH_HEAD: head})
    return stream.getvalue()


def _shapes(onnx_bytes: bytes, *, batch: int) -> dict[str, tuple[int, ...]]:
    from onnx import TensorProto

    shapes: dict[str, tuple[int, ...]] = {}
    model = read_graph(onnx_bytes, runtime=NAME)
    check_batch(model, batch=batch)
    for one in model.inputs:
        if one.element != TensorProto.FLOAT:
            raise EdgenasError(f"{NAME} refuses the model: its input {one.name} must be float32")
        shapes[one.name] = tuple(e if isinstance(e, int) else batch for e in one.extents or ())
    return shapes


class TorchSession:
    """A program on a device. Made by `compile_graph`."""

    def __init__(
        self,
        program: bytes,
        *,
        onnx_bytes: bytes,
        device: str,
        facts: dict[str, str],
    ) -> None:
        self._onnx, self._device, self._facts = onnx_bytes, device, facts
        self._module, shapes = load_program(program, device=device, precision=facts["precision"])
        self._inputs = {name: (shape, np.dtype(np.float32)) for name, shape in shapes}

    @property
    def precision(self) -> str:
        """What the weights are in."""
        kinds = [value.dtype for value in self._module.buffers() if value.dim() > 1]
        used = str(max(set(kinds), key=kinds.count)) if kinds else "torch.float32"
        return {f"torch.{kind}": name for name, kind in TORCH_TYPES.items()}[used]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        import torch

        from edgenas.runtime.torch_graph import numpy_of

        check_inputs(inputs, expected=self._inputs)
        with torch.inference_mode():
            outputs = self._module(*self._tensors(inputs))
        return [numpy_of(value) for value in outputs]

    def _tensors(self, inputs: Mapping[str, Array]) -> list["Tensor"]:
        place = {"device": self._device, "precision": self._facts["precision"]}
        return [make_tensor(np.ascontiguousarray(inputs[name]), **place) for name in self._inputs]

    def facts(self) -> dict[str, str]:
        """See `Session`."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. From PyTorch's profiler, operator by operator."""
        import torch

        from edgenas.runtime.torch_graph import OnnxModule

        module = OnnxModule(read_graph(self._onnx, runtime=NAME).proto, runtime=NAME)
        like = next(self._module.buffers())
        module.to(like.device, like.dtype).to(memory_format=torch.channels_last)
        made = make_inputs([(name, s, kind.name) for name, (s, kind) in self._inputs.items()])
        tensors = self._tensors(made)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.inference_mode():
            module(*tensors)
            with torch.profiler.profile(activities=activities) as profile:
                for _ in range(_PROFILED_RUNS):
                    module.named(*tensors)
        seconds: dict[str, list[float]] = {step.name: [] for step in module.steps}
        for event in profile.events() or ():
            if event.name in seconds:
                took = event.device_time if self._device == "cuda" else event.cpu_time
                seconds[event.name].append(took * 1e-6)
        return [
            Kernel(
                name=step.name,
                nodes=(step.name,),
                kind=step.kind,
                precision=self._facts["precision"],
                seconds=statistics.median(seconds[step.name]),
            )
            for step in module.steps
        ]


def compile_graph(onnx: bytes, *, precision: str | None, threads: int, batch: int) -> TorchSession:
    """See `Runtime`. Programs are those that the clock times."""
    asked = precision or "fp32"
    check_precision(asked, runtime=NAME, precisions=RUNTIME.precisions)
    if why_not := available():
        raise EdgenasError(f"runtime {NAME} is not available here: {why_not}")
    import torch

    return open_session(
        onnx, precision=asked, batch=batch, device="cuda", provider=torch.cuda.get_device_name(0)
    )


def open_session(
    onnx: bytes, *, precision: str, batch: int, device: str, provider: str
) -> TorchSession:
    """A graph on any device of PyTorch; only a GPU is a runtime here.

    Raises:
        EdgenasError: the graph is refused.
    """
    import torch

    facts = {
        "runtime": NAME,
        "version": torch.__version__,
        "provider": provider,
        "precision": precision,
        "threads": "1",
        "tf32": "off",
        "cuda": str(torch.version.cuda),
    }
    program = convert(onnx, batch=batch)
    made = TorchSession(program, onnx_bytes=onnx, device=device, facts=facts)
    check_used(made.precision, asked=precision, runtime=NAME)
    return made


RUNTIME = Runtime(
    name=NAME,
    forms={"fp32": "fp32", "fp16": "fp32", "bf16": "fp32"},
    available=available,
    compile=compile_graph,
    method="networks",
    on_gpu=True,
    part="edgenas.clock.board.torch_cuda:PART",
    convert=convert,
)
