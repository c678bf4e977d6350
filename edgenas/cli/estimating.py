"""``estimate``: a device model of a board from a few networks that were timed on it."""

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import read_bytes
from edgenas.cli.console import print_json, print_line, print_table
from edgenas.cli.modelled import parse_size

if TYPE_CHECKING:
    from edgenas.latency.relatives import Measured

_COLUMNS = ("model", "latency_ms")
_MORE = ("size",)
_LONGEST = 1e6  # seconds of a run, as of `edgenas.basics.ranges.Seconds`


def estimate(
    measured: Annotated[
        Path, typer.Argument(help="CSV file: model (path of an ONNX file), latency_ms[, size].")
    ],
    runtime: Annotated[str, typer.Option(help="It was measured with, e.g. ncnn or onnxruntime.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a run.")],
    out: Annotated[Path, typer.Option(help="Device profile to write, e.g. my-board.toml.")],
    title: Annotated[str, typer.Option(help="Of the device, for people.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate a CPU from a few networks timed on it and from what is known of its relatives.

    Writes a device profile; specialize and predict take its path as --device.
    """
    from edgenas.basics.files import write_text
    from edgenas.basics.units import milliseconds
    from edgenas.latency.device import read
    from edgenas.latency.relatives import checks, corrected, profile_text, relatives_of

    if out.suffix != ".toml":
        raise EdgenasError(
            f"--out must end in .toml, found {out}", hint="for example my-board.toml"
        )
    if out.exists():
        raise EdgenasError(f"--out {out} exists", hint="choose another --out, or remove it")
    relatives = relatives_of(runtime)
    networks = _read(measured)
    found = corrected(relatives, networks)
    tried = checks(relatives, networks)
    text = profile_text(
        found,
        name=out.stem,
        title=title or out.stem,
        runtime=runtime,
        precision=precision,
        threads=threads,
    )
    write_text(out, text)
    try:
        read(out)  # names and precisions are checked where profiles are
    except EdgenasError:
        out.unlink()
        raise
    error = _median(found.residuals)
    report = {
        "schema": "edgenas.estimate/1",
        "device": str(out),
        "runtime": runtime,
        "measured": len(networks),
        "relatives": relatives.name,
        "boards": relatives.boards,
        "median_error": error,
        "method": found.method,
        "checks": [
            {
                "model": check.network.name,
                "measured_ms": check.network.seconds * 1e3,
                "predicted_ms": check.predicted * 1e3,
                "low_ms": check.low * 1e3,
                "high_ms": check.high * 1e3,
                "inside": check.inside,
            }
            for check in tried
        ],
    }
    if json:
        print_json(report)
        return
    print_line(f"device profile: {out}")
    print_line(
        f"{len(networks)} networks measured on it correct {relatives.boards} relatives "
        f"({relatives.name}, {relatives.networks} published networks)"
    )
    print_line(f"median error {error:.1%} ({found.method})")
    if tried:
        print_table(
            ("each from the others", "measured", "predicted", "90% interval", ""),
            [
                (
                    check.network.name,
                    milliseconds(check.network.seconds),
                    milliseconds(check.predicted),
                    f"{milliseconds(check.low)} to {milliseconds(check.high)}",
                    "" if check.inside else "outside: measure it again, or trust the rest less",
                )
                for check in tried
            ],
        )
    print_line(f"use it: edgenas predict --device {out} --model FILE.onnx")


def _median(residuals: tuple[float, ...]) -> float:
    sizes = sorted(abs(math.expm1(-residual)) for residual in residuals)
    return sizes[len(sizes) // 2]


def _read(path: Path) -> "list[Measured]":
    """The networks of a CSV file; paths are from its folder.

    Raises:
        EdgenasError: absent, other columns, a latency that is none, or a network that cannot be
            read; names the line.
    """
    from edgenas.latency.relatives import Measured
    from edgenas.onnx_graph.price import read_network

    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = csv.DictReader(text.splitlines(), strict=True)
        names, lines = tuple(rows.fieldnames or ()), [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgenasError(
            f"{path} is no CSV file: {error}", hint="columns: model,latency_ms"
        ) from error
    if not set(_COLUMNS) <= set(names) <= {*_COLUMNS, *_MORE}:
        raise EdgenasError(
            f"{path} must have the columns model,latency_ms and may have size, found "
            f"{','.join(names) or 'none'}",
            hint="the first line of the file names them",
        )
    found: list[Measured] = []
    for number, row in lines:
        where = f"{path} line {number}"
        try:
            seconds = float(row["latency_ms"] or "") / 1e3
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= _LONGEST:  # NaN is neither
            raise EdgenasError(
                f"{where}: latency_ms must be a number above 0 and at most {1e3 * _LONGEST:g}, "
                f"found {quote(row['latency_ms'])}",
                hint="milliseconds of one image, for example 12.5",
            )
        network = read_network(
            path.parent / (row["model"] or ""), size=parse_size(row.get("size") or None)
        )
        if network.unknown:
            raise EdgenasError(
                f"{where}: {network.cautions()[0]}", hint="measure networks without such operators"
            )
        found.append(
            Measured(
                name=row["model"],
                operators=network.operators,
                seconds=seconds,
                source=f"measured: {path.name}",
            )
        )
    if not found:
        raise EdgenasError(f"{path} holds no network", hint="one a line: model,latency_ms")
    return found


VERBS = {"estimate": estimate}
