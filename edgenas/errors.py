"""The one exception a user sees."""

from collections.abc import Iterable
from difflib import get_close_matches


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


def unknown(what: str, name: str, *, known: Iterable[str], listing: str) -> EdgenasError:
    """The error for a name that does not exist, with the nearest names that do.

    Args:
        what: the kind of thing, e.g. ``"device"``.
        name: what the user wrote.
        known: the names that exist.
        listing: the command that lists them, e.g. ``"edgenas list devices"``.
    """
    names = sorted(known)
    near = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return EdgenasError(f"unknown {what} {name!r}", hint=f"{meant}see them all with: {listing}")
