"""The rules for numbers, texts and lists in files: ranges with their units, and the usual kinds.

`edgenas.basics.decode` reads them from ``Annotated`` fields. Every number in a file has a range and
a unit. The upper ends are far above real values; they keep sums and products of numbers finite.
"""

import math
import re
from collections.abc import Sized
from dataclasses import dataclass
from typing import Annotated, Any, Literal

Unit = Literal[
    "seconds", "milliseconds", "bytes", "pixels", "joules", "watts", "count", "fraction", "number"
]

ALWAYS = "always"  # marks a field that every file has, although the class has a default
# Control characters except tab and newline, lone surrogates, and marks that change the direction
# of text.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a field may hold, including both ends, and their unit.

    ``above`` excludes the lower end. A ``count`` has no unit, and a ``fraction`` is a part of 1. A
    ``number`` is a ratio or a logarithm, or the file names its unit in another field.
    """

    least: float
    most: float
    unit: Unit
    above: bool = False

    def broken_by(self, value: float) -> str:
        """The rule that a number breaks, in words that follow "must". Empty: it breaks none."""
        if isinstance(value, float) and not math.isfinite(value):
            return "be a finite number"
        if self.above and value <= self.least:
            return f"be above {self._show(self.least)}"
        if value < self.least:
            return f"be at least {self._show(self.least)}"
        return f"be at most {self._show(self.most)}" if value > self.most else ""

    def _show(self, end: float) -> str:
        if self.unit in ("count", "fraction", "number"):
            return f"{end:g}"
        return f"{end:g} {self.unit if end != 1 else self.unit.removesuffix('s')}"


@dataclass(frozen=True, slots=True)
class Length:
    """How many characters a text may have, or how many items a list or an object may have."""

    least: int = 0
    most: int = 100_000

    def broken_by(self, value: Sized, parts: str) -> str:
        """The rule that a value breaks, in words that follow "must". Empty: it breaks none.

        Args:
            value: a text, a list or an object. A text must not contain control characters either.
            parts: what the value is made of, e.g. ``items``.
        """
        if len(value) < self.least and self.least == 1:
            return "not be empty"
        if not self.least <= len(value) <= self.most:
            span = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            return f"have {span} {parts}"
        if isinstance(value, str) and _UNFIT.search(value):
            return "be a text without control characters"
        return ""


@dataclass(frozen=True, slots=True)
class Stored:
    """A field that has another name in its file, and may be stored in another unit.

    Args:
        name: in the file.
        times: the number in the file divided by the value of the field.
    """

    name: str
    times: float = 1.0

    def of(self, value: Any) -> Any:
        """Convert the value of the file to the value of the field."""
        return value if self.times == 1 else value / self.times


Seconds = Annotated[float, Range(0, 1e6, "seconds", above=True)]
SecondsOrZero = Annotated[float, Range(0, 1e6, "seconds")]
Joules = Annotated[float, Range(0, 1e6, "joules", above=True)]
Watts = Annotated[float, Range(0, 1e6, "watts")]
Fraction = Annotated[float, Range(0, 1, "fraction")]
PredictedAccuracy = Annotated[float, Range(-1, 2, "fraction")]  # predictors do not clip
PredictedSeconds = Annotated[float, Range(-1e6, 1e6, "seconds")]
Seed = Annotated[int, Range(-(2**63), 2**64, "number")]
Count = Annotated[int, Range(0, 2**53, "count")]
Positive = Annotated[int, Range(1, 2**53, "count")]
Threads = Annotated[int, Range(1, 4096, "count")]
Batch = Annotated[int, Range(1, 65_536, "count")]
LARGEST_SIDE = 16_384
Pixels = Annotated[int, Range(1, LARGEST_SIDE, "pixels")]
Channels = Annotated[int, Range(1, 65_536, "count")]
ChannelsOrNone = Annotated[int, Range(0, 65_536, "count")]
Depth = Annotated[int, Range(1, 100, "count")]  # blocks of a stage
Kernel = Annotated[int, Range(1, 255, "pixels")]
Ratio = Annotated[float, Range(0, 1000, "number", above=True)]  # of channels
Classes = Annotated[int, Range(1, 1_000_000, "count")]
Bytes = Annotated[int, Range(0, 2**53, "bytes")]
Deviation = Annotated[float, Range(1e-6, 1, "fraction")]  # of pixels, whose values are from 0 to 1
Macs = Annotated[float, Range(0, 1e18, "count")]
Log = Annotated[float, Range(-50, 50, "number")]  # a difference of logarithms: a factor up to e^50
Name = Annotated[str, Length(1, 1000)]
Words = Annotated[str, Length(0, 10_000)]
Id = Annotated[str, Length(1, 200)]
FREE = Range(-(2.0**64), 2.0**64, "number")  # for free-form values
KEY = Length(0, 1000)  # of the names in an object
