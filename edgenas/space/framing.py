"""How a picture of any shape becomes an input of one shape: cut, padded or stretched."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.ranges import Range

Fit = Literal["crop", "pad", "stretch"]
Filter = Literal["bilinear", "bicubic"]
CropFraction = Annotated[float, Range(0.1, 1, "fraction")]

# The names of the filters in files.
INTERPOLATIONS: dict[Filter, str] = {
    "bilinear": "bilinear, antialiased, on uint8 (Pillow's BILINEAR)",
    "bicubic": "bicubic, antialiased, on uint8 (Pillow's BICUBIC)",
}
# Of a picture that is resized before it is cut: more than so many times its width or height is cut
# off first. Resized as a whole, a picture of 10,000 x 1 pixels would need gigabytes.
LONGEST = 16
# What stands beside a padded picture: the mean colour of ImageNet, as in random views.
FILL = (124, 116, 104)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a picture becomes an input of one height and width.

    Args:
        fit: ``crop``: the centre is cut out; ``pad``: the whole picture, with ``FILL`` beside it;
            ``stretch``: the whole picture, distorted.
        crop_fraction: with ``crop``, the part of the shorter side that is kept, above 0 to 1. Below
            1 it is the usual evaluation on ImageNet: 0.875 is a picture resized to 256 pixels of
            which the centre of 224 is cut.
        filter: of every resizing, antialiased.

    Raises:
        EdgenasError: a crop fraction below 1 with another fit than ``crop``.
    """

    fit: Fit = "crop"
    crop_fraction: CropFraction = 1.0
    filter: Filter = "bilinear"

    def __post_init__(self) -> None:
        if self.crop_fraction != 1 and self.fit != "crop":
            raise EdgenasError(
                f"crop_fraction must be 1 with fit {self.fit}, found {self.crop_fraction:g}",
                hint="only fit crop cuts something off",
            )

    def with_fit(self, fit: Fit | None) -> "Framing":
        """The same filter with another fit, of whole pictures. None: no other is wanted."""
        return self if fit in (None, self.fit) else Framing(fit=fit, filter=self.filter)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: v for n, v in values.items() if v != getattr(USUAL_FRAMING, n)}

    def __str__(self) -> str:
        """In words of files and options, e.g. ``fit crop of 0.875, bicubic``."""
        part = "" if self.crop_fraction == 1 else f" of {self.crop_fraction:g}"
        return f"fit {self.fit}{part}" + ("" if self.filter == "bilinear" else f", {self.filter}")


USUAL_FRAMING = Framing()


def find_filter(interpolation: str, *, where: str) -> Filter:
    """The filter that a file names in words.

    Raises:
        EdgenasError: the interpolation is not ours.
    """
    for name, words in INTERPOLATIONS.items():
        if interpolation == words:
            return name
    ours = " or ".join(map(repr, INTERPOLATIONS.values()))
    raise EdgenasError(f"{where}: interpolation must be {ours}, found {quote(interpolation)}")


def cover_size(
    picture: tuple[int, int], *, size: tuple[int, int], fraction: float
) -> tuple[int, int]:
    """The size that a picture gets before the centre is cut out, as torchvision and timm have it.

    For a square of 224 and a fraction of 0.875: 256 for the shorter side, and the longer one in
    proportion, rounded down.

    Args:
        picture: its height and width.
        size: height and width of what is cut out.
        fraction: see ``Framing.crop_fraction``.
    """
    height, width = picture
    least_high, least_wide = (math.floor(side / fraction) for side in size)
    if width * least_high >= height * least_wide:
        return least_high, max(least_wide, int(least_high * width / height))
    return max(least_high, int(least_wide * height / width)), least_wide


def inner_size(picture: tuple[int, int], *, size: tuple[int, int]) -> tuple[int, int]:
    """The size of a whole picture inside of another shape, rounded to the nearest pixel.

    Args:
        picture: its height and width.
        size: height and width that it must stay within.
    """
    (height, width), (most_high, most_wide) = picture, size
    if width * most_high >= height * most_wide:
        return max(1, (2 * height * most_wide + width) // (2 * width)), most_wide
    return most_high, max(1, (2 * width * most_high + height) // (2 * height))
