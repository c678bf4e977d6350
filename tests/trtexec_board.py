"""A board with a stand-in for ``trtexec``: it is put where a shell there finds it."""

import json
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDERS = (Path("/dev/shm"), Path("/tmp"))  # where the clock works


@dataclass
class StandIn:
    """The stand-in, and what it was told.

    Args:
        folder: for its files; not one of the board.
        bin: a folder on the PATH of the board.
    """

    folder: Path
    bin: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        program = self.bin / "trtexec"
        program.unlink(missing_ok=True)
        words = (sys.executable, "-IS", HERE / "trtexec_program.py", self.folder / "trtexec.json")
        program.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        program.chmod(0o755)
        self.set()

    def set(self, **changes: Any) -> None:
        """Change its settings; see ``trtexec_program``."""
        self.settings |= {"log": str(self.folder / "log"), "python": sys.executable, **changes}
        path = self.folder / "trtexec.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.settings))
        new.replace(path)

    def starts(self) -> list[list[str]]:
        """The arguments of each start so far that built or loaded an engine."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        every = [json.loads(line)["arguments"] for line in lines]
        return [arguments for arguments in every if "--help" not in arguments]

    def remove(self) -> None:
        """As if TensorRT were not installed there."""
        (self.bin / "trtexec").unlink()


def left_over() -> list[Path]:
    """Folders of the clock that are there now; other tests may run at the same time."""
    return [path for folder in FOLDERS for path in folder.glob("edgenas-trt.*")]


def stay(before: set[Path], *, seconds: float = 300.0) -> set[Path]:
    """The folders that are there now, were not there before, and do not go within some time.

    Other tests may run at the same time: theirs go too, when those tests end.
    """
    new, end = set(left_over()) - before, time.monotonic() + seconds
    while new and time.monotonic() < end:
        time.sleep(0.05)
        new &= set(left_over())
    return new
