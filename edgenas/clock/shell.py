"""Constant ``sh`` texts, run on a board over ssh or here, whose answer is some lines.

No Python is needed at the other end. The command is one line whatever the text is, and every login
shell reads it: a ``sh`` that reads so many bytes of its stdin and runs them. What varies goes
through the rest of stdin, which the text reads, and is never part of a command.
"""

import contextlib
import os
import time
from collections.abc import Iterator

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import duration
from edgenas.clock.events import plain
from edgenas.clock.guard import Guarded
from edgenas.clock.measure import ClockStoppedError, WrongAnswerError
from edgenas.clock.ssh import Place, explain_ssh, start_ssh
from edgenas.clock.streams import Lines, Tail, TooLongError, write_all

_LINE = 1 << 16  # bytes of a line at most
_NOISE = 1000  # lines that a login shell may print before the answer begins
_PATIENCE = 10.0  # seconds until a program, asked to end, is made to


def shell_script(text: str) -> str:
    """The script for ``sh -c`` that runs a text which comes first on stdin. It has no newline."""
    # dd reads byte by byte, so that what follows the text stays in the pipe.
    return f'eval "$(dd bs=1 count={len(text.encode())} 2>/dev/null)"'


def start_text(text: str, *, place: Place | None) -> Guarded:
    """Start a ``sh`` that runs a text as soon as its stdin brings it.

    Args:
        text: a constant.
        place: the board; None: here.

    Raises:
        EdgenasError: there is no ssh client here.
    """
    script = shell_script(text)
    if place is None:
        return Guarded(["sh", "-c", script])
    return start_ssh(place, f"exec sh -c '{script}'")


def ask_shell(
    text: str, *, header: str, place: Place | None, begin: str, most: int, seconds: float
) -> list[str]:
    """Run a text and return the lines of its answer.

    Args:
        text: a constant. Its answer starts with the line ``begin`` and ends with the line ``end``.
        header: one line that the text reads.
        place: the board; None: here.
        begin: the line behind which the answer starts; a login shell may print lines before it.
        most: lines that an answer has at most.
        seconds: that all may take.

    Returns:
        The lines between both, as they came, without their ends. They may hold anything.

    Raises:
        EdgenasError: the board cannot be reached, or there is no ``sh``.
        WrongAnswerError: the answer is none of this text.
        ClockStoppedError: the answer does not come or does not end.
    """
    assert "\n" not in header
    program = start_text(text, place=place)
    stdin, stdout, stderr = program.process.stdin, program.process.stdout, program.process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    said, over = Tail(stderr), False
    where = "this machine" if place is None else place.address
    os.set_blocking(stdin.fileno(), False)
    try:
        with contextlib.suppress(TimeoutError, OSError):  # it ends, and says why on stderr
            write_all(stdin, f"{text}{header}\n".encode(), seconds=seconds)
        answer = list(_answer(Lines(stdout, longest=_LINE), begin=begin, most=most, until=seconds))
        over = True
    except _EndedError:
        code = program.wait(seconds=_PATIENCE)
        raise _ended(code, said.text(), where=where, remote=place is not None) from None
    except TimeoutError:
        raise ClockStoppedError(
            f"{where} does not tell its state within {duration(seconds)}: it is given up",
            hint="a command there may hang; does this answer at once? "
            + ("true" if place is None else f"ssh {where} true"),
        ) from None
    except (TooLongError, _StrangeError) as error:
        raise WrongAnswerError(
            f"{where} answers with something else than its state: {plain(str(error))}",
            hint="its login shell must not print anything for commands; see ~/.bashrc there",
        ) from None
    finally:
        if not over:
            program.kill()
        with contextlib.suppress(OSError):
            stdin.close()
        program.wait(seconds=_PATIENCE)
        program.close()
    return answer


class _EndedError(Exception):
    """The program ended amid its answer."""


class _StrangeError(Exception):
    """The answer is none."""


def _answer(lines: Lines, *, begin: str, most: int, until: float) -> Iterator[str]:
    end, begun, count = time.monotonic() + until, False, 0
    while True:
        line = lines.next(seconds=max(0.0, end - time.monotonic()))
        if not line.endswith(b"\n"):
            raise _EndedError
        words = line[:-1].decode(errors="replace")
        count += 1
        if not begun:
            begun, count = words == begin, 0 if words == begin else count
            if count > _NOISE:
                raise _StrangeError("it never begins")
        elif words == "end":
            return
        elif count > most:
            raise _StrangeError(f"it has more than {most} lines")
        else:
            yield words


def _ended(code: int, said: str, *, where: str, remote: bool) -> EdgenasError:
    if remote and (code == 255 or code < 0):
        return explain_ssh(said, where=where, dropped=False)
    last = plain(said.splitlines()[-1]) if said else "nothing was said"
    if code == 127:
        return EdgenasError(f"there is no sh, head or tr on {where}: {last}")
    return ClockStoppedError(
        f"{where} stopped amid telling its state, with code {code}: {last}",
        hint="run the same command again",
    )
