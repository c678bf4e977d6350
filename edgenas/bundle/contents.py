"""The contents of a bundle, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.files import parse_json, read_json, read_text
from edgenas.bundle import manifest
from edgenas.bundle.record import SCHEMA, Record
from edgenas.bundle.trace import Trace
from edgenas.space.arch import Arch, load_arch
from edgenas.space.presets import space_from_json
from edgenas.space.space import Space

TRACE_FILE = "search.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that a bundle says.

    Args:
        space: of the network.
        arch: the network.
        record: the results.
        trace: what the search saw and measured; empty for bundles of format 1, which have none.
        manifest: its fields. The hashes of files and the id may be missing.
    """

    space: Space
    arch: Arch
    record: Record
    trace: Trace
    manifest: Mapping[str, Any]


def read_contents(folder: Path) -> Contents:
    """Read what a bundle says. Only the manifest is checked; ``verify_bundle`` checks the rest.

    Raises:
        EdgenasError: there is no bundle, or a file of it is not what it should be.
    """
    fields = manifest.read(folder)
    return Contents(
        space=space_from_json(fields["space"], where="manifest.json: space"),
        arch=load_arch(folder / "arch.json"),
        record=read_record(folder),
        trace=read_trace(folder) if TRACE_FILE in fields["files"] else Trace(),
        manifest=fields,
    )


def read_record(folder: Path) -> Record:
    """Read ``report.json`` of a bundle. Raises EdgenasError as ``Record.from_json``."""
    fields = read_json(folder / "report.json", schema=SCHEMA)
    return Record.from_json({"schema": SCHEMA, **fields}, where="report.json")


def read_trace(folder: Path) -> Trace:
    """Read ``search.json`` of a bundle. Raises EdgenasError as ``Trace.from_json``."""
    value = parse_json(read_text(folder / TRACE_FILE), where=TRACE_FILE)
    return Trace.from_json(value, where=TRACE_FILE)


def load_array(path: Path) -> NDArray[Any]:
    """Read an array of a bundle. Raises ValueError where the file holds anything else."""
    with path.open("rb") as stream:
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except (TokenError, SyntaxError) as error:  # numpy reads the header as Python's tokens
            raise ValueError(f"{path.name} has a damaged header") from error
        if stream.read(1):
            raise ValueError(f"{path.name} has bytes behind its array")
    return array
