"""The energy of whole networks, as part of a profile: some of its networks are metered.

A network runs some seconds without a pause, and the board's power sensor is read meanwhile
(`edgenas.clock.energy`). Each energy goes into the journal at once, as timings do, and a network
that has one is not metered again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress
from edgenas.clock import measure
from edgenas.clock.energy import (
    METER,
    MeasuredEnergy,
    MeterSettings,
    SteadyRun,
    meter,
    run_steadily,
)
from edgenas.clock.power import open_meter
from edgenas.clock.remote import Board
from edgenas.clock.ssh import Place
from edgenas.clock.trtexec.clock import TrtexecClock, cache_key
from edgenas.clock.trtexec.energy import run_engine
from edgenas.clock.trtexec.options import TensorrtVersion
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable
from edgenas.profiling.journal import EnergyRecord, Journal, differences, now
from edgenas.profiling.units import Unit, digest
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch

METERED = 30  # networks: ten that carry the line, and random ones
_LINES = 10
_MOST_WATTS = 1e6
SENSOR, IDLE = "power_sensor", "idle_watts"  # in the environment of a table


def check_sensor(clock: Clock) -> None:
    """Refuse a machine that tells nobody its power.

    Args:
        clock: where networks would be metered.

    Raises:
        EdgenasError: says so.
        LinkError: the board cannot be reached now.
    """
    with open_meter(place_of(clock)):
        pass


def choose_metered(lines: Iterable[str], random: Iterable[str]) -> list[str]:
    """The networks of a profile that are metered: those of its line first, then random ones.

    Args:
        lines: names of the networks for the line, the most informative first.
        random: names of the random networks.
    """
    chosen = [*lines][:_LINES]
    return [*chosen, *[*random][: METERED - len(chosen)]]


def meter_networks(
    units: Mapping[str, Unit],
    *,
    journal: Journal,
    environment: Mapping[str, Any],
    target: Target,
    clock: Clock,
    left: Callable[[], float],
    report: Progress,
    settings: MeterSettings = METER,
) -> int:
    """Meter the networks that have no energy in the journal yet.

    Args:
        units: by name, in their order.
        journal: of the target.
        environment: the machine.
        target: what runs.
        clock: where.
        left: seconds that are left.
        report: called after each network.
        settings: how long each is metered.

    Returns:
        How many have none still, because the time is over.

    Raises:
        EdgenasError: the machine has no power sensor, or it changed meanwhile.
    """
    graphs = {name: digest(unit.build()) for name, unit in units.items()}
    known = {(record.unit, record.graph) for record in journal.usable_energies(environment)}
    missing = [name for name in units if (name, graphs[name]) not in known]
    if not missing:
        return 0
    run_number, done = journal.begin(environment), len(units) - len(missing)
    runner = _runner(clock, units, target=target, environment=environment, settings=settings)
    for energy in meter(
        _while(missing, lambda: left() > settings.steady),
        place=place_of(clock),
        run=runner,
        settings=settings,
    ):
        record = EnergyRecord(
            unit=energy.name,
            graph=graphs[energy.name],
            run=run_number,
            at=now(),
            energy=energy,
        )
        journal.add_energy(record)
        done += 1
        report("metering energy", done, len(units), energy.name)
    after = clock.environment(runtimes.get(target.runtime), threads=target.threads)
    if changed := differences(environment, after):
        journal.withdraw(run_number, because="; ".join(changed))
        raise EdgenasError(
            f"the machine changed while its energy was metered: {'; '.join(changed)}",
            hint="hold it steady and run the same command again; this round does not count",
        )
    return len(units) - done


def meter_network(
    onnx: bytes,
    arch: Arch,
    *,
    target: Target,
    clock: Clock,
    settings: MeterSettings = METER,
) -> MeasuredEnergy:
    """Meter one network, in the very form that ships.

    Args:
        onnx: the file.
        arch: of it.
        target: what runs it.
        clock: where.
        settings: how long.

    Raises:
        EdgenasError: the machine has no power sensor, or the network does not run.
    """
    environment = clock.environment(runtimes.get(target.runtime), threads=target.threads)
    unit = Unit(name=str(arch), of=arch, build=lambda: onnx)
    runner = _runner(
        clock, {unit.name: unit}, target=target, environment=environment, settings=settings
    )
    (energy,) = meter([unit.name], place=place_of(clock), run=runner, settings=settings)
    return energy


def _while(names: Iterable[str], goes_on: Callable[[], bool]) -> Iterable[str]:
    for name in names:
        if not goes_on():
            return
        yield name


def place_of(clock: Clock) -> Place | None:
    """Where a clock runs; None: on this machine."""
    return clock.place if isinstance(clock, (Board, TrtexecClock)) else None


def _runner(
    clock: Clock,
    units: Mapping[str, Unit],
    *,
    target: Target,
    environment: Mapping[str, Any],
    settings: MeterSettings,
) -> Callable[[str], SteadyRun]:
    """What runs a network without a pause, by its name."""
    if isinstance(clock, TrtexecClock):
        version = TensorrtVersion.parse(str(environment["runtime_version"]))
        cache = clock.caches.read(cache_key(environment))

        def run_tool(name: str) -> SteadyRun:
            return run_engine(
                clock,
                (name, units[name].build()),
                version=version,
                precision=target.precision,
                cache=cache,
                seconds=settings.steady,
            )

        return run_tool

    def run(name: str) -> SteadyRun:
        graph = units[name].build()
        graph = runtimes.convert_for_clock(
            target.runtime, graph, batch=target.batch, version=str(environment["runtime_version"])
        )
        return run_steadily(
            clock.measure,
            (name, graph),
            runtime=runtimes.get(target.runtime),
            settings=replace(measure.DEFAULT, threads=target.threads, precision=target.precision),
            batch=target.batch,
            seconds=settings.steady,
        )

    return run


def read_sensor(table: LatencyTable) -> dict[str, Any]:
    """The ``idle_watts`` of a table's board and the ``sensor`` that told them, as far as it has."""
    watts, sensor = table.environment.get(IDLE), table.environment.get(SENSOR)
    known: dict[str, Any] = {}
    if isinstance(watts, (int, float)) and 0 <= watts < _MOST_WATTS:
        known["idle_watts"] = float(watts)
    if isinstance(sensor, str):
        known["sensor"] = sensor
    return known


def add_energies(
    table: LatencyTable, units: Mapping[str, Unit], *, records: Iterable[EnergyRecord]
) -> LatencyTable:
    """The table with the energies of its networks, and the idle power of the board.

    Args:
        table: of the networks' times.
        units: of the profile, by name.
        records: of the journal, oldest first.
    """
    joules: dict[Arch, float] = {}
    latest: EnergyRecord | None = None
    for record in records:
        unit = units.get(record.unit)
        if unit is None or not isinstance(unit.of, Arch) or digest(unit.build()) != record.graph:
            continue
        joules[unit.of], latest = record.energy.joules, record
    if latest is None:
        return table
    environment = {
        **table.environment,
        SENSOR: latest.energy.sensor,
        IDLE: latest.energy.idle_watts,
    }
    networks = tuple(
        replace(network, joules=joules.get(network.arch)) for network in table.networks
    )
    return replace(table, networks=networks, environment=environment)
