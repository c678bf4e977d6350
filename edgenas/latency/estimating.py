"""``estimate``: a device profile of a board from a few networks that were timed on it."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import new_file, read_bytes, write_text
from edgenas.latency.benchmark_log import read_log
from edgenas.latency.device import read
from edgenas.latency.next_network import next_networks
from edgenas.latency.profile_text import profile_text
from edgenas.latency.relatives import (
    Measured,
    MeasuredCheck,
    Relatives,
    checks,
    corrected,
    relatives_of,
)
from edgenas.latency.request import EstimateRequest
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.inputs import parse_size
from edgenas.onnx_graph.price import read_network
from edgenas.space.arch import Arch
from edgenas.space.presets import load_space

_MOST = 1000  # networks of a file; each of them is read
_COLUMNS = ("model", "latency_ms")
_LOG = "log"  # the output of benchmark_model, in place of a latency
_MORE = ("size", "family", _LOG)
_LONGEST = 1e6  # seconds of a run, as of `edgenas.basics.ranges.Seconds`

Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeNext:
    """A network whose time would narrow the intervals of a space the most.

    Args:
        arch: of the space.
        file: that it was written to; None: it was not.
        factor: half width of the 90% intervals of the space's networks after it, and those before
            it, were timed.
    """

    arch: Arch
    file: Path | None
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardEstimate:
    """A device profile that was estimated from timed networks.

    Args:
        path: of the profile.
        runtime: that the networks were timed with.
        measured: how many networks were timed.
        relatives: what is known of other boards.
        median_error: of the timed networks, a fraction.
        method: how the error was found.
        checks: each timed network, predicted from the others.
        factor: half width of the 90% intervals of the space's networks; None: no space was named.
        time_next: the networks of the space to time next.
    """

    path: Path
    runtime: str
    measured: int
    relatives: Relatives
    median_error: float
    method: str
    checks: tuple[MeasuredCheck, ...]
    factor: float | None
    time_next: tuple[TimeNext, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.estimate/1",
            "device": str(self.path),
            "runtime": self.runtime,
            "measured": self.measured,
            "relatives": self.relatives.name,
            "boards": self.relatives.boards,
            "median_error": self.median_error,
            "method": self.method,
            "checks": [
                {
                    "model": check.network.name,
                    "measured_ms": check.network.seconds * 1e3,
                    "predicted_ms": check.predicted * 1e3,
                    "low_ms": check.low * 1e3,
                    "high_ms": check.high * 1e3,
                    "inside": check.inside,
                }
                for check in self.checks
            ],
            "interval_factor": self.factor,
            "time_next": [
                {
                    "arch": str(network.arch),
                    "arch_id": network.arch.id,
                    "file": None if network.file is None else str(network.file),
                    "interval_factor": network.factor,
                }
                for network in self.time_next
            ],
        }


def estimate(request: EstimateRequest) -> BoardEstimate:
    """Write the device profile of a CPU board on which a few networks were timed.

    Raises:
        EdgenasError: the file of measurements is wrong, a network cannot be read, nothing is known
            of boards with this runtime, or something stands at ``out``.
    """
    request.check()
    if request.out.exists():
        raise EdgenasError(f"--out {request.out} exists", hint="choose another --out, or remove it")
    relatives = relatives_of(request.runtime, request.precision)
    networks = read_measurements(request.measured, request)
    board = corrected(relatives, networks, threads=request.threads)
    checked = checks(relatives, networks, threads=request.threads)
    factor, time_next = _time_next(relatives, networks, request)
    text = profile_text(
        board,
        name=request.out.stem,
        title=request.title or request.out.stem,
        runtime=request.runtime,
        precision=request.precision,
        threads=request.threads,
    )
    write_text(request.out, text)
    try:
        read(request.out)  # the reader of profiles checks names and precisions
    except EdgenasError:
        request.out.unlink()
        raise
    return BoardEstimate(
        path=request.out,
        runtime=request.runtime,
        measured=len(networks),
        relatives=relatives,
        median_error=_median(board.residuals),
        method=board.method,
        checks=tuple(checked),
        factor=factor,
        time_next=time_next,
    )


def _time_next(
    relatives: Relatives, networks: Sequence[Measured], request: EstimateRequest
) -> tuple[float | None, tuple[TimeNext, ...]]:
    """The width of the intervals of the space's networks, and the networks to time next."""
    if request.space is None:
        return None, ()
    space = load_space(request.space)
    factor, chosen = next_networks(relatives, networks, space, threads=request.threads)
    time_next: list[TimeNext] = []
    for number, network in enumerate(chosen, 1):
        file = None if request.next is None else request.next / f"next-{number}.onnx"
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(file) as temporary:
                temporary.write_bytes(network_graph(space, network.arch))
        time_next.append(TimeNext(arch=network.arch, file=file, factor=network.factor))
    return factor, tuple(time_next)


