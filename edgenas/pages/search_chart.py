"""The chart of what a search saw, on the page of a bundle."""

from xml.etree.ElementTree import Element

from edgenas.basics.units import milliseconds
from edgenas.bundle.contents import Contents
from edgenas.bundle.record import Record
from edgenas.bundle.trace import FrontNetwork, Trace
from edgenas.pages.charts import Plane, Points, drawing, span, staircase
from edgenas.pages.markup import legend, node, section

# An entry of a legend: the class of a mark and its words.
Entry = tuple[str, str]
ChartPart = tuple[list[Element | None], list[Entry]]


def show_search(contents: Contents, *, budget: float | None) -> Element:
    """The section with accuracy against latency of the networks that the search saw.

    Args:
        contents: of a bundle; its trace has networks.
        budget: of the latency, in seconds; None: there is none.
    """
    record, trace = contents.record, contents.trace
    delivered = next((f for f in trace.front if f.arch_id == contents.arch.id), None)
    score = 100 * (record.accuracy.value if delivered is None else delivered.accuracy)
    points = [
        (1e3 * seconds, 100 * accuracy)
        for seconds, accuracy in zip(trace.latencies, trace.accuracies, strict=True)
    ]
    front = [(1e3 * f.latency, 100 * f.accuracy) for f in trace.front]
    plane = _choose_plane(points, front, _places(record, score))
    layers: list[ChartPart] = [
        _draw_seen(plane, points, trace),
        _draw_front(plane, front, trace.front),
        _draw_budget(plane, record, budget),
        _draw_attempts(plane, trace),
        _draw_delivered(plane, record, score),
    ]
    chart = drawing(
        plane.axes(x_name="predicted latency, ms", y_name=f"predicted {record.accuracy.what}, %"),
        *(part for parts, _ in layers for part in parts),
        height=plane.height,
        title="What the search saw",
        words=f"Predicted {record.accuracy.what} against predicted latency of {trace.seen} "
        f"networks; the chosen one has {score:.2f}%.",
    )
    key = legend([entry for _, entries in layers for entry in entries])
    return section("What the search saw", node("figure", chart, key))


def _places(record: Record, score: float) -> Points:
    """Where the delivered network stands: by its predicted and by its measured latency."""
    latencies: list[float] = []
    if record.predicted is not None:
        latencies.append(record.predicted.seconds)
    if record.measured is not None:
        latencies.append(record.measured.median)
    return [(1e3 * latency, score) for latency in latencies]


def _choose_plane(points: Points, front: Points, delivered: Points) -> Plane:
    """A plane that holds the front, the delivered network and all but the worst of the rest."""
    important = [*(front or points), *delivered]
    x = span([p[0] for p in (*important, *points)])
    # The worst networks would press all others into a corner.
    low = sorted(p[1] for p in points)[len(points) // 50]
    return Plane.of(x, span([low, *(p[1] for p in important)]))


def _draw_seen(plane: Plane, points: Points, trace: Trace) -> ChartPart:
    words = f"{len(points)} of {trace.seen:,} networks seen"
    return [plane.dots(points, class_="seen")], [("seen", words), ("front", "their front")]


def _draw_front(plane: Plane, front: Points, networks: tuple[FrontNetwork, ...]) -> ChartPart:
    marks = [
        plane.mark(
            *place,
            class_="frontdot",
            title=f"{f.arch_text}: {f.accuracy:.2%}, {milliseconds(f.latency)}",
            radius=2.2,
        )
        for place, f in zip(front, networks, strict=True)
    ]
    line = plane.line(staircase(front, end=plane.x.high), class_="front") if front else None
    return [line, *marks], []


def _draw_budget(plane: Plane, record: Record, budget: float | None) -> ChartPart:
    if budget is None:
        return [], []
    # Without a measurement the bound has to keep the budget, so the prediction must be lower.
    bound = 1.0 if record.measured or not record.predicted else record.predicted.margin
    place = 1e3 * budget / bound
    if not plane.x.holds(place):
        return [], []
    less = f" with a bound {bound:.2f} times as high" if bound != 1 else ""
    line = plane.upright(place, class_="budget", words="budget")
    return [line], [("budget", f"budget {milliseconds(budget)}{less}")]


def _draw_attempts(plane: Plane, trace: Trace) -> ChartPart:
    if not trace.attempts:
        return [], []
    marks = [
        plane.mark(
            1e3 * attempt.measured,
            100 * attempt.accuracy,
            class_="tried",
            title=f"{attempt.arch_id}: measured {milliseconds(attempt.measured)}",
            radius=4,
        )
        for attempt in trace.attempts
    ]
    return marks, [("tried", "measured while choosing")]


def _draw_delivered(plane: Plane, record: Record, score: float) -> ChartPart:
    marks: list[Element | None] = []
    entries: list[Entry] = []
    if record.predicted is not None:
        latency = 1e3 * record.predicted.seconds
        title = f"chosen, predicted: {score:.2f}%, {latency:.3g} ms"
        marks.append(plane.mark(latency, score, class_="predicted", title=title))
        entries.append(("predicted", "chosen, predicted"))
    if record.measured is not None:
        latency = 1e3 * record.measured.median
        title = f"chosen, measured: {latency:.3g} ms"
        marks.append(plane.mark(latency, score, class_="measured", title=title))
        entries.append(("measured", "chosen, measured"))
    return marks, entries
