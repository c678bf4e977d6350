"""The charts of fronts: two metrics, or every pair of more."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_file, write_text
from edgenas.basics.units import count, size
from edgenas.bundle.accuracy import name_accuracy
from edgenas.pages.charts import WIDTH, Plane, drawing, span, staircase
from edgenas.pages.markup import node, short, svg_document

PICTURES = (".svg", ".png", ".pdf")
Axes = tuple[str, str]
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A metric as charts show it.

    Args:
        name: of the metric.
        column: of its values in points.
        word: the metric, for people.
        goal: ``max`` or ``min``.
        label: what stands at the axis: what the numbers are, and their unit.
        factor: from a number of a file to one of the axis.
    """

    name: str
    column: str
    word: str
    goal: str
    label: str
    factor: float

    def of(self, points: Sequence[Mapping[str, Any]]) -> list[float]:
        """The values of points, in the unit of the axis."""
        return [self.factor * point[self.column] for point in points]


def find_axes(fronts: Mapping[str, Any], axes: Axes | None) -> list[tuple[Axis, Axis]]:
    """The pairs that charts show, (x, y): the two that are named, or all.

    Args:
        fronts: as from ``Fronts.to_json``.
        axes: the names of two metrics, x first; None: every pair, with accuracy as y.

    Raises:
        EdgenasError: a name is no metric of the fronts.
    """
    known = {metric["name"]: metric for metric in fronts["devices"][0]["metrics"]}
    for name in axes or ():
        if name not in known:
            raise EdgenasError(
                f"--axes must name metrics of the front, found {name!r}",
                hint=f"its metrics: {', '.join(known)}",
            )
    if axes is not None:
        return [(_axis(known[axes[0]], fronts), _axis(known[axes[1]], fronts))]
    pairs: list[tuple[Axis, Axis]] = []
    for one, other in itertools.combinations(known.values(), 2):
        x, y = (one, other) if other["goal"] == "max" else (other, one)
        pairs.append((_axis(x, fronts), _axis(y, fronts)))
    return pairs


def number(metric: Mapping[str, Any], value: float) -> str:
    """A value of a file, for people: ``91.20%``, ``3.205 ms``, ``1.2M``, ``4.1 MB``."""
    kind = metric["name"].partition("@")[0]
    if kind == "accuracy":
        return f"{value:.2%}"
    if kind in ("latency", "energy"):
        return f"{value:.4g} {'ms' if kind == 'latency' else 'mJ'}"
    return size(value) if kind == "memory" else count(value)


def draw_front(
    front: Mapping[str, Any], pair: tuple[Axis, Axis], *, spans: Mapping[str, tuple[float, float]]
) -> tuple[Element, float]:
    """The chart of one device and its height in pixels.

    The line joins the networks that no other beats in these two metrics alone.

    Args:
        front: one of ``devices``.
        pair: the axes, x first.
        spans: the ranges of axes that all charts share, by the name of the metric.
    """
    points: Sequence[Mapping[str, Any]] = front["points"]
    x, y = pair
    places = list(zip(x.of(points), y.of(points), strict=True))
    plane = Plane.of(
        spans.get(x.name) or span([place[0] for place in places]),
        spans.get(y.name) or span([place[1] for place in places]),
    )
    shown = [m for m in front["metrics"] if m["name"] in (x.name, y.name)]
    marks: list[Element | None] = []
    for place, point in zip(places, points, strict=True):
        told = ", ".join(number(m, point[m["column"]]) for m in shown)
        title = f"{point['arch_id']}: {told}"
        marks.append(plane.mark(*place, class_="frontdot", title=title, radius=2))
    name = front["device"] or "any device"
    chart = drawing(
        plane.axes(x_name=x.label, y_name=y.label),
        plane.line(staircase(_frontier(places, goal=y.goal), end=plane.x.high), class_="front"),
        *marks,
        height=plane.height,
        title=f"The front on {name}: {y.word} and {x.word}",
        words=f"{len(points)} networks, {describe_ends(front)}.",
    )
    return chart, plane.height


def describe_ends(front: Mapping[str, Any]) -> str:
    """The first and the last network of a front in words."""
    ends = [
        " at ".join(number(m, point[m["column"]]) for m in front["metrics"][:2])
        for point in (front["points"][0], front["points"][-1])
    ]
    return f"from {ends[0]} to {ends[1]}"


def shared_spans(
    fronts: Mapping[str, Any], pairs: Sequence[tuple[Axis, Axis]]
) -> dict[str, tuple[float, float]]:
    """The ranges that the charts of all devices share: of what is maximised."""
    return {
        axis.name: span([v for front in fronts["devices"] for v in axis.of(front["points"])])
        for pair in pairs
        for axis in pair
        if axis.goal == "max"
    }


def draw_fronts(fronts: Mapping[str, Any], path: Path, *, axes: Axes | None = None) -> None:
    """Draw the fronts of all devices; the suffix of the path decides the format.

    An SVG holds the charts of the page. A PNG or a PDF has one plane for each pair of metrics with
    all devices, and matplotlib draws it.

    Args:
        fronts: as from ``Fronts.to_json``.
        path: ends in ``.svg``, ``.png`` or ``.pdf``.
        axes: as in ``find_axes``.

    Raises:
        EdgenasError: another suffix, an axis that is no metric, or the file cannot be written.
    """
    if path.suffix not in PICTURES:
        raise EdgenasError(f"a picture must end in {', '.join(PICTURES)}, found {path.name!r}")
    pairs = find_axes(fronts, axes)
    if path.suffix == ".svg":
        write_text(path, _draw_vectors(fronts, pairs))
    else:
        _draw_with_matplotlib(fronts, pairs, path)


