"""Has a device drifted? What its sentinels say when they are timed again.

A single layer may come out several percent off, on a machine where nothing has changed. So the
verdict rests on the median change of the networks, and on that of the layers, each with its
distribution-free 95% interval (see ``edgenas.clock.board.statistics.median_rank``). A device has
drifted when one of these intervals lies beyond the tolerance as a whole, or when one sentinel is
off by far more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from edgenas.clock.board.statistics import median_rank, quantile
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable

# Alone, a sentinel has to be off by this multiple of the tolerance: single layers differ by up to
# 17% between profiles of an unchanged machine.
ALONE = 4.0
_CONFIDENCE = 0.95
# With fewer of one kind, both kinds form one group: the interval of few would say too little.
_FEWEST = 5

# What changes times without being part of the machine, and the speeds that a clock may run at.
_VERSIONS = ("runtime_version", "python", "kernel", "os", "l4t")
_CLOCKS = ("governor", "max_frequency", "power_mode", "processors")
_MACHINE = ("cpu", "gpu", "board")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel:
    """One sentinel: a layer or a network that is timed again. Times are in seconds.

    Args:
        kind: ``layer`` or ``network``.
        name: of the layer or network.
        stored: in the table.
        now: what it takes now.
        noisy: whether too few of its runs now met the machine at full speed.
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
class SentinelGroup:
    """Sentinels that give one median change; changes are fractions.

    Args:
        name: ``networks``, ``layers`` or ``sentinels``.
        count: how many.
        change: the median of their changes.
        low: lower end of its 95% interval; the smallest change where they are fewer than 6.
        high: upper end of its 95% interval; the largest change where they are fewer than 6.
    """

    name: str
    count: int
    change: float
    low: float
    high: float

    def __str__(self) -> str:
        """For people: ``6 networks 0.3% slower (-0.5% to +1.2%)``."""
        interval = f"({self.low:+.1%} to {self.high:+.1%})"
        return f"{self.count} {self.name} {_describe_change(self.change)} {interval}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCheck:
    """The result of a drift check.

    Args:
        target: whose table was checked.
        date: of the table.
        tolerance: a fraction.
        rows: the sentinels.
        groups: of sentinels.
        alone: the names of sentinels that are off by far more than the tolerance.
        drifted: whether the device has drifted.
        causes: the causes of a drift, the likeliest first; empty without a drift.
        notes: what else a reader should know.
    """

    target: Target
    date: str
    tolerance: float
    rows: tuple[Sentinel, ...]
    groups: tuple[SentinelGroup, ...]
    alone: tuple[str, ...]
    drifted: bool
    causes: tuple[str, ...]
    notes: tuple[str, ...]

    def verdict(self) -> str:
        """Whether the device has drifted, in one line."""
        groups = "; ".join(map(str, self.groups))
        beside = f"beside the table of {self.date}, tolerance {self.tolerance:.1%}: {groups}"
        if not self.drifted:
            return f"no drift of {self.target} {beside}"
        rest = f" and {len(self.alone) - 3} more" if len(self.alone) > 3 else ""
        names = f"; alone by far more: {', '.join(self.alone[:3])}{rest}" if self.alone else ""
        return f"DRIFT of {self.target} {beside}{names}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object; times are in seconds."""
        rows = [asdict(row) | {"change": row.change} for row in self.rows]
        plain = {name: getattr(self, name) for name in ("date", "tolerance", "drifted")}
        plain["groups"] = [asdict(group) for group in self.groups]
        lists = {name: list(getattr(self, name)) for name in ("alone", "causes", "notes")}
        return {"target": asdict(self.target), **plain, **lists, "rows": rows}

    def to_junit(self) -> str:
        """The JUnit XML: one test case for the device, and one for each sentinel."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftVerdict:
    """What timing the sentinels once says; the fields are those of `DriftCheck`."""

    groups: tuple[SentinelGroup, ...]
    alone: tuple[str, ...]
    drifted: bool


def assess_drift(rows: Sequence[Sentinel], *, tolerance: float) -> DriftVerdict:
    """Decide whether sentinels that were timed once show a drift.

    Args:
        rows: the sentinels, at least one.
        tolerance: a fraction.
    """
    kinds = {f"{kind}s": [r for r in rows if r.kind == kind] for kind in ("network", "layer")}
    if min(map(len, kinds.values())) < _FEWEST:
        kinds = {"sentinels": list(rows)}
    groups = tuple(_group_sentinels(name, members) for name, members in kinds.items())
    # As ratios: what is as much faster as slower is as far away.
    limit = math.log1p(tolerance)
    far = ALONE * limit
    alone = tuple(row.name for row in rows if abs(math.log1p(row.change)) > far and not row.noisy)
    drifted = any(
        math.log1p(group.low) > limit or math.log1p(group.high) < -limit for group in groups
    )
    return DriftVerdict(groups=groups, alone=alone, drifted=drifted or bool(alone))


def _group_sentinels(name: str, rows: Sequence[Sentinel]) -> SentinelGroup:
    changes = sorted(row.change for row in rows)
    rank = median_rank(len(changes), _CONFIDENCE) or 0
    return SentinelGroup(
        name=name,
        count=len(changes),
        change=quantile(changes, 0.5),
        low=changes[rank],
        high=changes[-1 - rank],
    )


def may_drift(group: SentinelGroup, *, tolerance: float) -> bool:
    """Whether the interval of a group reaches beyond the tolerance."""
    return max(math.log1p(group.high), -math.log1p(group.low)) > math.log1p(tolerance)


def find_causes(
    table: LatencyTable, again: LatencyTable, rows: Sequence[Sentinel]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The likely causes of a drift, the likeliest first, and the notes that hold without one.

    Args:
        table: the stored one.
        again: the table of the sentinels timed again, with the machine as it is now.
        rows: the sentinels.
    """
    before = {**table.environment, "runtime_version": table.runtime_version}
    now = {**again.environment, "runtime_version": again.runtime_version}
    after: Mapping[str, Any] = now.get("after") or now
    machine = _list_changes(before, now, _MACHINE)
    versions = _list_changes(before, now, _VERSIONS)
    causes = [f"another machine: {words}" for words in machine]
    causes += [f"versions: {words}" for words in versions]
    causes += [f"clocks: {words}" for words in _list_changes(before, now, _CLOCKS)]
    canary, was = now.get("canary"), before.get("canary")
    if canary and was and abs(math.log(canary / was)) > 0.02:
        heat = after.get("temperature")
        warm = "" if heat is None else f", {heat:.0f} degrees"
        causes.append(
            f"clocks: the processor itself is {_describe_change(canary / was - 1)}{warm}: its "
            "frequency, heat or a limit of power"
        )
    throttled = str(after.get("throttled") or "").partition("=")[2]
    if throttled not in ("", "0x0"):
        causes.append(f"clocks: the board reports throttled={throttled}")
    noisy = sum(row.noisy for row in rows)
    load, cores = now.get("load"), now.get("cores")
    if noisy or (load and cores and load > cores):
        busy = f", the load was {load:.1f} on {cores} cores" if load and cores else ""
        causes.append(
            f"noise: {noisy} of {len(rows)} sentinels met the machine at full speed too seldom"
            f"{busy}"
        )
    if not causes:
        causes.append(
            "no cause is known: versions, clocks and the processor's own speed are as they were; "
            "look for another build of the runtime, or for memory that others use"
        )
    notes = [f"changed since the table was made: {words}" for words in machine + versions]
    if noisy:
        notes.append(f"{noisy} of {len(rows)} sentinels stayed noisy")
    return tuple(causes), tuple(notes)


def _describe_change(change: float) -> str:
    return f"{abs(change):.1%} {'slower' if change >= 0 else 'faster'}"


def _list_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    return [
        f"{name} was {before[name]}, is {now.get(name)}"
        for name in names
        if before.get(name) is not None and before[name] != now.get(name)
    ]
