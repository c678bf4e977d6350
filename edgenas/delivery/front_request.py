"""What ``pareto`` can be asked for. This module loads nothing heavy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.options import Option, check_request
from edgenas.basics.ranges import Range
from edgenas.delivery.request import SUPERNET
from edgenas.latency.request import BatchSize, PrecisionName, RuntimeName, ThreadCount
from edgenas.strategies.constraint import Constraint, parse_constraint

Goal = Literal["max", "min"]
METRICS: Mapping[str, Goal] = {
    "accuracy": "max",
    "latency": "min",
    "params": "min",
    "macs": "min",
    "memory": "min",
    "energy": "min",
}
ON_DEVICES = ("latency", "energy")
_FORM = re.compile(r"\s*([A-Za-z]+)\s*(?:@\s*([\w.-]+)\s*)?")


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that networks of a front are compared in.

    Args:
        metric: ``accuracy``, ``latency``, ``params``, ``macs``, ``memory`` or ``energy``.
        target: the device of a latency or an energy; empty for the one that the front is of.
    """

    metric: str
    target: str = ""

    @property
    def name(self) -> str:
        """``latency`` or ``latency@rpi4``."""
        return f"{self.metric}@{self.target}" if self.target else self.metric


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """The metrics of a text like ``accuracy,latency@rpi4,params``.

    Raises:
        EdgenasError: an unknown metric, another form, a metric that stands there twice, or fewer
            than two.
    """
    metrics: list[Metric] = []
    for part in filter(str.strip, text.split(",")):
        match = _FORM.fullmatch(part)
        if match is None:
            raise EdgenasError(
                f"metrics must read like accuracy,latency@rpi4,params, found {part.strip()!r}",
                hint=f"metrics: {', '.join(METRICS)}",
            )
        metric = Metric(match[1].lower(), match[2] or "")
        if metric.metric not in METRICS:
            raise unknown_name("metric", match[1], names=METRICS, listing="edgenas pareto --help")
        if metric.target and metric.metric not in ON_DEVICES:
            raise EdgenasError(
                f"metrics: {metric.metric} is the same on every device, found {metric.name}",
                hint=f"write {metric.metric}",
            )
        if metric in metrics:
            raise EdgenasError(
                f"metrics: {metric.name} stands there twice", hint="name each metric once"
            )
        metrics.append(metric)
    if len(metrics) < 2:
        raise EdgenasError(
            f"a front has at least two metrics, found {len(metrics)}",
            hint="for example --metrics accuracy,latency; for a single one: edgenas search",
        )
    return tuple(metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoRequest:
    """The metrics and the devices whose fronts are searched for."""

    device: Annotated[
        tuple[str, ...],
        Option(
            "Device name or alias, or a profile; see: edgenas list devices. Each has a front of "
            "its own."
        ),
    ] = ()
    metrics: Annotated[
        str,
        Option(
            "Two or more of accuracy, latency, params, macs, memory and energy, parted by commas; "
            "latency@rpi4 and energy@rpi4 are of one more device."
        ),
    ] = "accuracy,latency"
    supernet: Annotated[str, Option("Name or folder of a trained supernet.")] = SUPERNET
    runtime: RuntimeName = None
    precision: PrecisionName = None
    threads: ThreadCount = None
    batch: BatchSize = None
    constraint: Annotated[
        tuple[str, ...],
        Option("A budget of what is no metric of the front, e.g. 'params<=250K'."),
    ] = ()
    confidence: Annotated[
        Annotated[float, Range(0.5, 0.999, "fraction")], Option("Confidence of the upper bounds.")
    ] = 0.95
    strategy: Annotated[
        Literal["nsga2", "hypervolume"],
        Option("Who lives on: the least crowded, or those that add most to the hypervolume."),
    ] = "nsga2"
    evaluations: Annotated[
        Annotated[int, Range(1, 2**53, "count")],
        Option("Networks scored for each device at most."),
    ] = 50_000
    history: Annotated[
        Path | None,
        Option("CSV file of every network scored. An interrupted search goes on from it."),
    ] = None
    seed: Annotated[Annotated[int, Range(0, 2**63 - 1, "count")], Option("Seed of the search.")] = 0

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """All budgets. Raises EdgenasError where one cannot be read."""
        return tuple(parse_constraint(text, name="constraint") for text in self.constraint)

    @property
    def asked(self) -> tuple[Metric, ...]:
        """The metrics of the front. Raises EdgenasError as ``parse_metrics``."""
        return parse_metrics(self.metrics)

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            EdgenasError: a device is needed and there is none, a history is for many devices, or a
                budget is of a metric of the front.
        """
        check_request(self)
        wanted = [metric.name for metric in self.asked]
        limited = [constraint.name for constraint in self.constraints]
        unnamed = [name for name in (*wanted, *limited) if name in ON_DEVICES]
        if unnamed and not self.device:
            raise EdgenasError(
                f"no device is named, and {unnamed[0]} is of one",
                hint="edgenas pareto --device jetson",
            )
        if self.history is not None and len(self.device) > 1:
            raise EdgenasError(
                f"a history is of one search, {len(self.device)} devices are searched for one by "
                "one",
                hint="name a single device, and another history for the next",
            )
        for constraint in self.constraints:
            if constraint.name in wanted:
                raise EdgenasError(
                    f"{constraint.name} is in the front, so it is not cut there: {constraint}",
                    hint=f"the whole range of {constraint.name} is in the front; read it off there",
                )
