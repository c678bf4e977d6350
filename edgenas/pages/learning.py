"""The charts of what a gradient search learnt, on the page of a bundle."""

from xml.etree.ElementTree import Element

from edgenas.bundle.trace import Learning
from edgenas.pages.charts import Plane, drawing, span
from edgenas.pages.markup import Node, legend, node, section


def show_learning(learning: Learning) -> Element:
    """The section with logits, entropy and skip connections over the steps of a search."""
    figures: list[Node] = [_draw_logits(learning), _draw_shares(learning)]
    return section(f"What {learning.strategy} learnt", *figures)


def _draw_logits(learning: Learning) -> Element:
    """Logits of all choices, each below the highest of its choice at the end of a line."""
    preferred: list[list[tuple[float, float]]] = []
    others: list[list[tuple[float, float]]] = []
    for choice in learning.choices:
        last = max(line[-1] for line in choice.logits)
        best = next(i for i, line in enumerate(choice.logits) if line[-1] == last)
        for i, line in enumerate(choice.logits):
            points = [(float(x), y) for x, y in zip(learning.steps, line, strict=True)]
            (preferred if i == best else others).append(points)
    values = [y for line in (*preferred, *others) for _, y in line]
    plane = Plane.of(_across(learning), span(values))
    names = ", ".join(_describe(learning, i) for i in range(min(8, len(learning.choices))))
    chart = drawing(
        plane.axes(x_name="steps", y_name="logits"),
        *(plane.line(line, class_="front third") for line in others),
        *(plane.line(line, class_="front") for line in preferred),
        height=plane.height,
        title="Logits over the steps",
        words=f"One line for each alternative of {len(learning.choices)} choices. At the end these "
        f"are preferred: {names}.",
    )
    marks = [("front", "preferred at the end, one of each choice"), ("front third", "all others")]
    return node("figure", chart, legend(marks))


def _describe(learning: Learning, place: int) -> str:
    choice = learning.choices[place]
    ends = [line[-1] for line in choice.logits]
    return f"{choice.name}: {choice.alternatives[ends.index(max(ends))]}"


def _draw_shares(learning: Learning) -> Element:
    """The entropy of the choices, and the share of skip connections."""
    lines = [("entropy of the choices, as a part of its maximum", learning.entropy)]
    if learning.skips:
        lines.append(("share of places where a skip connection is preferred", learning.skips))
    plane = Plane.of(_across(learning), (-0.02, 1.02), height=180)
    parts: list[Element] = []
    marks: list[tuple[str, str]] = []
    for (words, values), class_ in zip(lines, ("front", "front second"), strict=False):
        points = [(float(x), y) for x, y in zip(learning.steps, values, strict=True)]
        parts.append(plane.line(points, class_=class_))
        marks.append((class_, words))
    ends = "; ".join(f"{words}: {values[-1]:.2f}" for words, values in lines)
    chart = drawing(
        plane.axes(x_name="steps", y_name="share"),
        *parts,
        height=plane.height,
        title="Entropy and skip connections",
        words=f"Over the steps of the search. At the end, {ends}.",
    )
    return node("figure", chart, legend(marks))


def _across(learning: Learning) -> tuple[float, float]:
    return float(learning.steps[0]), max(float(learning.steps[-1]), learning.steps[0] + 1.0)
