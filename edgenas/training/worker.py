"""The process that does one fine-tuning.

    python -m edgenas.training.worker FOLDER IMAGES THREADS

It tells what happens in lines of JSON on its standard output. When nobody reads them any more, it
ends, and whoever starts it again for the same folder goes on.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import file_lock
from edgenas.training.fine_tuning import fine_tune

LOCK = "lock"


def main(folder: Path, images: Path, threads: int) -> int:
    """Do the work of a folder; the exit code."""
    torch.set_num_threads(threads)

    def tell(event: Mapping[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    def show(step: str, done: int, total: int, words: str) -> None:
        tell({"step": done, "steps": total})

    try:
        with file_lock(folder / LOCK):  # another command may do the same work
            fine_tune(folder, images=images, tell=tell, progress=show)
    except EdgenasError as error:
        tell({"error": error.message, "hint": error.hint})
        return 2
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
