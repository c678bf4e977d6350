"""A drawing of a cell: its nodes in a row, and the operations on its edges as arcs."""

from xml.etree.ElementTree import Element

from edgenas.pages.charts import WIDTH, drawing
from edgenas.pages.markup import node, short
from edgenas.space.cells import parse_cell

_BOX, _HIGH, _STEP = 56, 28, 34  # width and height of a node, and between the tops of arcs
_NARROW, _BELOW = 46, 14  # width of a node of DARTS, and of the lines below its nodes


def draw_cell(text: str, *, number: int) -> Element:
    """Draw a cell. An edge of ``none`` is not there, and has no arc.

    Args:
        text: its text form (`edgenas.space.cells`).
        number: of the cell among those of the network.
    """
    nodes = parse_cell(text)
    inputs = len(nodes[0])  # the first node takes all of them
    joins = inputs > 1  # the output of DARTS is no node, but all of them
    names = [f"input {n}" if joins else "input" for n in range(inputs)]
    names += [f"node {n}" for n in range(inputs, inputs + len(nodes))]
    names = [*names, "output"] if joins else [*names[:-1], "output"]
    box, below = (_NARROW, _BELOW) if joins else (_BOX, 0)
    gap = (WIDTH - box) / (len(names) - 1)
    arcs = [
        (end, start, operation)
        for end, terms in enumerate(nodes, inputs)
        for operation, start in terms
        if operation != "none"
    ]
    # Each arc has a height of its own, so that no two labels stand on each other.
    arcs.sort(key=lambda arc: (arc[0] - arc[1], arc[1]))
    base = _STEP * (len(arcs) + 1)
    lines, words = list[Element](), list[Element]()
    for level, (end, start, operation) in enumerate(arcs, 1):
        left, right = start * gap + box / 2 + 8, end * gap + box / 2 - 8
        top, middle = base - level * _STEP, short((left + right) / 2)
        line = f"M{short(left)} {base}V{top}H{short(right)}V{base - 4}m-4 -5l4 5l4 -5"
        lines.append(node("path", d=line, class_="flow"))
        style = {"x": middle, "y": top - 5, "text_anchor": "middle"}
        words.append(node("text", operation, class_="over", **style))
    for place in range(inputs, len(names) - 1 if joins else 0):
        left, foot = short(place * gap + box / 2), base + _HIGH
        end = short((len(names) - 1) * gap + box / 2)
        lines.append(node("path", d=f"M{left} {foot}v{below}H{end}v-{below}", class_="flow joined"))
    for place, title in enumerate(names):
        left = place * gap
        lines.append(node("rect", x=left, y=base, width=box, height=_HIGH, rx=5, class_="box k0"))
        style = {"x": left + box / 2, "y": base + 18, "text_anchor": "middle"}
        words.append(node("text", title, class_="strong", **style))
    side = " The output is all nodes side by side." if joins else ""
    return drawing(
        *lines,
        *words,
        height=base + _HIGH + 4 + below,
        title=f"Cell {number}",
        words=f"{text}: the operation on each edge and the node that it comes from, node by node. "
        f"A node is the sum of what comes in.{side}",
    )