def _median(residuals: Sequence[float]) -> float:
    sizes = sorted(abs(math.expm1(-residual)) for residual in residuals)
    return sizes[len(sizes) // 2]


def read_measurements(path: Path, request: EstimateRequest) -> list[Measured]:
    """The timed networks of a CSV file. Paths in it start from its folder.

    Args:
        path: of the file.
        request: what logs of ``benchmark_model`` must be of: its runtime and threads.

    Raises:
        EdgenasError: there is no such file, its columns are others, a latency is no number above
            0, a log is of another runtime, or a network cannot be read; names the line.
    """
    names, lines = _read_lines(path)
    needed = {_COLUMNS[0]} if _LOG in names else set(_COLUMNS)
    if not needed <= set(names) <= {*_COLUMNS, *_MORE}:
        raise EdgenasError(
            f"{path} must have the columns model,latency_ms and may have size, family and log, "
            f"found {','.join(names) or 'none'}",
            hint="the first line of the file names them",
        )
    if len(lines) > _MOST:
        raise EdgenasError(
            f"{path} must hold at most {_MOST} networks, found {len(lines)}",
            hint="a few dozen different networks say nearly all",
        )
    networks = [
        _read_row(
            row,
            folder=path.parent,
            where=f"{path} line {number}",
            source=path.name,
            request=request,
        )
        for number, row in lines
    ]
    if not networks:
        raise EdgenasError(f"{path} holds no network", hint="one a line: model,latency_ms")
    return networks


def _read_lines(path: Path) -> tuple[tuple[str, ...], list[tuple[int, Row]]]:
    """The names of the columns, and every row with the number of its line."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = csv.DictReader(text.splitlines(), strict=True)
        return tuple(rows.fieldnames or ()), [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgenasError(
            f"{path} is no CSV file: {error}", hint="columns: model,latency_ms"
        ) from error


def _read_row(
    row: Row, *, folder: Path, where: str, source: str, request: EstimateRequest
) -> Measured:
    """One timed network."""
    name = row["model"] or ""
    if row.get(_LOG):
        seconds = _read_log(folder / (row[_LOG] or ""), where=where, request=request)
    else:
        seconds = _read_latency(row, where=where)
    network = read_network(folder / name, size=parse_size(row.get("size") or None))
    if network.unknown:
        raise EdgenasError(
            f"{where}: {network.cautions()[0]}", hint="measure networks without such operators"
        )
    return Measured(
        name=name,
        operators=network.operators,
        seconds=seconds,
        source=f"measured: {source}",
        family=row.get("family") or "",
    )


def _read_log(path: Path, *, where: str, request: EstimateRequest) -> float:
    """The seconds of a log of ``benchmark_model``, which must be of what is asked for."""
    log = read_log(path)
    if log.runtime != request.runtime:
        raise EdgenasError(
            f"{where}: {path.name} is of {log.runtime}, not of {request.runtime}",
            hint="litert is with XNNPACK (--use_xnnpack=true), tflite without it",
        )
    if log.threads not in (None, request.threads):
        raise EdgenasError(
            f"{where}: {path.name} is of {log.threads} threads, not of {request.threads}",
            hint=f"time it with --num_threads={request.threads}",
        )
    return log.seconds


def _read_latency(row: Row, *, where: str) -> float:
    try:
        seconds = float(row.get("latency_ms") or "") / 1e3
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST:  # NaN is neither
        raise EdgenasError(
            f"{where}: latency_ms must be a number above 0 and at most {1e3 * _LONGEST:g}, "
            f"found {quote(row.get('latency_ms'))}",
            hint="milliseconds of one image, for example 12.5",
        )
    return seconds
