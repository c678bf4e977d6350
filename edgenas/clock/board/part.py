"""A board part: what the clock needs of one runtime, and how the clock gets it by its name.

A board part is one value in one file, which needs Python >= 3.8 and the standard library alone. The
file imports numpy and the library of the runtime inside the functions that need them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class UnitError(Exception):
    """The runtime does not load or run a unit."""


@dataclass(frozen=True)
class BoardPart:
    """What the clock needs of a runtime.

    Attributes:
        runtime: the name of the runtime.
        library: the Python module whose ``__version__`` is the version of the runtime.
        load: turns a graph (bytes, or the path of a file) into a callable that runs it once. Its
            keywords are ``threads`` and ``batch`` (whole numbers) and ``precision`` (a name). A run
            that returns a whole number tells its own nanoseconds, for example by a GPU's clock.
        load_canary: loads the run that shows how fast the processor of this runtime is. None: the
            runtime uses the CPU, whose canary is `edgenas.clock.board.processors.spin_on`.
    """

    runtime: str
    library: str
    load: Callable[..., Callable[[], Any]]
    load_canary: Callable[[], Callable[[], Any]] | None = None


def import_part(name: str) -> BoardPart:
    """The board part of a name.

    Args:
        name: ``package.module:VALUE``.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such value.
    """
    module, _, value = name.partition(":")
    return getattr(importlib.import_module(module), value)
