"""A program that ends when this process ends, whatever kind of end that is.

ssh ends by itself when its stdin ends, unless the program at its other end goes on without reading.
So a small process stands between: it holds one end of a pipe, and when the other end goes, because
it was closed or because this process was killed, it kills the program.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

# The pipe is argument 1, the program and its arguments follow. stdin, stdout and stderr are the
# program's alone. A program that a signal ends has the exit code that ssh has for a broken link.
_GUARD = """
import os, signal, subprocess, sys, threading
def end():
    os.read(int(sys.argv[1]), 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
program = subprocess.Popen(sys.argv[2:])
nothing = os.open(os.devnull, os.O_RDWR)
for handle in range(3):
    os.dup2(nothing, handle)
code = program.wait()
os._exit(code if code >= 0 else 255)
"""


class Guarded:
    """A program with pipes for its stdin, stdout and stderr, in a session of its own.

    Args:
        command: the program, which is on the PATH, and its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = os.pipe()  # the guard reads; nothing is ever written
        self._pipe = theirs
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, str(ours), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches us, and we end it
                pass_fds=[ours],
            )
        finally:
            os.close(ours)

    def kill(self) -> None:
        """End the program at once, and all that it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self, *, seconds: float) -> int:
        """The exit code of the program; it is killed when it does not end by itself."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def close(self) -> None:
        """Let go of the pipes of a program that has ended."""
        os.close(self._pipe)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
