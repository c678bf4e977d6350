"""The clock on a board, at the other end of the OpenSSH client of the user.

Host, port, keys, jump hosts and the check of host keys are what ``~/.ssh/config`` says; ssh never
asks for anything (``BatchMode``). The command that runs on the board is always ``COMMAND``.
Everything that varies goes through its stdin, as JSON: first the command line of a Python there,
then the text of ``board.py``, then orders. Nothing is written to the board's disk, so nothing is
left there, however the session ends.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgenas.basics.errors import EdgenasError
from edgenas.clock import board
from edgenas.clock.measure import ClockStoppedError, Event

PYTHON = "python3"

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
    "import sys; sys.path[:] = filter(None, sys.path); import json; "
    'text = json.loads(open(0, "rb", 0, closefd=False).readline()); '
    'exec(compile(text, "board.py", "exec"))',
    "serve",
)
# The port and all else is a matter of the user's config; these keep it from getting in the way.
_OPTIONS = ("-T", "-a", "-x", "-C", "-oBatchMode=yes", "-oLogLevel=ERROR", "-oConnectTimeout=20")
_OPTIONS += ("-oServerAliveInterval=15", "-oServerAliveCountMax=3", "-oClearAllForwardings=yes")
_OPTIONS += ("-oRemoteCommand=none", "-oPermitLocalCommand=no")

_USER = r"[A-Za-z0-9_.][A-Za-z0-9_.+\-]*"
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9_.\-]*|\[?[0-9A-Fa-f:]+(?:%[A-Za-z0-9_.\-]+)?\]?)"
_ADDRESS = re.compile(rf"(?:ssh://)?(?:{_USER}@)?{_HOST}(?::[0-9]+)?")

_LINE = 1 << 26  # bytes of an event at most
_NOISE = 1000  # lines that a login shell may print before the clock is ready
_ALIVE_SECONDS = 10.0
_PATIENCE = 10.0  # seconds until ssh, asked to end, is made to


class LinkError(EdgenasError):
    """The board could not be reached, or the link to it dropped; it may work later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a clock is to run.

    Args:
        address: ``user@host``, a name of the user's ssh config, or ``ssh://user@host:port``.
        python: on the board, a name or a path; ``~`` is the home folder there.

    Raises:
        EdgenasError: the address has characters that no address has.
    """

    address: str
    python: str = PYTHON

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise EdgenasError(
                f"an ssh address must be user@host or a name of ~/.ssh/config, "
                f"found {self.address!r}",
                hint="ports, keys and jump hosts go into ~/.ssh/config: man ssh_config",
            )
        if not self.python or "\0" in self.python:
            raise EdgenasError(f"python must be a name or a path, found {self.python!r}")


@contextlib.contextmanager
def session(place: Place, *, say: Callable[[str], None]) -> "Generator[Session]":
    """The clock, ready on a board. It ends with the block, however that ends.

    Args:
        place: the board.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: ssh, the board or its Python refuse, in plain words.
        LinkError: likewise, where another attempt may succeed.
    """
    with tempfile.TemporaryFile() as said:
        command = ["ssh", *_OPTIONS, "--", place.address, COMMAND]
        try:
            ssh = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # Ctrl-C reaches us, and we end it
            )
        except FileNotFoundError:
            raise EdgenasError(
                "there is no ssh client here: ssh is not on the PATH",
                hint="install OpenSSH's client, for example: apt install openssh-client",
            ) from None
        running = Session(ssh, said=said, place=place, say=say)
        try:
            running.start()
            yield running
        finally:
            running.close()


class Session:
    """A clock at work on a board. Made by ``session``."""

    def __init__(
        self,
        ssh: subprocess.Popen[bytes],
        *,
        said: IO[bytes],
        place: Place,
        say: Callable[[str], None],
    ) -> None:
        self._ssh, self._said, self._place, self._say = ssh, said, place, say
        self._writing, self._over = threading.Lock(), threading.Event()
        self._ready = self._torn = False

    def start(self) -> None:
        """Send the clock and wait until it is ready."""
        text = Path(board.__file__).read_text(encoding="utf-8")
        self.send(json.dumps([self._place.python, *_ARGUMENTS]))
        self.send(json.dumps(text))
        for _ in range(_NOISE):
            line = self._line()
            with contextlib.suppress(ValueError):  # a login shell that greets
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "ready":
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
        except OSError:
            raise self._failure() from None

    def _write(self, data: bytes) -> None:
        # Not through the buffer of the pipe: there would be something to flush when it is closed.
        assert self._ssh.stdin is not None
        left = memoryview(data)
        with self._writing:
            self._torn = True
            while left:
                left = left[os.write(self._ssh.stdin.fileno(), left) :]
            self._torn = False

    def events(self) -> Iterator[Event]:
        """The events of the latest order."""
        waiting = False
        while True:
            event = self._event()
            if event["event"] == "done":
                return
            if event["event"] != "waiting":
                yield event
            elif not waiting:
                waiting = True
                self._say(f"waiting: another edgenas is timing on {self._place.address}")

    def _event(self) -> Event:
        line = self._line()
        try:
            event: Event = json.loads(line)
            assert isinstance(event["event"], str)
        except (ValueError, KeyError, TypeError, AssertionError):
            if not line.endswith(b"\n") and len(line) < _LINE:  # the link was cut amid a line
                raise self._failure() from None
            raise self.nonsense() from None
        return event

    def _line(self) -> bytes:
        assert self._ssh.stdout is not None
        line = self._ssh.stdout.readline(_LINE)
        if not line:
            raise self._failure()
        return line

    def _live(self) -> None:
        """Tell the board now and then that we are here: without that it stops."""
        while not self._over.wait(_ALIVE_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                self._write(b"\n")

    def nonsense(self) -> EdgenasError:
        """The error for an answer that no clock gives."""
        return EdgenasError(f"the clock on {self._place.address} answers with what is no event")

    def _failure(self) -> EdgenasError:
        """Why the session is over."""
        code = self._ended()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        return _failure(code, said, on=self._place, ready=self._ready)

    def _ended(self) -> int:
        """The exit code of ssh, which is over or about to be."""
        try:
            return self._ssh.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            return self._ssh.wait()

    def close(self) -> None:
        """End the clock on the board, which the end of its stdin does, and ssh."""
        assert self._ssh.stdin is not None
        assert self._ssh.stdout is not None
        self._over.set()
        if self._torn:  # amid a line: what is left of it will not be sent
            self._ssh.terminate()
        with self._writing:
            self._ssh.stdin.close()
        self._ended()
        self._ssh.stdout.close()


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
        for words, error, message, hint in _SAID_BY_SSH:
            if any(word in said for word in words):
                host = re.sub(r"^ssh://|^[^@]*@", "", where)
                return error(f"{where} {message}", hint=hint.format(where=where, host=host))
        what = "the link dropped" if ready else f"ssh failed: {last}"
        return LinkError(f"{where}: {what}", hint=f"does this work? ssh {where} true")
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


_SAID_BY_SSH: tuple[tuple[tuple[str, ...], type[EdgenasError], str, str], ...] = (
    (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED",),
        EdgenasError,
        "shows another host key than the one that is known: it is not trusted",
        "if the board was set up anew: ssh-keygen -R {host}, then ssh {where} and compare; if "
        "not, something else answers at that address",
    ),
    (
        ("Host key verification failed", "host key is known"),
        EdgenasError,
        "shows a host key that is not known: it is not trusted",
        "connect once by hand and compare the fingerprint: ssh {where}",
    ),
    (
        ("Permission denied", "Too many authentication failures"),
        EdgenasError,
        "lets nobody in with your keys",
        "ssh-copy-id {where}; a key with a passphrase goes into the agent: ssh-add",
    ),
    (
        ("Could not resolve hostname",),
        LinkError,
        "is a name that nobody knows",
        "use its number, or give it a name in ~/.ssh/config",
    ),
    (
        ("Connection refused",),
        LinkError,
        "refuses the connection",
        "does sshd run there? a port other than 22 goes into ~/.ssh/config",
    ),
    (
        ("timed out", "No route to host", "unreachable"),
        LinkError,
        "does not answer",
        "is it switched on, and in this network?",
    ),
)


def plain(text: str) -> str:
    """One line without control characters, not too long: what comes from afar may hold anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:500]
