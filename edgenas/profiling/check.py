"""Does a device still run as its latency table says? A few canaries of the table are timed again.

A single layer may come out several percent off, on a machine where nothing has changed; so what is
judged is the median change of the networks, and that of the layers, each with its distribution-free
95% interval (see `edgenas.clock.board.median_rank`). A device has drifted when one of these
intervals
lies beyond the tolerance as a whole, or when one canary is off by far more; and only when a second
look says so too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from xml.etree import ElementTree

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board import Settings, median_rank, quantile
from edgenas.clock.measure import DEFAULT
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, Timing
from edgenas.latency.table_file import find_table, load_table
from edgenas.profiling.retime import retime
from edgenas.profiling.tables import NoTableError
from edgenas.profiling.work import Clock, Tell, method_of
from edgenas.space.arch import Arch
from edgenas.space.plan import Layer, layers
from edgenas.space.presets import load_space
from edgenas.space.space import Space

LAYERS, NETWORKS, VISITS = 12, 6, 2
# Alone, a canary has to be off by this multiple of the tolerance: single layers differ by up to
# 17% between profiles of an unchanged machine.
ALONE = 4.0
_CONFIDENCE = 0.95
# Fewer of a kind are judged together with the other kind: their interval would say too little.
_FEWEST = 5

# What changes times without being part of the machine, and what a clock may run at.
_VERSIONS = ("runtime_version", "python", "kernel", "os", "l4t")
_CLOCKS = ("governor", "max_frequency", "power_mode", "processors")
_MACHINE = ("cpu", "gpu", "board")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One canary. Times in seconds.

    Args:
        kind: ``layer`` or ``network``.
        name: of the layer or network.
        stored: in the table.
        now: timed again.
        noisy: whether too few of the runs now met the machine at full speed.
    """

    kind: str
    name: str
    stored: float
    now: float
    noisy: bool

    @property
    def change(self) -> float:
        """0.1 where it takes 10% longer than in the table."""
        return self.now / self.stored - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Canaries that are judged together; changes are fractions.

    Args:
        name: ``networks``, ``layers`` or ``canaries``.
        count: how many.
        change: of the median one.
        low: of the 95% interval of that, or of all where they are fewer than 6.
        high: likewise.
    """

    name: str
    count: int
    change: float
    low: float
    high: float

    def __str__(self) -> str:
        """For people: ``6 networks 0.3% slower (-0.5% to +1.2%)``."""
        interval = f"({self.low:+.1%} to {self.high:+.1%})"
        return f"{self.count} {self.name} {_words(self.change)} {interval}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a check found.

    Args:
        target: what was checked.
        date: of the table.
        tolerance: a fraction.
        rows: the canaries.
        groups: of canaries.
        alone: the names of canaries that are off by far more than the tolerance.
        drifted: the verdict.
        causes: where it drifted: why, the likeliest first.
        notes: what else a reader should know.
    """

    target: Target
    date: str
    tolerance: float
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    alone: tuple[str, ...]
    drifted: bool
    causes: tuple[str, ...]
    notes: tuple[str, ...]

    def verdict(self) -> str:
        """One line."""
        found = "; ".join(map(str, self.groups))
        beside = f"beside the table of {self.date}, tolerance {self.tolerance:.1%}: {found}"
        if not self.drifted:
            return f"no drift of {self.target} {beside}"
        names = f"; alone by far more: {', '.join(self.alone)}" if self.alone else ""
        return f"DRIFT of {self.target} {beside}{names}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; times in seconds."""
        rows = [asdict(row) | {"change": row.change} for row in self.rows]
        plain = {name: getattr(self, name) for name in ("date", "tolerance", "drifted")}
        plain["groups"] = [asdict(group) for group in self.groups]
        lists = {name: list(getattr(self, name)) for name in ("alone", "causes", "notes")}
        return {"target": asdict(self.target), **plain, **lists, "rows": rows}

    def to_junit(self) -> str:
        """As JUnit XML: one test case for the device, and one for each canary."""
        suites = ElementTree.Element("testsuites")
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=f"edgenas check {self.target}",
            tests=str(len(self.rows) + 1),
            failures=str(self.drifted + len(self.alone) * self.drifted),
            errors="0",
            skipped="0",
        )
        whole = ElementTree.SubElement(
            suite, "testcase", classname="edgenas.profiling.check", name="drift"
        )
        if self.drifted:
            failure = ElementTree.SubElement(whole, "failure", message=self.verdict())
            failure.text = "\n".join(self.causes)
        for row in self.rows:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"edgenas.profiling.check.{row.kind}",
                name=row.name,
                time=f"{row.now:.9f}",
            )
            words = f"{row.change:+.1%}: {row.stored:.9f} s in the table, {row.now:.9f} s now"
            if self.drifted and row.name in self.alone:
                ElementTree.SubElement(case, "failure", message=words)
            else:
                ElementTree.SubElement(case, "system-out").text = words
        ElementTree.indent(suites)
        return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def check(
    target: Target,
    *,
    clock: Clock,
    space: Space | None = None,
    tolerance: float = 0.05,
    visits: int = VISITS,
    settings: Settings = DEFAULT,
    tell: Tell = lambda done, total, name, note: None,
) -> Check:
    """Time canaries of a target's latency table again and compare.

    Args:
        target: whose table; it must be measured.
        clock: where it is timed.
        space: the space of the table; None: the one of its networks.
        tolerance: a fraction, above 0.
        visits: how often each canary is timed, all others in between.
        settings: of the clock.
        tell: called after each visit: visits done, visits in all, the unit's name, a note on it.

    Raises:
        NoTableError: there is no table of the target, or not a measured one.
        EdgenasError: the space is not known, or the device cannot be reached.
    """
    if not 0 < tolerance < 1:
        raise EdgenasError(f"tolerance must be between 0% and 100%, found {tolerance:.1%}")
    table = _table(target)
    space = space or _space(table)
    chosen, method = _canaries(table, space), method_of(table)

    def look() -> tuple[LatencyTable, tuple[Row, ...]]:
        found = retime(
            space,
            target=target,
            chosen=chosen,
            method=method,
            visits=visits,
            settings=settings,
            clock=clock,
            tell=tell,
        )
        return found, _rows(table, found, space)

    found, rows = look()
    first = judged(rows, tolerance=tolerance)
    if first.drifted:
        found, rows = look()
    last = judged(rows, tolerance=tolerance)
    drifted = first.drifted and last.drifted
    causes, notes = why(table, found, rows)
    if not drifted and any(_reaches(group, tolerance=tolerance) for group in last.groups):
        notes += ("the interval reaches beyond the tolerance: a drift cannot be excluded",)
    return Check(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One look at the canaries; fields as in ``Check``."""

    groups: tuple[Group, ...]
    alone: tuple[str, ...]
    drifted: bool


def judged(rows: Sequence[Row], *, tolerance: float) -> Judgement:
    """What one look says.

    Args:
        rows: the canaries, at least one.
        tolerance: a fraction.
    """
    kinds = {f"{kind}s": [r for r in rows if r.kind == kind] for kind in ("network", "layer")}
    if min(map(len, kinds.values())) < _FEWEST:
        kinds = {"canaries": list(rows)}
    groups = tuple(_group(name, members) for name, members in kinds.items())
    # As ratios: what is as much faster as slower is as far away.
    limit = math.log1p(tolerance)
    far = ALONE * limit
    alone = tuple(row.name for row in rows if abs(math.log1p(row.change)) > far and not row.noisy)
    beyond = any(
        math.log1p(group.low) > limit or math.log1p(group.high) < -limit for group in groups
    )
    return Judgement(groups=groups, alone=alone, drifted=beyond or bool(alone))


def _group(name: str, rows: Sequence[Row]) -> Group:
    changes = sorted(row.change for row in rows)
    rank = median_rank(len(changes), _CONFIDENCE) or 0
    return Group(
        name=name,
        count=len(changes),
        change=quantile(changes, 0.5),
        low=changes[rank],
        high=changes[-1 - rank],
    )


def _reaches(group: Group, *, tolerance: float) -> bool:
    return max(math.log1p(group.high), -math.log1p(group.low)) > math.log1p(tolerance)


def why(
    table: LatencyTable, found: LatencyTable, rows: Sequence[Row]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The likely causes of a drift, the likeliest first, and what is worth a note without one.

    Args:
        table: the stored one.
        found: what was timed again, with the machine as it is.
        rows: the canaries.
    """
    before = {**table.environment, "runtime_version": table.runtime_version}
    now = {**found.environment, "runtime_version": found.runtime_version}
    after: Mapping[str, Any] = now.get("after") or now
    machine = _changed(before, now, _MACHINE)
    versions = _changed(before, now, _VERSIONS)
    causes = [f"another machine: {words}" for words in machine]
    causes += [f"versions: {words}" for words in versions]
    causes += [f"clocks: {words}" for words in _changed(before, now, _CLOCKS)]
    canary, was = now.get("canary"), before.get("canary")
    if canary and was and abs(math.log(canary / was)) > 0.02:
        heat = after.get("temperature")
        warm = "" if heat is None else f", {heat:.0f} degrees"
        causes.append(
            f"clocks: the processor itself is {_words(canary / was - 1)}{warm}: its frequency, "
            "heat or a limit of power"
        )
    throttled = str(after.get("throttled") or "").partition("=")[2]
    if throttled not in ("", "0x0"):
        causes.append(f"clocks: the board reports throttled={throttled}")
    noisy = sum(row.noisy for row in rows)
    load, cores = now.get("load"), now.get("cores")
    if noisy or (load and cores and load > cores):
        busy = f", the load was {load:.1f} on {cores} cores" if load and cores else ""
        causes.append(
            f"noise: {noisy} of {len(rows)} canaries met the machine at full speed too seldom{busy}"
        )
    if not causes:
        causes.append(
            "no cause is known: versions, clocks and the processor's own speed are as they were; "
            "look for another build of the runtime, or for memory that others use"
        )
    notes = [f"changed since the table was made: {words}" for words in machine + versions]
    if noisy:
        notes.append(f"{noisy} of {len(rows)} canaries stayed noisy")
    return tuple(causes), tuple(notes)


def _words(change: float) -> str:
    return f"{abs(change):.1%} {'slower' if change >= 0 else 'faster'}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [
        f"{name} was {before[name]}, is {now.get(name)}"
        for name in names
        if before.get(name) is not None and before[name] != now.get(name)
    ]


