"""How long work reports where it stands, and what it says to a person meanwhile."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

Progress = Callable[[str, int, int, str], None]
"""Called with the name of the step, the units done, the units in all, and a few words.

A step of 0 units in all has no bar.
"""
Say = Callable[[str], None]
"""Called with a line that a person should read."""


def no_progress(step: str, done: int, total: int, words: str) -> None:
    """Report nothing."""


def say_nothing(line: str) -> None:
    """Say nothing."""


@contextmanager
def explain_stop(how: str) -> Generator[None]:
    """Let Ctrl-C inside the block say how to go on.

    Raises:
        KeyboardInterrupt: with ``how``, in place of one without words.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
