"""Graphs that wait for the clock, in one file without a name.

The graphs of a whole profile may be larger than the memory, so they lie on the disk. The file has
no name: when the processes that hold it end, in whatever way, the disk space is free again, and no
folder is left behind.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """A graph in a spool.

    Args:
        handle: of the spool's file.
        offset: bytes before it.
        size: bytes of it.
    """

    handle: int
    offset: int
    size: int

    def read(self) -> bytes:
        """The graph."""
        return os.pread(self.handle, self.size, self.offset)


class Spool:
    """A file without a name, for as long as the block that it is used in."""

    def __init__(self) -> None:
        self._stream = tempfile.TemporaryFile(prefix="edgenas-", buffering=0)  # noqa: SIM115
        self._end = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def handle(self) -> int:
        """The file, which a child may inherit."""
        return self._stream.fileno()

    def keep(self, units: Iterable[tuple[str, bytes | Path]]) -> Iterator[tuple[str, Path | Span]]:
        """Name and place of each unit: what is no file yet is kept here.

        Args:
            units: name and ONNX graph (bytes or path) of each.
        """
        for name, onnx in units:
            if isinstance(onnx, Path):
                yield name, onnx.absolute()
                continue
            left = memoryview(onnx)
            while left:
                left = left[self._stream.write(left) :]
            yield name, Span(self.handle, self._end, len(onnx))
            self._end += len(onnx)


def size_of(place: Path | Span) -> int:
    """Bytes of a graph."""
    return place.stat().st_size if isinstance(place, Path) else place.size


def bytes_of(place: Path | Span) -> bytes:
    """The graph itself."""
    return place.read_bytes() if isinstance(place, Path) else place.read()
