"""Timing some units of a profile again, without changing its journal or its table."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgenas.basics.progress import say_nothing
from edgenas.clock.board.settings import TimingSettings
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable
from edgenas.profiling.environment import environment_of
from edgenas.profiling.journal import Journal
from edgenas.profiling.method import COPIES
from edgenas.profiling.units import Unit, layer_unit, network_unit
from edgenas.profiling.work import Clock, Report, Work
from edgenas.runtime.contract import Method
from edgenas.runtime.registry import form_of
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.space import Space


def measure_again(
    space: Space,
    *,
    target: Target,
    parts: Iterable[Layer | Arch],
    method: Method,
    visits: int,
    settings: TimingSettings,
    clock: Clock,
    report: Report,
) -> LatencyTable:
    """Time some layers and networks again; the result is a table like one of ``profile``.

    Args:
        space: of the layers and networks.
        target: what is timed.
        parts: layers and networks of the space.
        method: how layers are timed.
        visits: how often each is timed.
        settings: of the clock; its threads and precision are those of the target.
        clock: where they are timed.
        report: called after each visit, see `Work`.

    Raises:
        EdgenasError: the device cannot be reached, or it changes meanwhile.
    """
    wanted = form_of(target.runtime, target.precision)
    units: list[Unit] = []
    for part in parts:
        if isinstance(part, Arch):
            units.append(network_unit(space, part, batch=target.batch, form=wanted))
        else:
            units += [
                layer_unit(space, part, copies=n, batch=target.batch, form=wanted)
                for n in COPIES[method]
            ]
    environment = environment_of(target, clock=clock)
    settings = replace(settings, threads=target.threads, precision=target.precision)
    with tempfile.TemporaryFile() as stream:
        work = Work(
            {unit.name: unit for unit in units},
            journal=Journal(stream.fileno(), path=Path("a temporary file")),
            environment=environment,
            visits=visits,
            gate=settings.gate,
            report=report,
            say=say_nothing,
        )
        while waiting := work.waiting():
            work.measure(waiting, target=target, settings=settings, clock=clock)
    return work.table(space, target=target, method=method)
