"""Small charts as SVG, made to be read at 360 pixels as well as at a thousand."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgenas.basics.units import milliseconds
from edgenas.pages.markup import node, short

Points = list[tuple[float, float]]

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 22, 36


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values lie along an axis.

    Args:
        low: the first value.
        high: the last one, which is larger.
        start: the place of the first, in pixels.
        end: the place of the last.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Find the place of a value, in pixels."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Choose round values between two others; their step is 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def span(values: Sequence[float], *, margin: float = 0.06) -> tuple[float, float]:
    """Find the range of some values, with a margin on both sides; it is never empty."""
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return low - room, high + room


def labels(values: Sequence[float], *, unit: str) -> list[str]:
    """Write labels for ticks, with as many decimals as are needed to tell them apart."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return [f"{value:.{digits}f}{unit}" for value in values]


def drawing(*children: Element | None, height: float, title: str, words: str) -> Element:
    """Make an SVG element, with a name and a description for those who do not see it."""
    name = node("title", title)
    return node(
        "svg",
        name,
        node("desc", words),
        *children,
        viewBox=f"0 0 {WIDTH} {short(height)}",
        role="img",
        aria_label=f"{title}. {words}",
    )


@dataclass(frozen=True, slots=True)
class Plane:
    """Two scales with their axes, on which a chart is drawn."""

    x: Scale
    y: Scale
    height: float

    @staticmethod
    def of(
        x: tuple[float, float], y: tuple[float, float], *, height: float = 260, left: float = _LEFT
    ) -> "Plane":
        """Make a plane for two ranges of values."""
        return Plane(Scale(*x, left, WIDTH - _RIGHT), Scale(*y, height - _BOTTOM, _TOP), height)

    def axes(self, *, x_name: str, y_name: str, x_unit: str = "", y_unit: str = "") -> Element:
        """Draw grid lines, labels and the names of both axes."""
        across, up = ticks(self.x.low, self.x.high), ticks(self.y.low, self.y.high)
        right, bottom = self.x.end, self.y.start
        left = self.x.start
        parts: list[Element] = []
        for value, label in zip(up, labels(up, unit=y_unit), strict=True):
            place = self.y(value)
            parts.append(node("path", d=f"M{short(left)} {short(place)}H{right}", class_="grid"))
            parts.append(node("text", label, x=left - 5, y=place + 3.5, text_anchor="end"))
        for value, label in zip(across, labels(across, unit=x_unit), strict=True):
            place = self.x(value)
            parts.append(node("path", d=f"M{short(place)} {_TOP}V{short(bottom)}", class_="grid"))
            parts.append(node("text", label, x=place, y=bottom + 14, text_anchor="middle"))
        middle = (left + right) / 2
        parts.append(node("text", x_name, x=middle, y=bottom + 30, text_anchor="middle"))
        parts.append(node("text", y_name, x=0, y=11))
        return node("g", *parts)

    def dots(self, points: Sequence[tuple[float, float]], *, class_: str) -> Element:
        """Draw many small dots as one path; dots outside are left out."""
        inside = [(x, y) for x, y in points if self.x.holds(x) and self.y.holds(y)]
        path = "".join(f"M{self.x(x):.1f} {self.y(y):.1f}h0" for x, y in inside)
        return node("path", d=path or "M0 0", class_=class_)

    def line(self, points: Sequence[tuple[float, float]], *, class_: str) -> Element:
        """Draw a line through points."""
        places = (f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        return node("path", d="M" + "L".join(places), class_=class_)

    def mark(
        self, x: float, y: float, *, class_: str, title: str, radius: float = 5
    ) -> Element | None:
        """Draw a disc whose title shows when it is pointed at. None: it lies outside."""
        if not (self.x.holds(x) and self.y.holds(y)):
            return None
        return node(
            "circle", node("title", title), cx=self.x(x), cy=self.y(y), r=radius, class_=class_
        )

    def upright(self, x: float, *, class_: str, words: str) -> Element | None:
        """Draw a line across the chart at a value of x, with words beside it."""
        if not self.x.holds(x):
            return None
        place = self.x(x)
        before = place > (self.x.start + self.x.end) / 2
        return node(
            "g",
            node("path", d=f"M{short(place)} {_TOP}V{short(self.y.start)}", class_=class_),
            node(
                "text",
                words,
                x=place + (-4 if before else 4),
                y=self.y.start - 6,
                text_anchor="end" if before else "start",
                class_="over plain",
            ),
        )


def staircase(points: Sequence[tuple[float, float]], *, end: float) -> list[tuple[float, float]]:
    """The corners of a line that stays at the value of a point until the next point."""
    corners: list[tuple[float, float]] = []
    for i, (x, y) in enumerate(points):
        corners.append((x, y))
        corners.append((points[i + 1][0] if i + 1 < len(points) else end, y))
    return corners


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartRow:
    """A row of a bar chart: words, a value, the value in words, and a title to point at."""

    words: str
    value: float
    reads: str
    title: str


def bars(rows: Sequence[ChartRow], *, title: str, words: str) -> Element:
    """Draw horizontal bars, each below its words, so that long words fit on a phone."""
    step, most = 27, max((row.value for row in rows), default=1.0) or 1.0
    parts: list[Element] = []
    for i, row in enumerate(rows):
        top = i * step
        long = max(0.0, row.value) / most * WIDTH
        parts.append(
            node(
                "g",
                node("title", row.title),
                node("text", row.words, x=0, y=top + 11, class_="plain"),
                node("text", row.reads, x=WIDTH, y=top + 11, text_anchor="end"),
                node("rect", x=0, y=top + 15, width=WIDTH, height=5, rx=2.5, class_="track"),
                node("rect", x=0, y=top + 15, width=long, height=5, rx=2.5, class_="bar"),
            )
        )
    return drawing(*parts, height=max(1, len(rows)) * step, title=title, words=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A row of a chart of intervals, in seconds. None stands for a number that does not exist.

    Args:
        words: what the row shows.
        value: the number itself.
        low: lower end of the span of most runs.
        high: upper end of that span.
        upper: the bound of the number, or the 95th percentile of all runs.
        class_: of the mark, ``predicted`` or ``measured``.
    """

    words: str
    value: float
    low: float | None = None
    high: float | None = None
    upper: float | None = None
    class_: str


def intervals(rows: Sequence[Interval], *, budget: float | None, title: str, words: str) -> Element:
    """Draw latencies with their intervals, one below the other, and a line for the budget."""
    values = [v * 1e3 for r in rows for v in (r.value, r.low, r.high, r.upper) if v is not None]
    if budget is not None and budget * 1e3 <= 2 * max(values):
        values.append(budget * 1e3)
    step, top = 40, 8
    height = top + step * len(rows) + 36
    low, high = span(values, margin=0.1)
    scale = Scale(max(0.0, low), high, 6, WIDTH - 8)
    bottom = height - 34
    parts: list[Element | None] = []
    across = ticks(scale.low, scale.high)
    for value, label in zip(across, labels(across, unit=""), strict=True):
        place = scale(value)
        parts.append(node("path", d=f"M{short(place)} {top}V{bottom}", class_="grid"))
        parts.append(node("text", label, x=place, y=bottom + 14, text_anchor="middle"))
    parts.append(node("text", "ms", x=WIDTH / 2, y=bottom + 29, text_anchor="middle"))
    if budget is not None and scale.holds(budget * 1e3):
        place = short(scale(budget * 1e3))
        parts.append(node("path", d=f"M{place} {top}V{bottom}", class_="budget"))
    for i, row in enumerate(rows):
        y = top + step * i + 26
        at = scale(row.value * 1e3)
        measured = row.class_ == "measured"
        if row.upper is not None:
            to = scale(row.upper * 1e3)
            class_ = "tail" if measured else "range"
            parts.append(node("path", d=f"M{short(at)} {y}H{short(to)}", class_=class_))
            parts.append(node("path", d=f"M{short(to)} {y - 5}V{y + 5}", class_=class_))
        if row.low is not None and row.high is not None:
            ends = short(scale(row.low * 1e3)), short(scale(row.high * 1e3))
            parts.append(node("path", d=f"M{ends[0]} {y}H{ends[1]}", class_="span"))
        parts.append(node("circle", cx=at, cy=y, r=5, class_=row.class_))
        parts.append(node("text", row.words, x=6, y=y - 12, class_="over plain"))
    values_text = "; ".join(f"{row.words}: {milliseconds(row.value)}" for row in rows)
    return drawing(*parts, height=height, title=title, words=f"{words} {values_text}")
