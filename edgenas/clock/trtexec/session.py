"""One session with ``trtexec``: orders go out, answers come back, over ssh or to a shell here."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from edgenas.basics.errors import EdgenasError
from edgenas.clock.events import plain
from edgenas.clock.guard import Guarded
from edgenas.clock.measure import ClockStoppedError, WrongAnswerError
from edgenas.clock.shell import shell_script, start_text
from edgenas.clock.ssh import LinkError, Place, explain_ssh
from edgenas.clock.streams import Lines, Tail, TooLongError, write_all
from edgenas.clock.trtexec.text import RUN_TEXT

# What an answer is made of, in its order, and the most bytes of each.
_PARTS = {
    "head": 400,
    "times": 4 << 20,
    "out": 1 << 16,
    "err": 1 << 16,
    "frequencies": 1 << 12,
    "cache": 1 << 28,
    "engine": 1 << 31,
    "outputs": 1 << 28,
}
_ANSWER = re.compile(rb"edgenas answer (\d+) (\S+) (\S+) (\S+)((?: \d+){8})\n")
_LINE = 1 << 12
_NOISE = 1000  # lines that a login shell may print before the text runs
_SILENCE = 60.0  # seconds in which a board says that it is ready, and takes or gives some bytes
_PATIENCE = 10.0  # seconds until a program, asked to end, is made to
_WAIT = 12 * 3600.0  # seconds that another session may have the tool
_OWN = 30.0  # seconds that the shell takes beside the tool
_LINE_LOST = (143, 141)


class BoardLostError(LinkError):
    """The link dropped, or the tool was ended with it; another attempt may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One start of the tool.

    Args:
        model: the ONNX file.
        options: of the tool; ``@`` is the folder of the order, in which the model is ``m``, the
            timing cache ``c``, the inputs ``i``, the times ``t``, the engine ``e`` and the
            outputs ``y``.
        cache: the timing cache; empty: none.
        inputs: bytes of the model's input; empty: none.
        wanted: which files come back: ``e``, ``y``.
        seconds: after which the tool is ended.
    """

    model: bytes
    options: tuple[str, ...]
    cache: bytes = b""
    inputs: bytes = b""
    wanted: str = ""
    seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one start of the tool gave. Nothing of it has been checked.

    Args:
        code: exit code of the tool; 124: it took too long.
        before: least and most frequency of the GPU and the power mode, before it ran.
        after: the same afterwards.
        celsius: of the GPU; None: not told.
        head: the first bytes of its stdout.
        times: of its runs: a line of four numbers each.
        out: the last bytes of its stdout.
        err: the last bytes of its stderr.
        frequencies: of the GPU while it ran, in hertz.
        cache: the timing cache.
        engine: the engine.
        outputs: what the model gave for the inputs.
    """

    code: int
    before: str
    after: str
    celsius: float | None
    head: str
    times: str
    out: str
    err: str
    frequencies: tuple[float, ...]
    cache: bytes
    engine: bytes
    outputs: str


@contextlib.contextmanager
def open_session(
    place: Place | None, *, say: Callable[[str], None] = lambda line: None
) -> "Generator[TrtexecSession]":
    """The tool, ready on a board or here. It ends with the block, however that ends.

    Args:
        place: the board; None: this machine.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: the board cannot be reached, or has no such tool.
        LinkError: the board cannot be reached now; another attempt may succeed.
    """
    program = _start(place)
    session, over = TrtexecSession(program, place=place, say=say), False
    try:
        session.start()
        yield session
        over = True
    finally:
        session.close(at_once=not over)


def _start(place: Place | None) -> Guarded:
    # Here, a session of its own: a kill of this process must not reach the shell before it has
    # ended the tool and removed its folder, which it does at the end of its stdin.
    if place is None and shutil.which("setsid"):
        return Guarded(["setsid", "sh", "-c", shell_script(RUN_TEXT)])
    return start_text(RUN_TEXT, place=place)


