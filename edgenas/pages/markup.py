"""HTML and SVG as trees, so that no text can become markup.

The trees are those of ``xml.etree``, which escapes texts and attributes when it writes them. A page
loads nothing: no script, no font, no picture from elsewhere. A policy in its head tells the browser
to refuse them.
"""

import re
from xml.etree.ElementTree import Element, tostring

from edgenas.pages.style import CSS, DRAWING_CSS

Node = Element | str | None

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# What no HTML or XML text may hold: control characters, lone surrogates, non-characters.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def node(tag: str, *children: Node, **attributes: str | float | None) -> Element:
    """Make an element.

    Args:
        tag: its name.
        children: elements and texts; None is left out.
        attributes: by name. In a name, ``_`` stands for ``-``, and a ``_`` at the end is dropped
            (``class_``). A value of None is left out, and numbers are rounded.
    """
    element = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else short(value)
            element.set(name.rstrip("_").replace("_", "-"), clean(text))
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            element.append(child)
            last = child
        elif child is not None and last is None:
            element.text = (element.text or "") + clean(child)
        elif child is not None and last is not None:
            last.tail = (last.tail or "") + clean(child)
    return element


def clean(text: str) -> str:
    """Replace the characters that no document may hold."""
    return _FORBIDDEN.sub("\ufffd", text)


def short(value: float) -> str:
    """Write a coordinate, with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def page(title: str, *children: Node) -> str:
    """Write a whole HTML document that needs nothing else.

    Args:
        title: of the document.
        children: of its main element.
    """
    policy = node("meta", content=_POLICY)
    policy.set("http-equiv", "Content-Security-Policy")
    document = node(
        "html",
        node(
            "head",
            node("meta", charset="utf-8"),
            policy,
            node("meta", name="viewport", content="width=device-width, initial-scale=1"),
            node("meta", name="color-scheme", content="light dark"),
            node("title", title),
            node("style", CSS),
        ),
        node("body", node("main", *children)),
        lang="en",
    )
    return "<!doctype html>\n" + tostring(document, encoding="unicode", method="html") + "\n"


def svg_document(*children: Node, width: float, height: float, title: str) -> str:
    """A whole SVG document, on a white ground, that needs nothing else.

    Args:
        children: elements, placed in pixels of ``width`` and ``height``.
        width: of the picture.
        height: of the picture.
        title: its name for those who do not see it.
    """
    margin = 12
    box = (-margin, -margin, width + 2 * margin, height + 2 * margin)
    document = node(
        "svg",
        node("title", title),
        node("style", DRAWING_CSS),
        node("rect", x=box[0], y=box[1], width=box[2], height=box[3], fill="#ffffff"),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=" ".join(map(short, box)),
        width=2 * box[2],
        height=2 * box[3],
        role="img",
        aria_label=title,
    )
    return tostring(document, encoding="unicode") + "\n"


def section(title: str, *children: Node, class_: str | None = None) -> Element:
    """A part of a page under a heading."""
    return node("section", node("h2", title), *children, class_=class_)


def table(
    columns: tuple[str, ...], rows: list[tuple[Node, ...]], *, label: str, numbers: int = 0
) -> Element:
    """A table that scrolls by itself if it is too wide for the screen.

    Args:
        columns: their headings.
        rows: of cells.
        label: what the table shows, for those who do not see it.
        numbers: the first column that is aligned to the right; 0: none.
    """

    def kind(place: int) -> str | None:
        return "number" if numbers and place >= numbers else None

    head = node("tr", *(node("th", c, scope="col", class_=kind(i)) for i, c in enumerate(columns)))
    body = [node("tr", *(node("td", c, class_=kind(i)) for i, c in enumerate(r))) for r in rows]
    return node(
        "div",
        node("table", node("thead", head), node("tbody", *body)),
        class_="scroll",
        role="region",
        aria_label=label,
        tabindex="0",
    )


def facts(rows: list[tuple[str, Node]]) -> Element:
    """A list of names with a value for each."""
    return node("dl", *(node("div", node("dt", name), node("dd", value)) for name, value in rows))


def legend(entries: list[tuple[str, str]]) -> Element:
    """The legend of a chart: classes of marks and what they mean."""
    items = [node("li", node("i", class_=f"key {mark}"), words) for mark, words in entries]
    return node("ul", *items, class_="legend")
