"""The board parts of ONNX Runtime on an NVIDIA GPU: its providers CUDA and TensorRT.

Runs go from GPU memory to GPU memory. Data that is copied in and out is not in the numbers.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.onnx_runtime import bind_session, open_session
from edgenas.clock.board.part import BoardPart

if TYPE_CHECKING:
    from collections.abc import Callable

CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"

# y = x x, of 1024 x 1024 numbers: the graph as bytes, since boards have no onnx to make it with.
PRODUCT = base64.b64decode(
    "CAo6SgoRCgF4CgF4EgF5IgZNYXRNdWwSB3Byb2R1Y3RaFQoBeBIQCg4IARIKCgMIgAgKAwiACGIVCgF5"
    "EhAKDggBEgoKAwiACAoDCIAIQgQKABAU"
)


def choose_options(provider: str, *, precision: str) -> dict[str, str]:
    """The options that make a provider compute in a precision.

    fp32 is fp32: by default, the multiplications of new GPUs would have ten bits (TF32). For
    TensorRT only an environment variable says so, which is read when its libraries are loaded.

    Args:
        provider: a name of ONNX Runtime.
        precision: the precision of the graph.
    """
    if provider == CUDA_PROVIDER:
        return {"device_id": "0", "use_tf32": "0"}
    return {
        "device_id": "0",
        # Graphs come in their precision; TensorRT before 11 must be allowed it, too.
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_max_workspace_size": str(1 << 30),
    }


def _make_part(runtime: str, provider: str) -> BoardPart:
    def load(
        source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
    ) -> Callable[[], Any]:
        """One run of an ONNX graph on the GPU, from GPU memory to GPU memory."""
        session = open_session(
            source,
            threads=threads,
            batch=batch,
            provider=provider,
            provider_options=choose_options(provider, precision=precision),
        )
        return bind_session(session, device="cuda")

    def load_canary() -> Callable[[], Any]:
        """One product of matrices on the GPU."""
        return load(PRODUCT, threads=1, batch=1)

    return BoardPart(runtime=runtime, library="onnxruntime", load=load, load_canary=load_canary)


CUDA = _make_part("onnxruntime-cuda", CUDA_PROVIDER)
TENSORRT = _make_part("onnxruntime-tensorrt", TENSORRT_PROVIDER)
