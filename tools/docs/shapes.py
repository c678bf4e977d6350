"""Plain shapes for the drawings of the pages: boxes, arrows, words, and whole pictures."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from edgenas.pages.markup import Node, node, svg_document

INK, MUTED, LINE = "#1f2933", "#5b6875", "#9aa7b4"
BLUE, ORANGE, GREEN, GREY = "#d9e8fb", "#fde8d2", "#d8f0dd", "#eef1f4"
STRONG_BLUE, STRONG_ORANGE, STRONG_GREEN = "#1f5fae", "#b4560c", "#22743a"
# Characters of 12 pixels are about so wide.
_CHARACTER = 6.4


def words(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    colour: str = INK,
    anchor: str = "middle",
    weight: str = "normal",
) -> Element:
    """One line of words with its base line at ``y``."""
    style = f"font-size:{size}px;fill:{colour};font-weight:{weight}"
    return node("text", text, x=x, y=y, text_anchor=anchor, style=style)


def box(
    x: float, y: float, *lines: str, fill: str = BLUE, width: float = 0, height: float = 0
) -> Element:
    """A box with lines of words in its middle; the first line is strong."""
    width = width or 16 + _CHARACTER * max(map(len, lines))
    height = height or 14 + 15 * len(lines)
    first = y + height / 2 - 7.5 * len(lines) + 11.5
    shape = node("rect", x=x, y=y, width=width, height=height, rx=6, fill=fill, stroke=LINE)
    weights = ["600" if len(lines) > 1 and i == 0 else "normal" for i in range(len(lines))]
    texts = [
        words(x + width / 2, first + 15 * i, line, weight=weight)
        for i, (line, weight) in enumerate(zip(lines, weights, strict=True))
    ]
    return node("g", shape, *texts)


def arrow(*points: tuple[float, float], colour: str = MUTED, dashed: bool = False) -> Element:
    """A line through points with a head at its end."""
    (before_x, before_y), (x, y) = points[-2:]
    length = max(((x - before_x) ** 2 + (y - before_y) ** 2) ** 0.5, 1e-9)
    dx, dy = (x - before_x) / length, (y - before_y) / length
    base_x, base_y = x - 7 * dx, y - 7 * dy
    corners = [
        (x, y),
        (base_x - 3.5 * dy, base_y + 3.5 * dx),
        (base_x + 3.5 * dy, base_y - 3.5 * dx),
    ]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in [*points[:-1], (base_x, base_y)])
    head = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners) + "Z"
    dashes = "4 3" if dashed else None
    return node(
        "g",
        node("path", d=path, fill="none", stroke=colour, stroke_dasharray=dashes, stroke_width=1.4),
        node("path", d=head, fill=colour),
    )


def path(
    points: Sequence[tuple[float, float]],
    *,
    colour: str,
    width: float = 1.5,
    dashes: str | None = None,
) -> Element:
    """A line through points."""
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return node(
        "path", d=d, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dashes
    )


def picture(*children: Node, width: float, height: float, title: str) -> str:
    """A whole SVG document on a white ground."""
    return svg_document(*children, width=width, height=height, title=title)
