"""The fronts of a supernet: networks that no other scored one beats in all metrics, as files.

A front is what budgets can be chosen from; ``specialize`` then builds, checks and, where the device
is at hand, measures a network for one of them.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_json, write_text
from edgenas.basics.held_out import HeldOut
from edgenas.delivery.front_request import METRICS, Goal, Metric
from edgenas.latency.device import Target
from edgenas.pages.front_charts import draw_fronts
from edgenas.pages.fronts import fronts_page
from edgenas.space.arch import Arch

SCHEMA = "edgenas.fronts/2"
ENDINGS = (".csv", ".json", ".html", ".svg", ".png", ".pdf")
# The column of a metric in files, and the number in it for one of the unit inside.
_COLUMNS = {
    "latency": ("latency_ms", 1e3),
    "energy": ("energy_mj", 1e3),
    "memory": ("memory_bytes", 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontMetric:
    """One metric of a front, and what its numbers rest on.

    Args:
        metric: as asked for.
        provenance: ``predicted`` (accuracy), ``measured``, ``published`` or ``estimated`` (the
            numbers behind a predicted latency or energy), or ``counted``.
        source: of the numbers, in words.
        target: of a latency or an energy; None: of none.
        bound: what its upper bounds rest on; empty: there are none.
    """

    metric: Metric
    provenance: str
    source: str
    target: Target | None = None
    bound: str = ""

    @property
    def name(self) -> str:
        """As it was asked for: ``latency@rpi4``."""
        return self.metric.name

    @property
    def goal(self) -> Goal:
        """Whether the most or the least of it is wanted."""
        return METRICS[self.metric.metric]

    @property
    def column(self) -> str:
        """Its name in files, with the unit: ``latency_ms@rpi4``."""
        return self._column("")

    @property
    def upper_column(self) -> str:
        """The name of its upper bound in files."""
        return self._column("_upper")

    @property
    def bounded(self) -> bool:
        """Whether it is of a kind that has upper bounds."""
        return self.target is not None

    def written(self, value: float) -> float:
        """A value as files hold it: milliseconds, millijoules, bytes, counts, fractions of 1."""
        value *= _COLUMNS.get(self.metric.metric, ("", 1.0))[1]
        return int(value) if self.provenance == "counted" else value

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "name": self.name,
            "goal": self.goal,
            "column": self.column,
            "upper": self.upper_column if self.bounded else None,
            "target": None if self.target is None else str(self.target),
            "provenance": self.provenance,
            "source": self.source,
            "bound": self.bound,
        }

    def _column(self, kind: str) -> str:
        column, _ = _COLUMNS.get(self.metric.metric, (self.metric.metric, 1.0))
        word, _, unit = column.partition("_")
        name = f"{word}{kind}_{unit}" if unit else word
        return f"{name}@{self.metric.target}" if self.metric.target else name


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A network that no other scored one beats in all metrics.

    Args:
        arch: the network.
        values: predictions and counts by the name of the metric, in seconds, joules, bytes, counts
            and fractions of 1; always with ``macs`` and ``params``.
        uppers: bounds at the front's confidence, of those metrics that have one.
    """

    arch: Arch
    values: Mapping[str, float]
    uppers: Mapping[str, float]

    def to_json(self, metrics: tuple[FrontMetric, ...]) -> dict[str, Any]:
        """The JSON object, whose numbers have the units of their columns."""
        told: dict[str, Any] = {"arch_id": self.arch.id, "arch": self.arch.to_json()}
        for metric in metrics:
            told[metric.column] = metric.written(self.values[metric.name])
            if metric.bounded:
                upper = self.uppers.get(metric.name)
                told[metric.upper_column] = None if upper is None else metric.written(upper)
        return told | {name: int(self.values[name]) for name in ("macs", "params")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFront:
    """The front on one device, or of metrics that are of no device.

    Args:
        target: of ``latency`` and ``energy``; None where no device was named.
        title: of the device, for people.
        metrics: what networks are compared in, in the order asked for.
        exact: whether every network of the space was scored.
        evaluations: networks scored.
        notes: what a reader should know.
        points: the least of the first cost first.
    """

    target: Target | None
    title: str
    metrics: tuple[FrontMetric, ...]
    exact: bool
    evaluations: int
    notes: tuple[str, ...]
    points: tuple[FrontPoint, ...]

    @property
    def name(self) -> str:
        """The target, or the words for none."""
        return "any device" if self.target is None else str(self.target)

    @property
    def provenance(self) -> str:
        """The weakest evidence behind its metrics."""
        weakest = ("estimated", "published", "measured", "predicted", "counted")
        return min((m.provenance for m in self.metrics), key=weakest.index)

    @property
    def first_cost(self) -> FrontMetric:
        """The metric by which the networks are listed."""
        return next(m for m in self.metrics if m.goal == "min")

    def few(self, count: int) -> list[FrontPoint]:
        """Some networks of the front that tell of all of it.

        Of two metrics, the best network for each of so many budgets, evenly spread over the first
        cost. Of more, the ends, and then always the network farthest from all taken (Gonzalez 1985,
        "Clustering to minimize the maximum intercluster distance").
        """
        if len(self.metrics) > 2:
            return self._spread(count)
        name = self.first_cost.name
        ends = self.points[0].values[name], self.points[-1].values[name]
        shown: list[FrontPoint] = []
        for budget in np.linspace(*ends, count):
            within = [p for p in self.points if p.values[name] <= budget * (1 + 1e-9)]
            if not shown or within[-1] != shown[-1]:
                shown.append(within[-1])
        return shown

    def _spread(self, count: int) -> list[FrontPoint]:
        values = np.array([[p.values[m.name] for m in self.metrics] for p in self.points])
        ranges = np.ptp(values, axis=0)
        values = (values - values.min(0)) / np.where(ranges > 0, ranges, 1.0)
        best = [
            int(v.argmax() if m.goal == "max" else v.argmin())
            for m, v in zip(self.metrics, values.T, strict=True)
        ]
        taken = list(dict.fromkeys(best))[:count]
        apart = np.min([((values - values[i]) ** 2).sum(1) for i in taken], axis=0)
        while len(taken) < count and apart.max() > 0:
            taken.append(int(apart.argmax()))
            apart = np.minimum(apart, ((values - values[taken[-1]]) ** 2).sum(1))
        return [self.points[i] for i in sorted(taken)]

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "device": None if self.target is None else self.target.device,
            "target": self.name,
            "title": self.title,
            "provenance": self.provenance,
            "metrics": [metric.to_json() for metric in self.metrics],
            "exact": self.exact,
            "evaluations": self.evaluations,
            "notes": list(self.notes),
            "points": [point.to_json(self.metrics) for point in self.points],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fronts:
    """The fronts of a supernet.

    Args:
        supernet: its name.
        space: name of its space.
        data: the images that accuracy is predicted of, e.g. ``cifar10 validation, n=5000``; empty:
            accuracy is no metric.
        teacher: whose answers count as right; empty: labels that people gave do.
        error: of the accuracy predictor; None: accuracy is no metric.
        constraints: that every network keeps beside.
        confidence: of upper bounds.
        strategy: of the search.
        seed: of the search.
        devices: one front each, in the order asked for.
    """

    supernet: str
    space: str
    data: str
    teacher: str
    error: HeldOut | None
    constraints: tuple[str, ...]
    confidence: float
    strategy: str
    seed: int
    devices: tuple[DeviceFront, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        accuracy = None
        if self.error is not None:
            accuracy = {"of": self.data, **self.error.to_json()}
            accuracy |= {"teacher": self.teacher} if self.teacher else {}
        return {
            "schema": SCHEMA,
            "supernet": self.supernet,
            "space": self.space,
            "accuracy": accuracy,
            "constraints": list(self.constraints),
            "confidence": self.confidence,
            "strategy": self.strategy,
            "seed": self.seed,
            "devices": [front.to_json() for front in self.devices],
        }

    def to_csv(self) -> str:
        """One line a network, under a line of names."""
        points = [front.to_json()["points"] for front in self.devices]
        columns = [name for name in points[0][0] if name not in ("arch_id", "arch")]
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["device", "target", "provenance", "arch_id", *columns, "arch"])
        for front, fields in zip(self.devices, points, strict=True):
            target = front.target
            first = ["", ""] if target is None else [target.device, target.slug]
            for point, told in zip(front.points, fields, strict=True):
                numbers = [told[name] for name in columns]
                lines.writerow([*first, front.provenance, point.arch.id, *numbers, str(point.arch)])
        return text.getvalue()


def write_fronts(fronts: Fronts, path: Path, *, axes: tuple[str, str] | None = None) -> None:
    """Write fronts to a file; its ending says how: .csv, .json, .html, .svg, .png or .pdf.

    Args:
        fronts: to write.
        path: of the file.
        axes: the two metrics that charts show; None: all pairs.

    Raises:
        EdgenasError: another ending, or an axis that is no metric of the fronts.
    """
    check_ending(path)
    told = fronts.to_json()
    if path.suffix == ".csv":
        write_text(path, fronts.to_csv())
    elif path.suffix == ".json":
        write_json(path, told)
    elif path.suffix == ".html":
        write_text(path, fronts_page(told, axes=axes))
    else:
        draw_fronts(told, path, axes=axes)


def check_ending(path: Path) -> None:
    """Refuse the name of a file that fronts cannot be written to.

    Raises:
        EdgenasError: names the endings.
    """
    if path.suffix not in ENDINGS:
        raise EdgenasError(
            f"--out must end in one of {' '.join(ENDINGS)}, found {path.name!r}",
            hint="for example --out front.html --out front.csv",
        )
