"""ONNX Runtime on an NVIDIA GPU: its providers CUDA and TensorRT.

ONNX Runtime hands what a provider cannot run to the CPU and says nothing. Here that is refused
three times: the session is made without such a fallback, it must name the provider, and in a
profiled run every operator must have run on it. fp32 is fp32: TF32 is switched off.

The clock times from GPU memory to GPU memory, see `edgenas.clock.board.bound`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock import board
from edgenas.runtime.cuda import why_no_cuda
from edgenas.runtime.onnx_runtime import OrtSession
from edgenas.runtime.registry import (
    Form,
    check_batch,
    check_precision,
    check_used,
    read_graph,
)

_WITH_MACS = ("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul")


@dataclass(frozen=True, slots=True)
class OnnxRuntimeGpu:
    """A runtime in the sense of `Runtime`.

    Args:
        NAME: of the runtime.
        provider: in the words of ONNX Runtime.
        FORMS: the graph for each precision.
    """

    NAME: str
    provider: str
    FORMS: Mapping[str, Form]

    @property
    def PRECISIONS(self) -> tuple[str, ...]:  # noqa: N802
        """What it can compute in."""
        return tuple(self.FORMS)

    def available(self) -> str | None:
        """None, or why it cannot be used here."""
        try:
            present = board.onnxruntime().get_available_providers()
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
        model = read_graph(onnx, runtime=self.NAME)
        asks = model.precision()
        chosen = precision or asks
        check_precision(chosen, runtime=self.NAME, known=self.PRECISIONS)
        if why_not := self.available():
            raise EdgenasError(f"runtime {self.NAME} is not available here: {why_not}")
        check_used(asks, asked=chosen, runtime=self.NAME)
        check_batch(model, batch=batch)
        try:
            session = board.onnxruntime_session(
                onnx, threads=threads, batch=batch, provider=self.provider, precision=chosen
            )
        except board.UnitError as error:
            raise EdgenasError(f"{self.NAME} refuses the model: {error}") from error
        facts = {
            "runtime": self.NAME,
            "version": board.onnxruntime().__version__,
            "provider": self.provider,
            "precision": chosen,
            "threads": str(session.get_session_options().intra_op_num_threads),
            "gpu": str(board.environment("onnxruntime", threads=1)["gpu"]),
            "tf32": "off",
        }
        made = OrtSession(session, onnx=onnx, batch=batch, facts=facts)
        events = made.events(runs=1)
        check_provider(events, provider=self.provider)
        if self.provider != "TensorrtExecutionProvider":  # its operators are one to a profile
            check_used(precision_of_events(events), asked=chosen, runtime=self.NAME)
        return made


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


CUDA = OnnxRuntimeGpu(
    "onnxruntime-cuda",
    board.PROVIDERS["onnxruntime-cuda"],
    # No int8: the provider has no such convs and would compute between casts.
    {"fp32": "fp32", "fp16": "fp16"},
)
TENSORRT = OnnxRuntimeGpu(
    "onnxruntime-tensorrt",
    board.PROVIDERS["onnxruntime-tensorrt"],
    {"fp32": "fp32", "fp16": "fp16", "int8": "int8-signed"},
)
