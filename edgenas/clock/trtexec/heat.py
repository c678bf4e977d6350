"""How an engine slows down as the board heats: its first and its last runs under steady load.

Both are of one engine in one start of the tool, so that nothing but the board has changed between
them. The tool prints the mean time on the GPU of every so many runs. Times of single runs are not
exported: they would be millions, and their stamps lose precision with the seconds since the start
(float32 milliseconds; half a minute on, a stamp is off by a microsecond). Means of thousands of
runs are not hurt by that.
"""

import math
import re
import statistics
from dataclasses import dataclass

from edgenas.clock.trtexec.clock import RUNS, TrtexecClock
from edgenas.clock.trtexec.options import TensorrtVersion, timing_options
from edgenas.clock.trtexec.results import EngineError, failure
from edgenas.clock.trtexec.session import Order, open_session

_BUILD = 3600.0  # seconds that a build may take
_WINDOWS = 60  # parts of the time whose means are printed ...
_SHORTEST, _LONGEST = 0.5, 10.0  # ... and the seconds of each
# NVIDIA/TensorRT, samples/common/sampleReporting.cpp; the words are those of 8.0 to 11.1.
_MEAN = re.compile(
    r"^\[[^\]]*\] \[I\] Average on (\d{1,9}) runs - "
    r"GPU latency: (\d{1,9}(?:\.\d{1,9})?(?:e[+-]?\d{1,2})?) ms",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatedTimes:
    """The times of one engine under a steady load, in seconds.

    Args:
        cool: mean of its first runs.
        hot: mean of its last runs.
        load: how long it ran.
        celsius: of the GPU right afterwards; None: not told.
        hertz: of the GPU at the end; None: not told.
    """

    cool: float
    hot: float
    load: float
    celsius: float | None
    hertz: float | None


def heat_engine(
    clock: TrtexecClock,
    unit: tuple[str, bytes],
    *,
    version: TensorrtVersion,
    precision: str,
    run: float,
    load: float,
    cache: bytes = b"",
) -> HeatedTimes:
    """Build a graph into an engine and run that without a pause, until the board is hot.

    Args:
        clock: where.
        unit: name and graph.
        version: of TensorRT there.
        precision: that the engine computes in.
        run: seconds of one run, about.
        load: seconds that it runs, rounded up to whole ones.
        cache: a timing cache of the builder; empty: none.

    Raises:
        EdgenasError: the tool refuses the graph, or the board cannot be reached.
    """
    name, graph = unit
    whole = math.ceil(load)
    window = min(max(whole / _WINDOWS, _SHORTEST), _LONGEST, whole / 3)
    options = timing_options(version, precision=precision, runs=RUNS, seconds=whole)
    dropped = ("--exportTimes", "--avgRuns")
    kept = [option for option in options if not option.startswith(dropped)]
    order = Order(
        model=clock.fit(graph, version),
        options=(*kept, f"--avgRuns={max(1, round(window / run))}"),
        cache=cache,
        seconds=_BUILD + whole,
    )
    with open_session(clock.place, say=clock.say) as session:
        answer = session.run(order)
    if answer.code:
        raise failure(answer, name=name)
    means = [float(mean) * 1e-3 for _, mean in _MEAN.findall(answer.out)]
    if len(means) < 2 or min(means) <= 0:
        raise EngineError(
            f"trtexec ran {name} for {whole} s and told {len(means)} means of its times",
            hint="run the same command again",
        )
    hertz = statistics.median(answer.frequencies) if answer.frequencies else None
    return HeatedTimes(
        cool=means[0], hot=means[-1], load=float(whole), celsius=answer.celsius, hertz=hertz
    )
