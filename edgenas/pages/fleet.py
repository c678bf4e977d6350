"""The index of a fleet: every device and budget, its network, and a link to its bundle."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element

from edgenas.basics.units import milliseconds
from edgenas.bundle.record import Record
from edgenas.pages.markup import Node, node, page, section


def fleet_page(fleet: Mapping[str, Any]) -> str:
    """Write the page of a fleet.

    Args:
        fleet: the fields of ``fleet.json``.
    """
    entries = fleet["entries"]
    passed = [entry for entry in entries if entry["passed"]]
    failed = [entry for entry in entries if not entry["passed"]]
    lead = f"{len(passed)} of {len(entries)} bundles made"
    devices = len({entry["device"] for entry in entries})
    return page(
        f"Fleet: {lead}",
        node("h1", "Fleet"),
        node("p", f"{lead}, for {devices} device{'s' if devices != 1 else ''}.", class_="lead"),
        section("Bundles", node("ul", *map(_card, passed), class_="cards")) if passed else None,
        section("Failed", *(_failure(entry) for entry in failed)) if failed else None,
        node(
            "p",
            "Accuracies and latencies with their evidence are on the page of each bundle; "
            "edgenas verify checks one.",
            class_="muted",
        ),
    )


def _card(entry: Mapping[str, Any]) -> Element:
    record = Record.from_json(entry["report"], where=f"{entry['name']}: report")
    link = node("a", entry["name"], href=f"{quote(entry['folder'])}/report.html")
    lean = record.accuracy.lean
    promises = "; ".join(str(promise) for promise in record.promises) or "no budget was given"
    return node(
        "li",
        node("h3", link),
        node("p", record.accuracy.name, " ", node("b", record.accuracy.summary)),
        node("p", f"such predictions were {lean}", class_="muted") if lean else None,
        node("p", describe_latency(record)),
        node("p", promises, class_="muted"),
        node("p", record.costs_text(), class_="muted"),
        node("p", node("code", entry["arch_text"])),
    )


def describe_latency(record: Record) -> str:
    """Describe the latency of a record and its kind, in a few words."""
    if record.measured is not None:
        return f"{milliseconds(record.measured.median)} measured"
    if record.predicted is None:
        return "not known"
    latency = record.predicted
    verb = "estimated" if latency.provenance == "estimated" else "predicted"
    return f"{milliseconds(latency.seconds)} {verb}, at most {milliseconds(latency.upper)}"


def _failure(entry: Mapping[str, Any]) -> Node:
    hint = f" Hint: {entry['hint']}." if entry["hint"] else ""
    return node("p", node("span", entry["name"], class_="failed"), f": {entry['error']}.{hint}")
