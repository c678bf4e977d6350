"""``bench``: any ONNX file, timed."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.basics import units
from edgenas.basics.errors import EdgenasError
from edgenas.cli.console import print_json, print_line, print_table

if TYPE_CHECKING:
    from edgenas.profiling.bench import Bench


def bench(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    device: Annotated[str, typer.Option(help="Device name or alias; see list devices.")] = "host",
    runtime: Annotated[str | None, typer.Option(help="Default: the device's first.")] = None,
    compare: Annotated[str | None, typer.Option(help="Time it on this runtime too.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Default: what the model asks for, else fp32.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Where the model leaves it open.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Of an input: image=1x3x224x224; repeatable.")
    ] = None,
    time: Annotated[str, typer.Option(help="How long it is watched at least.")] = "5s",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time any ONNX file with the clock and the statistics of the latency tables."""
    from edgenas.clock.measure import NETWORK
    from edgenas.latency.device import load
    from edgenas.onnx_graph.inputs import parse_shape
    from edgenas.profiling.bench import bench as run
    from edgenas.runtime import registry as runtimes

    profile = load(device)
    if profile.reach != "local":
        raise EdgenasError(
            f"the device {profile.name} must be this machine, it is reached by {profile.reach!r}",
            hint="run edgenas bench on the board itself with --device host",
        )
    seconds = units.parse(time, unit="time", name="--time")
    chosen = [runtime, compare] if compare is not None else [runtime]
    for name in chosen:
        if name is not None:
            runtimes.get(name)
    found = [
        run(
            model,
            target=profile.target(runtime=name, threads=threads, batch=batch),
            precision=precision,
            shapes=dict(parse_shape(text) for text in shape or ()),
            settings=dataclasses.replace(NETWORK, min_seconds=seconds),
        )
        for name in chosen
    ]
    if json:
        print_json(
            {
                "schema": "edgenas.bench/1",
                "model": str(model),
                "sha256": found[0].digest,
                "results": [_json(one) for one in found],
            }
        )
        return
    for one in found:
        print_table(("", ""), _rows(one))
    if len(found) == 2:
        first, second = (one.found.median for one in found)
        names = [one.facts["runtime"] for one in found]
        print_line(
            f"{names[1]} takes {second / first:.2f} of the time of {names[0]}; one after the other"
        )


def _rows(one: "Bench") -> list[tuple[str, str]]:
    from edgenas.basics.units import milliseconds
    from edgenas.clock.measure import statistic

    facts, found, around = one.facts, one.found, one.environment
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != '1' else ''}"
    runs = f"{facts['runtime']} {facts['version']} ({facts['provider']}), {facts['precision']}"
    what = statistic(n=found.n, wall_n=found.wall_n, flag=found.flag)
    full = "" if found.flag == "noisy" else " at the machine's full speed"
    width = "" if found.half_width is None else f" +- {found.half_width:.1%} at 95% confidence"
    return [
        ("model", f"{one.path} (sha256 {one.digest[:12]})"),
        ("runs on", f"{runs}, {threads}, batch {one.batch}; {around['cpu']}"),
        ("made up", "; ".join(map(str, one.inputs)) or "no inputs"),
        (
            "median" if found.flag != "noisy" else "latency",
            f"{milliseconds(found.median)}{width}{full} ({what}, 10th to 90th percentile "
            f"{milliseconds(found.p10)} to {milliseconds(found.p90)})",
        ),
        (
            "all runs",
            f"median {milliseconds(found.wall_p50)}, 95th percentile "
            f"{milliseconds(found.wall_p95)} (n={found.wall_n})",
        ),
        ("machine", f"at full speed {one.quiet:.0%} of the time before; {found.judgement()}"),
    ]


def _json(one: "Bench") -> dict[str, Any]:
    skipped = ("name", "samples", "wall_samples")
    times = {
        f.name: getattr(one.found, f.name)
        for f in dataclasses.fields(one.found)
        if f.name not in skipped
    }
    return {
        **one.facts,
        "threads": int(one.facts["threads"]),
        "batch": one.batch,
        "inputs": [dataclasses.asdict(value) for value in one.inputs],
        "latency": times,
        "judgement": one.found.judgement(),
        "quiet": one.quiet,
        "environment": dict(one.environment),
    }


VERBS = {"bench": bench}
