"""What a network may cost: ``latency<=20ms``, ``latency@rpi4<=30ms``, ``params<=4M`` ..."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgenas.basics import units
from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes

METRICS = {
    "latency": "time",
    "params": "count",
    "macs": "count",
    "memory": "size",
    "energy": "energy",
}
_FORM = re.compile(r"\s*([A-Za-z]+)\s*(?:@\s*([\w.-]+)\s*)?<=?\s*(.+?)\s*")
# The units that people read a limit in, largest first.
_UNITS = {
    "time": (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)),
    "count": (("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1.0)),
    "size": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)),
    "energy": (("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6)),
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """An upper limit on one metric of a network.

    Args:
        metric: ``latency``, ``params``, ``macs``, ``memory`` or ``energy``.
        limit: in seconds, bytes, joules, or a count; kept where the metric is at most that.
        text: the limit as written, e.g. ``20ms``.
        target: the device of a latency; empty for the device at hand.
    """

    metric: str
    limit: float
    text: str
    target: str = ""

    @property
    def name(self) -> str:
        """``latency`` or ``latency@rpi4``."""
        return f"{self.metric}@{self.target}" if self.target else self.metric

    def __str__(self) -> str:
        """As it is written: ``latency<=20ms``."""
        return f"{self.name}<={self.text}"

    def quantity(self, value: float) -> str:
        """A value of this metric as people write it, rounded up to four digits: ``3.205ms``.

        Rounded up, so that a limit raised to what is printed can be kept.
        """
        named = _UNITS[METRICS[self.metric]]
        unit, scale = next((u for u in named if abs(value) >= u[1]), named[-1])
        number = value / scale
        if not number or not math.isfinite(number):
            return f"{number:g}{unit}"
        step = 10.0 ** (math.floor(math.log10(abs(number))) - 3)
        return f"{math.ceil(number / step - 1e-9) * step:.4g}{unit}"


def parse_constraint(text: str, *, name: str = "constraint") -> Constraint:
    """A constraint from its text.

    Args:
        text: for example ``latency<=20ms`` or ``latency@rpi4<=30ms``.
        name: the parameter, for the error.

    Raises:
        EdgenasError: another form, an unknown metric, or a wrong quantity.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise EdgenasError(
            f"{name} must read like latency<=20ms, found {text!r}",
            hint=f"metrics: {', '.join(METRICS)}; in a shell, put it in quotes",
        )
    metric, target, quantity = match[1].lower(), match[2] or "", match[3]
    if metric not in METRICS:
        raise unknown_name("metric", metric, names=METRICS, listing="edgenas search --help")
    if target and metric not in ("latency", "energy"):
        raise EdgenasError(
            f"{name}: {metric} is the same on every device, found @{target} in {text!r}",
            hint=f"write {metric}<={quantity}",
        )
    limit = units.parse(quantity, unit=METRICS[metric], name=name)
    return Constraint(metric, limit, quantity, target)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """A constraint with the function that it holds of.

    Args:
        constraint: the limit.
        values: of canonical rows, shape (n, genes) -> (n,), in the unit of the limit.
        guide: compiled tables that rise and fall with ``values`` (the sums below an upper bound),
            so that the least reachable value is known exactly; needless where ``values`` are
            tables themselves.
    """

    constraint: Constraint
    values: Callable[[Codes], Vector]
    guide: Tables | None = None

    def of(self, rows: Codes) -> Vector:
        """The values of rows; what is not a number keeps no limit, so it becomes infinite."""
        values = np.asarray(self.values(rows), float)
        return np.where(np.isnan(values), np.inf, values)

    @property
    def tables(self) -> Tables | None:
        """The tables with the same minimum, where there are some."""
        return self.values if isinstance(self.values, Tables) else self.guide
