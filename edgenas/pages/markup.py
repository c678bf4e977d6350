"""HTML and SVG as trees: whatever a text says, it stays a text.

Trees are those of ``xml.etree``, which escapes texts and attributes when it writes them. Pages load
nothing: no script, no font, no picture from elsewhere, and a policy in their head says so to the
browser.
"""

import re
from xml.etree.ElementTree import Element, tostring

from edgenas.pages.style import CSS

Node = Element | str | None

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# What no HTML or XML text may hold: control characters, lone surrogates, non-characters.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def node(tag: str, *children: Node, **attributes: str | float | None) -> Element:
    """An element.

    Args:
        tag: its name.
        children: elements and texts; None is left out.
        attributes: by name; ``_`` stands for ``-`` and one at the end is dropped (``class_``);
            None is left out, numbers are rounded.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else short(value)
            made.set(name.rstrip("_").replace("_", "-"), clean(text))
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif child is not None and last is None:
            made.text = (made.text or "") + clean(child)
        elif child is not None and last is not None:
            last.tail = (last.tail or "") + clean(child)
    return made


def clean(text: str) -> str:
    """A text without characters that no document may hold."""
    return _FORBIDDEN.sub("\ufffd", text)


def short(value: float) -> str:
    """A coordinate: two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def page(title: str, *children: Node) -> str:
    """A whole HTML document that needs nothing else.

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


def section(title: str, *children: Node, class_: str | None = None) -> Element:
    """A part of a page under a heading."""
    return node("section", node("h2", title), *children, class_=class_)


def table(
    columns: tuple[str, ...], rows: list[tuple[Node, ...]], *, label: str, numbers: int = 0
) -> Element:
    """A table that scrolls on its own where it is too wide for the screen.

    Args:
        columns: their headings.
        rows: of cells.
        label: what it is a table of, for those who do not see it.
        numbers: the first column that is set flush right; 0: none.
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
    """Names and what they stand for."""
    return node("dl", *(node("div", node("dt", name), node("dd", value)) for name, value in rows))


def legend(entries: list[tuple[str, str]]) -> Element:
    """The key of a chart: classes of marks and what they mean."""
    items = [node("li", node("i", class_=f"key {mark}"), words) for mark, words in entries]
    return node("ul", *items, class_="legend")
