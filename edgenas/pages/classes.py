"""The accuracy of each class, as a part of the page of a bundle."""

from xml.etree.ElementTree import Element

from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.classes import ClassAccuracies, ClassAccuracy
from edgenas.pages.markup import Node, node, section, table

_SHOWN = 20  # classes; the others are folded away


def show_classes(classes: ClassAccuracies, accuracy: AccuracyRecord) -> Element:
    """A table of the classes, the least accurate first, and one of what is taken for what.

    Args:
        classes: of the network.
        accuracy: over all of them.
    """
    worst = classes.worst_first
    words = (
        f"Of {accuracy.images} images ({accuracy.data} {accuracy.split}). The mean of the "
        f"{len(worst)} classes, each counted alike, is {classes.mean:.2%}; over all images it is "
        f"{accuracy.value:.2%}."
    )
    note = "The least accurate class comes first. Few images leave a wide interval (Wilson, 95%)."
    parts: list[Node] = [
        node("p", words),
        _list_classes(worst[:_SHOWN]),
        node("p", note, class_="muted"),
    ]
    if rest := worst[_SHOWN:]:
        summary = f"The other {len(rest)} classes"
        parts.append(node("details", node("summary", summary), _list_classes(rest)))
    if classes.confused:
        rows: list[tuple[Node, ...]] = [
            (p.name, p.taken_for, str(p.images), str(p.of), f"{p.images / p.of:.1%}")
            for p in classes.confused
        ]
        columns = ("images of", "are taken for", "images", "of", "share")
        parts.append(node("h3", "Confused most often"))
        parts.append(table(columns, rows, label="Pairs of classes confused most often", numbers=2))
    return section("Accuracy by class", *parts)


def _list_classes(classes: tuple[ClassAccuracy, ...]) -> Element:
    rows: list[tuple[Node, ...]] = [
        (
            one.name,
            f"{one.value:.1%}",
            str(one.correct),
            str(one.images),
            f"{one.low:.1%} to {one.high:.1%}",
        )
        for one in classes
    ]
    columns = ("class", "accuracy", "right", "of", "95% interval")
    return table(columns, rows, label="Accuracy of each class", numbers=1)
