"""The fronts of some devices, as a page and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_file
from edgenas.basics.units import count
from edgenas.pages.charts import Plane, drawing, span, staircase
from edgenas.pages.markup import (
    Node,
    facts,
    node,
    page,
    section,
    table,
)

PICTURES = (".svg", ".png", ".pdf")


def fronts_page(told: Mapping[str, Any]) -> str:
    """The page of the fronts that ``Fronts.to_json`` tells."""
    scores = [100 * p["accuracy"] for device in told["devices"] for p in device["points"]]
    heights = span(scores)
    names = ", ".join(device["device"] for device in told["devices"])
    accuracy = told["accuracy"]
    kept = " and ".join(told["constraints"])
    rows: list[tuple[str, Node]] = [
        ("supernet", f"{told['supernet']}, space {told['space']}"),
        (
            "accuracy",
            f"predicted, of {accuracy['of']}; mean error {100 * accuracy['error']:.2f} points on "
            f"{accuracy['n']} archs ({accuracy['method']})",
        ),
        ("latency", f"predicted; upper bounds at {told['confidence']:.0%} confidence"),
        ("kept beside", kept or "nothing"),
        ("seed", str(told["seed"])),
    ]
    return page(
        f"Accuracy and latency on {names}",
        node("h1", "Accuracy and latency"),
        node("p", f"The front of {told['supernet']} on {names}", class_="lead"),
        node("div", *(_device(d, heights) for d in told["devices"]), class_="columns"),
        section("What the numbers are", facts(rows)),
        section("Every network", *(_table(device) for device in told["devices"])),
    )


def draw_fronts(told: Mapping[str, Any], path: Path) -> None:
    """Draw the fronts of all devices into one picture; the suffix says of which kind.

    Args:
        told: as from ``Fronts.to_json``.
        path: ends in ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        EdgenasError: another suffix, or it cannot be written.
    """
    if path.suffix not in PICTURES:
        raise EdgenasError(f"a picture must end in {', '.join(PICTURES)}, found {path.name!r}")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    # Without these two, no two files of the same picture are alike.
    with matplotlib.rc_context({"svg.hashsalt": "edgenas", "text.parse_math": False}):
        figure = Figure(figsize=(7, 4.0 + 0.2 * len(told["devices"])), layout="constrained")
        axes = figure.add_subplot()
        for device in told["devices"]:
            points = device["points"]
            axes.plot(
                [p["latency_ms"] for p in points],
                [100 * p["accuracy"] for p in points],
                drawstyle="steps-post",
                marker=".",
                markersize=3,
                linewidth=1.4,
                label=f"{device['target']} ({device['provenance']})",
            )
        every = [p["latency_ms"] for device in told["devices"] for p in device["points"]]
        if max(every) > 20 * min(every):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("predicted latency, ms")
        axes.set_ylabel(f"predicted accuracy, %\n{told['accuracy']['of']}")
        axes.grid(color="#d3dae3", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, loc="outside lower left")
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
        with new_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=undated)


def _device(told: Mapping[str, Any], heights: tuple[float, float]) -> Element:
    points: Sequence[Mapping[str, Any]] = told["points"]
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
    ends = f"from {points[0]['accuracy']:.2%} at {points[0]['latency_ms']:.3g} ms"
    ends += f" to {points[-1]['accuracy']:.2%} at {points[-1]['latency_ms']:.3g} ms"
    kind = "predicted" if told["provenance"] != "estimated" else "estimated"
    chart = drawing(
        plane.axes(x_name=f"{kind} latency, ms", y_name="predicted accuracy, %"),
        plane.line(staircase(places, end=plane.x.high), class_="front"),
        *marks,
        height=plane.height,
        title=f"The front on {told['device']}",
        words=f"{len(points)} networks, {ends}.",
    )
    exact = "the exact front of the space" if told["exact"] else "found by NSGA-II"
    bound = f"; {told['bound']}" if told["bound"] else "; no bound is known"
    of = "" if kind == "estimated" else f" from {told['provenance']} numbers"
    caption = node(
        "figcaption",
        f"{told['target']}: {len(points)} networks, {ends}; {exact}, {told['evaluations']:,} "
        f"scored. Latencies {kind}{of}: {told['source']}{bound}.",
    )
    notes = [node("p", f"Note: {text}", class_="muted") for text in told["notes"]]
    return section(told["device"], node("figure", chart, caption), *notes)


def _table(told: Mapping[str, Any]) -> Element:
    rows: list[tuple[Node, ...]] = [
        (
            node("code", point["arch_id"]),
            f"{point['accuracy']:.2%}",
            f"{point['latency_ms']:.4g}",
            "" if point["latency_upper_ms"] is None else f"{point['latency_upper_ms']:.4g}",
            count(point["macs"]),
            count(point["params"]),
        )
        for point in told["points"]
    ]
    columns = ("network", "accuracy", "ms", "at most ms", "MACs", "params")
    listed = table(columns, rows, label=f"The front on {told['device']}", numbers=1)
    summary = node("summary", f"All {len(rows)} networks on {told['device']}")
    return node("details", summary, listed)
