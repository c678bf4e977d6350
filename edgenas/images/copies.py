"""Which images a supernet has learnt from: copies are found again, also encoded anew or resized.

An image leaves a sketch: its grey at 16 x 16 pixels, its colours at 4 x 4, and the hash of its
stored pixels. Two images are copies where the hashes are equal, or where the greys agree in two
ways, in their shape and in their values, and the colours agree too. Different photos of one thing
do not pass: docs/reference/images.md has the numbers. A sketch does not show what is on a photo.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_file

SCHEMA = "edgenas.learnt/1"
LEARNT_FILE = "learnt.safetensors"

_GREY, _COLOUR, _HASH = 16, 4, 16  # pixels of a side, twice, and bytes
_SHAPES = {"grey": (_GREY, _GREY), "colour": (3, _COLOUR, _COLOUR), "hashes": (_HASH,)}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey
# Measured on five data sets (docs/reference/images.md): JPEG of quality 30, WebP of quality 50 and
# half the size keep a correlation above 0.994 and a difference below 5 levels of 255 on the mean;
# of different photos none has both.
LEAST_CORRELATION = 0.994
MOST_DIFFERENCE = 5.0
_MOST_COLOUR = 12.0  # levels, the worst of the colours
# Levels: of flatter images the correlation is chance, so only equal pixels count.
_FLAT = 3.0
_PART = 256  # images at a time: a matrix of so many rows is kept


@dataclass(frozen=True, slots=True)
class Sketches:
    """What is kept of images to know them again.

    Args:
        grey: uint8, shape (n, 16, 16).
        colour: uint8, shape (n, 3, 4, 4).
        hashes: BLAKE2 of the stored pixels, uint8, shape (n, 16).
    """

    grey: Tensor
    colour: Tensor
    hashes: Tensor

    def __len__(self) -> int:
        return len(self.grey)

    @staticmethod
    def of(pixels: Tensor) -> "Sketches":
        """The sketches of stored images (uint8, shape (n, 3, height, width)), in their order."""
        greys, colours, hashes = list[Tensor](), list[Tensor](), list[bytes]()
        luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
        for part in pixels.split(_PART):
            values = part.float()
            small = F.adaptive_avg_pool2d(values, _GREY)
            greys.append((small * luma).sum(1).round().to(torch.uint8))
            colours.append(F.adaptive_avg_pool2d(values, _COLOUR).round().to(torch.uint8))
            hashes += [
                hashlib.blake2b(p.tobytes(), digest_size=_HASH).digest() for p in part.numpy()
            ]
        table = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, _HASH)
        return Sketches(torch.cat(greys), torch.cat(colours), torch.from_numpy(table.copy()))

    @staticmethod
    def none() -> "Sketches":
        """The sketches of no image."""
        return Sketches(
            **{n: torch.empty((0, *shape), dtype=torch.uint8) for n, shape in _SHAPES.items()}
        )

    @staticmethod
    def joined(parts: Sequence["Sketches"]) -> "Sketches":
        """The sketches of several sets, each once."""
        parts = [Sketches.none(), *parts]
        grey, colour, hashes = (
            torch.cat([getattr(part, name) for part in parts]) for name in _SHAPES
        )
        rows = torch.cat([t.flatten(1) for t in (grey, colour, hashes)], 1).numpy()
        _, first = np.unique(rows, axis=0, return_index=True)
        kept = torch.from_numpy(np.sort(first))
        return Sketches(grey[kept], colour[kept], hashes[kept])


def find_copies(pixels: Tensor, learnt: Sketches) -> NDArray[np.bool_]:
    """Which images are copies of one of those that were learnt from, shape (n,).

    Exact ones, and those that were encoded anew or resized. Not those that were mirrored, turned
    or cut otherwise.

    Args:
        pixels: stored images, uint8, shape (n, 3, height, width).
        learnt: of images kept at any size.
    """
    copies = np.zeros(len(pixels), bool)
    if not len(pixels) or not len(learnt):
        return copies
    mine = Sketches.of(pixels)
    known = {row.tobytes() for row in learnt.hashes.numpy()}
    copies[:] = [row.tobytes() in known for row in mine.hashes.numpy()]
    theirs, spread = _normalise(learnt.grey)
    theirs = theirs[spread >= _FLAT]
    which = torch.nonzero(spread >= _FLAT)[:, 0]
    for start in range(0, len(mine), _PART):
        shapes, flat = _normalise(mine.grey[start : start + _PART])
        for i, j in torch.nonzero(shapes @ theirs.T >= LEAST_CORRELATION).tolist():
            row, other = start + i, int(which[j])
            if flat[i] >= _FLAT and not copies[row]:
                copies[row] = _agree(mine, row, learnt, other)
    return copies


def _normalise(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Greys with mean 0 and norm 1, shape (n, 256), and their standard deviations in levels."""
    values = grey.flatten(1).float()
    values = values - values.mean(1, keepdim=True)
    norm = values.norm(dim=1, keepdim=True)
    return values / norm.clamp_min(1e-6), norm[:, 0] / _GREY


def _agree(mine: Sketches, row: int, learnt: Sketches, other: int) -> bool:
    grey = (mine.grey[row].float() - learnt.grey[other].float()).abs().mean()
    colour = (mine.colour[row].float() - learnt.colour[other].float()).abs().max()
    return float(grey) <= MOST_DIFFERENCE and float(colour) <= _MOST_COLOUR


@dataclass(frozen=True, slots=True)
class LearntImages:
    """What the weights of a supernet have learnt from.

    Args:
        sketches: of the images.
        whole: whether these are all; False: the weights began from others without a record.
    """

    sketches: Sketches
    whole: bool


def save_learnt(folder: Path, learnt: LearntImages) -> None:
    """Write ``learnt.safetensors`` beside a supernet."""
    sketches = learnt.sketches
    tensors = {name: getattr(sketches, name).contiguous() for name in _SHAPES}
    facts = {"schema": SCHEMA, "whole": json.dumps(learnt.whole)}
    with new_file(folder / LEARNT_FILE) as temporary:
        temporary.write_bytes(save(tensors, facts))


def load_learnt(folder: Path) -> LearntImages | None:
    """What ``save_learnt`` wrote; None: the supernet keeps no record of what it learnt from.

    Raises:
        EdgenasError: the file is damaged or of another kind.
    """
    path = folder / LEARNT_FILE
    if not path.exists():
        return None
    hint = "restore it, or remove it: then the images learnt from are not known again"
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            facts: dict[str, str] = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        said = str(error).partition("\n")[0][:120]
        raise EdgenasError(f"{path} is damaged: {said}", hint=hint) from error
    counts = {len(tensor) for tensor in tensors.values() if tensor.ndim}
    if (
        facts.get("schema") != SCHEMA
        or facts.get("whole") not in ("true", "false")
        or tensors.keys() != _SHAPES.keys()
        or len(counts) != 1
        or any(t.dtype != torch.uint8 for t in tensors.values())
        or any(tuple(tensors[name].shape[1:]) != shape for name, shape in _SHAPES.items())
    ):
        raise EdgenasError(f"{path} holds no record of images of schema {SCHEMA}", hint=hint)
    return LearntImages(Sketches(**tensors), facts["whole"] == "true")
