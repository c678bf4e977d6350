"""The fronts of some devices, as a page and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_file, write_text
from edgenas.basics.units import count
from edgenas.pages.charts import WIDTH, Plane, drawing, span, staircase
from edgenas.pages.markup import (
    Node,
    facts,
    node,
    page,
    section,
    short,
    svg_document,
    table,
)

PICTURES = (".svg", ".png", ".pdf")


def fronts_page(fronts: Mapping[str, Any]) -> str:
    """Write the page of the fronts of some devices.

    Args:
        fronts: as from ``Fronts.to_json``.
    """
    heights = _accuracy_span(fronts)
    names = ", ".join(front["device"] for front in fronts["devices"])
    accuracy = fronts["accuracy"]
    constraints = " and ".join(fronts["constraints"])
    rows: list[tuple[str, Node]] = [
        ("supernet", f"{fronts['supernet']}, space {fronts['space']}"),
        (
            "accuracy",
            f"predicted, of {accuracy['of']}; mean error {100 * accuracy['error']:.2f} points on "
            f"{accuracy['n']} archs ({accuracy['method']})",
        ),
        ("latency", f"predicted; upper bounds at {fronts['confidence']:.0%} confidence"),
        ("other limits", constraints or "none"),
        ("seed", str(fronts["seed"])),
    ]
    return page(
        _name_fronts(fronts),
        node("h1", "Accuracy and latency"),
        node("p", f"The front of {fronts['supernet']} on {names}", class_="lead"),
        node("div", *(_show_front(f, heights) for f in fronts["devices"]), class_="columns"),
        section("What the numbers are", facts(rows)),
        section("Every network", *(_list_networks(front) for front in fronts["devices"])),
    )


def draw_fronts(fronts: Mapping[str, Any], path: Path) -> None:
    """Draw the fronts of all devices; the suffix of the path decides the format.

    An SVG holds the charts of the page. A PNG or a PDF has one plane for all devices, and
    matplotlib draws it.

    Args:
        fronts: as from ``Fronts.to_json``.
        path: ends in ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        EdgenasError: another suffix, or the file cannot be written.
    """
    if path.suffix not in PICTURES:
        raise EdgenasError(f"a picture must end in {', '.join(PICTURES)}, found {path.name!r}")
    if path.suffix == ".svg":
        write_text(path, _draw_vectors(fronts))
    else:
        _draw_with_matplotlib(fronts, path)


def _draw_vectors(fronts: Mapping[str, Any]) -> str:
    """An SVG document: the chart of each device with its name above, one below the other."""
    heights = _accuracy_span(fronts)
    parts: list[Element] = []
    top = 0.0
    for front in fronts["devices"]:
        name = f"{front['target']} ({front['provenance']})"
        parts.append(node("text", name, x=0, y=top + 16, class_="strong"))
        chart, height = _draw_front(front, heights)
        place = {"y": short(top + 24), "width": short(WIDTH), "height": short(height)}
        for attribute, value in place.items():
            chart.set(attribute, value)
        parts.append(chart)
        top += height + 40
    return svg_document(*parts, width=WIDTH, height=top, title=_name_fronts(fronts))


def _draw_with_matplotlib(fronts: Mapping[str, Any], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar sign is just that
        figure = Figure(figsize=(7, 4.0 + 0.2 * len(fronts["devices"])), layout="constrained")
        axes = figure.add_subplot()
        for front in fronts["devices"]:
            points = front["points"]
            axes.plot(
                [p["latency_ms"] for p in points],
                [100 * p["accuracy"] for p in points],
                drawstyle="steps-post",
                marker=".",
                markersize=3,
                linewidth=1.4,
                label=f"{front['target']} ({front['provenance']})",
            )
        latencies = [p["latency_ms"] for front in fronts["devices"] for p in front["points"]]
        if max(latencies) > 20 * min(latencies):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("predicted latency, ms")
        axes.set_ylabel(f"predicted accuracy, %\n{fronts['accuracy']['of']}")
        axes.grid(color="#d3dae3", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, loc="outside lower left")
        # Without a date, two files of the same picture are equal.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
        with new_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _name_fronts(fronts: Mapping[str, Any]) -> str:
    names = ", ".join(front["device"] for front in fronts["devices"])
    return f"Accuracy and latency on {names}"


def _accuracy_span(fronts: Mapping[str, Any]) -> tuple[float, float]:
    """The range of accuracies in percent, the same for all charts."""
    return span([100 * p["accuracy"] for front in fronts["devices"] for p in front["points"]])


def _describe_ends(points: Sequence[Mapping[str, Any]]) -> str:
    first, last = points[0], points[-1]
    return (
        f"from {first['accuracy']:.2%} at {first['latency_ms']:.3g} ms "
        f"to {last['accuracy']:.2%} at {last['latency_ms']:.3g} ms"
    )


def _draw_front(front: Mapping[str, Any], heights: tuple[float, float]) -> tuple[Element, float]:
    """The chart of one device and its height in pixels."""
    points: Sequence[Mapping[str, Any]] = front["points"]
    places = [(p["latency_ms"], 100 * p["accuracy"]) for p in points]
    plane = Plane.of(span([x for x, _ in places]), heights)
    marks = [
        plane.mark(
            *place,
            class_="frontdot",
            title=f"{p['arch_id']}: {p['accuracy']:.2%}, {p['latency_ms']:.4g} ms",
            radius=2,
        )
        for place, p in zip(places, points, strict=True)
    ]
    chart = drawing(
        plane.axes(x_name=f"{_kind(front)} latency, ms", y_name="predicted accuracy, %"),
        plane.line(staircase(places, end=plane.x.high), class_="front"),
        *marks,
        height=plane.height,
        title=f"The front on {front['device']}",
        words=f"{len(points)} networks, {_describe_ends(points)}.",
    )
    return chart, plane.height


def _kind(front: Mapping[str, Any]) -> str:
    return "predicted" if front["provenance"] != "estimated" else "estimated"


def _show_front(front: Mapping[str, Any], heights: tuple[float, float]) -> Element:
    """The section of one device: its chart, what the numbers are, and notes."""
    points = front["points"]
    chart, _ = _draw_front(front, heights)
    method = "the exact front of the space" if front["exact"] else "found by NSGA-II"
    bound = f"; {front['bound']}" if front["bound"] else "; no bound is known"
    kind = _kind(front)
    of = "" if kind == "estimated" else f" from {front['provenance']} numbers"
    caption = node(
        "figcaption",
        f"{front['target']}: {len(points)} networks, {_describe_ends(points)}; {method}, "
        f"{front['evaluations']:,} scored. Latencies {kind}{of}: {front['source']}{bound}.",
    )
    notes = [node("p", f"Note: {text}", class_="muted") for text in front["notes"]]
    return section(front["device"], node("figure", chart, caption), *notes)


def _list_networks(front: Mapping[str, Any]) -> Element:
    rows: list[tuple[Node, ...]] = [
        (
            node("code", point["arch_id"]),
            f"{point['accuracy']:.2%}",
            f"{point['latency_ms']:.4g}",
            "" if point["latency_upper_ms"] is None else f"{point['latency_upper_ms']:.4g}",
            count(point["macs"]),
            count(point["params"]),
        )
        for point in front["points"]
    ]
    columns = ("network", "accuracy", "ms", "at most ms", "MACs", "params")
    listed = table(columns, rows, label=f"The front on {front['device']}", numbers=1)
    summary = node("summary", f"All {len(rows)} networks on {front['device']}")
    return node("details", summary, listed)