class TrtexecSession:
    """The shell at work. Made by ``open_session``."""

    def __init__(
        self, program: Guarded, *, place: Place | None, say: Callable[[str], None]
    ) -> None:
        stdin, stdout, stderr = (
            program.process.stdin,
            program.process.stdout,
            program.process.stderr,
        )
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._program, self._remote, self._say = program, place is not None, say
        self.where = "this machine" if place is None else place.address
        self._stdin, self._lines, self._said = stdin, Lines(stdout, longest=_LINE), Tail(stderr)
        os.set_blocking(stdin.fileno(), False)
        self._ready = False

    def start(self) -> None:
        """Send the text, and wait until it runs."""
        self._send(RUN_TEXT.encode())
        end = time.monotonic() + _SILENCE
        for _ in range(_NOISE):
            line = self._line(until=end)
            if line == b"edgenas ready\n":
                self._ready = True
                return
            if line == b"edgenas none\n":
                raise EdgenasError(
                    f"there is no trtexec on {self.where}: TensorRT's tool is not installed",
                    hint="on a Jetson: sudo apt install nvidia-jetpack (or libnvinfer-bin); "
                    "see edgenas doctor",
                )
        raise EdgenasError(
            f"{self.where} answers with something else than the clock",
            hint="its login shell must not print anything for commands; see ~/.bashrc there",
        )

    def run(self, order: Order) -> Answer:
        """Have an order done.

        Raises:
            BoardLostError: the link dropped.
            EdgenasError: there is no room for it.
            WrongAnswerError: the answer is none.
            ClockStoppedError: it is not answered in time.
        """
        sizes = " ".join(str(len(data)) for data in (order.model, order.cache, order.inputs))
        options = " ".join(order.options)
        assert "\n" not in options
        head = f"{sizes} {order.seconds:.0f} {order.wanted or '-'} {options}\n"
        self._send(head.encode() + order.model + order.cache + order.inputs)
        match = self._wait_for_answer(seconds=order.seconds + _OWN)
        answer = self._read(match)
        self._send(b"\n")
        if answer.code in _LINE_LOST:
            raise BoardLostError(f"{self.where}: trtexec was ended with code {answer.code}")
        return answer

    def _wait_for_answer(self, *, seconds: float) -> "re.Match[bytes]":
        began, waiting = time.monotonic(), False
        end = began + seconds
        while True:
            line = self._line(until=end)
            if match := _ANSWER.fullmatch(line):
                return match
            if line == b"edgenas waiting\n":
                if not waiting:
                    self._say(f"waiting: another edgenas is timing on {self.where}")
                waiting, now = True, time.monotonic()
                if now - began < _WAIT:
                    end = now + seconds
            elif line.startswith(b"edgenas full "):
                needed = plain(line.decode(errors="replace")).rpartition(" ")[2]
                raise EdgenasError(
                    f"there is no room on {self.where}: {needed} KB are needed in /dev/shm or /tmp",
                    hint=f"see what is full: ssh {self.where} df -h /dev/shm /tmp",
                )
            else:
                raise self._nonsense(plain(line.decode(errors="replace"), longest=60))

    def _read(self, match: "re.Match[bytes]") -> Answer:
        sizes = [int(number) for number in match[5].split()]
        parts: dict[str, bytes] = {}
        for (name, most), size in zip(_PARTS.items(), sizes, strict=True):
            if size > most:
                raise self._nonsense(f"{name} of {size} bytes")
            try:
                data = self._lines.take(size, seconds=_SILENCE)
            except TimeoutError:
                raise self._silent() from None
            if len(data) < size:
                raise self._lost()
            parts[name] = data
        texts = {n: parts[n].decode(errors="replace") for n in ("head", "times", "out", "err")}
        heat = match[4].decode(errors="replace")
        return Answer(
            code=int(match[1]),
            before=plain(match[2].decode(errors="replace")),
            after=plain(match[3].decode(errors="replace")),
            celsius=int(heat) / 1000 if re.fullmatch(r"\d{4,6}", heat) else None,
            frequencies=tuple(
                float(line) for line in parts["frequencies"].split() if re.fullmatch(rb"\d+", line)
            ),
            cache=parts["cache"],
            engine=parts["engine"],
            outputs=parts["outputs"].decode(errors="replace"),
            **texts,
        )

    def _send(self, data: bytes) -> None:
        try:
            write_all(self._stdin, data, seconds=_SILENCE)
        except TimeoutError:
            raise self._silent() from None
        except OSError:
            # It may have said why before it stopped reading.
            with contextlib.suppress(TimeoutError, TooLongError):
                line = self._lines.next(seconds=1.0)
                if line.startswith(b"edgenas full "):
                    raise EdgenasError(
                        f"there is no room on {self.where} for the model",
                        hint=f"see what is full: ssh {self.where} df -h /dev/shm /tmp",
                    ) from None
            raise self._lost() from None

    def _line(self, *, until: float) -> bytes:
        try:
            line = self._lines.next(seconds=max(0.0, until - time.monotonic()))
        except TooLongError:
            raise self._nonsense("a line that does not end") from None
        except TimeoutError:
            raise self._silent() from None
        if not line.endswith(b"\n"):
            raise self._lost()
        return line

    def _nonsense(self, what: str) -> WrongAnswerError:
        return WrongAnswerError(
            f"{self.where} answers with what is no answer of the clock: {what}",
            hint="nothing of it is kept; its login shell must not print anything for commands",
        )

    def _silent(self) -> ClockStoppedError:
        return ClockStoppedError(
            f"{self.where} is not done in the time that it has: it is given up",
            hint="run the same command again: it goes on with what is missing",
        )

    def _lost(self) -> EdgenasError:
        """Why the session is over."""
        code, said = self._program.wait(seconds=_PATIENCE), self._said.text()
        last = plain(said.splitlines()[-1]) if said else "nothing was said"
        if self._remote and (code == 255 or code < 0):
            error = explain_ssh(said, where=self.where, dropped=self._ready)
            dropped = isinstance(error, LinkError) and self._ready
            return BoardLostError(error.message, hint=error.hint) if dropped else error
        if self._ready:
            return BoardLostError(f"{self.where}: the shell ended with code {code}: {last}")
        return EdgenasError(
            f"the shell on {self.where} stopped with code {code}: {last}",
            hint="it needs sh, head, df, mktemp, mkfifo, sed, tail and timeout, as every Linux has",
        )

    def close(self, *, at_once: bool) -> None:
        """End the shell, which the end of its stdin does.

        Args:
            at_once: whether nobody waits for it, because something failed.
        """
        with contextlib.suppress(OSError):
            self._stdin.close()
        if at_once and self._remote:
            self._program.kill()
        self._program.wait(seconds=_PATIENCE)
        self._program.close()
