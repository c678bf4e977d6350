"""The first program of a packed clock: it imports the files of the clock from memory.

`edgenas.clock.pack` sends the text of this file, with a call of `start` behind it. Nothing is
written to a disk.
"""

from __future__ import annotations

import base64
import importlib
import importlib.abc
import importlib.util
import json
import sys
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class TextImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from texts.

    Args:
        texts: the source of each module by its full name. Packages are names before a dot.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """The spec of a module of ours; None for all others."""
        if fullname not in self._texts:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def is_package(self, fullname: str) -> bool:
        """Whether other modules of ours lie inside this one."""
        return any(name.startswith(fullname + ".") for name in self._texts)

    def get_source(self, fullname: str) -> str:
        """The text of a module of ours."""
        return self._texts[fullname]


def start(packed: str, program: str) -> None:
    """Run ``main`` of a packed module with the arguments of this process, and exit.

    Args:
        packed: the source of each module by its full name: JSON, compressed, in base64.
        program: the name of the module.
    """
    texts = json.loads(zlib.decompress(base64.b64decode(packed)))
    sys.meta_path.insert(0, TextImporter(texts))
    sys.exit(importlib.import_module(program).main(sys.argv[1:]))
