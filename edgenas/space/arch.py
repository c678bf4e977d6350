"""One network of a space, as a value."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.files import check_schema, read_json, write_json
from edgenas.basics.ranges import (
    Channels,
    Kernel,
    Length,
    Pixels,
    Ratio,
)

SCHEMA = "edgenas.arch/1"


@dataclass(frozen=True, slots=True)
class Block:
    """One block that exists: its kernel size and its expansion ratio."""

    kernel: Kernel
    expand: Ratio


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its output channels and its blocks. Its depth is the number of blocks."""

    width: Channels
    blocks: Annotated[tuple[Block, ...], Length(1, 1000)]


@dataclass(frozen=True, slots=True)
class Arch:
    """One network: the input resolution in pixels and the stages, the stem included.

    It holds only blocks that exist, so equal networks are equal values.
    """

    resolution: Pixels
    stages: Annotated[tuple[Stage, ...], Length(1, 1000)]

    @property
    def id(self) -> str:
        """Ten hex digits that name this network: the head of the SHA-256 of its JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def __str__(self) -> str:
        """``r28 16[3x1] 24[5x4 3x3]``: resolution, then width[kernel x expand ...], for logs."""
        stages = (
            f"{stage.width}[{' '.join(f'{b.kernel}x{b.expand:g}' for b in stage.blocks)}]"
            for stage in self.stages
        )
        return f"r{self.resolution} {' '.join(stages)}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": SCHEMA,
            "resolution": self.resolution,
            "stages": [
                {
                    "width": stage.width,
                    "blocks": [
                        {"kernel": block.kernel, "expand": block.expand} for block in stage.blocks
                    ],
                }
                for stage in self.stages
            ],
        }

    @staticmethod
    def from_json(value: Any, *, where: str = "arch") -> "Arch":
        """Read an arch from a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        return decode(Arch, check_schema(value, schema=SCHEMA, where=where), where=where)


def save_arch(arch: Arch, path: Path) -> None:
    """Write an arch as a JSON file."""
    write_json(path, arch.to_json())


def load_arch(path: Path) -> Arch:
    """Read an arch file. Raises EdgenasError as ``Arch.from_json``."""
    fields = read_json(path, schema=SCHEMA)
    return Arch.from_json({"schema": SCHEMA, **fields}, where=str(path))
