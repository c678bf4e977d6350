"""A drawing of a cell: its nodes in a row, and the operations on its edges as arcs."""

from xml.etree.ElementTree import Element

from edgenas.pages.charts import WIDTH, drawing
from edgenas.pages.markup import node, short
from edgenas.space.cells import parse_cell

_BOX, _HIGH, _STEP = 56, 28, 34  # width and height of a node, and between the tops of arcs


def draw_cell(text: str, *, number: int) -> Element:
    """Draw a cell. An edge of ``none`` is not there, and has no arc.

    Args:
        text: its text form (`edgenas.space.cells`).
        number: of the cell among those of the network.
    """
    operations, edges = parse_cell(text), list[tuple[int, int]]()
    while len(edges) < len(operations):
        last = edges[-1][0] + 1 if edges else 1
        edges += [(last, source) for source in range(last)]
    nodes = edges[-1][0]
    gap = (WIDTH - _BOX) / nodes
    arcs = [(n, s, o) for (n, s), o in zip(edges, operations, strict=True) if o != "none"]
    # Each arc has a height of its own, so that no two labels stand on each other.
    arcs.sort(key=lambda arc: (arc[0] - arc[1], arc[1]))
    base = _STEP * (len(arcs) + 1)
    parts: list[Element] = []
    for level, (end, start, operation) in enumerate(arcs, 1):
        left, right = start * gap + _BOX / 2 + 8, end * gap + _BOX / 2 - 8
        top, middle = base - level * _STEP, short((left + right) / 2)
        line = f"M{short(left)} {base}V{top}H{short(right)}V{base - 4}m-4 -5l4 5l4 -5"
        parts.append(node("path", d=line, class_="flow"))
        parts.append(node("text", operation, x=middle, y=top - 5, text_anchor="middle"))
    for place in range(nodes + 1):
        title = {0: "input", nodes: "output"}.get(place, f"node {place}")
        left = place * gap
        parts.append(node("rect", x=left, y=base, width=_BOX, height=_HIGH, rx=5, class_="box k0"))
        words = {"x": left + _BOX / 2, "y": base + 18, "text_anchor": "middle"}
        parts.append(node("text", title, class_="strong", **words))
    return drawing(
        *parts,
        height=base + _HIGH + 4,
        title=f"Cell {number}",
        words=f"{text}: the operation on each edge and the node that it comes from, node by node. "
        "A node is the sum of what comes in.",
    )
