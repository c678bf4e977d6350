"""The clock as a program: orders on stdin, events on stdout, one JSON object a line.

Without arguments the program does the work of one order. With the argument ``serve`` it works for
another machine, order after order. It ends at once when its stdin ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import queue
import shutil
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.settings import WORK_SCHEMA
from edgenas.clock.board.work import do_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BEAT = 5.0  # seconds between two signs of life


def main(arguments: list[str]) -> int:
    """Run the program. Returns the exit code."""
    return serve() if arguments == ["serve"] else work_once()


def work_once() -> int:
    """Do the work of the first line of stdin, and write events to stdout."""
    orders: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(orders.put, lambda: None), daemon=True).start()
    return _write_events(lambda: do_work(orders.get()))


def serve(*, silence: float = 60.0) -> int:
    """Work for another machine: orders on stdin, one a line, and events on stdout.

    ``ready`` comes first and ``done`` after each order. ``waiting`` comes about once a second while
    another session times here, and ``alive`` every few seconds, whatever happens. Nothing is
    written to a disk. The process ends at once, whatever it does, when stdin ends or is silent for
    too long, as it is behind a link that was cut. Empty lines are signs of life.

    Args:
        silence: seconds.
    """
    orders: queue.Queue[bytes] = queue.Queue()
    heard = [time.monotonic()]

    def hear() -> None:
        heard[0] = time.monotonic()

    def watch() -> None:
        while time.monotonic() - heard[0] < silence:
            time.sleep(silence / 4)
        os._exit(1)

    def events() -> Iterator[dict[str, Any]]:
        yield {"event": "ready", "schema": WORK_SCHEMA}
        while True:
            order = orders.get()
            with contextlib.ExitStack() as held:
                while not hold_machine(held):
                    yield {"event": "waiting"}
                    time.sleep(1.0)
                yield from do_work(order)
            yield {"event": "done"}

    threading.Thread(target=_listen, args=(orders.put, hear), daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()
    return _write_events(events, beat=_BEAT)


def hold_machine(held: contextlib.ExitStack) -> bool:
    """Hold this machine until the stack ends, so that two sessions never time at once.

    One name is one of Linux's abstract sockets. It is no file, and ends with the process. A board
    that TensorRT's tool times is held by a lock on that tool (`edgenas.clock.trtexec.text`).

    Returns:
        Whether the machine is ours; False: another session has it.
    """
    if sys.platform != "linux":
        return True
    with contextlib.ExitStack() as ours:
        holder = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        try:
            holder.bind("\0edgenas-timing")
            for path in _find_tool():
                tool = ours.enter_context(open(path, "rb"))
                fcntl.flock(tool, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EWOULDBLOCK):
                raise
            return False
        held.push(ours.pop_all())
    return True


def _find_tool() -> list[str]:
    """TensorRT's tool, where the text for boards looks for it; at most one path."""
    root = os.environ.get("EDGENAS_BOARD_ROOT", "")
    folders = ("/usr/src/tensorrt/bin", "/usr/bin", "/opt/tensorrt/bin")
    usual = [f"{root}{folder}/trtexec" for folder in folders]
    paths = [*usual, shutil.which("trtexec") or ""]
    return [path for path in paths if os.access(path, os.R_OK | os.X_OK)][:1]


def _write_events(events: Callable[[], Iterator[dict[str, Any]]], *, beat: float = 0.0) -> int:
    """Write events as JSON lines to stdout. What libraries print goes to stderr.

    Args:
        events: gives the events.
        beat: seconds between two ``alive`` events, which come whatever else happens; 0: none.

    Returns:
        The exit code.
    """
    out, writing = os.dup(1), threading.Lock()
    os.dup2(2, 1)

    def write(event: dict[str, Any]) -> None:
        # Not through a buffer: a thread that ends amid a write would hold its lock at exit.
        left = memoryview(json.dumps(event).encode() + b"\n")
        with writing:
            while left:
                left = left[os.write(out, left) :]

    def live() -> None:
        with contextlib.suppress(OSError):
            while True:
                time.sleep(beat)
                write({"event": "alive"})

    if beat:
        threading.Thread(target=live, daemon=True).start()
    try:
        for event in events():
            write(event)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # nobody reads any more
        return 141
    return 0


def _listen(take: Callable[[bytes], None], hear: Callable[[], None]) -> None:
    """Take the lines of stdin. At its end, end this process at once: nobody waits for it.

    Args:
        take: called with each line that is not empty.
        hear: called whenever something comes.
    """
    # os.read: a reader blocked in sys.stdin would hold a lock that the exit needs.
    pending = bytearray()
    while True:
        try:
            chunk = os.read(0, 1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            os._exit(0)
        hear()
        pending += chunk
        if b"\n" in chunk:
            *lines, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                if line:
                    take(line)
