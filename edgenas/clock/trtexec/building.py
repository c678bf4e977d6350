"""An engine that ``trtexec`` builds on a board and that comes back, with its times and answers."""

import json
import math
from dataclasses import dataclass
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock.measure import DEFAULT, Measurement
from edgenas.clock.order import TimedRuntime
from edgenas.clock.trtexec.clock import RUNS, TrtexecClock, as_measurement
from edgenas.clock.trtexec.options import TensorrtVersion, comparing_options, timing_options
from edgenas.clock.trtexec.results import read_times, version_of
from edgenas.clock.trtexec.session import Order, open_session

_LIMIT = 3600.0  # seconds that a build may take
_MOST = 1 << 22  # numbers of an output


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine of a board.

    Args:
        onnx: the graph that it was built of, as the board's TensorRT reads it.
        engine: its bytes.
        times: of its runs there.
        outputs: what it gave for the sample: by name, the sizes and the numbers.
        environment: the board, with the version of TensorRT.
    """

    onnx: bytes
    engine: bytes
    times: Measurement
    outputs: dict[str, tuple[tuple[int, ...], tuple[float, ...]]]
    environment: dict[str, Any]


def build_engine(
    clock: TrtexecClock,
    onnx: bytes,
    *,
    runtime: TimedRuntime,
    precision: str,
    input_name: str,
    sample: bytes,
) -> BuiltEngine:
    """Build an engine as a user does, without a timing cache, time it, and have it answer.

    Args:
        clock: of the board.
        onnx: the graph, in the form for the precision.
        runtime: TensorRT.
        precision: of the engine.
        input_name: the name of the graph's input.
        sample: the bytes of that input.

    Raises:
        EdgenasError: the tool refuses the graph, the board cannot be reached, or it answers with
            what is no engine.
    """
    environment = clock.environment(runtime)
    version = TensorrtVersion.parse(environment["runtime_version"])
    graph = clock.fit(onnx, version)
    extra = [option.replace("INPUT", input_name) for option in comparing_options()]
    order = Order(
        model=graph,
        options=timing_options(version, precision=precision, runs=RUNS, extra=extra),
        inputs=sample,
        wanted="ey",
        seconds=_LIMIT,
    )
    with open_session(clock.place, say=clock.say) as session:
        answer = session.run(order)
    times = read_times(answer, name="the model", version=version, runs=RUNS)
    told, build = version_of(answer)
    if not environment["runtime_version"].startswith(told) or not answer.engine:
        raise EdgenasError(
            f"{clock.where} gave no engine of TensorRT {environment['runtime_version']}",
            hint=f"it answered with version {told} {build}; run it again".replace("  ", " "),
        )
    return BuiltEngine(
        onnx=graph,
        engine=answer.engine,
        times=as_measurement("engine", answer, times, settings=DEFAULT),
        outputs=_read_outputs(answer.outputs, where=clock.where),
        environment=environment,
    )


def _read_outputs(text: str, *, where: str) -> dict[str, tuple[tuple[int, ...], tuple[float, ...]]]:
    """The outputs as the tool writes them: a name, sizes like 1x10, and as many numbers."""
    outputs: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
    try:
        for row in json.loads(text):
            sizes = tuple(int(size) for size in row["dimensions"].split("x"))
            values = tuple(float(value) for value in row["values"])
            if math.prod(sizes) != len(values) or len(values) > _MOST:
                raise ValueError
            outputs[row["name"]] = (sizes, values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        outputs = {}
    if not outputs:
        raise EdgenasError(
            f"the engine on {where} gave no outputs for the sample: it is not delivered",
            hint="its disk may be full: df -h /dev/shm /tmp there",
        )
    return outputs
