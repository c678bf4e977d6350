"""Using a profile: the latency table that applies here, and the predictor of that table."""

import math
from dataclasses import replace
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import NETWORK, Measurement
from edgenas.latency.bound import CONFORMAL
from edgenas.latency.device import Target, list_devices, load
from edgenas.latency.estimate import device_model
from edgenas.latency.fitting import build_predictor, learn_predictor, sum_layers
from edgenas.latency.learned import FEW
from edgenas.latency.predictor import LatencyPredictor, LearnedPredictor
from edgenas.latency.source import expand_model
from edgenas.latency.table import LatencyTable, Statistic
from edgenas.latency.table_file import find_table, load_table
from edgenas.profiling.environment import environment_of
from edgenas.profiling.journal import differences
from edgenas.profiling.method import parts_in_float
from edgenas.profiling.networks import CALIBRATION, FURTHER, MOST, calibration_archs
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables
from edgenas.space.space import Space

# A line through fewer networks says nothing of its own error.
_NETWORKS = 3
# Layer costs are learned from so many networks and more.
LEARNED = 8
_USUAL = CALIBRATION + FURTHER


class NoTableError(EdgenasError):
    """There is no latency table that applies; a profile would write one."""


def table_for(space: Space, *, target: Target, clock: Clock | None = measure) -> LatencyTable:
    """Find the latency table of a target that covers a space and applies to the machine as it is.

    Args:
        space: all its layers must be in the table, or so many networks that layer costs can be
            learned from them.
        target: whose table.
        clock: where the target is timed; the table must agree with that machine and that runtime
            version. None: the machine is not at hand, and only the layers are checked.

    Raises:
        NoTableError: there is no table, or it does not apply; the hint names the command to
            measure one.
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
    in_float = ", ".join(space.kept_in_float) if target.precision == "int8" else ""
    if table.provenance == "measured" and parts_in_float(table) != in_float:
        parts = [parts or "nothing" for parts in (parts_in_float(table), in_float)]
        why.append(f"it was measured with {parts[0]} kept in float, {space.name} keeps {parts[1]}")
    missing = table.missing(space)
    if missing and len(_networks(table, space, statistic="typical")) >= LEARNED:
        pass
    elif missing:
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
    """Fit the latency predictor of a table: sums of layers, a line, a bound from other networks.

    The line is fitted to the networks that were chosen for it (``calibration_archs``) alone. All
    others give the bound and the error, because the line was not fitted to them. Where layers are
    missing, as after a profile with little time, layer costs are learned from the networks; with
    less than thirty networks the latencies of other devices help, see ``latencies_elsewhere``.

    Args:
        table: the one that ``profile`` wrote; a table without networks gives sums alone.
        space: of the rows that will be predicted.
        statistic: of the networks; ``wall_p95`` for what a user lives with.

    Raises:
        EdgenasError: layers are missing and networks are too few, or none has the statistic.
    """
    networks = _networks(table, space, statistic=statistic)
    if table.missing(space) and len(networks) >= LEARNED:
        return _learn(table, space, networks)
    if runtimes.is_built_by_tool(table.target.runtime) and len(networks) >= LEARNED:
        return _choose_rival(table, space, networks)
    first = set(calibration_archs(space))
    chosen = first if len(networks) <= _USUAL else {*calibration_archs(space, MOST)}
    line = [pair for pair in networks if pair[0] in first]
    others = [pair for pair in networks if pair[0] not in chosen]
    if len(line) < _NETWORKS or not others:
        return build_predictor(space, table, statistic=statistic)
    return sum_layers(space, table).fit(*_split(line), spared=_split(others))


def latencies_elsewhere(space: Space, *, target: Target) -> dict[str, Tables]:
    """The latencies of a space on all other targets, compiled, by the name of the target.

    They come from tables on this machine that cover the space, and from estimated device models.

    Args:
        space: of the networks.
        target: the one to leave out.
    """
    latencies: dict[str, Tables] = {}
    for use in (use for device in list_devices() for use in device.uses):
        name = str(use.target)
        if use.target == target:
            continue
        path = find_table(use.target)
        try:
            if path is not None:
                latencies[name] = load_table(path).compile(space)
            else:
                model = device_model(load(use.target.device), use.target)
                latencies[name] = expand_model(model).compile(space)
        except EdgenasError:  # a table of another space, or no estimate: nothing to start from
            continue
    return latencies


def _choose_rival(
    table: LatencyTable, space: Space, networks: list[tuple[Arch, float]]
) -> LatencyPredictor:
    """Sums of layers, or layer costs learned from networks: what predicts those left out better."""
    line = sum_layers(space, table).fit(*_split(networks), spared=_split([]))
    learned = _learn(table, space, networks)
    errors = [math.inf if each.error is None else each.error.error for each in (line, learned)]
    return line if errors[0] < errors[1] else learned


def _learn(
    table: LatencyTable, space: Space, networks: list[tuple[Arch, float]]
) -> LearnedPredictor:
    """Learn from the informative networks and some random ones; the others give the bound."""
    chosen = set(calibration_archs(space, MOST))
    fitted = [pair for pair in networks if pair[0] in chosen]
    random = [pair for pair in networks if pair[0] not in chosen]
    # Where an engine takes a minute to build, all networks are fitted to, and each one that a fit
    # left out tells its error.
    built = runtimes.is_built_by_tool(table.target.runtime)
    most = len(networks) // 2 if len(networks) >= CONFORMAL and not built else 0
    spared, fitted = random[:most], fitted + random[most:]
    priors = latencies_elsewhere(space, target=table.target) if len(fitted) < FEW else {}
    return learn_predictor(
        space,
        *_split(fitted),
        spared=_split(spared),
        priors=priors,
        target=table.target,
    )


def _split(networks: list[tuple[Arch, float]]) -> tuple[list[Arch], list[float]]:
    return [arch for arch, _ in networks], [seconds for _, seconds in networks]


def _networks(
    table: LatencyTable, space: Space, *, statistic: Statistic
) -> list[tuple[Arch, float]]:
    """The measured networks of a space and their seconds, sorted by id."""
    pairs: list[tuple[Arch, float]] = []
    for network in table.networks:
        seconds = network.timing.statistic(statistic)
        if network.belongs_to(space) and seconds is not None:
            pairs.append((network.arch, seconds))
    return sorted((pair for pair in pairs if space.contains(pair[0])), key=lambda pair: pair[0].id)


def measure_network(
    onnx: bytes | Path,
    *,
    target: Target,
    settings: TimingSettings = NETWORK,
    clock: Clock = measure,
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
    version = str(environment_of(target, clock=clock)["runtime_version"])
    loadable = runtimes.convert_for_clock(target.runtime, onnx, batch=target.batch, version=version)
    (measurement,) = clock.measure(
        [("network", loadable)],
        runtime=runtimes.get(target.runtime),
        settings=replace(settings, threads=target.threads, precision=target.precision),
        batch=target.batch,
        watch=lambda event: None,
    )
    return measurement
