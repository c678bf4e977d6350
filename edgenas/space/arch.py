"""One network of a space, as a value."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import check_schema, read_json, write_json
from edgenas.basics.ranges import (
    Channels,
    Length,
    Pixels,
    Range,
    Ratio,
)

SCHEMA = "edgenas.arch/1"
BlockKind = Literal["conv", "mbconv", "bottleneck", "fused", "uib", "rep", "basic", "cell", "none"]
Activation = Literal["relu", "relu6", "hswish", "silu", "none"]
_KernelOrNone = Annotated[int, Range(0, 255, "pixels")]
_BLOCK = re.compile(
    rf"(?:(?P<kind>{'|'.join(get_args(BlockKind))}):)?"
    r"(?:(?P<start>\d{1,3})\+)?(?P<kernel>\d{1,3})x(?P<expand>\d{1,3}(?:\.\d{1,6})?)"
    rf"(?:-(?P<activation>{'|'.join(get_args(Activation))}))?(?:-se(?P<squeeze>\d{{1,3}}))?"
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    Args:
        kernel: its kernel size; 0: a ``uib`` without the depthwise conv in its middle.
        expand: its expansion ratio.
        kind: None: that of its stage. ``none`` is nothing at all: the block passes on its input,
            through a 1x1 conv where the shapes of input and output differ.
        start: kernel size of the depthwise conv at the start of a ``uib``; 0: it has none.
        activation: None: that of its stage.
        squeeze: of an ``mbconv``: squeeze-and-excitation with so many times fewer channels inside;
            0: it has none; None: that of its stage.
    """

    kernel: _KernelOrNone
    expand: Ratio
    kind: BlockKind | None = None
    start: _KernelOrNone = 0
    activation: Activation | None = None
    squeeze: Annotated[int, Range(0, 999, "count")] | None = None

    def __str__(self) -> str:
        """``3x4``, ``fused:3x4``, ``uib:5+3x4`` or ``none``: kind, kernel sizes x expansion.

        Behind them what is not as in the stage: ``3x4-relu6-se0``, activation and squeeze.
        """
        if self in (NOTHING, CELL):
            return str(self.kind)
        kind = f"{self.kind}:" if self.kind else ""
        start = f"{self.start}+" if self.start else ""
        activation = f"-{self.activation}" if self.activation else ""
        squeeze = "" if self.squeeze is None else f"-se{self.squeeze}"
        return f"{kind}{start}{self.kernel}x{self.expand:g}{activation}{squeeze}"

    @staticmethod
    def parse(text: str) -> "Block":
        """Read the text form of a block.

        Raises:
            EdgenasError: the text does not describe a block.
        """
        if text == "none":
            return NOTHING
        match = _BLOCK.fullmatch(text)
        if match is None or match["kind"] in ("none", "cell") or float(match["expand"]) == 0:
            raise EdgenasError(
                "a block must read like 3x4, fused:3x4, uib:5+3x4, 3x4-relu6-se0 or none, "
                f"found {quote(text)}"
            )
        fields = match.groupdict()
        kind: Any = fields["kind"]
        activation: Any = fields["activation"]
        return Block(
            int(fields["kernel"]),
            float(fields["expand"]),
            kind,
            int(fields["start"] or 0),
            activation,
            int(fields["squeeze"]) if fields["squeeze"] else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object; newer fields only where they say something."""
        value: dict[str, Any] = {"kernel": self.kernel, "expand": self.expand}
        if self.kind:
            value["kind"] = self.kind
        if self.start:
            value["start"] = self.start
        if self.activation:
            value["activation"] = self.activation
        if self.squeeze is not None:
            value["squeeze"] = self.squeeze
        return value


NOTHING = Block(1, 1.0, "none")
CELL = Block(1, 1.0, "cell")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its output channels and its blocks. Its depth is the number of blocks."""

    width: Channels
    blocks: Annotated[tuple[Block, ...], Length(1, 1000)]


@dataclass(frozen=True, slots=True)
class Arch:
    """One network: the input resolution in pixels and the stages, the stem included.

    Its cells, where it has some, are their text forms (`edgenas.space.cells`).

    It holds only blocks that exist, so equal networks are equal values.
    """

    resolution: Pixels
    stages: Annotated[tuple[Stage, ...], Length(1, 1000)]
    cells: tuple[Annotated[str, Length(1, 2000)], ...] = ()

    @property
    def id(self) -> str:
        """Ten hex digits that name this network: the head of the SHA-256 of its JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def __str__(self) -> str:
        """``r28 16[3x1] 24[5x4 3x3]``: resolution, then width[kernel x expand ...], for logs."""
        stages = (f"{stage.width}[{' '.join(map(str, stage.blocks))}]" for stage in self.stages)
        return " ".join([f"r{self.resolution}", *self.cells, *stages])

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        value: dict[str, Any] = {
            "schema": SCHEMA,
            "resolution": self.resolution,
            "stages": [
                {
                    "width": stage.width,
                    "blocks": [block.to_json() for block in stage.blocks],
                }
                for stage in self.stages
            ],
        }
        if self.cells:
            value["cells"] = [*self.cells]
        return value

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
