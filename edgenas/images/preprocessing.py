"""From an image file to the input of a network: the steps that every image takes.

An image is decoded once, turned as its EXIF orientation says, cut, padded or stretched to a square
(or to the shape of the space's inputs) and brought to one stored size. The stored pixels (uint8)
serve training, calibration, evaluation and the sample in a bundle. From there to a network's
resolution there is one named interpolation, that of Pillow to the bit: ``example.py`` of a bundle
computes the same numbers with Pillow and NumPy alone.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgenas.basics.decode import decode
from edgenas.basics.files import check_schema
from edgenas.basics.ranges import Deviation, Fraction, Words
from edgenas.basics.ranges import Pixels as Side
from edgenas.basics.units import sides_to_json
from edgenas.images.pictures import RESAMPLING, Pixels, decode_image
from edgenas.images.resampling import resample
from edgenas.space.framing import (
    INTERPOLATIONS,
    USUAL_FRAMING,
    CropFraction,
    Filter,
    Fit,
    Framing,
    find_filter,
)
from edgenas.space.space import Space

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
    fit: Fit = "crop"
    crop_fraction: CropFraction = 1.0

    def __post_init__(self) -> None:
        Framing(fit=self.fit, crop_fraction=self.crop_fraction)  # refuses what does not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From an image file to the input of a network.

    Decode to RGB, turn as the EXIF orientation says, cut the largest centre part that has the
    shape of ``stored`` (or what else ``framing`` says), resize to ``stored`` pixels, resize to the
    resolution of the network, divide by 255, subtract ``mean``, divide by ``std``; layout NCHW,
    float32.

    Args:
        stored: pixels of the square that images are kept at, or their height and width.
        mean: per channel (R, G, B), of values in [0, 1].
        std: per channel, of values in [0, 1].
        framing: how pictures get the shape of ``stored``, and the filter of every resizing.
    """

    stored: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing = USUAL_FRAMING

    def __repr__(self) -> str:
        """As of any dataclass, but without the usual framing: old digests contain it."""
        names = [f.name for f in fields(self) if f.name != "framing" or self.framing != f.default]
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"Preprocessing({values})"

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": PREPROCESSING_SCHEMA,
            "stored": sides_to_json(self.kept),
            "interpolation": INTERPOLATIONS[self.framing.filter],
            "mean": list(self.mean),
            "std": list(self.std),
            **{name: v for name, v in self.framing.to_json().items() if name != "filter"},
        }

    @staticmethod
    def from_json(value: dict[str, Any], *, where: str) -> "Preprocessing":
        """The value of a JSON object.

        Raises:
            EdgenasError: a field is missing or unknown, or the interpolation is not ours.
        """
        fields = check_schema(value, schema=PREPROCESSING_SCHEMA, where=where)
        steps = decode(_PreprocessingFile, fields, where=where)
        stored = steps.stored if isinstance(steps.stored, tuple) else (steps.stored, steps.stored)
        framing = Framing(
            fit=steps.fit,
            crop_fraction=steps.crop_fraction,
            filter=find_filter(steps.interpolation, where=where),
        )
        return Preprocessing(
            stored=as_size(*stored), mean=steps.mean, std=steps.std, framing=framing
        )

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
        resized = resize(pixels, size=self.size(resolution), filter=self.framing.filter)
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        scaled = resized.contiguous(memory_format=torch.channels_last).float()
        return scaled.div_(255).sub_(mean).div_(std)


def choose_preprocessing(
    space: Space, *, usual: tuple[tuple[float, ...], tuple[float, ...]]
) -> Preprocessing:
    """The preprocessing that a space states.

    Args:
        space: of the networks.
        usual: mean and standard deviation where the space states none.
    """
    mean, std = space.normalisation or usual
    return Preprocessing(
        stored=choose_stored_size(space), mean=mean, std=std, framing=space.framing
    )


def resize(pixels: Tensor, *, size: tuple[int, int], filter: Filter = "bilinear") -> Tensor:
    """uint8 images (n, 3, h, w) to another height and width, to the bit as Pillow does it."""
    if tuple(pixels.shape[2:]) == size:
        return pixels
    if pixels.device.type != "cpu":
        return resample(pixels, size=size, filter=filter)
    # PyTorch's own kernel for CPUs is some milliseconds faster for a batch, but it rounds its
    # weights to 16 bits.
    rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    height, width = size
    resized = np.empty((len(rows), height, width, 3), np.uint8)
    for i, row in enumerate(rows):
        resized[i] = np.asarray(Image.fromarray(row).resize((width, height), RESAMPLING[filter]))
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def decode_stored(data: bytes, *, stored: Size, framing: Framing = USUAL_FRAMING) -> Pixels:
    """An image file to its stored pixels, upright, shape (height, width, 3).

    Raises:
        ValueError: grey of 16 or 32 bits or of floats, or too many pixels.
    """
    return decode_image(data, size=sides(stored), framing=framing)
