"""What an answer of ``trtexec`` is worth: its times, or why it has none.

Its exit code is not enough. It passes without a file where the disk was full, it goes on without a
CUDA graph where that could not be captured, and it builds a slower engine where the memory did not
suffice, all with a warning at most.
"""

import json
import math
import re
import statistics
from dataclasses import dataclass

from edgenas.basics.errors import EdgenasError
from edgenas.clock.events import plain
from edgenas.clock.trtexec.options import WARM_UP, TensorrtVersion
from edgenas.clock.trtexec.session import Answer

_LONGEST = 600.0  # seconds of one run
_SAID = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[(\w)\] (?:\[TRT\] )?(.*)$")
_BANNER = re.compile(r"^&&&& RUNNING TensorRT\.trtexec \[TensorRT v(\d{4,6})\](?: \[b(\d+)\])?")
# Words of warnings that make a time another quantity than it should be, and what that is.
_DOUBTS = (
    (("not permitted under cuda graph", "usecudagraph flag has been ignored"), "no CUDA graph"),
    (("cuda graph capture failed",), "no CUDA graph"),
    (("skipping tactic", "insufficient to use tactic"), "memory was too short for some kernels"),
)
_BOUND = "may be bound by enqueue time"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTimes:
    """The times of an engine, in seconds.

    Args:
        runs: on the GPU, in order.
        enqueue: median of what the processor takes to start a run.
        doubt: why the times are not what they should be, in words; empty: nothing is known.
        enqueue_bound: whether the processor, which starts the work, slows the GPU down.
    """

    runs: tuple[float, ...]
    enqueue: float
    doubt: str
    enqueue_bound: bool


class EngineError(EdgenasError):
    """A model that gave no engine, or no times."""


class RanOutError(EngineError):
    """The tool was killed, or took too long; the next attempt may succeed."""


def version_of(answer: Answer) -> tuple[str, str]:
    """The version of TensorRT that answered, and its build number; empty where it does not tell."""
    for line in answer.head.splitlines():
        if match := _BANNER.match(line):
            number = int(match[1])
            # NVIDIA/TensorRT, NvInferVersion.h: other factors from version 10 on.
            large = 1000 if number < 10000 else 10000
            parts = number // large, number % large // 100, number % 100
            return ".".join(map(str, parts)), match[2] or ""
    return "", ""


def read_times(answer: Answer, *, name: str, version: TensorrtVersion, runs: int) -> EngineTimes:
    """The times of an answer.

    Args:
        answer: of the tool.
        name: of the model, for people.
        version: of TensorRT.
        runs: that were asked for.

    Raises:
        RanOutError: it was killed or took too long.
        EngineError: there is no engine, or there are no times that can be relied on.
    """
    if answer.code:
        raise failure(answer, name=name)
    rows = _read_rows(answer.times)
    if rows is not None and version.exports_warm_up:
        rows = [row for row in rows if row[2] >= WARM_UP]
    if rows is None or len(rows) < runs:
        told = "what are no times" if rows is None else f"{len(rows)} of {runs} times"
        raise EngineError(
            f"trtexec built {name} and wrote {told}",
            hint="its disk may be full: df -h /dev/shm /tmp there",
        )
    said = answer.err.lower()
    doubts = [what for words, what in _DOUBTS if any(word in said for word in words)]
    return EngineTimes(
        runs=tuple(row[3] * 1e-3 for row in rows),
        enqueue=statistics.median(row[1] - row[0] for row in rows) * 1e-3,
        doubt="; ".join(dict.fromkeys(doubts)),
        enqueue_bound=_BOUND in said,
    )


def _read_rows(text: str) -> list[list[float]] | None:
    """Rows of four numbers: start and end of enqueuing, start and length of the run, in ms."""
    try:
        rows = json.loads("[" + ",".join(text.split()) + "]")
    except (ValueError, RecursionError):
        return None
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            return None
        if not all(type(x) in (int, float) and math.isfinite(x) for x in row):
            return None
        if not 0 < row[3] * 1e-3 < _LONGEST:
            return None
    return rows


def failure(answer: Answer, *, name: str) -> EngineError:
    """Why an answer has an exit code that is not 0, in plain words."""
    code, words = answer.code, last_error(answer)
    if code == 124:
        return RanOutError(
            f"trtexec did not build {name} in the time that it has",
            hint="a board that swaps builds for ever: end other programs there",
        )
    if code == 137:
        return RanOutError(
            f"trtexec was killed while it built {name}: the memory of the board did not suffice",
            hint="end other programs there, or add swap: edgenas doctor",
        )
    if code == 127:
        return EngineError(f"trtexec does not start: {words}", hint="is TensorRT whole there?")
    if code == 134 or "Cuda failure" in answer.err:
        return RanOutError(f"trtexec broke off while it built {name}: {words}")
    return EngineError(f"trtexec refuses {name} (exit code {code}): {words}")


def last_error(answer: Answer) -> str:
    """The first error that the tool itself wrote, in one line."""
    lines = answer.err.splitlines()
    errors = [match[2] for line in lines if (match := _SAID.match(line)) and match[1] in "EF"]
    if errors:
        return plain(errors[0])
    return plain(lines[-1]) if lines else "nothing was said"
