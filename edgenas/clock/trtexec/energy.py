"""A network that ``trtexec`` runs without a pause, while the power of the board is metered."""

import math
import re
import time

from edgenas.clock.energy import SteadyRun
from edgenas.clock.trtexec.clock import RUNS, TrtexecClock
from edgenas.clock.trtexec.options import TensorrtVersion, timing_options
from edgenas.clock.trtexec.results import EngineError, failure
from edgenas.clock.trtexec.session import Order, open_session

_BUILD = 3600.0  # seconds that a build may take
_RATE = re.compile(
    r"^\[[^\]]*\] \[I\] Throughput: (\d{1,9}(?:\.\d{1,9})?(?:e[+-]?\d{1,2})?) qps", re.MULTILINE
)
# The answer comes a moment after the last run: a summary is printed and the files are read.
_AFTER, _COUNTED = 0.15, 0.8  # parts of the time


def run_engine(
    clock: TrtexecClock,
    unit: tuple[str, bytes],
    *,
    version: TensorrtVersion,
    precision: str,
    cache: bytes = b"",
    seconds: float,
) -> SteadyRun:
    """Build a graph into an engine and run that without a pause.

    The processor waits for the GPU without spinning, as programs do that care for energy. The tool
    tells how many runs it made in a second; times of single runs are not exported.

    Args:
        clock: where.
        unit: name and graph.
        version: of TensorRT there.
        precision: that the engine computes in.
        cache: a timing cache of the builder; empty: none.
        seconds: how long.

    Raises:
        EdgenasError: the tool refuses the graph, or the board cannot be reached.
    """
    name, graph = unit
    whole = max(1, math.ceil(seconds))
    options = timing_options(version, precision=precision, runs=RUNS, seconds=whole)
    dropped = ("--exportTimes", "--useSpinWait", "--iterations")
    kept = [option for option in options if not option.startswith(dropped)]
    if version.major >= 11:
        kept.append("--noSpinWait")
    order = Order(
        model=clock.fit(graph, version),
        options=(*kept, "--iterations=1"),
        cache=cache,
        seconds=_BUILD + whole,
    )
    with open_session(clock.place, say=clock.say) as session:
        answer = session.run(order)
        arrived = time.monotonic()
    if answer.code:
        raise failure(answer, name=name)
    rate = _RATE.search(answer.out)
    runs = float(rate[1]) if rate else 0.0
    if runs <= 0:
        raise EngineError(f"trtexec ran {name} and did not tell how often")
    end = arrived - _AFTER * whole
    return SteadyRun(begin=end - _COUNTED * whole, end=end, seconds=1 / runs)
