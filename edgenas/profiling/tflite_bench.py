"""Timing a .tflite file, whoever made it, with the clock of the latency tables."""

from dataclasses import replace
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import read_bytes
from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import NETWORK
from edgenas.latency.device import Target
from edgenas.onnx_graph.inputs import Input
from edgenas.profiling.bench import Bench, time_loadable
from edgenas.profiling.run import environment_of
from edgenas.profiling.work import Clock
from edgenas.runtime.checks import check_used
from edgenas.runtime.litert_cpu import LITERT, TFLITE
from edgenas.runtime.litert_file import describe_file

SUFFIX = ".tflite"
RUNTIMES = (LITERT, TFLITE)  # the first is the usual one
_MOST = 2**31  # bytes: a flatbuffer holds no more


def bench_tflite(
    path: Path,
    *,
    target: Target,
    precision: str | None = None,
    settings: TimingSettings = NETWORK,
    clock: Clock = measure,
) -> Bench:
    """Time a .tflite file on this machine, in a process of its own, or on a board.

    Args:
        path: the file.
        target: runtime and threads. The batch is that of the file, where it does not leave it open.
        precision: the one that it must run in; None: that of the file.
        settings: of the clock.
        clock: where it is timed.

    Raises:
        EdgenasError: the runtime reads no such files, LiteRT is not here or refuses it, or it would
            run in another precision than the one asked for.
    """
    if target.runtime not in RUNTIMES:
        raise EdgenasError(
            f"a .tflite file runs on {' or '.join(RUNTIMES)}, not on {target.runtime}",
            hint="litert is with XNNPACK, tflite without it",
        )
    data = read_bytes(path, most=_MOST)
    told = describe_file(data, name=target.runtime, threads=target.threads, batch=target.batch)
    used = told.facts["precision"]
    if precision is not None:
        check_used(used, asked=precision, runtime=target.runtime)
    facts = dict(told.facts)
    if clock is not measure:
        around = environment_of(target, clock=clock)
        facts |= {"version": str(around["runtime_version"]), "provider": str(around["cpu"])}
    return time_loadable(
        path,
        data,
        facts=facts,
        inputs=tuple(Input(name, shape, kind, filled=False) for name, shape, kind in told.inputs),
        batch=told.batch,
        settings=replace(settings, threads=target.threads, precision=used),
        clock=clock,
    )
