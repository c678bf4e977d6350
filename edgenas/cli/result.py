"""A result on the screen: the promise first, one fact a line, then what changes the next step."""

from typing import TYPE_CHECKING

from edgenas.basics.units import count, milliseconds, size
from edgenas.bundle.notes import first_clause, has_no_login, is_evidence, is_extrapolated
from edgenas.cli.console import Facts, fold, screen_width
from edgenas.clock.measure import statistic

if TYPE_CHECKING:
    from edgenas.bundle.accuracy import AccuracyRecord
    from edgenas.bundle.record import Record
    from edgenas.delivery.result import Result

# So many lines has a result at most, if its own facts leave room.
_LINES = 10
_INDENT = 10


def describe_briefly(result: "Result") -> Facts:
    """What a person needs to know of a result; the rest is in its report."""
    record = result.record
    notes = [note for note in record.notes if not is_evidence(note)]
    room = screen_width() - _INDENT
    facts: Facts = [("promise", str(promise)) for promise in record.promises]
    facts += [
        ("network", _cut(str(result.arch), f" (id {result.arch.id})", room=room)),
        (record.accuracy.name, _accuracy(record.accuracy)),
        *_classes(record),
        *_latency(record),
    ]
    if record.energy is not None:
        facts.append(("energy", _head(str(record.energy))))
    facts += [("costs", _costs(record)), ("target", str(record.target))]
    if result.signed_by:
        facts.append(("signed", f"by the key {result.signed_by}"))
    told = facts + _folder(result, more=1)
    left = _LINES - sum(len(fold(text, room)) for _, text in told)
    shown = 0
    for text in [*_measure(record), *map(first_clause, notes)]:
        left -= len(fold(text, room))
        if left < 0 and shown:
            break
        facts.append(("note", text))
        shown += 1
    more = len(record.notes) - shown
    return facts + _folder(result, more=more)


def describe_fully(result: "Result") -> Facts:
    """Every number of a result with all that it rests on, and every note."""
    record = result.record
    facts: Facts = [("promise", str(promise)) for promise in record.promises]
    facts += [
        ("network", f"{result.arch} (id {result.arch.id})"),
        (record.accuracy.name, str(record.accuracy)),
        *_classes(record),
    ]
    if record.retraining is not None:
        facts.append(("retrained", str(record.retraining)))
    if record.quantisation is not None:
        facts.append(("quantised", str(record.quantisation)))
    values = (record.predicted, record.measured)
    facts += [("latency", str(value)) for value in values if value is not None]
    if record.energy is not None:
        facts.append(("energy", str(record.energy)))
    facts += [("costs", record.costs_text()), ("target", str(record.target))]
    if result.signed_by:
        facts.append(("signed", f"by the key {result.signed_by}"))
    facts += [("note", text) for text in record.notes]
    return facts + _folder(result, more=0)


def _classes(record: "Record") -> Facts:
    """The worst classes and the pair that is confused most, where accuracy was measured."""
    if record.classes is None:
        return []
    worst = "; ".join(map(str, record.classes.worst_first[:3]))
    return [("worst classes", worst)] + [
        ("confused", str(pair)) for pair in record.classes.confused[:1]
    ]


def _accuracy(accuracy: "AccuracyRecord") -> str:
    """The accuracy with its kind, the images that it is of, and how far off it may be."""
    if accuracy.kind != "predicted":
        return str(accuracy)
    # Beside the name of a teacher there is no room for that of the images.
    images = "" if accuracy.teacher else f"{accuracy.data} {accuracy.split}, "
    return f"{accuracy.summary} ({images}n={accuracy.images}; {accuracy.doubt})"


def _latency(record: "Record") -> Facts:
    """The measured latency, or else the predicted one."""
    times = record.measured
    if times is None:
        return [] if record.predicted is None else [("latency", _head(str(record.predicted)))]
    what = statistic(n=times.n, wall_n=times.wall_n, flag=times.flag)
    flag = f"; {times.flag}" if times.flag else ""
    words = f"95% of all runs within {milliseconds(times.wall_p95)}{flag}"
    return [("latency", f"{milliseconds(times.median)} measured ({what}; {words})")]


def _costs(record: "Record") -> str:
    """The counts that most people ask for."""
    macs, params = count(record.costs.macs), count(record.costs.params)
    memory = f"{size(record.memory)} while running at {record.target.precision}"
    return f"{macs} MACs, {params} parameters, {memory}"


def _head(text: str) -> str:
    """A number with its kind, without what it rests on."""
    return text.partition(" (")[0]


def _measure(record: "Record") -> list[str]:
    """How a number that nobody measured becomes a measured one."""
    predicted = record.predicted
    if record.measured is not None or predicted is None or predicted.provenance == "measured":
        return []
    words = predicted.provenance
    if is_extrapolated(record.notes):
        words += " and extrapolated"
    if has_no_login(record.notes):
        return [f"the latency is {words}: time the model on the device before you rely on it"]
    return [f"the latency is {words}: add --ssh user@board to measure it there"]


def _cut(text: str, end: str, *, room: int) -> str:
    """A text of words on one line: its last words are left out where they do not fit."""
    if len(text) + len(end) <= room:
        return text + end
    words = text[: room - len(end) - 4].rsplit(" ", 1)[0]
    return f"{words} ...{end}"


def _folder(result: "Result", *, more: int) -> Facts:
    folder = result.folder
    if result.existed:
        return [("bundle", f"{folder} held this very bundle already; every check passed")]
    notes = f"; --verbose prints {more} more note{'s' if more > 1 else ''}"
    return [
        ("bundle", f"{folder}   check it again: edgenas verify {folder}"),
        ("report", f"{folder / 'report.html'} has all evidence{notes if more > 0 else ''}"),
    ]
