"""ONNX Runtime on an NVIDIA GPU: its providers CUDA and TensorRT.

ONNX Runtime hands what a provider cannot run to the CPU and says nothing. Here that is refused
three times: the session is made without such a fallback, it must name the provider, and in a
profiled run every operator must have run on it. fp32 is fp32: TF32 is switched off.

The clock times from GPU memory to GPU memory, see `edgenas.clock.board.onnx_runtime_gpu`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.machine import read_environment
from edgenas.clock.board.onnx_runtime import import_onnxruntime, open_session
from edgenas.clock.board.onnx_runtime_gpu import (
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    choose_options,
)
from edgenas.clock.board.part import UnitError
from edgenas.runtime.checks import check_batch, check_precision, check_used, read_graph
from edgenas.runtime.contract import Runtime
from edgenas.runtime.cuda import why_no_cuda
from edgenas.runtime.onnx_runtime import OrtSession

if TYPE_CHECKING:
    from edgenas.onnx_graph.forms import Form

_WITH_MACS = ("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul")


@dataclass(frozen=True, slots=True)
class OnnxRuntimeGpu:
    """ONNX Runtime with one provider of a GPU.

    Args:
        name: the name of the runtime.
        provider: the name of the provider in ONNX Runtime.
        precisions: the precisions that the provider computes in.
    """

    name: str
    provider: str
    precisions: tuple[str, ...]

    def available(self) -> str | None:
        """None, or why it cannot be used here."""
        try:
            present = import_onnxruntime().get_available_providers()
        except ImportError as error:
            return f"onnxruntime cannot be imported ({error}); pip install onnxruntime-gpu"
        if self.provider not in present:
            return (
                f"this onnxruntime was built without {self.provider}; "
                "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return why_no_cuda()

    def compile(
        self, onnx: bytes, *, precision: str | None, threads: int, batch: int
    ) -> OrtSession:
        """See `Runtime`. Threads are those of what the processor has to do."""
        model = read_graph(onnx, runtime=self.name)
        asks = model.precision()
        chosen = precision or asks
        check_precision(chosen, runtime=self.name, precisions=self.precisions)
        if why_not := self.available():
            raise EdgenasError(f"runtime {self.name} is not available here: {why_not}")
        check_used(asks, asked=chosen, runtime=self.name)
        check_batch(model, batch=batch)
        try:
            options = choose_options(self.provider, precision=chosen)
            session = open_session(
                onnx,
                threads=threads,
                batch=batch,
                provider=self.provider,
                provider_options=options,
            )
        except UnitError as error:
            raise EdgenasError(f"{self.name} refuses the model: {error}") from error
        facts = {
            "runtime": self.name,
            "version": import_onnxruntime().__version__,
            "provider": self.provider,
            "precision": chosen,
            "threads": str(session.get_session_options().intra_op_num_threads),
            "gpu": str(read_environment(threads=1)["gpu"]),
            "tf32": "off",
        }
        opened = OrtSession(session, onnx=onnx, batch=batch, facts=facts, provider_options=options)
        events = opened.events(runs=1)
        check_provider(events, provider=self.provider)
        if self.provider != TENSORRT_PROVIDER:  # its operators are one to a profile
            check_used(precision_of_events(events), asked=chosen, runtime=self.name)
        return opened


def check_provider(events: Sequence[Mapping[str, Any]], *, provider: str) -> None:
    """Refuse a session of which a part runs elsewhere.

    Args:
        events: operators of a profiled run, see `OrtSession.events`.
        provider: what all must have run on.

    Raises:
        EdgenasError: names an operator that did not, and where it ran.
    """
    ran = [(event["args"]["op_name"], event["args"].get("provider", "")) for event in events]
    elsewhere = [(name, where) for name, where in ran if where != provider]
    if elsewhere or not ran:
        name, where = elsewhere[0] if elsewhere else ("nothing", "it")
        raise EdgenasError(
            f"{len(elsewhere)} of {len(ran)} operators do not run on {provider}, first {name}, "
            f"which runs on {where or 'nothing known'}",
            hint="such a model runs on the CPU: --runtime onnxruntime",
        )


def precision_of_events(events: Sequence[Mapping[str, Any]]) -> str:
    """The precision of most convs and matrix products of a profiled run, by what they read."""
    halves = [
        any("float16" in kind for kind in event["args"].get("input_type_shape", ()))
        for event in events
        if event["args"]["op_name"] in _WITH_MACS
    ]
    return "fp16" if sum(halves) > len(halves) / 2 else "fp32"


def _make_runtime(name: str, provider: str, *, forms: "Mapping[str, Form]", part: str) -> Runtime:
    backend = OnnxRuntimeGpu(name=name, provider=provider, precisions=tuple(forms))
    return Runtime(
        name=name,
        forms=forms,
        available=backend.available,
        compile=backend.compile,
        method="networks",
        on_gpu=True,
        part=f"edgenas.clock.board.onnx_runtime_gpu:{part}",
    )


CUDA = _make_runtime(
    "onnxruntime-cuda",
    CUDA_PROVIDER,
    # No int8: the provider has no such convs and would compute between casts.
    forms={"fp32": "fp32", "fp16": "fp16"},
    part="CUDA",
)
TENSORRT = _make_runtime(
    "onnxruntime-tensorrt",
    TENSORRT_PROVIDER,
    forms={"fp32": "fp32", "fp16": "fp16", "int8": "int8-signed"},
    part="TENSORRT",
)
