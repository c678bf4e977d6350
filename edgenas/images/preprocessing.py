"""From an image file to the input of a network: the steps that every image takes.

An image is decoded once, turned as its EXIF orientation says, cut to its centre square (or to the
shape of the space's inputs) and brought to one stored size. The stored pixels (uint8) serve
training, calibration, evaluation and the sample in a bundle. From there to a network's resolution
there is one named interpolation.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_schema
from edgenas.basics.ranges import Deviation, Fraction, Words
from edgenas.basics.ranges import Pixels as Side
from edgenas.basics.units import sides_to_json
from edgenas.images.pictures import Pixels, decode_image
from edgenas.space.space import Space

INTERPOLATION = "bilinear, antialiased, on uint8 (Pillow's BILINEAR)"
PREPROCESSING_SCHEMA = "edgenas.preprocessing/1"

Size = int | tuple[int, int]
"""Pixels: the side of a square, or height and width."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return size if isinstance(size, tuple) else (size, size)


def as_size(height: int, width: int) -> Size:
    """A square by its side, anything else by height and width."""
    return height if height == width else (height, width)


def choose_stored_size(space: Space) -> Size:
    """What images are kept at for a space: the largest inputs of its networks."""
    return as_size(*space.input_size(max(space.resolutions)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreprocessingFile:
    """A preprocessing as files hold it."""

    stored: Side | tuple[Side, Side]
    interpolation: Words
    mean: tuple[Fraction, Fraction, Fraction]
    std: tuple[Deviation, Deviation, Deviation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From an image file to the input of a network.

    Decode to RGB, turn as the EXIF orientation says, cut the largest centre part that has the
    shape of ``stored``, resize to ``stored`` pixels, resize to the resolution of the network,
    divide by 255, subtract ``mean``, divide by ``std``; layout NCHW, float32.

    Args:
        stored: pixels of the square that images are kept at, or their height and width.
        mean: per channel (R, G, B), of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    stored: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": PREPROCESSING_SCHEMA,
            "stored": sides_to_json(self.kept),
            "interpolation": INTERPOLATION,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @staticmethod
    def from_json(value: dict[str, Any], *, where: str) -> "Preprocessing":
        """The value of a JSON object.

        Raises:
            EdgenasError: a field is missing or unknown, or the interpolation is not ours.
        """
        fields = check_schema(value, schema=PREPROCESSING_SCHEMA, where=where)
        steps = decode(_PreprocessingFile, fields, where=where)
        if steps.interpolation != INTERPOLATION:
            raise EdgenasError(
                f"{where}: interpolation must be {INTERPOLATION!r}, found {steps.interpolation!r}"
            )
        stored = steps.stored if isinstance(steps.stored, tuple) else (steps.stored, steps.stored)
        return Preprocessing(stored=as_size(*stored), mean=steps.mean, std=steps.std)

    @property
    def kept(self) -> tuple[int, int]:
        """Height and width of stored images."""
        return sides(self.stored)

    def size(self, resolution: int) -> tuple[int, int]:
        """Height and width of the inputs of a network: in the shape of the stored images."""
        height, width = self.kept
        return resolution, resolution * width // height

    def prepare(self, pixels: Tensor, *, resolution: int) -> Tensor:
        """Stored pixels to the input of a network.

        Args:
            pixels: uint8, stored images, shape (n, 3, height, width).
            resolution: of the network: the height of its input in pixels.

        Returns:
            float32, shape (n, 3, *size(resolution)), channels last in memory.
        """
        resized = resize(pixels, size=self.size(resolution))
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        scaled = resized.contiguous(memory_format=torch.channels_last).float()
        return scaled.div_(255).sub_(mean).div_(std)


def resize(pixels: Tensor, *, size: tuple[int, int]) -> Tensor:
    """uint8 images (n, 3, h, w) to another height and width, see ``INTERPOLATION``."""
    if tuple(pixels.shape[2:]) == size:
        return pixels
    if pixels.device.type != "cpu":
        # torch has it for uint8 on CPUs alone. Pillow rounds between both directions, so single
        # pixels may differ by 1.
        return _resized(pixels.float(), size).round_().clamp_(0, 255).to(torch.uint8)
    return _resized(pixels, size)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)


def decode_stored(data: bytes, *, stored: Size) -> Pixels:
    """An image file to its stored pixels, upright, shape (height, width, 3).

    Raises:
        ValueError: grey of 16 or 32 bits or of floats, or too many pixels.
    """
    return decode_image(data, size=sides(stored))
