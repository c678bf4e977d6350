"""The clock on a board, at the other end of the OpenSSH client of the user.

`edgenas.clock.ssh` starts it. The command that runs on the board is always ``COMMAND``.
Everything that varies goes through its stdin, as JSON: first the command line of a Python there,
then the clock as one text (`edgenas.clock.pack`), then orders. Nothing is written to the board's
disk, so nothing is left there, however the session ends.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import duration
from edgenas.clock.events import Event, EventError, plain, read_event
from edgenas.clock.guard import Guarded
from edgenas.clock.measure import ClockStoppedError, WrongAnswerError
from edgenas.clock.pack import BOOT, pack_clock
from edgenas.clock.ssh import PYTHON, Place, explain_ssh, start_ssh
from edgenas.clock.streams import Lines, Tail, TooLongError, write_all

# Becomes the Python that the first line of stdin names; -I: nothing in the home folder is imported.
COMMAND = (
    "exec python3 -I -c 'import json, os; "
    'a = json.loads(open(0, "rb", 0, closefd=False).readline()); '
    "a[0] = os.path.expanduser(a[0]); os.execvp(a[0], a)'"
)
# That Python runs the text in the second line; -B: it leaves no compiled modules behind.
_ARGUMENTS = (
    "-B",
    "-c",
    BOOT,
    "serve",
)
_LINE = 1 << 22  # bytes of an event at most; those of a clock have a tenth of that
_NOISE = 1000  # lines that a login shell may print before the clock is ready
_ALIVE_SECONDS = 10.0
SILENCE = 60.0  # seconds, as the clock gives us up after so many
_PATIENCE = 10.0  # seconds until ssh, asked to end, is made to
_WAIT = 12 * 3600.0  # seconds that another session may have the board, where no time is given
# More events than this are no clock's: it tells how far it is about once a second.
_EVENTS, _EVENTS_A_UNIT, _EVENTS_A_SECOND = 200, 20, 5.0


@contextlib.contextmanager
def session(
    place: Place, *, part: str, say: Callable[[str], None], silence: float = SILENCE
) -> "Generator[ClockSession]":
    """The clock, ready on a board. It ends with the block, however that ends.

    Args:
        place: the board.
        part: the name of the board part that the clock times with.
        say: called with lines that a person should read.
        silence: seconds without a word after which the board is given up; a clock says that it is
            alive every few seconds.

    Raises:
        EdgenasError: ssh, the board or its Python refuse, in plain words.
        LinkError: the board cannot be reached now; another attempt may succeed.
    """
    ssh = start_ssh(place, COMMAND)
    running, over = ClockSession(ssh, place=place, say=say, silence=silence), False
    try:
        running.start(part)
        yield running
        over = True
    finally:
        if not over:  # an error or Ctrl-C: nobody waits for a board that may misbehave
            ssh.kill()
        running.close()


class ClockSession:
    """A clock at work on a board. Made by ``session``."""

    def __init__(
        self,
        ssh: Guarded,
        *,
        place: Place,
        say: Callable[[str], None],
        silence: float,
    ) -> None:
        stdin, stdout, stderr = ssh.process.stdin, ssh.process.stdout, ssh.process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._ssh, self._place, self._say, self._silence = ssh, place, say, silence
        self._stdin, self._lines, self._said = stdin, Lines(stdout, longest=_LINE), Tail(stderr)
        os.set_blocking(stdin.fileno(), False)
        self._writing, self._over = threading.Lock(), threading.Event()
        self._ready = False

    def start(self, part: str) -> None:
        """Send the clock with a board part, and wait until the clock is ready."""
        text = pack_clock(part)
        self.send(json.dumps([self._place.python, *_ARGUMENTS]))
        self.send(json.dumps(text))
        end = time.monotonic() + self._silence
        for _ in range(_NOISE):
            line = self._line(until=end)
            with contextlib.suppress(EventError):  # a login shell that greets
                if read_event(line)["event"] == "ready":
                    self._ready = True
                    threading.Thread(target=self._live, daemon=True).start()
                    return
        raise EdgenasError(
            f"{self._place.address} answers with something else than the clock",
            hint="its login shell must not print anything for commands; see ~/.bashrc there",
        )

    def send(self, line: str) -> None:
        """One line to the board."""
        try:
            self._write(line.encode() + b"\n")
        except TimeoutError:
            raise self._silent("does not read what it is sent") from None
        except OSError:
            raise self._failure() from None

    def _write(self, data: bytes) -> None:
        with self._writing:
            write_all(self._stdin, data, seconds=self._silence)

    def events(self, *, units: int, seconds: float, waits: bool = True) -> Iterator[Event]:
        """The events of the latest order.

        Args:
            units: that were sent with it.
            seconds: that the board may take for it in all.
            waits: whether the time for which another session has the board comes on top.

        Raises:
            WrongAnswerError: an answer is no event, or there are too many of them.
            ClockStoppedError: the board is silent, or not done in time.
        """
        began, waiting, count = time.monotonic(), False, 0
        end = began + seconds
        while True:
            event = self._event(until=end)
            now, count = time.monotonic(), count + 1
            usual = _EVENTS + _EVENTS_A_UNIT * units + _EVENTS_A_SECOND * (now - began)
            if count > usual:
                raise self.nonsense("there are more events than a clock has")
            if event["event"] == "done":
                return
            if event["event"] == "waiting":
                if waits and now - began < _WAIT:
                    end = now + seconds
                if not waiting:
                    self._say(f"waiting: another edgenas is timing on {self._place.address}")
                waiting = True
            elif event["event"] == "ready":
                raise self.nonsense("it is ready once more")
            elif event["event"] != "alive":
                yield event

    def _event(self, *, until: float) -> Event:
        line = self._line(until=until)
        if not line.endswith(b"\n"):  # the link was cut amid a line
            raise self._failure()
        try:
            return read_event(line)
        except EventError as error:
            raise self.nonsense(str(error)) from None

    def _line(self, *, until: float) -> bytes:
        """A line.

        Args:
            until: by this moment of the monotonic clock.
        """
        left = until - time.monotonic()
        try:
            line = self._lines.next(seconds=max(0.0, min(left, self._silence)))
        except TooLongError:
            raise self.nonsense("a line of it does not end") from None
        except TimeoutError:
            if left < self._silence and self._ready:
                raise self._silent("is not done in the time that it has") from None
            raise self._silent(f"has said nothing for {duration(self._silence)}") from None
        if not line:
            raise self._failure()
        return line

    def _live(self) -> None:
        """Tell the board now and then that we are here: without that it stops."""
        while not self._over.wait(_ALIVE_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                self._write(b"\n")

    def nonsense(self, what: str) -> WrongAnswerError:
        """The error for an answer that no clock gives.

        Args:
            what: is wrong with it.
        """
        return WrongAnswerError(
            f"the clock on {self._place.address} answers with what is no event: {plain(what)}",
            hint=f"nothing of it is kept; is that the board that you mean? ssh "
            f"{self._place.address}",
        )

    def _silent(self, what: str) -> ClockStoppedError:
        """The error for a board that is there and does not answer."""
        who = "the clock on " if self._ready else ""
        return ClockStoppedError(
            f"{who}{self._place.address} {what}: it is given up",
            hint=f"does this answer at once? ssh {self._place.address} true",
        )

    def _failure(self) -> EdgenasError:
        """Why the session is over."""
        code = self._ssh.wait(seconds=_PATIENCE)
        return _failure(code, self._said.text(), on=self._place, ready=self._ready)

    def close(self) -> None:
        """End the clock on the board, which the end of its stdin does, and ssh."""
        self._over.set()
        if not self._writing.acquire(timeout=_PATIENCE):  # the board takes no sign of life
            self._ssh.kill()
            self._writing.acquire()
        self._stdin.close()
        self._writing.release()
        self._ssh.wait(seconds=_PATIENCE)
        self._ssh.close()


def _failure(code: int, said: str, *, on: Place, ready: bool) -> EdgenasError:
    """What the end of ssh means, in plain words.

    Args:
        code: exit code of ssh; that of the command, or 255 for the link; negative: a signal.
        said: by ssh and by the board, on stderr.
        on: the board.
        ready: whether the clock had been ready.
    """
    where = on.address
    last = plain(said.splitlines()[-1]) if said else "nothing was said"
    if code == 255 or code < 0:
        return explain_ssh(said, where=where, dropped=ready)
    if ready:
        return ClockStoppedError(
            f"the clock on {where} stopped with code {code}: {last}",
            hint="run the same command again: it goes on with what is missing",
        )
    name = PYTHON if code == 127 else on.python
    if code == 127 or "FileNotFoundError" in said or "PermissionError" in said:
        return EdgenasError(
            f"there is no {name} on {where}",
            hint="install Python 3.8 or newer there"
            + ("" if code == 127 else ", or name another: --python '~/venv/bin/python'"),
        )
    if "SyntaxError" in said:
        return EdgenasError(
            f"{name} on {where} is too old: {last}",
            hint="the clock needs Python 3.8 or newer; name another: --python '~/venv/bin/python'",
        )
    return EdgenasError(f"{name} on {where} stopped with code {code}: {last}")
