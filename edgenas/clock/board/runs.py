"""Single runs of a loaded graph: their inputs, their time, and the memory that is read before."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.processors import spin_on

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from edgenas.clock.board.part import BoardPart


def make_inputs(wanted: Sequence[tuple[str, Sequence[int], str]]) -> dict[str, Any]:
    """Fixed random inputs, by name.

    Floats are normal numbers. Integers are 0 or 1, which is legal for pixels, indices and switches.

    Args:
        wanted: name, shape and numpy type of each.
    """
    numpy: Any = importlib.import_module("numpy")
    generator = numpy.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for name, shape, kind in wanted:
        values = generator.standard_normal(tuple(shape))
        whole = "int" in kind or kind == "bool"
        inputs[name] = (values > 0 if whole else values).astype(kind)
    return inputs


def read_bytes(source: bytes | str) -> bytes:
    """A graph as bytes.

    Args:
        source: the bytes, or the path of a file.
    """
    if isinstance(source, bytes):
        return source
    with open(source, "rb") as stream:
        return stream.read()


@contextlib.contextmanager
def memory_file(data: bytes = b"") -> Generator[str, None, None]:
    """The path of a file that lies in memory where the system can do that, and ends with us.

    Args:
        data: what the file holds.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as stream:
            stream.write(data)
            stream.flush()
            yield stream.name
        return
    handle = os.memfd_create("edgenas")
    with open(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        yield f"/proc/self/fd/{handle}"


def count_nanoseconds(
    run: Callable[[], Any], *, now: Callable[[], int] = time.perf_counter_ns
) -> int:
    """The nanoseconds of one run: those that the run returns, or else those of a clock."""
    before = now()
    answer = run()
    return answer if isinstance(answer, int) else now() - before


def choose_canary(part: BoardPart) -> Callable[[tuple[int, ...]], Sequence[float]]:
    """The canary that shows how fast the processor of a runtime is.

    Returns:
        A callable that takes the processors in use and returns seconds. On the CPU it is `spin_on`.
        Otherwise it is the shortest of three runs of the part's own canary.

    Raises:
        UnitError: the runtime cannot be used here.
    """
    if part.load_canary is None:
        return spin_on
    run = part.load_canary()
    return lambda _: (1e-9 * min(count_nanoseconds(run) for _ in range(3)),)


def evict_caches_before(run: Callable[[], Any], *, size: int) -> Callable[[], int]:
    """A run before which caches hold other things, as the rest of a network leaves them.

    Args:
        run: what is timed.
        size: bytes of other memory that are read before each run, outside its time.

    Returns:
        A callable that does both and returns the nanoseconds of the run alone.
    """
    other, absent = _other_memory(size), b"\x00"

    def read_and_run() -> int:
        other.find(absent)  # reads all of it, at the speed of memory
        return count_nanoseconds(run)

    return read_and_run


@functools.lru_cache(maxsize=1)
def _other_memory(size: int) -> bytearray:
    # We write to it once: all pages that nobody wrote to are one page, which stays in a cache.
    return bytearray(b"\x01") * size
