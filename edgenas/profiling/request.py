"""What ``profile``, ``bench``, ``check`` and ``doctor`` can be asked for.

This module loads nothing heavy.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request
from edgenas.basics.ranges import Range
from edgenas.basics.units import parse
from edgenas.latency.request import (
    BatchSize,
    BoardAddress,
    BoardPython,
    ClassCount,
    DeviceName,
    InputShapes,
    PrecisionName,
    RuntimeName,
    ThreadCount,
)

Seed = Annotated[int, Range(0, 2**63 - 1, "count")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """Which target is measured, and for which space."""

    device: DeviceName
    space: Annotated[str, Option("Name of a space, or a file of one.")]
    ssh: BoardAddress = None
    python: BoardPython = None
    runtime: RuntimeName = None
    precision: PrecisionName = None
    threads: ThreadCount = None
    batch: BatchSize = None
    classes: ClassCount = None
    time: Annotated[
        str | None,
        Option("Stop after so long, e.g. 60s. The same command goes on from there."),
    ] = None
    fresh: Annotated[bool, Option("Measure everything anew.")] = False
    energy: Annotated[
        bool, Option("Measure the energy of networks too, by the board's power sensor.")
    ] = False
    heat: Annotated[
        str | None,
        Option(
            "Then run the largest network so long without a pause, and time some on the hot board, "
            "e.g. 10min. It comes on top of --time. TensorRT alone."
        ),
    ] = None
    seed: Annotated[Seed, Option("Seed of the order and of the sampled networks.")] = 0

    @property
    def load(self) -> float | None:
        """The seconds of steady load. Raises EdgenasError where they cannot be read."""
        return None if self.heat is None else parse(self.heat, unit="time", name="heat")

    @property
    def seconds(self) -> float | None:
        """The time that is allowed. Raises EdgenasError where it cannot be read."""
        return None if self.time is None else parse(self.time, unit="time", name="time")

    def check(self) -> None:
        """Refuse a value that breaks a rule. Raises EdgenasError with the option and the rule."""
        check_request(self)
        _ = self.seconds, self.load


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """Which file is timed, and on what."""

    model: Annotated[
        Path,
        Option(
            "An ONNX file, a .tflite file, or a .log or .txt file with what LiteRT's "
            "benchmark_model printed.",
            positional=True,
        ),
    ]
    device: DeviceName = "host"
    ssh: BoardAddress = None
    python: BoardPython = None
    runtime: RuntimeName = None
    compare: Annotated[str | None, Option("Time it on this runtime too.")] = None
    precision: Annotated[
        str | None,
        Option(
            "Precision that it must run in. Default: the one that the model asks for, else fp32."
        ),
    ] = None
    threads: ThreadCount = None
    batch: Annotated[
        Annotated[int, Range(1, 65_536, "count")] | None,
        Option("Images of one run, where the model leaves them open."),
    ] = None
    shape: InputShapes = ()
    time: Annotated[str, Option("How long the model is timed at least.")] = "5s"
    heat: Annotated[
        str | None,
        Option(
            "Then run it so long without a pause, and tell its times on the hot board too, e.g. "
            "10min. TensorRT alone."
        ),
    ] = None

    @property
    def load(self) -> float | None:
        """The seconds of steady load. Raises EdgenasError where they cannot be read."""
        return None if self.heat is None else parse(self.heat, unit="time", name="heat")

    @property
    def seconds(self) -> float:
        """How long it is timed at least. Raises EdgenasError where that cannot be read."""
        return parse(self.time, unit="time", name="time")

    def check(self) -> None:
        """Refuse a value that breaks a rule. Raises EdgenasError with the option and the rule."""
        check_request(self)
        _ = self.seconds, self.load


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Which latency table is compared with its device."""

    device: DeviceName
    tolerance: Annotated[str, Option("A change up to this is no drift.")] = "5%"
    ssh: BoardAddress = None
    python: BoardPython = None
    space: Annotated[
        str | None, Option("Name of a space, or a file of one. Default: the space of the table.")
    ] = None
    runtime: RuntimeName = None
    precision: PrecisionName = None
    threads: ThreadCount = None
    batch: BatchSize = None

    @property
    def allowed(self) -> float:
        """The tolerance as a fraction of 1. Raises EdgenasError where it cannot be read."""
        return parse(self.tolerance, unit="ratio", name="tolerance")

    def check(self) -> None:
        """Refuse a value that breaks a rule.

        Raises:
            EdgenasError: names the option, the rule and the value found.
        """
        check_request(self)
        if not 0 < self.allowed < 1:
            raise EdgenasError(f"tolerance must be between 0% and 100%, found {self.tolerance}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """Which board is looked at; without an address and a device it is this machine."""

    device: Annotated[
        str | None,
        Option("Device that the board is to be timed as. Default: found by the board's model."),
    ] = None
    ssh: BoardAddress = None
    python: BoardPython = None

    def check(self) -> None:
        """Refuse a value that breaks a rule. Raises EdgenasError with the option and the rule."""
        check_request(self)
