"""The clock as one text that any Python >= 3.8 runs, here and on boards.

A pack holds the files of ``clock/board/`` that the clock needs, and the file of one board part. It
holds what these files import at their top level, and nothing else of edgenas.
"""

import ast
import base64
import functools
import importlib.util
import json
import zlib
from collections.abc import Iterator

from edgenas.basics.errors import EdgenasError

PROGRAM = "edgenas.clock.board.serve"
_UNPACK = "edgenas.clock.board.unpack"
# What Python runs; the text comes as a JSON string in a line of stdin.
BOOT = (
    "import sys; sys.path[:] = filter(None, sys.path); import json; "
    'text = json.loads(open(0, "rb", 0, closefd=False).readline()); '
    'exec(compile(text, "board.py", "exec"))'
)


@functools.lru_cache(maxsize=16)
def pack_clock(part: str) -> str:
    """The text of a program that is the clock.

    Args:
        part: name of the board part that it times with, see `edgenas.clock.board.part`.

    Raises:
        EdgenasError: there is no file of such a part.
    """
    texts = json.dumps(collect_sources(part)).encode()
    packed = base64.b64encode(zlib.compress(texts, 9)).decode()
    return f"{_read_source(_UNPACK)}\n\nstart({packed!r}, {PROGRAM!r})\n"


def collect_sources(part: str) -> dict[str, str]:
    """The source of each module that the clock needs for a board part, by the module's name.

    Packages are there without their text, so that nothing but these modules is imported.
    """
    texts: dict[str, str] = {}
    waiting, root = [PROGRAM, part.partition(":")[0]], PROGRAM.partition(".")[0]
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name] = _read_source(name)
            waiting += [other for other in _imports(texts[name]) if other.startswith(f"{root}.")]
    for name in list(texts):
        while name := name.rpartition(".")[0]:
            texts.setdefault(name, "")
    return texts


def _read_source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    source = getattr(spec.loader, "get_source", None) if spec is not None else None
    text = source(name) if source is not None else None
    if text is None:
        raise EdgenasError(f"the clock needs the source of {name}, found none")
    return text


def _imports(text: str) -> Iterator[str]:
    """The modules that a module imports at its top level."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
