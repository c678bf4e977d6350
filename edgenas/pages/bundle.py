"""``report.html`` of a bundle: everything about a network on one page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from edgenas.basics.units import count, milliseconds, size
from edgenas.bundle.contents import Contents
from edgenas.bundle.record import MeasuredLatency, Record, Retraining
from edgenas.bundle.trace import FrontNetwork, Trace
from edgenas.pages import charts
from edgenas.pages.cell import draw_cell
from edgenas.pages.charts import (
    ChartRow,
    Interval,
    Plane,
    drawing,
    span,
    staircase,
)
from edgenas.pages.classes import show_classes
from edgenas.pages.learning import show_learning
from edgenas.pages.markup import (
    Node,
    facts,
    legend,
    node,
    page,
    section,
    table,
)
from edgenas.pages.network import describe_layer, draw_network, kernel_sizes
from edgenas.pages.search_chart import show_search
from edgenas.space.genotype import genotype
from edgenas.space.layer import Layer

_LINES = ("front", "front second", "front third")


def bundle_page(contents: Contents) -> str:
    """Write the page of a bundle, an HTML document that needs nothing else.

    The same contents give the same bytes.
    """
    record, trace = contents.record, contents.trace
    budget = next((p for p in record.promises if p.constraint.startswith("latency<=")), None)
    limit = None if budget is None else budget.limit
    columns: list[Node] = [_latency(record, trace, budget=limit)]
    if trace.accuracies:
        columns.append(show_search(contents, budget=limit))
    columns.append(_network(contents))
    if trace.layers:
        columns.append(_layers(record, trace))
    if any(search.history for search in trace.searches):
        columns.append(_history(trace, record.accuracy.what))
    if trace.learning is not None and trace.learning.steps and trace.learning.choices:
        columns.append(show_learning(trace.learning))
    return page(
        f"{contents.arch.id} on {record.target}",
        node("h1", f"Network {contents.arch.id} on {record.target.device}"),
        node("p", node("code", str(contents.arch)), class_="lead"),
        node("p", f"Space {contents.space.name}, {record.target}", class_="muted"),
        _tiles(record),
        section("Promises", _promises(record)),
        node("div", *columns, class_="columns"),
        show_classes(record.classes, record.accuracy) if record.classes else None,
        _retraining(record.retraining) if record.retraining else None,
        _attempts(trace, budget=limit) if trace.attempts else None,
        _front(trace.front, record.accuracy.name) if trace.front else None,
        _notes(record),
        _provenance(contents),
    )


def _tiles(record: Record) -> Element:
    accuracy, costs = record.accuracy, record.costs
    words = f"{accuracy.kind} top-1 {accuracy.what}, {accuracy.data} {accuracy.split}"
    if accuracy.caution:
        words += f"; too high: {accuracy.caution}"
    if accuracy.lean:
        words += f"; such predictions were {accuracy.lean}"
    if accuracy.kind == "unknown":
        words = f"top-1 {accuracy.name}: nobody has measured it"
    tiles = [(accuracy.figure, words)]
    if record.measured is not None:
        tiles.append((milliseconds(record.measured.median), "latency measured, median"))
    elif record.predicted is not None:
        latency = record.predicted
        verb = "estimated" if latency.provenance == "estimated" else "predicted"
        upper = f"latency {verb}, at most {milliseconds(latency.upper)} at {latency.confidence:.0%}"
        tiles.append((milliseconds(latency.seconds), upper))
    if (energy := record.energy) is not None:
        bound = f"at most {1e3 * energy.upper:.3g} mJ at {energy.confidence:.0%}"
        tiles.append((f"{1e3 * energy.joules:.3g} mJ", f"energy of a run predicted, {bound}"))
    tiles.append((count(costs.macs), "MACs of one image"))
    tiles.append((count(costs.params), "parameters"))
    tiles.append((size(record.memory), f"memory while running, {record.target.precision}"))
    items = [node("li", node("b", value), node("span", words)) for value, words in tiles]
    return node("ul", *items, class_="tiles")


def _promises(record: Record) -> Element:
    if not record.promises:
        return node("p", "None: no budget was given.", class_="muted")
    items = [
        node("li", str(promise), class_=None if promise.holds else "broken")
        for promise in record.promises
    ]
    return node("ul", *items, class_="promises")


def _latency(record: Record, trace: Trace, *, budget: float | None) -> Element:
    predicted, measured = record.predicted, record.measured
    rows: list[Interval] = []
    marks: list[tuple[str, str]] = []
    words: list[Node] = []
    if predicted is not None:
        verb = "estimated" if predicted.provenance == "estimated" else "predicted"
        reads = f"{verb} {milliseconds(predicted.seconds)}, at most {milliseconds(predicted.upper)}"
        rows.append(
            Interval(
                words=reads, value=predicted.seconds, upper=predicted.upper, class_="predicted"
            )
        )
        marks.append(("predicted", f"{verb}, with its bound at {predicted.confidence:.0%}"))
        words.append(node("p", str(predicted), class_="muted"))
    if measured is not None:
        rows.append(_measured(measured))
        marks.append(("measured", "measured: median, 10th to 90th percentile, ungated p95"))
        words.append(node("p", str(measured), class_="muted"))
    if budget is not None:
        marks.append(("budget", f"budget {milliseconds(budget)}"))
    if not rows:
        return section("Latency", node("p", "Not known: nothing was measured or estimated."))
    title = "Predicted against measured" if len(rows) > 1 else "Latency, not measured on this model"
    chart = charts.intervals(rows, budget=budget, title=title, words="Latency in milliseconds.")
    return section(title, node("figure", chart, legend(marks)), *words)


def _measured(latency: MeasuredLatency) -> Interval:
    return Interval(
        words=f"measured {milliseconds(latency.median)}, n={latency.n}",
        value=latency.median,
        low=latency.p10,
        high=latency.p90,
        upper=latency.wall_p95,
        class_="measured",
    )


def _history(trace: Trace, what: str) -> Element:
    searches = [search for search in trace.searches if search.history][: len(_LINES)]
    lines = [[(h.evaluations, 100 * h.best) for h in search.history] for search in searches]
    # The first few thousand draws would press everything after them into a corner.
    last = max(line[-1][1] for line in lines)
    low = min(line[min(1, len(line) - 1)][1] for line in lines)
    end = max(search.evaluations for search in searches)
    plane = Plane.of((0, end * 1.02), span([low, last]))
    parts: list[Element | None] = [
        plane.axes(x_name="networks scored", y_name=f"best predicted {what} so far, %")
    ]
    marks: list[tuple[str, str]] = []
    for search, line, class_ in zip(searches, lines, _LINES, strict=False):
        inside = [(x, max(y, plane.y.low)) for x, y in line]
        parts.append(plane.line(staircase(inside, end=search.evaluations), class_=class_))
        words = f"{search.name} ({search.strategy}, {search.evaluations:,} scored)"
        marks.append((class_, words))
    ends = "; ".join(f"{s.name}: {s.history[-1].best:.2%}" for s in searches)
    chart = drawing(
        *parts,
        height=plane.height,
        title="History of the search",
        words=f"The best predicted {what} against networks scored. At the end, {ends}.",
    )
    return section("History of the search", node("figure", chart, legend(marks)))


def _network(contents: Contents) -> Element:
    seconds = {layer.name: layer.seconds for layer in contents.trace.layers}
    chart = draw_network(contents.space, contents.arch, seconds=seconds)
    kernels = kernel_sizes(contents.space)
    shades = {round(2 * i / max(1, len(kernels) - 1)): k for i, k in enumerate(kernels)}
    marks = [(f"k{shade}", f"kernel {k}x{k}") for shade, k in shades.items()]
    marks.append(("ghost", "allowed by the space, not used"))
    if seconds:
        marks.append(("share", "part of the predicted latency"))
    note = "Rows are stages with channels x height x width behind them; e is the expansion."
    cells = [draw_cell(text, number=i) for i, text in enumerate(contents.arch.cells)]
    if [cell.family for cell in contents.space.cells] == ["darts"] * 2:
        note += f" Cell 0 is the normal one, cell 1 reduces: {genotype(contents.arch.cells)}."
    figure = node("figure", chart, legend(marks), *cells, node("figcaption", note))
    return section("The network", figure)


def _layers(record: Record, trace: Trace) -> Element:
    times = [layer.seconds for layer in trace.layers] + [trace.overhead]
    together = sum(times) or 1.0
    rows: list[ChartRow] = []
    for layer in trace.layers:
        reads = f"{milliseconds(layer.seconds)}  {layer.seconds / together:.0%}"
        macs = f"{count(layer.macs)} MACs"
        words = describe_layer(layer.name, Layer.parse(layer.layer))
        title = f"{layer.layer}: {milliseconds(layer.seconds)}, {macs}"
        rows.append(ChartRow(words=words, value=layer.seconds, reads=reads, title=title))
    if abs(trace.overhead) > 1e-4 * together:
        reads = f"{milliseconds(trace.overhead)}  {trace.overhead / together:.0%}"
        more = trace.overhead > 0
        words = "a run, beside its layers" if more else "less together than layer by layer"
        rows.append(ChartRow(words=words, value=trace.overhead, reads=reads, title=words))
    chart = charts.bars(rows, title="Latency by layer", words=f"Together {milliseconds(together)}.")
    kind = "" if record.predicted is None else f", {record.predicted.provenance}"
    note = f"The parts of the predicted latency{kind}; together {milliseconds(together)}."
    listed = table(
        ("layer", "ms", "MACs"),
        [(t.layer, f"{1e3 * t.seconds:.4g}", f"{t.macs:,}") for t in trace.layers],
        label="Latency and MACs by layer",
        numbers=1,
    )
    more = node("details", node("summary", "Every layer in full"), listed)
    return section("Latency by layer", node("figure", chart, node("figcaption", note)), more)


def _retraining(retraining: Retraining) -> Element:
    rows: list[tuple[Node, ...]] = [
        (
            node("code", one.arch_id),
            f"{one.before:.2%}",
            f"{one.after:.2%}",
            f"{100 * (one.after - one.before):+.2f}",
            node("code", one.arch_text),
        )
        for one in retraining.candidates
    ]
    columns = ("network", "before", "after", "points", "in words")
    listed = table(columns, rows, label="Validation accuracy before and after retraining")
    words = f"Accuracy on {retraining.validation} validation images; the first one is delivered."
    return section(
        "Retraining", node("p", str(retraining)), listed, node("p", words, class_="muted")
    )


def _attempts(trace: Trace, *, budget: float | None) -> Element:
    rows: list[tuple[Node, ...]] = []
    for attempt in trace.attempts:
        used = "" if budget is None else f"{attempt.measured / budget:.1%}"
        rows.append(
            (
                node("code", attempt.arch_id),
                "fresh, long" if attempt.fresh else "short",
                f"{1e3 * attempt.predicted:.4g}",
                f"{1e3 * attempt.measured:.4g}",
                f"{attempt.measured / attempt.predicted:.3f}",
                used,
            )
        )
    columns = ("network", "timed", "predicted ms", "measured ms", "ratio", "of the budget")
    return section(
        "Measured on the way",
        table(columns, rows, label="Networks that were timed while choosing", numbers=2),
        node("p", "Their ratios corrected the prediction for the next search.", class_="muted"),
    )


def _front(front: Sequence[FrontNetwork], name: str) -> Element:
    rows: list[tuple[Node, ...]] = [
        (
            node("code", network.arch_id),
            f"{1e3 * network.latency:.4g}",
            f"{network.accuracy:.2%}",
            node("code", network.arch_text),
        )
        for network in front
    ]
    listed = table(
        ("network", "ms", name, "in words"), rows, label="The front of the networks seen"
    )
    summary = f"{len(front)} networks of the front of all that were seen, predicted"
    return section(
        "Other budgets",
        node(
            "p",
            "What the same search saw that is faster or more accurate. A budget of its own "
            "finds better ones: edgenas pareto, edgenas specialize.",
        ),
        node("details", node("summary", summary), listed),
    )


def _notes(record: Record) -> Element | None:
    if not record.notes:
        return None
    return section("Notes", node("ul", *(node("li", text) for text in record.notes)))


def _provenance(contents: Contents) -> Element:
    record, fields = contents.record, contents.manifest
    predicted, measured = record.predicted, record.measured
    rows: list[tuple[str, Node]] = [
        ("target", str(record.target)),
        (record.accuracy.name, str(record.accuracy)),
        ("costs", record.costs_text()),
        ("supernet", f"{record.supernet}, weights SHA-256 {record.supernet_digest[:16] or 'none'}"),
        ("weights", "the supernet's" if record.retraining is None else str(record.retraining)),
        ("seed", str(record.seed)),
    ]
    if record.quantisation is not None:
        rows.append(("quantised", str(record.quantisation)))
    if predicted is not None:
        rows.append(("prediction", f"{predicted.source} ({predicted.provenance})"))
        rows.append(("bound", predicted.bound))
    if record.energy is not None:
        rows.append(("energy", str(record.energy)))
    if measured is not None:
        rows.append(("machine", _flat(measured.environment)))
    rows.append(("asked for", _flat(fields["request"])))
    rows.append(("parity", _parity(fields["parity"])))
    rows.append(("versions", _flat(fields["versions"])))
    return section(
        "Provenance",
        facts(rows),
        node("p", "edgenas verify checks every byte and claim of this folder.", class_="muted"),
    )


def _parity(parity: dict[str, Any]) -> str:
    return (
        f"largest difference of a logit to PyTorch {parity['max_abs_difference']:.1e}, the same "
        f"top-1 on {parity['same_top1']} of {parity['n']} inputs"
    )


def _flat(values: Mapping[str, Any]) -> str:
    """Write an object as a line of text; empty values are left out."""
    parts = (
        f"{name} {_brief(v)}" for name, v in values.items() if v not in (None, "", [], {}, False)
    )
    return ", ".join(parts)


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_brief, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text[:16] if re.fullmatch(r"[0-9a-f]{64}", text) else text
