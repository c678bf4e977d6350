"""Pipes to other programs, read and written within bounds of time and of memory.

What stands at the other end of a pipe may be broken or hostile. It may say nothing, never stop, or
not read what it is sent. Every wait here ends, and nothing that comes in is kept without a limit.
"""

import contextlib
import os
import select
import threading
import time
from typing import IO

_CHUNK = 1 << 16


class TooLongError(ValueError):
    """A line is longer than any line may be."""


class Lines:
    """The lines of a pipe.

    Args:
        stream: the end of the pipe that is read; nobody else may read it.
        longest: bytes that a line has at most, with its end.
    """

    def __init__(self, stream: IO[bytes], *, longest: int) -> None:
        self._handle, self._longest = stream.fileno(), longest
        self._pending = bytearray()
        self._searched = 0

    def next(self, *, seconds: float) -> bytes:
        """The next line, with its end; what is left where the stream ends; then nothing.

        Args:
            seconds: how long the whole line may take to come.

        Raises:
            TimeoutError: it took longer.
            TooLongError: the line has more bytes than a line may have.
        """
        until = time.monotonic() + seconds
        while True:
            end = self._pending.find(b"\n", self._searched) + 1
            if end:
                line = bytes(self._pending[:end])
                del self._pending[:end]
                self._searched = 0
                return line
            self._searched = len(self._pending)
            if len(self._pending) >= self._longest:
                raise TooLongError(f"a line must have at most {self._longest} bytes")
            _wait(self._handle, select.POLLIN, seconds=until - time.monotonic())
            chunk = os.read(self._handle, _CHUNK)
            if not chunk:
                rest = bytes(self._pending)
                self._pending.clear()
                self._searched = 0
                return rest
            self._pending += chunk

    def take(self, count: int, *, seconds: float) -> bytes:
        """So many bytes, whatever they are; fewer where the stream ends before.

        Args:
            count: how many.
            seconds: how long nothing may come.

        Raises:
            TimeoutError: nothing came for longer.
        """
        while len(self._pending) < count:
            _wait(self._handle, select.POLLIN, seconds=seconds)
            chunk = os.read(self._handle, _CHUNK)
            if not chunk:
                break
            self._pending += chunk
        data = bytes(self._pending[:count])
        del self._pending[:count]
        self._searched = 0
        return data


class Tail:
    """The last bytes of a pipe. A thread reads it, so that whoever writes to it never waits.

    Args:
        stream: the end of the pipe that is read; nobody else may read it.
        size: bytes that are kept.
    """

    def __init__(self, stream: IO[bytes], *, size: int = 1 << 14) -> None:
        # A handle of its own: that of the stream may be closed meanwhile, and its number reused.
        self._handle, self._size = os.dup(stream.fileno()), size
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._handle, _CHUNK):
                self._kept += chunk
                del self._kept[: -self._size]
        finally:
            os.close(self._handle)

    def text(self, *, seconds: float = 1.0) -> str:
        """What was said last.

        Args:
            seconds: to wait for the end of the stream. Some programs leave a child behind that
                keeps it open: the background connection of ssh (``ControlPersist``) does.
        """
        self._thread.join(timeout=seconds)
        return bytes(self._kept).decode(errors="replace").strip()


def write_all(stream: IO[bytes], data: bytes, *, seconds: float) -> None:
    """Write to a pipe that does not block (``os.set_blocking``).

    Args:
        stream: the end of the pipe that is written.
        data: all of it is written.
        seconds: how long the other end may take nothing.

    Raises:
        TimeoutError: it took nothing for longer.
        OSError: the other end was closed.
    """
    left = memoryview(data)
    while left:
        _wait(stream.fileno(), select.POLLOUT, seconds=seconds)
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(stream.fileno(), left[:_CHUNK]) :]


def _wait(handle: int, event: int, *, seconds: float) -> None:
    """Return once a pipe can be read or written, or was closed."""
    poll = select.poll()
    poll.register(handle, event)
    if not poll.poll(max(0.0, 1e3 * seconds)):
        raise TimeoutError
