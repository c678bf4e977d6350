"""What is fuzzed: for each kind of file, how an input is made and what reads it.

A maker writes one input into an empty folder and says what reads it: the words of a command line,
or a function where the verb around a reader would train or search for minutes.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Reader = Sequence[str] | Callable[[], Any]
Maker = Callable[["Base", Path, random.Random], Reader]


@dataclass(frozen=True, slots=True)
class Base:
    """What all inputs are made from.

    Args:
        folder: with a bundle, a released supernet, board answers and more, made by ``prepare``.
        root: the checkout.
    """

    folder: Path
    root: Path

    @property
    def data(self) -> Path:
        """The samples of old formats."""
        return self.root / "tests" / "data"


def all_kinds() -> dict[str, Maker]:
    """Every kind by its name."""
    from tools.fuzz import made_folders, made_models, made_texts

    return {**made_texts.KINDS, **made_models.KINDS, **made_folders.KINDS}
