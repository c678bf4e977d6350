"""``report`` and ``pareto``: the verbs that show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgenas.basics.errors import EdgenasError
from edgenas.cli.console import (
    note,
    print_json,
    print_line,
    print_table,
    steps,
)

if TYPE_CHECKING:
    from edgenas.delivery.fronts import DeviceFront, Fronts

_KINDS = (".csv", ".json", ".html", ".svg", ".png", ".pdf")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a bundle or of a training.")],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="HTML file to write. Default of a training: its report.html."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file there.")] = False,
) -> None:
    """Write the HTML page of a bundle or a training anew: one file that needs nothing else."""
    from edgenas.basics.files import write_text

    trained = (folder / "run.json").exists()
    if out_file is None and not trained:
        raise EdgenasError("--out must name the HTML file to write", hint="--out page.html")
    if out_file is not None:
        _check_out(out_file, force=force)
    # A page that nothing vouches for is replaced where it is; that of a bundle is a part of it.
    path = out_file or folder / "report.html"
    write_text(path, _training_page(folder) if trained else _bundle_page(folder))
    print_line(f"report: {path}")


def _bundle_page(folder: Path) -> str:
    from edgenas.bundle.contents import read_contents
    from edgenas.bundle.write import load_bundle
    from edgenas.pages.bundle import bundle_page

    load_bundle(folder)
    return bundle_page(read_contents(folder))


def _training_page(folder: Path) -> str:
    from edgenas.pages.training import training_page
    from edgenas.training.history import read_history

    return training_page(read_history(folder))


def pareto(
    device: Annotated[
        list[str], typer.Option(help="Device name or alias, or a profile; repeatable.")
    ],
    supernet: Annotated[
        str, typer.Option(help="Name or folder of a trained supernet.")
    ] = "mbv3-cifar10",
    runtime: Annotated[str | None, typer.Option(help="Default: each device's first.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a run.")] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(help="What all keep beside, e.g. 'params<=250K'; repeatable."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Of the upper bounds.")
    ] = 0.95,
    rows: Annotated[int, typer.Option(min=2, help="Networks of a printed table.")] = 10,
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, help="Networks scored for each device at most.  [default: 50000]"),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="CSV file of every network scored; an interrupted search goes on."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    out_file: Annotated[
        list[Path] | None,
        typer.Option("--out", help="File to write: .csv .json .html .svg .png .pdf; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find all that is worth choosing from: the accuracy-latency front on each device.

    All numbers are predictions: specialize builds, checks and measures one of these networks.
    """
    from edgenas.strategies.constraint import parse_constraint
    from edgenas.strategies.pareto import EVALUATIONS

    constraints = [parse_constraint(text, name="--constraint") for text in constraint or ()]
    for path in out_file or ():
        _check_out(path, force=force)
        if path.suffix not in _KINDS:
            raise EdgenasError(
                f"--out must end in one of {' '.join(_KINDS)}, found {path.name!r}",
                hint="for example --out front.html --out front.csv",
            )
    from edgenas.delivery.fronts import fronts

    with steps() as tell:
        found = fronts(
            device,
            supernet=supernet,
            runtime=runtime,
            precision=precision,
            threads=threads,
            batch=batch,
            constraints=constraints,
            confidence=confidence,
            seed=seed,
            evaluations=evaluations or EVALUATIONS,
            history=history,
            progress=tell,
        )
    for path in out_file or ():
        _write(found, path)
    if json:
        print_json(found.to_json())
        return
    for front in found.devices:
        _print_front(front, rows=rows)
    error = found.error
    print_line(
        f"accuracy: predicted, of {found.data}; mean error {100 * error.error:.2f} points on "
        f"{error.n} archs"
    )
    for path in out_file or ():
        print_line(f"written: {path}")
    if not out_file:
        note("the whole front goes to files: --out front.csv --out front.html --out front.svg")


def _print_front(front: "DeviceFront", *, rows: int) -> None:
    from edgenas.basics.units import count, milliseconds

    shown = front.few(rows)
    kind = "estimated" if front.provenance == "estimated" else "predicted"
    print_line(
        f"{front.target}: {len(front.points)} networks, {len(shown)} of them shown; latencies "
        f"{kind} from {front.source}"
    )
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
            for point in shown
        ],
    )
    for text in front.notes:
        print_line(f"note: {text}")


def _write(found: "Fronts", path: Path) -> None:
    from edgenas.basics.files import write_json, write_text
    from edgenas.pages.fronts import draw_fronts, fronts_page

    told = found.to_json()
    if path.suffix == ".csv":
        write_text(path, found.to_csv())
    elif path.suffix == ".json":
        write_json(path, told)
    elif path.suffix == ".html":
        write_text(path, fronts_page(told))
    else:
        draw_fronts(told, path)


def _check_out(path: Path, *, force: bool) -> None:
    """Refuse to replace a file.

    Raises:
        EdgenasError: something is there, and ``force`` is not given or it is a folder.
    """
    if path.is_dir():
        raise EdgenasError(f"--out {path} is a folder", hint="name a file")
    if path.exists() and not force:
        raise EdgenasError(
            f"--out {path} is there already", hint="replace it with --force, or choose another"
        )


VERBS = {"report": report, "pareto": pareto}
