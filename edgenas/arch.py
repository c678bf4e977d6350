"""One network of a space, as a value."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.errors import EdgenasError
from edgenas.files import check_fields, check_schema, read_json, write_json

SCHEMA = "edgenas.arch/1"


@dataclass(frozen=True, slots=True)
class Block:
    """One block that exists: its kernel size and its expansion ratio."""

    kernel: int
    expand: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its output channels and its blocks; the depth is their number."""

    width: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Arch:
    """One network: the input resolution in pixels and the stages, the stem included.

    Only blocks that exist are in it, so equal networks are equal values.
    """

    resolution: int
    stages: tuple[Stage, ...]

    @property
    def id(self) -> str:
        """Ten hex digits that name this network: the head of the SHA-256 of its JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def __str__(self) -> str:
        """For logs: ``r28 16[3x1] 24[5x4 3x3]``: resolution, then width[kernel x expand ...]."""
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
    def from_json(value: Mapping[str, Any], *, where: str = "arch") -> "Arch":
        """The arch of a JSON object.

        Raises:
            EdgenasError: a field is missing, unknown or of the wrong type; names its path.
        """
        fields = check_schema(dict(value), schema=SCHEMA, where=where)
        check_fields(fields, required=("resolution", "stages"), where=where)
        stages: list[Stage] = []
        for i, stage in enumerate(_list(fields["stages"], f"{where}.stages")):
            path = f"{where}.stages[{i}]"
            _object(stage, path, ("width", "blocks"))
            blocks: list[Block] = []
            for j, block in enumerate(_list(stage["blocks"], f"{path}.blocks")):
                here = f"{path}.blocks[{j}]"
                _object(block, here, ("kernel", "expand"))
                expand = block["expand"]
                if isinstance(expand, bool) or not isinstance(expand, (int, float)):
                    raise EdgenasError(f"{here}.expand must be a number, found {expand!r}")
                blocks.append(Block(_integer(block["kernel"], f"{here}.kernel"), float(expand)))
            stages.append(Stage(_integer(stage["width"], f"{path}.width"), tuple(blocks)))
        return Arch(_integer(fields["resolution"], f"{where}.resolution"), tuple(stages))


def save_arch(arch: Arch, path: Path) -> None:
    """Write an arch as a JSON file."""
    write_json(path, arch.to_json())


def load_arch(path: Path) -> Arch:
    """Read an arch file. Raises EdgenasError as ``Arch.from_json``."""
    fields = read_json(path, schema=SCHEMA)
    return Arch.from_json({"schema": SCHEMA, **fields}, where=str(path))


def _integer(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise EdgenasError(f"{path} must be an integer, found {value!r}")
    return value


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise EdgenasError(f"{path} must be a list that is not empty, found {value!r}")
    return value  # pyright: ignore[reportUnknownVariableType]


def _object(value: Any, path: str, fields: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise EdgenasError(f"{path} must be an object, found {value!r}")
    check_fields(value, required=fields, where=path)  # pyright: ignore[reportUnknownArgumentType]
