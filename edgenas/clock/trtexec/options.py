"""The options of ``trtexec`` that time a model, for each version of TensorRT.

They differ, and an unknown one ends the tool (NVIDIA/TensorRT, samples/common/sampleOptions.cpp at
the release branches 8.0 to 11.1): ``--workspace`` gave way to ``--memPoolSize`` in 8.4, the options
of precision went with 11.0, where the types of the graph alone decide, and so did those for CUDA
graphs and transfers, which are what 11.0 does anyway.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgenas.basics.errors import EdgenasError

# Milliseconds: GPUs raise their clocks over the first 0.2 s, and the first runs are a third slower.
WARM_UP = 500
# Up to this version the exported times hold the runs of the warm-up too.
_WITH_WARM_UP = (8, 4)
_OLDEST = (8, 0)


@dataclass(frozen=True, slots=True, order=True)
class TensorrtVersion:
    """A version of TensorRT."""

    major: int
    minor: int
    patch: int = 0

    @staticmethod
    def parse(text: str) -> "TensorrtVersion":
        """The version of a text like ``10.3.0``.

        Raises:
            EdgenasError: it is none, or edgenas does not know such an old one.
        """
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if match is None:
            raise EdgenasError(f"a version of TensorRT must read like 10.3.0, found {text!r}")
        version = TensorrtVersion(*(int(part or 0) for part in match.groups()))
        if (version.major, version.minor) < _OLDEST:
            raise EdgenasError(
                f"TensorRT must be 8.0 or newer, found {text}", hint="use a newer JetPack"
            )
        return version

    @property
    def typed(self) -> bool:
        """Whether engines compute in the types of the graph."""
        return self.major >= 10

    @property
    def exports_warm_up(self) -> bool:
        """Whether the exported times hold the runs of the warm-up."""
        return (self.major, self.minor) <= _WITH_WARM_UP

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def timing_options(
    version: TensorrtVersion,
    *,
    precision: str,
    runs: int,
    seconds: int = 0,
    workspace: int = 1024,
    extra: Sequence[str] = (),
) -> tuple[str, ...]:
    """The options that build a model ``@/m`` and time it; see ``Order``.

    Args:
        version: of TensorRT.
        precision: ``fp32``, ``fp16`` or ``int8``; the graph has the form for it.
        runs: how many at least.
        seconds: how long at least, a whole number.
        workspace: MiB that kernels may use beside the network.
        extra: further options.
    """
    options = ["--onnx=@/m", "--exportTimes=@/t", "--timingCacheFile=@/c"]
    if version < TensorrtVersion(8, 4):
        options.append(f"--workspace={workspace}")
    else:
        options.append(f"--memPoolSize=workspace:{workspace}")
    if not version.typed:
        options += {"fp16": ["--fp16"], "int8": ["--int8", "--fp16"]}.get(precision, [])
    elif version.major == 10 and precision != "fp32":
        options.append("--stronglyTyped")
    if precision == "fp32":
        options.append("--noTF32")  # by default new GPUs multiply with ten bits
    if version.major < 11:
        options += ["--useCudaGraph", "--useSpinWait"]
        if not extra:
            options.append("--noDataTransfers")
    elif extra:
        options.append("--includeDataTransfers")
    options += [f"--warmUp={WARM_UP}", f"--duration={seconds}"]
    return (*options, f"--iterations={runs}", f"--avgRuns={runs}", *extra)


def comparing_options() -> tuple[str, ...]:
    """Further options that keep the engine and compute the outputs for given inputs.

    Inputs and outputs travel to and from the GPU then; the time on the GPU is told without that.
    """
    return ("--saveEngine=@/e", "--loadInputs=INPUT:@/i", "--exportOutput=@/y")
