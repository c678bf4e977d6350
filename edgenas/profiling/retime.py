"""Timing some units of a profile again, without touching its journal or its table."""

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from edgenas.arch import Arch
from edgenas.board import Settings
from edgenas.device import Target
from edgenas.plan import Layer
from edgenas.profiling.journal import Journal
from edgenas.profiling.networks import CALIBRATION, FURTHER
from edgenas.profiling.run import environment_of
from edgenas.profiling.units import Method, units_of
from edgenas.profiling.work import Clock, Tell, Work
from edgenas.space import Space
from edgenas.table import LatencyTable


def profiled_archs(space: Space, *, batch: int) -> set[Arch]:
    """The networks that a profile of a space times."""
    units = units_of(
        space, batch=batch, method="alone", networks=CALIBRATION, further=FURTHER, seed=0
    )
    return {unit.of for unit in units.values() if isinstance(unit.of, Arch)}


def retime(
    space: Space,
    *,
    target: Target,
    method: Method,
    chosen: Collection[Layer | Arch],
    visits: int,
    settings: Settings,
    clock: Clock,
    tell: Tell,
) -> LatencyTable:
    """A table of some layers and networks as they are now, made as ``profile`` makes one.

    Args:
        space: whose.
        target: what is timed.
        method: how layers are timed, that of the table which they are compared with.
        chosen: of the space; networks are among ``profiled_archs``.
        visits: how often each is timed.
        settings: of the clock; its threads are those of the target.
        clock: where.
        tell: called after each visit, see ``profile``.

    Raises:
        EdgenasError: the device cannot be reached, or changes meanwhile.
    """
    units = units_of(
        space, batch=target.batch, method=method, networks=CALIBRATION, further=FURTHER, seed=0
    )
    environment = environment_of(target, clock=clock)
    settings = replace(settings, threads=target.threads)
    with tempfile.TemporaryFile() as stream:
        work = Work(
            {name: unit for name, unit in units.items() if unit.of in chosen},
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
