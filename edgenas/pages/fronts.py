"""The fronts of some devices, as a page."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from edgenas.basics.held_out import describe_lean
from edgenas.basics.units import count
from edgenas.pages.front_charts import (
    Axes,
    Axis,
    describe_ends,
    draw_front,
    find_axes,
    name_fronts,
    name_metric,
    number,
    shared_spans,
)
from edgenas.pages.markup import Node, facts, node, page, section, table

_METHODS = {
    "nsga2": "searched by NSGA-II",
    "hypervolume": "searched by hypervolume",
}


def fronts_page(fronts: Mapping[str, Any], *, axes: Axes | None = None) -> str:
    """Write the page of the fronts of some devices.

    Args:
        fronts: as from ``Fronts.to_json``.
        axes: the two metrics that charts show, x first; None: every pair.

    Raises:
        EdgenasError: an axis is no metric of the fronts.
    """
    pairs = find_axes(fronts, axes)
    title = name_fronts(fronts)
    accuracy, constraints = fronts["accuracy"], " and ".join(fronts["constraints"])
    rows: list[tuple[str, Node]] = [
        ("supernet", f"{fronts['supernet']}, space {fronts['space']}"),
        ("upper bounds", f"at {fronts['confidence']:.0%} confidence"),
        ("other limits", constraints or "none"),
        ("seed", str(fronts["seed"])),
    ]
    if accuracy is not None:
        words = (
            f"predicted, of {accuracy['of']}; mean error {100 * accuracy['error']:.2f} points on "
            f"{accuracy['n']} archs ({accuracy['method']})"
        )
        lean = describe_lean(**{name: accuracy[name] for name in ("error", "bias", "n")})
        words += f"; such predictions were {lean}" if lean else ""
        rows.insert(1, (name_metric("accuracy", fronts), words))
    shown = [_show_front(front, pairs, fronts) for front in fronts["devices"]]
    return page(
        title,
        node("h1", title.rpartition(" on ")[0]),
        node(
            "p",
            f"The front of {fronts['supernet']} on {title.rpartition(' on ')[2]}",
            class_="lead",
        ),
        node("div", *shown, class_="columns"),
        section("What the numbers are", facts(rows)),
        section("Every network", *(_list_networks(front, fronts) for front in fronts["devices"])),
    )


def _show_front(
    front: Mapping[str, Any], pairs: Sequence[tuple[Axis, Axis]], fronts: Mapping[str, Any]
) -> Element:
    """The section of one device: its charts, what the numbers are, and notes."""
    spans = shared_spans(fronts, pairs)
    charts = [draw_front(front, pair, spans=spans)[0] for pair in pairs]
    method = "the exact front of the space" if front["exact"] else _METHODS[fronts["strategy"]]
    caption = node(
        "figcaption",
        f"{front['target']}: {len(front['points'])} networks, {describe_ends(front)}; {method}, "
        f"{front['evaluations']:,} scored. {_sources(front)}",
    )
    notes = [node("p", f"Note: {text}", class_="muted") for text in front["notes"]]
    return section(front["device"] or "Any device", node("figure", *charts, caption), *notes)


def _sources(front: Mapping[str, Any]) -> str:
    """What the latencies and energies of a front rest on, in whole sentences."""
    told: list[str] = []
    for metric in front["metrics"]:
        if metric["target"] is None:
            continue
        how = metric["provenance"]
        how = "estimated" if how == "estimated" else f"predicted from {how} numbers"
        of = f" ({metric['target']})" if "@" in metric["name"] else ""
        bound = metric["bound"] or "no bound is known"
        name = metric["name"][0].upper() + metric["name"][1:]
        told.append(f"{name}{of} {how}: {metric['source']}; {bound}.")
    return " ".join(told)


def _list_networks(front: Mapping[str, Any], fronts: Mapping[str, Any]) -> Element:
    metrics = front["metrics"]
    names = [metric["name"] for metric in metrics]
    counts = [name for name in ("macs", "params") if name not in names]
    columns = ["network"]
    for metric in metrics:
        columns.append(name_metric(metric["name"], fronts))
        columns += ["at most"] if metric["upper"] else []
    rows: list[tuple[Node, ...]] = []
    for point in front["points"]:
        cells: list[Node] = [node("code", point["arch_id"])]
        for metric in metrics:
            cells.append(number(metric, point[metric["column"]]))
            if metric["upper"]:
                upper = point[metric["upper"]]
                cells.append("" if upper is None else number(metric, upper))
        rows.append((*cells, *(count(point[name]) for name in counts)))
    columns += ["MACs" if name == "macs" else name for name in counts]
    device = front["device"] or "any device"
    listed = table(tuple(columns), rows, label=f"The front on {device}", numbers=1)
    summary = node("summary", f"All {len(rows)} networks on {device}")
    return node("details", summary, listed)
