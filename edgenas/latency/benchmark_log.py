"""What LiteRT's own ``benchmark_model`` prints: times of a network on a phone, where no clock goes.

The program runs on the phone over adb, and its output is kept in a file. Lines differ by version:
newer ones begin with ``INFO:`` and have percentiles (`tensorflow/lite/tools/benchmark` and
`util/stats_calculator.h`). The last line of counts is of the timed runs, the one before of others.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import read_bytes

SUFFIXES = (".log", ".txt")
FOLDER = "/data/local/tmp"  # where adb may put programs and run them

_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
_COUNTS = re.compile(r"(?:^|[ :])count=([0-9]+) (.*)$")
_FIELD = re.compile(rf"\b(first|curr|min|max|avg|std|p5|median|p95)={_NUMBER}")
_THREADS = re.compile(r"(?:Num threads|#threads used for CPU inference): \[(-?[0-9]+)\]")
_GRAPH = re.compile(r"Graph: \[([^\]]*)\]")
_INIT = re.compile(rf"Inference timings in us: Init: {_NUMBER}")
_SWITCH = re.compile(r"Use (xnnpack|gpu|NNAPI|nnapi|Hexagon|CoreML|GPU)[a-zA-Z ]*: \[([01])\]")
_CREATED = re.compile(r"XNNPACK delegate (?:for CPU|created)|applied XNNPACK delegate")
_PARTLY = re.compile(r"partially executed by the delegate w/ ([0-9]+) delegate kernels")
_MICRO = 1e-6
_LONGEST = 1e6  # seconds of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkLog:
    """The times of a network, as ``benchmark_model`` told them.

    Args:
        path: the file with its output.
        graph: the name of the .tflite file on the phone.
        runtime: ``litert`` with XNNPACK, ``tflite`` without.
        threads: threads of one operator; None: it does not say.
        parts: in how many parts XNNPACK ran the network; 1: as a whole; 0: it did not.
        n: timed runs.
        seconds: the median, or the mean where no median is told.
        statistic: which of them.
        least: seconds of the fastest run.
        most: seconds of the slowest run.
        deviation: standard deviation of the runs in seconds.
        startup: seconds until the network was loaded; None: it does not say.
    """

    path: Path
    graph: str
    runtime: str
    threads: int | None
    parts: int
    n: int
    seconds: float
    statistic: str
    least: float
    most: float
    deviation: float
    startup: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; times in seconds."""
        names = "graph runtime threads parts n seconds statistic least most deviation startup"
        return {name: getattr(self, name) for name in names.split()}


def read_log(path: Path) -> BenchmarkLog:
    """Read a file with the output of ``benchmark_model``.

    Raises:
        EdgenasError: there is no such file, it holds no finished benchmark, or one of a GPU or
            another delegate than XNNPACK.
    """
    lines = read_bytes(path).decode(errors="replace").splitlines()
    counts = [match for line in lines if (match := _COUNTS.search(line))]
    startup = _first(_INIT, lines)
    if not counts or startup is None:
        raise EdgenasError(
            f"{path} holds no finished run of benchmark_model: no line with its inference timings",
            hint="keep all that it prints: adb shell ... > log.txt",
        )
    switches = {kind.lower(): on == "1" for line in lines for kind, on in _SWITCH.findall(line)}
    others = sorted(kind for kind, on in switches.items() if on and kind != "xnnpack")
    if others:
        raise EdgenasError(
            f"{path} is of the delegate {others[0]}: only times of the CPU can be used",
            hint="run it with --use_xnnpack=true or --use_xnnpack=false alone",
        )
    with_xnnpack = switches.get("xnnpack", True) and any(map(_CREATED.search, lines))
    partly = _first(_PARTLY, lines)
    threads, told = _first(_THREADS, lines), counts[-1]
    values = {name: _seconds(text, path) for name, text in _FIELD.findall(told[2])}
    only = values.get("curr", math.nan)  # all runs took the same time, or there was one
    statistic = "median" if "median" in values else "mean"
    seconds = values.get("median", values.get("avg", only))
    if not 0 < seconds <= _LONGEST:
        raise EdgenasError(f"{path} tells no time of a run: {quote(told[0])}")
    return BenchmarkLog(
        path=path,
        graph=(_first(_GRAPH, lines) or "").rpartition("/")[2][:100],
        runtime="litert" if with_xnnpack else "tflite",
        threads=int(threads) if threads and int(threads) > 0 else None,
        parts=(int(partly[:6]) if partly else 1) if with_xnnpack else 0,
        n=int(told[1][:9]),
        seconds=seconds,
        statistic=statistic,
        least=values.get("min", only),
        most=values.get("max", only),
        deviation=values.get("std", 0.0),
        startup=_seconds(startup, path),
    )


def _first(pattern: re.Pattern[str], lines: list[str]) -> str | None:
    """What the first line that has a pattern says there; an option set comes before its default."""
    matches = (match for line in lines if (match := pattern.search(line)))
    return next((match[1] for match in matches), None)


def _seconds(text: str, path: Path) -> float:
    try:
        return float(text) * _MICRO
    except ValueError:
        raise EdgenasError(f"{path} holds a time that is no number: {quote(text)}") from None


def phone_commands(file: str, *, threads: int, runtime: str) -> tuple[str, ...]:
    """The commands that time a .tflite file on a phone, for a person to run.

    Args:
        file: the path of the file here.
        threads: threads of one operator.
        runtime: ``litert`` with XNNPACK, ``tflite`` without.
    """
    name = Path(file).name
    switch = "true" if runtime == "litert" else "false"
    return (
        f"adb push {file} {FOLDER}/",
        f"adb shell {FOLDER}/benchmark_model --graph={FOLDER}/{name} --num_threads={threads} "
        f"--use_xnnpack={switch} > log.txt",
        "edgenas bench log.txt",
    )
