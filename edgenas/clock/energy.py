"""The energy of one run of a network: the power of the board while it runs again and again.

Runs are never timed and metered at once: what tells the power is work too. So a network runs once
more, for some seconds and without a pause, while `edgenas.clock.power` reads the board's sensor.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.events import Event
from edgenas.clock.measure import WrongAnswerError
from edgenas.clock.order import TimedRuntime
from edgenas.clock.power import open_meter
from edgenas.clock.ssh import Place

_EDGE = 0.1  # part of the time at each end that does not count: messages take a while to arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterSettings:
    """How long power is metered, in seconds.

    Args:
        steady: that a network runs without a pause.
        idle: that nothing runs, before.
        interval: between two samples.
    """

    steady: float = 8.0
    idle: float = 3.0
    interval: float = 0.1


METER = MeterSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyRun:
    """A network that ran without a pause.

    Args:
        begin: the moment, by the monotonic clock here, from which it surely ran.
        end: until which it surely ran.
        seconds: of one run, with the pauses between runs.
    """

    begin: float
    end: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEnergy:
    """The energy of one run of a network.

    Args:
        name: of the network.
        joules: of one run, with all that the board draws meanwhile.
        watts: mean power while it ran without a pause.
        idle_watts: mean power before, while nothing ran.
        seconds: of one run, with the pauses between runs.
        drift: of the power, see ``Power``.
        samples: of the power.
        sensor: the rails that were added, in words.
    """

    name: str
    joules: float
    watts: float
    idle_watts: float
    seconds: float
    drift: float
    samples: int
    sensor: str


def meter(
    names: Iterable[str],
    *,
    place: Place | None,
    run: Callable[[str], SteadyRun],
    settings: MeterSettings = METER,
) -> Iterator[MeasuredEnergy]:
    """The energy of one run of each network.

    Args:
        names: of networks.
        place: the board whose power is read; None: this machine.
        run: runs a network by its name.
        settings: how long.

    Raises:
        EdgenasError: the board has no sensor, or a network does not run.
    """
    with open_meter(place, interval=settings.interval) as sensor:
        begin = time.monotonic()
        time.sleep(settings.idle)
        idle = sensor.power(begin, time.monotonic())
        for name in names:
            ran = run(name)
            power = sensor.power(ran.begin, ran.end)
            yield MeasuredEnergy(
                name=name,
                joules=power.watts * ran.seconds,
                watts=power.watts,
                idle_watts=idle.watts,
                seconds=ran.seconds,
                drift=power.drift,
                samples=power.samples,
                sensor=sensor.sensor,
            )


def run_steadily(
    measure: Callable[..., Iterable[Any]],
    unit: tuple[str, bytes | Path],
    *,
    runtime: TimedRuntime,
    settings: TimingSettings,
    batch: int,
    seconds: float,
) -> SteadyRun:
    """Run a graph without a pause on a clock that has a Python, here or on a board.

    Args:
        measure: of the clock, see `edgenas.clock.measure.measure`.
        unit: name and graph, as the clock loads it.
        runtime: a runtime that has a board part.
        settings: threads and precision.
        batch: images a run.
        seconds: how long.

    Raises:
        EdgenasError: the runtime refuses the graph, or the board cannot be reached.
    """
    events: list[tuple[float, Event]] = []

    def watch(event: Event) -> None:
        if event["event"] == "steady" and event["id"] == unit[0]:
            events.append((time.monotonic(), event))

    steady = replace(settings, steady=seconds, seconds=0.0)
    for _ in measure([unit], runtime=runtime, settings=steady, batch=batch, watch=watch):
        pass
    if len(events) < 2 or not events[-1][1]["runs"] or events[-1][1]["seconds"] <= 0:
        raise WrongAnswerError(
            f"the clock did not run {unit[0]} without a pause as it was asked to"
        )
    (begin, _), (end, last) = events[-2:]
    edge = _EDGE * (end - begin)
    if end - begin < 0.5 * seconds:
        raise EdgenasError(
            f"the clock ran {unit[0]} for {end - begin:.1f} s, not for {seconds:g} s",
            hint="run the same command again",
        )
    return SteadyRun(begin=begin + edge, end=end - edge, seconds=last["seconds"] / last["runs"])
