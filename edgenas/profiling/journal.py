"""The journal of a target: every finished measurement, raw samples and all, as one JSON line.

It lies beside the latency table in the user's cache, and it only grows. Its lines survive any end
of the process, so a profile goes on where it stopped. The first line is a header. An
``environment`` line starts a run on a machine, and measurements name their run. A ``withdrawn``
line says that a run no longer counts.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_schema, disk_errors, parse_json
from edgenas.basics.ranges import (
    Count,
    Id,
    Joules,
    Name,
    Range,
    Seconds,
    SecondsOrZero,
    Watts,
    Words,
)
from edgenas.clock.energy import MeasuredEnergy
from edgenas.clock.measure import Measurement
from edgenas.latency.device import Target
from edgenas.latency.table import environment_mismatches
from edgenas.latency.table_file import table_path

SCHEMA = "edgenas.samples/1"
_NANOSECONDS = ("samples", "wall_samples")
_LONGEST = 10**15  # nanoseconds of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """One measurement of one unit, as the journal holds it.

    Args:
        unit: its name.
        graph: SHA-256 of the ONNX graph that was timed, in hex.
        run: the number of its run, see ``Journal.begin``.
        at: when it was finished, ISO 8601, UTC.
        measurement: the result.
    """

    unit: str
    graph: str
    run: int
    at: str
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyRecord:
    """The energy of one run of one unit, as the journal holds it; see ``UnitRecord``."""

    unit: str
    graph: str
    run: int
    at: str
    energy: MeasuredEnergy


def journal_path(target: Target) -> Path:
    """Where the journal of a target lies: beside its table in the user's cache."""
    return table_path(target).with_suffix(".jsonl")


@contextlib.contextmanager
def open_journal(
    target: Target, *, waiting: Callable[[], None] = lambda: None
) -> Generator["Journal"]:
    """The journal of a target, for this process alone.

    A line that a killed process left unfinished is cut off.

    Args:
        target: whose.
        waiting: called before waiting for another process that holds it.

    Raises:
        EdgenasError: it is damaged, of another kind, or may not be written.
    """
    path = journal_path(target)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b", buffering=0)
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        whole, newline, _ = stream.read().rpartition(b"\n")
        stream.truncate(len(whole) + len(newline))
        journal = Journal(stream.fileno(), path=path)
        journal.read(whole.decode(errors="replace").splitlines(), target=target)
        yield journal


