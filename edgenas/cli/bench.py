"""``edgenas bench``: any ONNX file, timed."""

from typing import TYPE_CHECKING

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_facts, print_json, print_line
from edgenas.profiling.request import BenchRequest

if TYPE_CHECKING:
    from edgenas.profiling.bench import Bench


def run(request: BenchRequest, shown: Shown) -> None:
    """Time any ONNX file.

    The clock and the statistics are those of the latency tables.
    """
    from edgenas.profiling.answering import bench

    result = bench(request)
    if shown.json:
        print_json(result.to_json())
        return
    for timing in result.timings:
        print_facts(_rows(timing))
    if len(result.timings) == 2:
        first, second = (timing.times.median for timing in result.timings)
        names = [timing.facts["runtime"] for timing in result.timings]
        print_line(
            f"{names[1]} takes {second / first:.2f} of the time of {names[0]}; one after the other"
        )


def _rows(timing: "Bench") -> list[tuple[str, str]]:
    from edgenas.basics.units import milliseconds
    from edgenas.clock.measure import statistic

    facts, times = timing.facts, timing.times
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != '1' else ''}"
    runs = f"{facts['runtime']} {facts['version']} ({facts['provider']}), {facts['precision']}"
    what = statistic(n=times.n, wall_n=times.wall_n, flag=times.flag)
    full = "" if times.flag == "noisy" else " at the machine's full speed"
    width = "" if times.half_width is None else f" +- {times.half_width:.1%} at 95% confidence"
    full_speed = ""
    if timing.quiet is not None:
        full_speed = f"at full speed {timing.quiet:.0%} of the time before; "
    note = f"; {times.note}" if times.note and not times.noisy else ""
    around = timing.environment
    machine = around["board"] if timing.quiet is None else around["cpu"]
    return [
        ("model", f"{timing.path} (sha256 {timing.digest[:12]})"),
        ("runs on", f"{runs}, {threads}, batch {timing.batch}; {machine or around['cpu']}"),
        ("made up", "; ".join(map(str, timing.inputs)) or "no inputs"),
        (
            "median" if times.flag != "noisy" else "latency",
            f"{milliseconds(times.median)}{width}{full} ({what}, 10th to 90th percentile "
            f"{milliseconds(times.p10)} to {milliseconds(times.p90)})",
        ),
        (
            "all runs",
            f"median {milliseconds(times.wall_p50)}, 95th percentile "
            f"{milliseconds(times.wall_p95)} (n={times.wall_n})",
        ),
        ("machine", f"{full_speed}{times.judgement()}{note}"),
    ]


VERB = Verb(run=run, kinds=(BenchRequest, Shown))
