"""``edgenas pareto``: the whole accuracy-latency front of each device, by prediction."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from edgenas.basics.options import Option
from edgenas.basics.ranges import Range
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_facts, print_json, print_line, print_table, steps
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
        _print_front(front, rows=files.rows)
    error = fronts.error
    print_line(
        f"accuracy: predicted, of {fronts.data}; mean error {100 * error.error:.2f} points on "
        f"{error.n} archs"
    )
    for path in files.paths:
        print_line(f"written: {path}")
    if not files.paths:
        note("the whole front goes to files: --out front.csv --out front.html --out front.svg")


def _print_front(front: "DeviceFront", *, rows: int) -> None:
    from edgenas.basics.units import count, milliseconds

    points = front.few(rows)
    kind = "estimated" if front.provenance == "estimated" else "predicted"
    shown = f"{len(points)} of {len(front.points)} networks shown"
    print_line(f"{front.target}: {shown}")
    print_facts([("latency", f"{kind} from {front.source}")])
    print_table(
        ("network", "accuracy", "latency", "at most", "MACs", "params", "in words"),
        [
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
        ],
    )
    print_facts(("note", text) for text in front.notes)


VERB = Verb(run=run, kinds=(ParetoRequest, FrontFiles, Shown))
