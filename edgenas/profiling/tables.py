"""Using a profile: the table that applies here, and the latency predictor that rests on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgenas import measure
from edgenas.board import Settings
from edgenas.device import Target
from edgenas.errors import EdgenasError
from edgenas.measure import NETWORK, Measurement
from edgenas.predict.latency import LatencyPredictor
from edgenas.profiling.journal import differences
from edgenas.profiling.networks import CALIBRATION, calibration_archs
from edgenas.profiling.run import environment_of
from edgenas.profiling.work import Clock
from edgenas.space import Space
from edgenas.table import LatencyTable, Statistic, find_table, load_table

# A line through fewer networks says nothing of its own error.
_NETWORKS = 3


class NoTableError(EdgenasError):
    """There is no latency table that applies; profiling makes one."""


def table_for(space: Space, *, target: Target, clock: Clock | None = measure) -> LatencyTable:
    """The latency table of a target that covers a space and applies to the machine as it is.

    Args:
        space: all its layers must be in the table.
        target: whose table.
        clock: where the target is timed, with whose machine and runtime version the table must
            agree; None: the machine is not at hand, only the layers are looked at.

    Raises:
        NoTableError: there is none, or why it does not apply; names the command that makes one.
        EdgenasError: the table is damaged, or the runtime is unknown or not there.
    """
    path = find_table(target)
    command = f"edgenas profile --device {target.device} --space {space.name}"
    command += f" --runtime {target.runtime} --precision {target.precision}"
    if path is None:
        raise NoTableError(f"there is no latency table of {target}", hint=command)
    table = load_table(path)
    why: list[str] = []
    if clock is not None:
        here = environment_of(target, clock=clock)
        why = differences({**table.environment, "runtime_version": table.runtime_version}, here)
        if table.provenance != "measured":
            why.insert(0, f"it is {table.provenance}")
    missing = table.missing(space)
    if missing:
        why.append(f"it lacks {len(missing)} layers of {space.name}, first {missing[0]}")
    elif clock is not None and len(table.network_sums(space)) < _NETWORKS:
        why.append(f"it has no whole networks of {space.name} with {space.classes} classes")
    if why:
        raise NoTableError(
            f"the latency table {path} does not apply: {'; '.join(why)}", hint=command
        )
    return table


def predictor_for(
    table: LatencyTable, space: Space, *, statistic: Statistic = "typical"
) -> LatencyPredictor:
    """The latency predictor of a profile: sums of layers, a line, a bound from other networks.

    The line is fitted to the networks that were chosen for it (``calibration_archs``) alone. All
    others give the bound and the error that is reported: the line has not seen them.

    Args:
        table: as ``profile`` made it; one without networks gives sums alone.
        space: of the rows that will be predicted.
        statistic: of the networks; ``wall_p95`` for what a user lives with.

    Raises:
        EdgenasError: layers are missing, or no network has the statistic.
    """
    predictor = LatencyPredictor(space, table, statistic=statistic)
    found = table.network_sums(space, statistic=statistic)
    chosen = set(calibration_archs(space, CALIBRATION))
    fitted = np.array([network.arch in chosen for network, _, _ in found], bool)
    if fitted.sum() < _NETWORKS or fitted.all():
        return predictor
    rows = space.encode([network.arch for network, _, _ in found])
    seconds = np.array([measured for _, _, measured in found])
    spared = (rows[~fitted], seconds[~fitted])
    return predictor.fit(rows[fitted], seconds[fitted], spared=spared)


def measure_network(
    onnx: bytes | Path, *, target: Target, settings: Settings = NETWORK, clock: Clock = measure
) -> Measurement:
    """Time one network on a target, long enough to see the machine's slow moments too.

    Args:
        onnx: the network in the form for the target, bytes or path.
        target: what it is timed on.
        settings: of the clock; threads and precision are those of the target.
        clock: where it is timed.

    Raises:
        EdgenasError: the runtime is unknown, not there, or refuses the network.
        ClockStoppedError: the process that times died.
    """
    environment_of(target, clock=clock)
    (found,) = clock.measure(
        [("network", onnx)],
        runtime=target.runtime,
        settings=replace(settings, threads=target.threads, precision=target.precision),
        batch=target.batch,
        watch=lambda event: None,
    )
    return found
