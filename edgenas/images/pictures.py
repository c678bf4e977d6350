"""Image files: which formats are opened, how a file shows its format, and how it is decoded.

A format is told by the first bytes of a file, never by its name, and Pillow is asked for that one
format alone. So nothing of Pillow's other readers is ever run: a PostScript file with the name of
a photo would otherwise start Ghostscript.
"""

import functools
import io
import warnings
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgenas.space.framing import FILL, LONGEST, Framing, cover_size, inner_size

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Pixels = NDArray[np.uint8]

# How images are decoded, so that what was kept in the cache is decoded anew when it changes.
# 1: the EXIF orientation was ignored; 2: it is applied; 3: 16 bits and floats are refused;
# 4: JPEG files of more than MOST_PIXELS are decoded at half their size.
DECODING = 4

# What is opened, by Pillow's names. HEIF (HEIC) needs the package pillow-heif.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
HEIC_HINT = "pip install 'edgenas[heic]' (the package pillow-heif), or save them as JPEG"
AVIF_HINT = "for AVIF files: pip install 'pillow>=11.3'"

# File names that promise an image: such a file without one is damaged, not something else.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif",
)  # fmt: skip
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
# Raw files of cameras begin as TIFF files do, with a small preview.
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mos", ".nef",
    ".nrw", ".pef", ".sr2", ".srf", ".srw",
)  # fmt: skip

# Bytes at the beginning of a file that tell its format.
HEAD = 512
# Pillow keeps 4 bytes a pixel and needs two copies for a moment: half a gigabyte at most.
MOST_PIXELS = 2**26
# Bytes of a file: twice what the largest uncompressed image of that many pixels has.
MOST_BYTES = 2**28

_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
# Brands of ISO/IEC 23008-12, annex B, and of the AVIF specification, section 6.
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def detect_format(head: bytes) -> str:
    """The format of a file by its first ``HEAD`` bytes; empty: none of ``FORMATS``."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # Two letters are a weak sign; the size of the header behind them is one of a few.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return _detect_boxed(head)


def _detect_boxed(head: bytes) -> str:
    """AVIF or HEIF: a box of brands, and behind it the header of another box."""
    size = int.from_bytes(head[:4], "big")
    if head[4:8] != b"ftyp" or size < 16 or size % 4 or size + 8 > len(head):
        return ""
    kind = head[size + 4 : size + 8]
    if not (kind.isalnum() and kind.islower()):
        return ""
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, size, 4))}
    if brands & _AVIF:
        return "AVIF"
    return "HEIF" if brands & _HEIC else ""


@functools.cache
def is_readable(name: str) -> bool:
    """Whether this installation decodes a format of ``FORMATS``."""
    if name == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
    Image.init()
    return name in Image.OPEN


def open_image(stream: BinaryIO) -> Image.Image:
    """An image whose header is read and whose pixels are not yet decoded.

    Args:
        stream: of the whole file, at its start; it can seek.

    Raises:
        UnidentifiedImageError: the file is of no format that is opened.
        ValueError: the image has more than ``MOST_PIXELS``, or this installation lacks its format.
    """
    name = detect_format(stream.read(HEAD))
    stream.seek(0)
    if not name:
        raise UnidentifiedImageError("it is no image of a known kind")
    if not is_readable(name):
        said = HEIC_HINT if name == "HEIF" else AVIF_HINT
        raise ValueError(f"it is {name}, which is not read here: {said}")
    image = Image.open(stream, formats=[name])
    width, height = image.size
    if width * height > MOST_PIXELS and not _halve(image):
        image.close()
        raise ValueError(
            f"it has {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} million"
        )
    return image


def _halve(image: Image.Image) -> bool:
    """Let a JPEG be decoded at half its size; False: it is of another kind, or still too large."""
    # The whole of a progressive one is kept in memory, whatever the size asked for.
    if image.format not in ("JPEG", "MPO") or "progressive" in image.info:
        return False
    image.draft(None, (image.width // 2, image.height // 2))
    return image.width * image.height <= MOST_PIXELS


def decode_image(data: bytes, *, size: tuple[int, int], framing: Framing) -> Pixels:
    """An image file, turned as its EXIF orientation says, and framed.

    Args:
        data: the bytes of the file.
        size: height and width of the result.
        framing: how it gets that shape.

    Returns:
        Shape (height, width, 3).

    Raises:
        ValueError: grey of 16 or 32 bits or of floats: how it becomes 8 bits is not in the file;
            or as ``open_image``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata and of large images
        with open_image(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its grey has more than 8 bits (Pillow's mode {image.mode})")
            ImageOps.exif_transpose(image, in_place=True)
            return frame_image(image, size, framing)


def frame_image(image: Image.Image, size: tuple[int, int], framing: Framing) -> Pixels:
    """An image in RGB, brought to a height and width.

    Args:
        image: of any mode that Pillow turns into RGB.
        size: height and width.
        framing: how it gets that shape.

    Returns:
        Shape (height, width, 3).
    """
    height, width = size
    resampling = RESAMPLING[framing.filter]
    if framing.fit == "crop":
        # What is cut off need not be turned into RGB. Both orders give the same pixels.
        image = _cut_first(image, size, framing)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if framing.crop_fraction != 1:
        picture = (image.height, image.width)
        high, wide = cover_size(picture, size=size, fraction=framing.crop_fraction)
        # As torchvision's CenterCrop: halves are rounded to the even number.
        top, left = round((high - height) / 2), round((wide - width) / 2)
        image = image.resize((wide, high), resampling)
        image = image.crop((left, top, left + width, top + height))
    elif framing.fit == "pad":
        high, wide = inner_size((image.height, image.width), size=size)
        if image.size != (wide, high):
            image = image.resize((wide, high), resampling)
        padded = Image.new("RGB", (width, height), FILL)
        padded.paste(image, ((width - wide) // 2, (height - high) // 2))
        image = padded
    elif image.size != (width, height):
        image = image.resize((width, height), resampling)
    return np.asarray(image, np.uint8)


def _cut_first(image: Image.Image, size: tuple[int, int], framing: Framing) -> Image.Image:
    """The largest centre part of a shape, or what is left of a picture that is extremely long."""
    height, width = size
    if framing.crop_fraction == 1:
        high = max(1, min(image.height, image.width * height // width))
        wide = max(1, min(image.width, image.height * width // height))
    else:
        high, wide = (
            min(image.height, LONGEST * image.width),
            min(image.width, LONGEST * image.height),
        )
    if image.size == (wide, high):
        return image
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))
