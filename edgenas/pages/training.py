"""``report.html`` of a training: its curves, and the accuracies of its networks at the end."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element

from edgenas.basics.units import count, pixels
from edgenas.pages.charts import Plane, Points, drawing, span
from edgenas.pages.markup import (
    Node,
    facts,
    legend,
    node,
    page,
    section,
    table,
)
from edgenas.space.space import Space
from edgenas.training.history import TrainingHistory

_LINES = ("front", "front second", "front third")
_POINTS = 300  # of a line: nobody can tell more of them apart
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "K"))


def training_page(history: TrainingHistory) -> str:
    """Write the page of a training, an HTML document that needs nothing else.

    The same history gives the same bytes.
    """
    configuration, epochs = history.configuration, _epochs(history)
    data = configuration["data"]
    name = f"Training of {history.space.name} on {data['source']}"
    of = configuration["recipe"]["epochs"]
    done = epochs[-1]["epoch"]
    over = f"{done} of {of} epochs" if done < of else f"{of} epochs"
    images = f"{data['images']:,} images of {data['classes']} classes"
    return page(
        name,
        node("h1", name),
        node("p", f"{over}; {_size(history.space)} networks; {images}", class_="lead"),
        _tiles(history, epochs),
        node(
            "div",
            _accuracies(epochs),
            _networks(history),
            _losses(history),
            _line(
                history,
                "learning_rate",
                title="Learning rate",
                y_name="learning rate",
                note="As the recipe has it: a warm-up, then a cosine; a new one in each phase.",
            ),
            _line(
                history,
                "images_per_second",
                title="Speed",
                y_name="images/s",
                note="Images learnt from, each by all networks of a step; the time of evaluations "
                "is left out.",
            ),
            class_="columns",
        ),
        section("Epoch by epoch", _table(epochs)),
        section("How it was trained", facts(_facts(configuration))),
    )


def _size(space: Space) -> str:
    return f"{space.size:,}" if space.size < 1e6 else f"{space.size:.2g}"


def _epochs(history: TrainingHistory) -> list[Mapping[str, Any]]:
    return [line for line in history.metrics if "validation" in line]


def _mean(line: Mapping[str, Any]) -> float | None:
    """The mean accuracy of the random networks; None in runs that had none."""
    values: Sequence[float] = line.get("random", ())
    return sum(values) / len(values) if values else None


def _tiles(history: TrainingHistory, epochs: Sequence[Mapping[str, Any]]) -> Element:
    last = epochs[-1]
    largest, smallest = last["validation"]
    tiles = [(f"{largest:.2%}", "top-1 of the largest network, validation")]
    tiles.append((f"{smallest:.2%}", "of the smallest one"))
    if (mean := _mean(last)) is not None:
        tiles.append((f"{mean:.2%}", f"mean of {len(last['random'])} random ones"))
    speeds = [line["images_per_second"] for line in history.metrics if "images_per_second" in line]
    if speeds:
        tiles.append((f"{median(speeds):,.0f}", "images/s learnt from, median"))
    seconds = max(line.get("seconds", 0.0) for line in history.metrics)
    tiles.append((_duration(seconds), "of training"))
    items = [node("li", node("b", value), node("span", words)) for value, words in tiles]
    return node("ul", *items, class_="tiles")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _accuracies(epochs: Sequence[Mapping[str, Any]]) -> Element:
    lines = [
        (f"the {name} network", [(line["epoch"], 100 * line["validation"][i]) for line in epochs])
        for i, name in enumerate(("largest", "smallest"))
    ]
    means = [(line["epoch"], _mean(line)) for line in epochs]
    random = [(epoch, 100 * mean) for epoch, mean in means if mean is not None]
    if random:
        number = len(epochs[-1].get("random", ()))
        lines.append((f"mean of {number} random networks, always the same", random))
    return _curves(
        "Accuracy",
        lines,
        y_name="validation accuracy, %",
        note="Top-1 on images that nothing was learnt from, batch norms calibrated first.",
    )


def _losses(history: TrainingHistory) -> Element | None:
    lines = [(epoch, line["losses"]) for epoch, line in _by_epoch(history, "losses")]
    curves: list[tuple[str, Points]] = [("the largest network", [(e, v[0]) for e, v in lines])]
    for i, name in ((1, "the smallest network"), (2, "the random networks of a step, mean")):
        points = [(e, v[1] if i == 1 else sum(v[2:]) / len(v[2:])) for e, v in lines if len(v) > i]
        if points:
            curves.append((name, points))
    if not lines:
        return None
    note = "Cross-entropy: the largest network learns the labels, the others what it answers."
    if history.configuration.get("teacher"):
        note = "Cross-entropy with the labels and with the answers of the teacher, together."
    return _curves("Loss", curves, y_name="training loss", note=note)


def _line(
    history: TrainingHistory, name: str, *, title: str, y_name: str, note: str
) -> Element | None:
    points = [(epoch, line[name]) for epoch, line in _by_epoch(history, name)]
    return _curves(title, [("", points)], y_name=y_name, note=note) if points else None


def _by_epoch(history: TrainingHistory, name: str) -> list[tuple[float, Mapping[str, Any]]]:
    """Find the lines of metrics that have a field, each with its epoch."""
    first = _epochs(history)[0]
    length = first["step"] / first["epoch"]
    return [(line["step"] / length, line) for line in history.metrics if name in line]


def _curves(title: str, lines: list[tuple[str, Points]], *, y_name: str, note: str) -> Element:
    """Draw lines against epochs; a single line needs no name."""
    end = max(x for _, points in lines for x, _ in points)
    plane = Plane.of((0, end * 1.02), span([y for _, points in lines for _, y in points]))
    parts: list[Element | None] = [plane.axes(x_name="epochs", y_name=y_name)]
    for class_, (name, points) in zip(_LINES, lines, strict=False):
        parts.append(plane.line(_thin(points), class_=class_))
        (x, y), words = points[-1], f"{name}: " if name else ""
        parts.append(
            plane.mark(
                x, y, class_="frontdot", title=f"{words}{y:.4g} after {x:.3g} epochs", radius=2
            )
        )
    ends = "; ".join(
        f"{name or y_name}: from {points[0][1]:.4g} to {points[-1][1]:.4g}"
        for name, points in lines
    )
    chart = drawing(*parts, height=plane.height, title=title, words=f"By epoch. {ends}.")
    marks = [(class_, name) for class_, (name, _) in zip(_LINES, lines, strict=False) if name]
    key = legend(marks) if marks else None
    return section(title, node("figure", chart, key, node("figcaption", note)))


def _thin(points: Points) -> Points:
    """Reduce points to a few hundred, each the mean of neighbours."""
    size = -(-len(points) // _POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def _networks(history: TrainingHistory) -> Element | None:
    if not history.macs:
        return None
    scale, unit = next((u for u in _UNITS if max(history.macs) >= u[0]), (1.0, ""))
    points = [(m / scale, 100 * a) for m, a in zip(history.macs, history.accuracies, strict=True)]
    plane = Plane.of(span([x for x, _ in points]), span([y for _, y in points]))
    best = max(range(len(points)), key=lambda i: points[i][1])
    title = "Accuracy against MACs"
    words = f"{len(points)} networks; the best has {points[best][1]:.2f}%"
    chart = drawing(
        plane.axes(x_name=f"MACs, {unit}" if unit else "MACs", y_name="accuracy, %"),
        *(
            plane.mark(x, y, class_="frontdot", title=f"{y:.2f}%, {x:.4g}{unit} MACs", radius=2)
            for x, y in points
        ),
        height=plane.height,
        title=title,
        words=f"{words} at {count(history.macs[best])} MACs.",
    )
    note = (
        f"{len(points)} networks drawn at random, the largest and the smallest among them, after "
        f"the training; measured on {history.source}, batch norms calibrated first."
    )
    return section(title, node("figure", chart, node("figcaption", note)))


def _table(epochs: Sequence[Mapping[str, Any]]) -> Element:
    rows: list[tuple[Node, ...]] = []
    for line in epochs:
        mean = _mean(line)
        values = (*line["validation"], mean)
        rows.append((str(line["epoch"]), *("" if v is None else f"{v:.2%}" for v in values)))
    columns = ("epoch", "largest", "smallest", "random, mean")
    listed = table(columns, rows, label="Validation accuracy by epoch", numbers=1)
    return node("details", node("summary", f"Validation accuracy after {len(rows)} epochs"), listed)


def _facts(configuration: Mapping[str, Any]) -> list[tuple[str, Node]]:
    data = configuration["data"]
    rows: list[tuple[str, Node]] = [
        ("data", f"{data['source']}, SHA-256 {data['digest'][:16]} of its pixels and labels"),
        ("recipe", ", ".join(f"{name} {value}" for name, value in configuration["recipe"].items())),
        ("seed", str(configuration["seed"])),
        (
            "processes",
            f"{configuration.get('processes', 1)}, CPU threads of each: {configuration['threads']}",
        ),
    ]
    if configuration.get("init"):
        rows.append(("started from", f"another supernet, digest {configuration['init']}"))
    if teacher := configuration.get("teacher"):
        size = pixels(teacher["size"])
        words = f"{teacher['file']}, SHA-256 {teacher['sha256'][:16]}, asked at {size} pixels"
        rows.append(("teacher", words))
    return rows
