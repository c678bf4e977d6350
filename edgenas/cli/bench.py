"""``edgenas bench``: any ONNX or .tflite file, timed."""

from typing import TYPE_CHECKING

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_facts, print_json, print_text
from edgenas.profiling.request import BenchRequest

if TYPE_CHECKING:
    from edgenas.latency.benchmark_log import BenchmarkLog
    from edgenas.profiling.bench import Bench


def run(request: BenchRequest, shown: Shown) -> None:
    """Time any ONNX or .tflite file.

    The clock and the statistics are those of the latency tables.
    """
    from edgenas.profiling.answering import bench

    result = bench(request)
    if shown.json:
        print_json(result.to_json())
        return
    if result.log is not None:
        print_facts(_rows_of_log(result.log))
    for timing in result.timings:
        print_facts(_rows(timing))
    if len(result.timings) == 2:
        first, second = (timing.times.median for timing in result.timings)
        names = [timing.facts["runtime"] for timing in result.timings]
        print_text(
            f"{names[1]} takes {second / first:.2f} of the time of {names[0]}; one after the other"
        )


def _rows_of_log(log: "BenchmarkLog") -> list[tuple[str, str]]:
    from edgenas.basics.units import milliseconds

    threads = "threads not told" if log.threads is None else f"{log.threads} threads"
    parts = (
        "" if log.parts <= 1 else f", in {log.parts} parts of XNNPACK with other kernels between"
    )
    startup = "not told" if log.startup is None else milliseconds(log.startup)
    return [
        ("model", f"{log.graph or 'not told'}, from {log.path}"),
        ("runs on", f"{log.runtime}, {threads}{parts}; where, the log does not say"),
        (
            log.statistic,
            f"{milliseconds(log.seconds)} (n={log.n}, {milliseconds(log.least)} to "
            f"{milliseconds(log.most)}, standard deviation {milliseconds(log.deviation)})",
        ),
        ("load", startup),
        (
            "clock",
            "LiteRT's benchmark_model: no canary beside the runs, so nothing tells at what speed "
            "the phone ran",
        ),
    ]


def _rows(timing: "Bench") -> list[tuple[str, str]]:
    from edgenas.basics.units import duration, milliseconds
    from edgenas.clock.measure import statistic
    from edgenas.profiling.heat import describe_board

    facts, times = timing.facts, timing.times
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != '1' else ''}"
    runs = f"{facts['runtime']} {facts['version']} ({facts['provider']}), {facts['precision']}"
    what = statistic(n=times.n, wall_n=times.wall_n, flag=times.flag)
    full = "" if times.flag == "noisy" else " at the machine's full speed"
    width = "" if times.half_width is None else f" +- {times.half_width:.1%} at 95% confidence"
    full_speed = ""
    if timing.quiet is not None:
        full_speed = f"at full speed {timing.quiet:.0%} of the time before; "
    outside = facts.get("outside", "0")
    if outside != "0":
        runs += f", operators outside of XNNPACK {outside}"
    hot: list[tuple[str, str]] = []
    if timing.heat is not None:
        heat = timing.heat
        words = f"after {duration(heat.load)} of steady load {milliseconds(heat.hot)}, the same "
        words += f"engine cool {milliseconds(heat.cool)} ({heat.hot / heat.cool - 1:+.1%})"
        hot = [("hot", words + describe_board(celsius=heat.celsius, hertz=heat.hertz))]
    published: list[tuple[str, str]] = []
    if timing.published is not None:
        words = timing.published
        words = words if isinstance(words, str) else words.compare(times.median)
        published = [("published", words)]
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
        *hot,
        *published,
        ("machine", f"{full_speed}{times.judgement()}{note}"),
    ]


VERB = Verb(run=run, kinds=(BenchRequest, Shown))
