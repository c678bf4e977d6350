"""``edgenas pareto``: the whole front of each device in any metrics, by prediction."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option
from edgenas.basics.ranges import Range
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import (
    Facts,
    note,
    print_facts,
    print_json,
    print_line,
    print_table,
    print_text,
    screen_width,
    steps,
)
from edgenas.delivery.front_request import ParetoRequest

if TYPE_CHECKING:
    from edgenas.delivery.fronts import DeviceFront, FrontMetric, FrontPoint

_LONGEST = 14  # columns of the name of a metric; of longer ones a number stands for the device
_GAP = 2  # columns between those of a table


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontFiles:
    """Where fronts go, and how much of them is printed and drawn."""

    rows: Annotated[
        Annotated[int, Range(2, 1_000_000, "count")], Option("Networks in a printed table.")
    ] = 10
    out: Annotated[
        tuple[str, ...], Option("File to write: .csv, .json, .html, .svg, .png or .pdf.")
    ] = ()
    axes: Annotated[
        str | None,
        Option(
            "Two metrics that charts show, across and up: 'latency,accuracy'. Default: all pairs.",
            needs="out",
        ),
    ] = None
    force: Annotated[bool, Option("Replace files that are there.")] = False
    verbose: Annotated[bool, Option("Print every network in words, and every note.")] = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files to write."""
        return tuple(map(Path, self.out))

    def pair_of(self, request: ParetoRequest) -> tuple[str, str] | None:
        """The axes of charts; None: all pairs.

        Raises:
            EdgenasError: they are not two metrics of the front.
        """
        if self.axes is None:
            return None
        names = [name.strip() for name in self.axes.split(",")]
        known = [metric.name for metric in request.asked]
        if len(names) != 2 or names[0] == names[1] or not set(names) <= set(known):
            raise EdgenasError(
                f"--axes must name two metrics of the front, found {self.axes!r}",
                hint=f"its metrics: {', '.join(known)}",
            )
        return names[0], names[1]


def run(request: ParetoRequest, files: FrontFiles, shown: Shown) -> None:
    """Find all that is worth choosing from on a device.

    This is the front of accuracy and latency, or of any two or more metrics. All numbers are
    predictions or counts: specialize builds, checks and measures one of these networks.
    """
    request.check()
    axes = files.pair_of(request)
    from edgenas.bundle.accuracy import name_accuracy
    from edgenas.delivery.front_search import search_fronts
    from edgenas.delivery.fronts import check_ending, write_fronts
    from edgenas.delivery.reporting import check_replaceable

    for path in files.paths:
        check_replaceable(path, force=files.force)
        check_ending(path)
    with steps() as progress:
        fronts = search_fronts(request, progress=progress)
    for path in files.paths:
        write_fronts(fronts, path, axes=axes)
    if shown.json:
        print_json(fronts.to_json())
        return
    for front in fronts.devices:
        _print_front(front, files=files, word=name_accuracy(fronts.teacher))
    error = fronts.error
    if error is not None:
        lean = f": such predictions were {error.lean}" if error.lean else ""
        print_text(
            f"{name_accuracy(fronts.teacher)}: predicted, of {fronts.data}; mean error "
            f"{100 * error.error:.2f} points on {error.n} archs{lean}"
        )
    for path in files.paths:
        print_line(f"written: {path}")
    if not files.paths:
        note("the whole front goes to files: --out front.csv --out front.html --out front.svg")
    note("to get one of them, give what it takes at most as the budget of edgenas specialize")


def _print_front(front: "DeviceFront", *, files: FrontFiles, word: str) -> None:
    points, names = front.few(files.rows), _short_names(front.metrics)
    names = [word if name == "accuracy" else name for name in names]
    print_line(f"{front.name}: {len(points)} of {len(front.points)} networks shown")
    columns, rows = _table(front, names, points)
    if files.verbose:
        words = [str(point.arch) for point in points]
        rows = [[*cells, word] for cells, word in zip(rows, words, strict=True)]
    print_table([*columns, "in words"] if files.verbose else columns, rows)
    facts: Facts = []
    for metric, name in zip(front.metrics, names, strict=True):
        if metric.target is not None:
            kind = "estimated" if metric.provenance == "estimated" else "predicted"
            where = f"{metric.target}: " if metric.metric.target else ""
            facts.append((name, f"{where}{kind} from {metric.source}"))
        elif metric.source and metric.provenance == "counted":
            facts.append((name, metric.source))
    if "at most" not in columns and any(metric.bounded for metric in front.metrics):
        facts.append(("note", "the upper bounds do not fit here: --json and --out have them"))
    print_facts([*facts, *_notes(front, files=files)])


def _notes(front: "DeviceFront", *, files: FrontFiles) -> Facts:
    """What the reader of a front should do or know; the rest only with ``--verbose``."""
    from edgenas.bundle.notes import first_clause, has_no_login, is_evidence, is_extrapolated

    if files.verbose:
        return [("note", text) for text in front.notes]
    told = [first_clause(text) for text in front.notes if not is_evidence(text)]
    if front.provenance == "estimated":
        far = " and extrapolated" if is_extrapolated(front.notes) else ""
        way = "edgenas specialize --ssh user@board measures one there"
        if has_no_login(front.notes):
            way = "time one on the device before you rely on it"
        told.insert(0, f"estimated{far}: {way}")
    return [("note", text) for text in told]


def _short_names(metrics: "tuple[FrontMetric, ...]") -> list[str]:
    """The names of metrics; where one is long, a number stands for its device."""
    devices = list(dict.fromkeys(m.metric.target for m in metrics if m.metric.target))
    return [
        m.name
        if len(m.name) <= _LONGEST
        else f"{m.metric.metric}@{1 + devices.index(m.metric.target)}"
        for m in metrics
    ]


def _table(
    front: "DeviceFront", names: list[str], points: "list[FrontPoint]"
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, as wide as the screen: bounds, then counts are left out."""
    from edgenas.basics.units import count

    columns: list[tuple[str, str, list[str]]] = [("", "network", [p.arch.id for p in points])]
    for metric, name in zip(front.metrics, names, strict=True):
        values = [_number(metric, p.values[metric.name]) for p in points]
        columns.append(("", "MACs" if name == "macs" else name, values))
        if metric.bounded:
            uppers = [p.uppers.get(metric.name) for p in points]
            told = ["not known" if u is None else _number(metric, u) for u in uppers]
            columns.append(("bound", "at most", told))
    for name, title in (("macs", "MACs"), ("params", "params")):
        if name not in names:
            columns.append(("count", title, [count(p.values[name]) for p in points]))
    for kind in ("count", "bound"):
        width = sum(max(map(len, (title, *cells))) + _GAP for _, title, cells in columns) - _GAP
        if width > screen_width():
            columns = [column for column in columns if column[0] != kind]
    rows = [list(cells) for cells in zip(*(cells for _, _, cells in columns), strict=True)]
    return [title for _, title, _ in columns], rows


def _number(metric: "FrontMetric", value: float) -> str:
    from edgenas.basics.units import count, milliseconds, size

    kind = metric.metric.metric
    if kind == "accuracy":
        return f"{value:.2%}"
    if kind == "latency":
        return milliseconds(value)
    if kind == "energy":
        return milliseconds(value).replace(" ms", " mJ")
    return size(value) if kind == "memory" else count(value)


VERB = Verb(run=run, kinds=(ParetoRequest, FrontFiles, Shown))
