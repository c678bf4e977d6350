"""Quantities as people write them. Inside, times are seconds, sizes bytes, energies joules."""

import math
import re
from collections.abc import Sequence

from edgenas.basics.errors import EdgenasError

_SCALES: dict[str, dict[str, float]] = {
    "time": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "size": {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20},
    "count": {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
    "energy": {"uJ": 1e-6, "mJ": 1e-3, "J": 1.0},
    "ratio": {"%": 0.01},
}
_EXAMPLES = {"time": "20ms", "size": "16MB", "count": "300M", "energy": "50mJ", "ratio": "5%"}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*")


def parse(text: str, *, unit: str, name: str) -> float:
    """Read a positive quantity.

    Args:
        text: for example ``"20ms"``, ``"4M"`` or ``"16MB"``.
        unit: the dimension: ``time`` (in seconds), ``size`` (in bytes), ``count``, ``energy`` (in
            joules) or ``ratio``.
        name: the parameter, for the error.

    Raises:
        EdgenasError: the text is no number with a unit of that dimension, or is not positive.
    """
    scales, example = _SCALES[unit], _EXAMPLES[unit]
    match = _NUMBER.fullmatch(text)
    units = ", ".join(u or "none" for u in scales)
    if match is None:
        raise EdgenasError(
            f"{name} must be a number with a unit ({units}), found {text!r}",
            hint=f"write for example {name} {example}",
        )
    number, suffix = float(match[1]), match[2]
    if suffix not in scales:
        unit_words = f"the unit {suffix!r}" if suffix else "no unit"
        raise EdgenasError(
            f"{name} must be in {units}, found {unit_words} in {text!r}",
            hint=f"write for example {name} {example}",
        )
    value = number * scales[suffix]
    if not (value > 0 and math.isfinite(value)):
        raise EdgenasError(
            f"{name} must be above zero, found {text!r}", hint=f"write for example {name} {example}"
        )
    return value


def milliseconds(seconds: float) -> str:
    """A time as ``"3.25 ms"``, with three to five significant digits and never an exponent."""
    value = seconds * 1e3
    if 0 < abs(value) < 1:
        digits = 2 - math.floor(math.log10(abs(value)))
    else:
        digits = 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f} ms"


def duration(seconds: float) -> str:
    """How long something takes, roughly: ``"40 s"``, ``"12 min"``, ``"3.4 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def count(value: float) -> str:
    """A count as ``"3.4M"``."""
    return _scaled(value, {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9})


def size(value: float) -> str:
    """A number of bytes as ``"3.4 MB"``."""
    return _scaled(value, {" B": 1.0, " kB": 1e3, " MB": 1e6, " GB": 1e9})


def pixels(sides: int | Sequence[int], *, by: str = "x") -> str:
    """``"96x160"``: height and width of an image, or the side of a square."""
    return by.join(map(str, (sides, sides) if isinstance(sides, int) else sides))


def sides_to_json(sides: tuple[int, int]) -> int | list[int]:
    """Height and width as files hold them: for a square, only its side."""
    return sides[0] if sides[0] == sides[1] else list(sides)


def _scaled(value: float, scales: dict[str, float]) -> str:
    """Write three significant digits, in the first unit that gives a number below a thousand."""
    text = ""
    for suffix, scale in scales.items():
        number = float(f"{value / scale:.3g}")
        text = f"{number:g}{suffix}"
        if abs(number) < 1000:
            break
    return text