def _table(target: Target) -> LatencyTable:
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


def _space(table: LatencyTable) -> Space:
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


def _canaries(table: LatencyTable, space: Space) -> list[Layer | Arch]:
    """Layers of the slower half, whose times are surest, and networks, spread by their times."""
    timings = {layer: timing for layer, timing in table.layers.items() if not timing.noisy}
    own = set(timings) & set(layers(space))
    networks = {
        network.arch: network.timing
        for network in table.networks
        if network.belongs_to(space) and not network.timing.noisy
    }
    ordered = sorted(own, key=lambda layer: (timings[layer].seconds, str(layer)))
    chosen: list[Layer | Arch] = [*_spread(ordered[len(ordered) // 2 :], LAYERS)]
    few = NETWORKS if chosen else LAYERS + NETWORKS  # some tables have no layers
    chosen += _spread(sorted(networks, key=lambda a: (networks[a].seconds, a.id)), few)
    if not chosen:
        raise EdgenasError(
            f"the latency table of {table.target} holds nothing of {space.name} to time again",
            hint=f"edgenas profile --device {table.target.device} --space {space.name}",
        )
    return chosen


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _rows(table: LatencyTable, found: LatencyTable, space: Space) -> tuple[Row, ...]:
    def row(kind: str, name: str, stored: Timing, now: Timing) -> Row:
        seconds = stored.seconds, now.seconds
        return Row(kind=kind, name=name, stored=seconds[0], now=seconds[1], noisy=now.noisy)

    stored = {
        network.arch: network.timing for network in table.networks if network.belongs_to(space)
    }
    rows = [row("layer", str(la), table.layers[la], timing) for la, timing in found.layers.items()]
    rows += [
        row("network", str(network.arch), stored[network.arch], network.timing)
        for network in found.networks
    ]
    return tuple(sorted(rows, key=lambda r: (r.kind, r.stored)))