def name_metric(name: str, fronts: Mapping[str, Any]) -> str:
    """A metric of fronts, for people: accuracy is agreement where a teacher's answers are right."""
    return name_accuracy((fronts["accuracy"] or {}).get("teacher")) if name == "accuracy" else name


def name_fronts(fronts: Mapping[str, Any]) -> str:
    """The title of the page and of the picture."""
    names = ", ".join(front["device"] or "any device" for front in fronts["devices"])
    metrics = [name_metric(metric["name"], fronts) for metric in fronts["devices"][0]["metrics"]]
    told = f"{', '.join(metrics[:-1])} and {metrics[-1]}"
    return f"{told[0].upper()}{told[1:]} on {names}"


def _axis(metric: Mapping[str, Any], fronts: Mapping[str, Any]) -> Axis:
    name, column = metric["name"], metric["column"]
    kind, _, device = name.partition("@")
    of = f" on {device}" if device else ""
    largest = max(abs(p[column]) for front in fronts["devices"] for p in front["points"])
    if kind == "accuracy":
        label, factor = f"predicted {name_metric(name, fronts)}, %", 100.0
    elif kind in ("latency", "energy"):
        provenances = {
            m["provenance"]
            for front in fronts["devices"]
            for m in front["metrics"]
            if m["name"] == name
        }
        how = "estimated" if provenances == {"estimated"} else "predicted"
        label, factor = f"{how} {kind}{of}, {'ms' if kind == 'latency' else 'mJ'}", 1.0
    else:
        scale, letter = next((s for s in _SCALES if largest >= s[0]), _SCALES[-1])
        unit = f"{letter}B" if kind == "memory" else letter
        word = "MACs" if kind == "macs" else kind
        label, factor = f"{word}, {unit}" if unit else word, 1 / scale
    return Axis(
        name=name,
        column=column,
        word=name_metric(name, fronts),
        goal=metric["goal"],
        label=label,
        factor=factor,
    )


def _frontier(places: Sequence[tuple[float, float]], *, goal: str) -> list[tuple[float, float]]:
    """The points that no other beats in both, x ascending; x is wanted low."""
    sign = -1.0 if goal == "max" else 1.0
    kept: list[tuple[float, float]] = []
    for x, y in sorted(places, key=lambda place: (place[0], sign * place[1])):
        if not kept or sign * y < sign * kept[-1][1]:
            kept.append((x, y))
    return kept


def _draw_vectors(fronts: Mapping[str, Any], pairs: Sequence[tuple[Axis, Axis]]) -> str:
    """An SVG document: the charts of each device with its name above, one below the other."""
    spans = shared_spans(fronts, pairs)
    parts: list[Element] = []
    top = 0.0
    for front in fronts["devices"]:
        name = f"{front['target']} ({front['provenance']})"
        parts.append(node("text", name, x=0, y=top + 16, class_="strong"))
        top += 24
        for pair in pairs:
            chart, height = draw_front(front, pair, spans=spans)
            place = {"y": short(top), "width": short(WIDTH), "height": short(height)}
            for attribute, value in place.items():
                chart.set(attribute, value)
            parts.append(chart)
            top += height + 16
    return svg_document(*parts, width=WIDTH, height=top, title=name_fronts(fronts))


def _draw_with_matplotlib(
    fronts: Mapping[str, Any], pairs: Sequence[tuple[Axis, Axis]], path: Path
) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(metric["name"] for metric in fronts["devices"][0]["metrics"]))
    side = 1 if len(pairs) == 1 else len(names) - 1
    places = [(i, j - 1) for i, j in itertools.combinations(range(len(names)), 2)]
    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar sign is just that
        room = 0.2 * len(fronts["devices"])
        wide, high = (7, 4.0 + room) if side == 1 else (3.2 * side, 2.8 * side + room)
        figure = Figure(figsize=(wide, high), layout="constrained")
        grid = figure.add_gridspec(side, side)
        for pair, place in zip(pairs, places if side > 1 else [(0, 0)], strict=True):
            _draw_plane(figure.add_subplot(grid[place]), fronts, pair)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower left")
        # Without a date, two files of the same picture are equal.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
        with new_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _draw_plane(axes: Any, fronts: Mapping[str, Any], pair: tuple[Axis, Axis]) -> None:
    """The fronts of all devices in two metrics."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    x, y = pair
    across: list[float] = []
    for front in fronts["devices"]:
        places = list(zip(x.of(front["points"]), y.of(front["points"]), strict=True))
        across += [place[0] for place in places]
        line = _frontier(places, goal=y.goal)
        (drawn,) = axes.plot(
            [place[0] for place in line],
            [place[1] for place in line],
            drawstyle="steps-post",
            linewidth=1.4,
            label=f"{front['target']} ({front['provenance']})",
        )
        colour = drawn.get_color()
        axes.scatter(*zip(*places, strict=True), s=3, color=colour)
    if max(across) > 20 * min(across):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    of = f"\n{fronts['accuracy']['of']}" if y.name == "accuracy" else ""
    axes.set_xlabel(x.label)
    axes.set_ylabel(f"{y.label}{of}")
    axes.grid(color="#d3dae3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
