"""Times after some minutes of steady load, beside the cool ones.

A board without a good fan slows down as it heats. So the largest network that was timed runs
without a pause for as long as is asked for; then some others run while the board is hot. A table
keeps their times, and what is delivered for the board tells them. Promises are on cool times.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress
from edgenas.basics.ranges import Length, Name, Range, Seconds
from edgenas.basics.units import duration, milliseconds
from edgenas.clock.trtexec.clock import TrtexecClock, cache_key
from edgenas.clock.trtexec.heat import HeatedTimes, heat_engine
from edgenas.clock.trtexec.options import TensorrtVersion
from edgenas.latency.device import Target
from edgenas.space.arch import Arch

if TYPE_CHECKING:
    from edgenas.latency.table import LatencyTable
    from edgenas.profiling.units import Unit
    from edgenas.profiling.work import Clock

SECTION = "heat"  # of a table's environment
LEAST = 30.0  # seconds of load: with less nothing is hot
_OTHERS = 2  # networks that run hot, beside the one that heats
_SHARE = 0.05  # of the load: how long each of them runs
_Hertz = Annotated[float, Range(1e3, 1e12, "number")]
_Celsius = Annotated[float, Range(-100, 200, "number")]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatedNetwork:
    """A network on a cool board and on a hot one.

    Args:
        network: its short text.
        cool: seconds of a run.
        hot: seconds of a run under load.
    """

    network: Name
    cool: Seconds
    hot: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatedBoard:
    """What a steady load does to the times of a board.

    Args:
        load: seconds that it lasted.
        networks: the one that was the load, both of whose times are of one engine; then others,
            whose cool times are those of the table, of engines that were built before.
        celsius: of the GPU after the load; None: not told.
        hertz: of the GPU at its end; None: not told.
    """

    load: Seconds
    networks: Annotated[tuple[HeatedNetwork, ...], Length(1, 100)]
    celsius: _Celsius | None = None
    hertz: _Hertz | None = None

    @property
    def slowdown(self) -> float:
        """By which factor the network that was the load became slower."""
        return self.networks[0].hot / self.networks[0].cool

    def __str__(self) -> str:
        """For people."""
        first, *others = self.networks
        words = f"after {duration(self.load)} of steady load {milliseconds(first.hot)}, cool "
        words += f"{milliseconds(first.cool)} ({self.slowdown - 1:+.1%})"
        if others:
            pairs = (f"{milliseconds(o.hot)}, cool {milliseconds(o.cool)}" for o in others)
            words += f"; others {' and '.join(pairs)}"
        return words + describe_board(celsius=self.celsius, hertz=self.hertz)


def describe_board(*, celsius: float | None, hertz: float | None) -> str:
    """How hot the GPU was and how fast, as far as that is told; ``; GPU at 71 C, 918 MHz``."""
    told = [f"{celsius:.0f} C"] if celsius is not None else []
    told += [f"{hertz / 1e6:.0f} MHz"] if hertz is not None else []
    return f"; GPU at {', '.join(told)}" if told else ""


def check_heat(clock: "Clock", *, load: float) -> TrtexecClock:
    """Refuse a load that heats nothing, or a clock that cannot tell how times change under it.

    Args:
        clock: where networks would run.
        load: seconds.

    Raises:
        EdgenasError: says so.
    """
    if load < LEAST:
        raise EdgenasError(
            f"heat must be at least {LEAST:g} s, found {load:g} s",
            hint="a board takes minutes to become as hot as it gets: --heat 10min",
        )
    if not isinstance(clock, TrtexecClock):
        raise EdgenasError(
            "--heat is for engines of TensorRT, which its own tool runs",
            hint="leave out --heat, or time them: --runtime tensorrt",
        )
    return clock


def measure_heat(
    units: Mapping[str, "Unit"],
    seconds: Mapping[str, float],
    *,
    load: float,
    target: Target,
    clock: TrtexecClock,
    environment: Mapping[str, Any],
    progress: Progress,
) -> HeatedBoard:
    """Heat the board with the largest network, and time some others while it is hot.

    Args:
        units: networks, by name.
        seconds: of those that were timed, on a cool board.
        load: seconds of steady load.
        target: what runs.
        clock: where.
        environment: the board.
        progress: called before each network.

    Raises:
        EdgenasError: nothing was timed, the tool refuses a network, or the board cannot be reached.
    """
    timed = sorted((seconds[name], name) for name in units if name in seconds)
    if not timed:
        raise EdgenasError(
            "no network was timed, so none can heat the board", hint="give more time: --time 30min"
        )
    names = list(dict.fromkeys((timed[-1][1], timed[len(timed) // 2][1], timed[0][1])))
    names = names[: 1 + _OTHERS]
    version = TensorrtVersion.parse(str(environment["runtime_version"]))
    cache = clock.caches.read(cache_key(environment))
    heated: list[HeatedNetwork] = []
    first: HeatedTimes | None = None
    for done, name in enumerate(names):
        lasting = load if first is None else max(1.0, _SHARE * load)
        progress("heating", done, len(names), f"{name} for {duration(lasting)}")
        times = heat_engine(
            clock,
            (name, units[name].build()),
            version=version,
            precision=target.precision,
            run=seconds[name],
            load=lasting,
            cache=cache,
        )
        cool = times.cool if first is None else seconds[name]
        first = first or times
        heated.append(HeatedNetwork(network=_text(units[name]), cool=cool, hot=times.hot))
    assert first is not None
    progress("heating", len(names), len(names), "")
    return HeatedBoard(
        load=first.load, networks=tuple(heated), celsius=first.celsius, hertz=first.hertz
    )


def carry_heat(older: "LatencyTable", newer: "LatencyTable") -> "LatencyTable":
    """The newer of two tables that compare, with the heat of the older where it has none."""
    kept = older.environment.get(SECTION)
    if kept is None or SECTION in newer.environment:
        return newer
    return replace(newer, environment={**newer.environment, SECTION: kept})


def _text(unit: "Unit") -> str:
    assert isinstance(unit.of, Arch)
    return str(unit.of)


def heat_in(table: "LatencyTable") -> HeatedBoard | None:
    """What a table keeps of it; None: nothing, or what cannot be read.

    Raises:
        EdgenasError: the section is damaged.
    """
    kept = table.environment.get(SECTION)
    return None if kept is None else decode(HeatedBoard, kept, where=f"environment: {SECTION}")


def heat_to_json(heat: HeatedBoard) -> dict[str, Any]:
    """What a table keeps."""
    return asdict(heat)
