"""The exception for mistakes of users, and values in its messages."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 300  # characters of a message on the screen


class EdgenasError(Exception):
    """A mistake that the user can mend.

    Args:
        message: one line that names the parameter, the rule and the value found.
        hint: the next command or step to try; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


def unknown_name(what: str, name: str, *, names: Iterable[str], listing: str) -> EdgenasError:
    """Make the error for a name that does not exist; its hint has the most similar names.

    Args:
        what: the kind of thing, e.g. ``"device"``.
        name: what the user wrote.
        names: the names that exist.
        listing: the command that lists them, e.g. ``"edgenas list devices"``.
    """
    near = get_close_matches(name.lower(), sorted(names), n=3, cutoff=0.5)
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return EdgenasError(f"unknown {what} {name!r}", hint=f"{question}see them all with: {listing}")


class _Short(reprlib.Repr):
    """``repr`` of a value of any size and depth, always shorter than a line."""

    def repr_int(self, x: int, level: int) -> str:
        """The bits of a large integer: Python refuses to write more than 4,300 digits."""
        return repr(x) if x.bit_length() <= 128 else f"an integer of {x.bit_length()} bits"


_SHORT = _Short()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 60


def quote(value: object) -> str:
    """Quote a value in an error message: its ``repr``, cut in the middle to 80 characters."""
    return _cut(_SHORT.repr(value), 80)


def one_line(text: str) -> str:
    """Make a message fit for a terminal: one line of 300 characters, without control characters.

    A longer message is cut in the middle: its start says where, and its end has the value.
    """
    line = _cut(" ".join(text.split()), LONGEST)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return _cut(line, LONGEST)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    head = (most - 3) // 2
    return f"{text[:head]}...{text[head + 3 - most :]}"
