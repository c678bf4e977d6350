"""Timing some units of a profile again, without touching its journal or its table."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgenas.clock.board import Settings
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable
from edgenas.profiling.journal import Journal
from edgenas.profiling.run import environment_of
from edgenas.profiling.units import (
    COPIES,
    Method,
    Unit,
    layer_unit,
    network_unit,
)
from edgenas.profiling.work import Clock, Tell, Work
from edgenas.runtime.forms import form
from edgenas.space.arch import Arch
from edgenas.space.plan import Layer
from edgenas.space.space import Space


def retime(
    space: Space,
    *,
    target: Target,
    chosen: Iterable[Layer | Arch],
    method: Method,
    visits: int,
    settings: Settings,
    clock: Clock,
    tell: Tell,
) -> LatencyTable:
    """A table of some layers and networks as they are now, made as ``profile`` makes one.

    Args:
        space: whose.
        target: what is timed.
        chosen: of the space.
        method: how layers are timed.
        visits: how often each is timed.
        settings: of the clock; its threads and precision are those of the target.
        clock: where.
        tell: called after each visit, see ``profile``.

    Raises:
        EdgenasError: the device cannot be reached, or changes meanwhile.
    """
    wanted = form(target.runtime, target.precision)
    units: list[Unit] = []
    for one in chosen:
        if isinstance(one, Arch):
            units.append(network_unit(space, one, batch=target.batch, form=wanted))
        else:
            units += [
                layer_unit(space, one, copies=n, batch=target.batch, form=wanted)
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
            tell=tell,
            say=lambda line: None,
        )
        while waiting := work.waiting():
            work.measure(waiting, target=target, settings=settings, clock=clock)
    return work.table(space, target=target, method=method)
