"""The drawings of docs/concepts, each a function that returns an SVG document."""

from edgenas.pages.markup import Node, node
from tools.docs.shapes import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LINE,
    MUTED,
    ORANGE,
    STRONG_BLUE,
    STRONG_GREEN,
    STRONG_ORANGE,
    arrow,
    box,
    path,
    picture,
    words,
)


def draw_supernet() -> str:
    """A supernet with two networks that share its weights."""
    parts: list[Node] = [
        words(0, 14, "one supernet: every block that a network may use", anchor="start")
    ]
    stages = ("stage 1", "stage 2", "stage 3", "stage 4")
    small = {(0, 0), (1, 0), (2, 0), (3, 0)}
    large = {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1)}
    for top, used, fill, name in (
        (30, None, GREY, "supernet"),
        (170, small, GREEN, "a small network"),
        (310, large, ORANGE, "a large network"),
    ):
        for i, stage in enumerate(stages):
            for k in range(3):
                on = used is None or (i, k) in used
                shape = node(
                    "rect",
                    x=130 + 130 * i,
                    y=top + 32 * k,
                    width=104,
                    height=26,
                    rx=5,
                    fill=fill if on else "#ffffff",
                    stroke=LINE,
                    stroke_dasharray=None if on else "3 3",
                )
                parts.append(shape)
                label = f"block {k + 1}" if on else "not used"
                colour = INK if on else LINE
                parts.append(words(182 + 130 * i, top + 17 + 32 * k, label, size=11, colour=colour))
            if used is None:
                parts.append(words(182 + 130 * i, top + 112, stage, size=11, colour=MUTED))
        parts.append(words(0, top + 50, name, anchor="start", weight="600"))
    parts.append(words(0, top + 128, "same weights, no new training", anchor="start", colour=MUTED))
    return picture(*parts, width=640, height=445, title="Two networks taken out of one supernet")


def draw_table() -> str:
    """From timed layers to the latency of any network."""
    rows = [("stem", "0.04"), ("block 3x3", "0.09"), ("block 5x5", "0.13"), ("head", "0.06")]
    parts: list[Node] = [box(0, 20, "the device", "times each layer", "a few networks", width=130)]
    parts.append(arrow((134, 50), (176, 50)))
    parts.append(words(255, 12, "latency table, in ms", weight="600"))
    for i, (name, value) in enumerate(rows):
        parts.append(
            node("rect", x=182, y=20 + 26 * i, width=150, height=26, fill=BLUE, stroke=LINE)
        )
        parts.append(words(192, 37 + 26 * i, name, anchor="start"))
        parts.append(words(322, 37 + 26 * i, value, anchor="end"))
    parts.append(arrow((336, 72), (378, 72)))
    for i, name in enumerate(("stem", "block 5x5", "block 3x3", "head")):
        parts.append(box(384, 20 + 28 * i, name, fill=ORANGE, width=100, height=24))
    parts.append(words(434, 12, "any network", weight="600"))
    parts.append(arrow((490, 72), (532, 72)))
    parts.append(
        box(538, 44, "sum: 0.32", "line of networks", "= prediction", fill=GREEN, width=122)
    )
    parts.append(words(330, 158, "the numbers are made up for this drawing", size=11, colour=MUTED))
    return picture(*parts, width=660, height=165, title="A table of layers predicts any network")


def draw_promise() -> str:
    """Predictions with their bounds against a budget."""
    parts: list[Node] = []
    budget, left, unit = 3.0, 190.0, 110.0
    nets = [
        ("network A", 1.4, 1.9, "kept, and much of the budget is unused"),
        ("network B", 2.4, 2.9, "kept: this one is delivered"),
        ("network C", 2.7, 3.3, "refused: the bound is above the budget"),
    ]
    for i, (name, value, upper, verdict) in enumerate(nets):
        y = 46 + 56 * i
        good = upper <= budget
        colour = STRONG_GREEN if good else STRONG_ORANGE
        parts.append(words(0, y + 4, name, anchor="start", weight="600"))
        parts.append(
            path([(left + unit * value, y), (left + unit * upper, y)], colour=colour, width=5)
        )
        parts.append(node("circle", cx=left + unit * value, cy=y, r=6, fill=colour))
        parts.append(words(left + unit * value, y - 12, "prediction", size=10, colour=MUTED))
        parts.append(words(left, y + 24, verdict, size=11, colour=colour, anchor="start"))
    place = left + unit * budget
    parts.append(path([(place, 10), (place, 200)], colour=STRONG_BLUE, dashes="5 4"))
    parts.append(words(place + 6, 20, "budget", colour=STRONG_BLUE, anchor="start"))
    parts.append(arrow((left, 205), (left + unit * 4, 205)))
    parts.append(words(left + unit * 4 + 6, 209, "latency", anchor="start", colour=MUTED))
    parts.append(words(0, 209, "bar: up to the bound", size=11, anchor="start", colour=MUTED))
    return picture(
        *parts, width=690, height=220, title="The bound, not the prediction, is held to the budget"
    )


def draw_estimate() -> str:
    """Where the three kinds of numbers come from."""
    parts: list[Node] = []
    rows = [
        ("measured", GREEN, "timed on this device", "narrow interval", 0.10),
        ("published", BLUE, "timed by others, same device", "as good as their note", 0.22),
        ("estimated", ORANGE, "computed from published times", "wide interval", 0.42),
    ]
    for i, (name, fill, origin, much, spread) in enumerate(rows):
        y = 10 + 62 * i
        parts.append(box(0, y, name, fill=fill, width=100, height=40))
        parts.append(words(116, y + 18, origin, anchor="start"))
        parts.append(words(116, y + 34, much, anchor="start", colour=MUTED, size=11))
        middle, half = 480.0, 150 * spread / 0.42
        colour = STRONG_ORANGE if name == "estimated" else STRONG_GREEN
        parts.append(
            path([(middle - half, y + 20), (middle + half, y + 20)], colour=colour, width=4)
        )
        parts.append(node("circle", cx=middle, cy=y + 20, r=5, fill=colour))
    parts.append(words(480, 210, "the interval that goes with the number", size=11, colour=MUTED))
    return picture(*parts, width=650, height=220, title="Measured, published and estimated numbers")


def draw_search() -> str:
    """What a search reads and what it never touches."""
    parts: list[Node] = [
        box(0, 10, "accuracy predictor", "how good is it?", width=160),
        box(0, 75, "latency predictor", "and its upper bound", width=160),
        box(0, 140, "budgets", "latency, size, MACs", width=160),
        box(240, 70, "search", "rows of numbers", "thousands a second", fill=GREEN, width=150),
        box(470, 75, "best networks", "that keep all budgets", fill=ORANGE, width=165),
        box(470, 155, "build, verify,", "measure if reachable", fill=GREY, width=165),
    ]
    parts += [arrow((162, y), (236, end)) for y, end in ((32, 85), (97, 97), (162, 110))]
    parts.append(arrow((392, 97), (466, 97)))
    parts.append(arrow((552, 121), (552, 151)))
    parts.append(arrow((466, 178), (315, 178), (315, 133), dashed=True))
    parts.append(words(366, 196, "too slow: correct and search again", size=11, colour=MUTED))
    return picture(*parts, width=640, height=205, title="What the search sees")
