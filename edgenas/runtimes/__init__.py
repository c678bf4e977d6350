"""Runtimes: what turns an ONNX graph into something that runs on a device.

A runtime is a module of this folder with a ``NAME``, ``PRECISIONS``, ``available`` and
``compile``; see `Runtime`. Names are those of targets and of latency tables. A module is imported
when it is asked for, and imports its library when that is needed, so that listing runtimes works
without any of them.

To add one: write the module, register it in ``_MODULES``, give `edgenas.board` a loader of the
same name if it is to be timed. ``tests/test_runtimes.py`` runs the contract on every runtime here.
"""

import importlib
from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import EdgenasError, unknown

Array = NDArray[Any]

_MODULES = {"onnxruntime": "edgenas.runtimes.onnx_runtime"}


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs, in the order of the graph.

        Args:
            inputs: by the names of the graph, with the graph's types and shapes.

        Raises:
            EdgenasError: a name, type or shape is not the graph's.
        """
        ...

    def facts(self) -> dict[str, str]:
        """What really runs: ``runtime``, ``version``, ``provider``, ``precision``, ``threads``."""
        ...


class Runtime(Protocol):
    """The contract of a runtime. Modules fulfil it."""

    NAME: str
    PRECISIONS: tuple[str, ...]

    def available(self) -> str | None:
        """None, or why it cannot be used here, in words that help."""
        ...

    def compile(self, onnx: bytes, *, precision: str, threads: int, batch: int) -> Session:
        """A session for this machine.

        Args:
            onnx: the graph. Free dimensions of inputs are the batch.
            precision: one of ``PRECISIONS``. What would silently run in another is refused.
            threads: threads of the processor; what runs on a GPU may ignore it.
            batch: images a run.

        Raises:
            EdgenasError: not available here, the graph is refused, or it would not run in the
                precision asked for.
        """
        ...


def names() -> list[str]:
    """The names of all runtimes, present or not."""
    return sorted(_MODULES)


def get(name: str) -> Runtime:
    """The runtime of a name; its library need not be there.

    Raises:
        EdgenasError: there is no such runtime.
    """
    if name not in _MODULES:
        raise unknown("runtime", name, known=_MODULES, listing="edgenas list runtimes")
    return cast(Runtime, importlib.import_module(_MODULES[name]))


def check_precision(precision: str, *, runtime: str, known: Collection[str]) -> None:
    """Refuse a precision that a runtime does not have.

    Raises:
        EdgenasError: names the precisions that it has.
    """
    if precision not in known:
        raise EdgenasError(
            f"precision of {runtime} must be one of {', '.join(known)}, found {precision!r}"
        )


def check_inputs(
    inputs: Mapping[str, Array], *, expected: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> None:
    """Refuse inputs that are not those of a graph.

    Args:
        inputs: what was given.
        expected: shape and type of each input of the graph.

    Raises:
        EdgenasError: names the first input that differs, what it must be and what was found.
    """
    if set(inputs) != set(expected):
        raise EdgenasError(
            f"inputs must be {', '.join(sorted(expected))}, found {', '.join(sorted(inputs))}"
        )
    for name, (shape, dtype) in expected.items():
        found = inputs[name]
        if found.shape != shape or found.dtype != dtype:
            raise EdgenasError(
                f"input {name} must be {dtype}{list(shape)}, found {found.dtype}{list(found.shape)}"
            )
