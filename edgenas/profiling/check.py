"""Does a device still run as its latency table says? A few sentinels of it are timed again.

`edgenas.profiling.drift` decides. A device counts as drifted only when timing the sentinels once
more says so too.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress, no_progress
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import DEFAULT
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, Timing
from edgenas.latency.table_file import find_table, load_table
from edgenas.profiling.drift import DriftCheck, Sentinel, assess_drift, find_causes, may_drift
from edgenas.profiling.method import read_method
from edgenas.profiling.remeasure import measure_again
from edgenas.profiling.tables import NoTableError
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.plan import layers
from edgenas.space.presets import load_space
from edgenas.space.space import Space

LAYERS, NETWORKS, VISITS = 12, 6, 2
BUILT_NETWORKS = 9  # where each is an engine that takes a minute to build, once
UNCERTAIN = "the interval reaches beyond the tolerance: a drift cannot be excluded"

Item = TypeVar("Item")


def check(
    target: Target,
    *,
    clock: Clock,
    space: Space | None = None,
    tolerance: float = 0.05,
    visits: int | None = None,
    settings: TimingSettings = DEFAULT,
    progress: Progress = no_progress,
) -> DriftCheck:
    """Time sentinels of a target's latency table again, and compare.

    Args:
        target: whose table; it must be measured.
        clock: where it is timed.
        space: the space of the table; None: the one of its networks.
        tolerance: a fraction between 0 and 1.
        visits: how often each sentinel is timed; None: as often as the runtime needs.
        settings: of the clock.
        progress: called after each visit.

    Raises:
        EdgenasError: the target has no measured table, or the device cannot be reached.
    """
    if not 0 < tolerance < 1:
        raise EdgenasError(f"tolerance must be between 0% and 100%, found {tolerance:.1%}")
    table = _load_measured(target)
    space = space or _read_space(table)
    built = runtimes.is_built_by_tool(target.runtime)
    time_sentinels = partial(
        measure_again,
        space,
        target=target,
        parts=_choose_sentinels(table, space, built=built),
        method=read_method(table),
        visits=visits or (1 if built else VISITS),
        settings=settings,
        clock=clock,
        report=partial(progress, "checking"),
    )
    first = time_sentinels()
    verdict = assess_drift(_pair_sentinels(table, first, space), tolerance=tolerance)
    # A device counts as drifted only if it drifted twice.
    again = time_sentinels() if verdict.drifted else first
    rows = _pair_sentinels(table, again, space)
    last = assess_drift(rows, tolerance=tolerance)
    drifted = verdict.drifted and last.drifted
    causes, notes = find_causes(table, again, rows)
    if not drifted and any(may_drift(group, tolerance=tolerance) for group in last.groups):
        notes += (UNCERTAIN,)
    return DriftCheck(
        target=target,
        date=table.date,
        tolerance=tolerance,
        rows=rows,
        groups=last.groups,
        alone=last.alone,
        drifted=drifted,
        causes=causes if drifted else (),
        notes=notes,
    )


def _load_measured(target: Target) -> LatencyTable:
    path = find_table(target)
    command = f"edgenas profile --device {target.device} --space SPACE"
    if path is None:
        raise NoTableError(f"there is no latency table of {target} to check", hint=command)
    table = load_table(path)
    if table.provenance != "measured":
        raise NoTableError(
            f"the latency table {path} is {table.provenance}: only a measured one can be checked",
            hint=command,
        )
    return table


def _read_space(table: LatencyTable) -> Space:
    names = [(network.space, network.classes) for network in table.networks]
    if not names:
        raise EdgenasError(
            f"the latency table of {table.target} holds no networks that tell its space",
            hint="name it: --space mbv3-cifar",
        )
    name, classes = max(names, key=names.count)
    try:
        return load_space(name).with_classes(classes)
    except EdgenasError as error:
        raise EdgenasError(error.message, hint="give its file: --space FILE.toml") from None


def _choose_sentinels(table: LatencyTable, space: Space, *, built: bool) -> list[Layer | Arch]:
    """Choose networks, and layers of the slower half, whose times are surest; spread by time."""
    timings = {layer: timing for layer, timing in table.layers.items() if not timing.noisy}
    own = set(timings) & set(layers(space))
    networks = {
        network.arch: network.timing
        for network in table.networks
        if network.belongs_to(space) and not network.timing.noisy
    }
    ordered = sorted(own, key=lambda layer: (timings[layer].seconds, str(layer)))
    slower = () if built else ordered[len(ordered) // 2 :]
    chosen: list[Layer | Arch] = [*_take_spread(slower, LAYERS)]
    few = NETWORKS if chosen else LAYERS + NETWORKS  # some tables have no layers
    few = BUILT_NETWORKS if built else few
    chosen += _take_spread(sorted(networks, key=lambda a: (networks[a].seconds, a.id)), few)
    if not chosen:
        raise EdgenasError(
            f"the latency table of {table.target} holds nothing of {space.name} to time again",
            hint=f"edgenas profile --device {table.target.device} --space {space.name}",
        )
    return chosen


def _take_spread(items: Sequence[Item], count: int) -> list[Item]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _pair_sentinels(table: LatencyTable, again: LatencyTable, space: Space) -> tuple[Sentinel, ...]:
    """The time of each sentinel in the table and now."""

    def pair(kind: str, name: str, stored: Timing, now: Timing) -> Sentinel:
        seconds = stored.seconds, now.seconds
        return Sentinel(kind=kind, name=name, stored=seconds[0], now=seconds[1], noisy=now.noisy)

    stored = {
        network.arch: network.timing for network in table.networks if network.belongs_to(space)
    }
    rows = [pair("layer", str(la), table.layers[la], timing) for la, timing in again.layers.items()]
    rows += [
        pair("network", str(network.arch), stored[network.arch], network.timing)
        for network in again.networks
    ]
    return tuple(sorted(rows, key=lambda r: (r.kind, r.stored)))