class Journal:
    """An open journal; ``open_journal`` opens one."""

    def __init__(self, handle: int, *, path: Path) -> None:
        self.path = path
        self.records: list[UnitRecord] = []
        self.energies: list[EnergyRecord] = []
        self._runs: list[Mapping[str, Any]] = []
        self._withdrawn: set[int] = set()
        self._handle = handle

    def read(self, lines: list[str], *, target: Target) -> None:
        """Read the lines on disk; write the header of a new journal.

        Raises:
            EdgenasError: a line is damaged.
        """
        if not lines:
            self._append({"schema": SCHEMA, "target": asdict(target)})
            return
        for number, line in enumerate(lines):
            try:
                self._read_line(parse_json(line, where="it"), number=number, where="it")
            except EdgenasError as error:
                raise EdgenasError(
                    f"{self.path} is damaged in line {number + 1}: {error.message}",
                    hint="move the file away; what it holds will be measured again",
                ) from None

    def _read_line(self, value: Any, *, number: int, where: str) -> None:
        if number == 0:
            check_schema(value, schema=SCHEMA, where=where)
        elif isinstance(value, dict) and "environment" in value:
            self._runs.append(decode(_Run, value, where=where).environment)
        elif isinstance(value, dict) and "withdrawn" in value:
            self._withdrawn.add(decode(_Withdrawn, value, where=where).run)
        elif isinstance(value, dict) and "joules" in value:
            self.energies.append(_decode_energy(value, runs=len(self._runs), where=where))
        else:
            self.records.append(_decode_record(value, runs=len(self._runs), where=where))

    def usable(self, environment: Mapping[str, Any]) -> list[UnitRecord]:
        """The records from the same kind of machine and runtime, oldest first."""
        good = self._good_runs(environment)
        return [record for record in self.records if record.run in good]

    def usable_energies(self, environment: Mapping[str, Any]) -> list[EnergyRecord]:
        """The energies from the same kind of machine and runtime, oldest first."""
        good = self._good_runs(environment)
        return [record for record in self.energies if record.run in good]

    def _good_runs(self, environment: Mapping[str, Any]) -> set[int]:
        return {
            number
            for number, other in enumerate(self._runs)
            if number not in self._withdrawn and not differences(other, environment)
        }

    def outdated(self, environment: Mapping[str, Any]) -> list[str]:
        """The fields in which the latest run differs from a machine, one line each."""
        return differences(self._runs[-1], environment) if self._runs else []

    def withdraw_all(self, *, because: str) -> None:
        """Withdraw every run of the journal."""
        for run in range(len(self._runs)):
            if run not in self._withdrawn:
                self.withdraw(run, because=because)

    @property
    def next_run(self) -> int:
        """The number of the run that would begin now."""
        return len(self._runs)

    def begin(self, environment: Mapping[str, Any]) -> int:
        """Start a run on a machine, and return its number."""
        self._append({"environment": dict(environment), "at": now()})
        self._runs.append(environment)
        return len(self._runs) - 1

    def add(self, record: UnitRecord) -> None:
        """Append a measurement.

        Raises:
            EdgenasError: the disk is full; the journal is as it was.
        """
        value = asdict(record) | asdict(record.measurement)
        del value["measurement"], value["name"]
        if not value["note"]:
            del value["note"]
        for name in _NANOSECONDS:
            value[name] = [round(seconds * 1e9) for seconds in value[name]]
        self._append(value)
        self.records.append(record)

    def add_energy(self, record: EnergyRecord) -> None:
        """Append an energy.

        Raises:
            EdgenasError: the disk is full; the journal is as it was.
        """
        value = asdict(record.energy) | asdict(record)
        del value["energy"], value["name"]
        self._append(value)
        self.energies.append(record)

    def withdraw(self, run: int, *, because: str) -> None:
        """Never use the records of a run again; they stay in the file."""
        self._append({"withdrawn": because, "run": run})
        self._withdrawn.add(run)

    def _append(self, value: Mapping[str, Any]) -> None:
        line = (json.dumps(value, allow_nan=False) + "\n").encode()
        before = os.fstat(self._handle).st_size
        with disk_errors(self.path):
            try:
                written = os.write(self._handle, line)
                while written < len(line):  # what is missing tells why it is missing
                    written += os.write(self._handle, line[written:])
            except OSError:
                os.ftruncate(self._handle, before)
                raise


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields in which two machines or their runtimes do not compare, one line each."""
    versions = [environment.get("runtime_version") for environment in (first, second)]
    lines = environment_mismatches(first, second)
    if versions[0] != versions[1]:
        lines.insert(0, f"runtime_version: {versions[0]!r} and {versions[1]!r}")
    return lines


def now() -> str:
    """This moment, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A line that starts a run."""

    environment: Mapping[str, Any]
    at: Words = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Withdrawn:
    """A line that says that a run no longer counts, and why."""

    withdrawn: Words
    run: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A measurement, see ``UnitRecord`` and ``Measurement``; single runs in nanoseconds."""

    unit: Name
    graph: Id
    run: Count
    at: Words
    median: Seconds
    p10: Seconds
    p90: Seconds
    n: Count
    half_width: Annotated[float, Range(0, 1e6, "number")] | None
    wall_p50: Seconds
    wall_p95: Seconds
    wall_n: Count
    flag: Words
    canary: SecondsOrZero
    samples: Any
    wall_samples: Any
    note: Words = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _EnergyLine:
    """An energy, see ``EnergyRecord`` and ``MeasuredEnergy``."""

    unit: Name
    graph: Id
    run: Count
    at: Words
    joules: Joules
    watts: Watts
    idle_watts: Watts
    seconds: Seconds
    drift: Annotated[float, Range(-1e9, 1e9, "number")]
    samples: Count
    sensor: Words


def _decode_energy(value: Any, *, runs: int, where: str) -> EnergyRecord:
    line = decode(_EnergyLine, value, where=where)
    if line.run >= runs:
        raise EdgenasError(f"{where}: there is no run {line.run}")
    names = [field.name for field in dataclass_fields(MeasuredEnergy) if field.name != "name"]
    energy = MeasuredEnergy(name=line.unit, **{name: getattr(line, name) for name in names})
    return EnergyRecord(unit=line.unit, graph=line.graph, run=line.run, at=line.at, energy=energy)


def _decode_record(value: Any, *, runs: int, where: str) -> UnitRecord:
    # Single runs are many: they are checked here, all at once.
    fields = dict(value) if isinstance(value, dict) else value
    samples: dict[str, tuple[float, ...]] = {}
    for name in _NANOSECONDS if isinstance(fields, dict) else ():
        runs_of = fields.get(name)
        if not isinstance(runs_of, list) or not all(
            type(ns) is int and 0 <= ns <= _LONGEST for ns in runs_of
        ):
            raise EdgenasError(f"{where}: {name} must be a list of nanoseconds")
        samples[name] = tuple(ns * 1e-9 for ns in runs_of)
        fields[name] = ()
    line = decode(_Line, fields, where=where)
    if line.run >= runs:
        raise EdgenasError(f"{where}: there is no run {line.run}")
    numbers = {
        f.name: getattr(line, f.name) for f in dataclass_fields(Measurement) if f.name != "name"
    }
    return UnitRecord(
        unit=line.unit,
        graph=line.graph,
        run=line.run,
        at=line.at,
        measurement=Measurement(name=line.unit, **{**numbers, **samples}),
    )
