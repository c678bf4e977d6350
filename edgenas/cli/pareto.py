"""``edgenas pareto``: the whole accuracy-latency front of each device, by prediction."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    steps,
)
from edgenas.delivery.request import ParetoRequest

if TYPE_CHECKING:
    from edgenas.delivery.fronts import DeviceFront


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontFiles:
    """Where fronts go, and how much of them is printed."""

    rows: Annotated[
        Annotated[int, Range(2, 1_000_000, "count")], Option("Networks in a printed table.")
    ] = 10
    out: Annotated[
        tuple[str, ...], Option("File to write: .csv, .json, .html, .svg, .png or .pdf.")
    ] = ()
    force: Annotated[bool, Option("Replace files that are there.")] = False
    verbose: Annotated[bool, Option("Print every network in words, and every note.")] = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files to write."""
        return tuple(map(Path, self.out))


def run(request: ParetoRequest, files: FrontFiles, shown: Shown) -> None:
    """Find all that is worth choosing from on a device.

    This is the front of accuracy and latency. All numbers are predictions: specialize builds,
    checks and measures one of these networks.
    """
    request.check()
    from edgenas.delivery.fronts import check_ending, search_fronts, write_fronts
    from edgenas.delivery.reporting import check_replaceable

    for path in files.paths:
        check_replaceable(path, force=files.force)
        check_ending(path)
    with steps() as progress:
        fronts = search_fronts(request, progress=progress)
    for path in files.paths:
        write_fronts(fronts, path)
    if shown.json:
        print_json(fronts.to_json())
        return
    for front in fronts.devices:
        _print_front(front, files=files)
    error = fronts.error
    print_text(
        f"accuracy: predicted, of {fronts.data}; mean error {100 * error.error:.2f} points on "
        f"{error.n} archs"
    )
    for path in files.paths:
        print_line(f"written: {path}")
    if not files.paths:
        note("the whole front goes to files: --out front.csv --out front.html --out front.svg")
    note("to get one of them, give what it takes at most as the budget of edgenas specialize")


def _print_front(front: "DeviceFront", *, files: FrontFiles) -> None:
    from edgenas.basics.units import count, milliseconds

    points = front.few(files.rows)
    columns = ("network", "accuracy", "latency", "at most", "MACs", "params", "in words")
    rows = [
        (
            point.arch.id,
            f"{point.accuracy:.2%}",
            milliseconds(point.latency),
            "not known" if point.upper is None else milliseconds(point.upper),
            count(point.macs),
            count(point.params),
            str(point.arch),
        )
        for point in points
    ]
    shown = len(columns) if files.verbose else len(columns) - 1
    print_line(f"{front.target}: {len(points)} of {len(front.points)} networks shown")
    print_table(columns[:shown], [row[:shown] for row in rows])
    kind = "estimated" if front.provenance == "estimated" else "predicted"
    print_facts([("latency", f"{kind} from {front.source}"), *_notes(front, files=files)])


def _notes(front: "DeviceFront", *, files: FrontFiles) -> Facts:
    """What the reader of a front should do or know; the rest only with ``--verbose``."""
    from edgenas.bundle.notes import first_clause, is_evidence, is_extrapolated

    if files.verbose:
        return [("note", text) for text in front.notes]
    told = [first_clause(text) for text in front.notes if not is_evidence(text)]
    if front.provenance == "estimated":
        far = " and extrapolated" if is_extrapolated(front.notes) else ""
        told.insert(0, f"estimated{far}: edgenas specialize --ssh user@board measures one there")
    return [("note", text) for text in told]


VERB = Verb(run=run, kinds=(ParetoRequest, FrontFiles, Shown))
