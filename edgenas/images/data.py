"""Images as users have them: folders or archives of class folders, and CIFAR-10.

Every image is decoded once, turned as its EXIF orientation says, cut to its centre square (or to
the shape of the space's inputs) and brought to one stored size; the stored pixels (uint8) serve
training, calibration, evaluation and the sample in a bundle. From there to a network's resolution
there is one named interpolation.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from edgenas.basics.decode import decode as decode_value
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, check_schema, new_file
from edgenas.basics.ranges import Deviation, Fraction, Words
from edgenas.basics.ranges import Pixels as Side
from edgenas.basics.units import sides_to_json
from edgenas.images.archives import DAMAGED
from edgenas.images.copies import Sketches, find_copies
from edgenas.images.layout import Entry, make_printable
from edgenas.images.pictures import Pixels, cut_and_resize, decode_image
from edgenas.images.sources import (
    check_listing,
    fingerprint,
    list_images,
    load_cifar10,
    open_entries,
)
from edgenas.space.space import Space

INTERPOLATION = "bilinear, antialiased, on uint8 (Pillow's BILINEAR)"
PREPROCESSING_SCHEMA = "edgenas.preprocessing/1"

# Pixels: the side of a square, or height and width.
Size = int | tuple[int, int]

Progress = Callable[[int, int], None]


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
class _Steps:
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
        steps = decode_value(_Steps, fields, where=where)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A set of labelled images.

    Args:
        pixels: uint8, shape (n, 3, height, width).
        labels: int64, shape (n,).
        classes: the name of each label.
        source: where they come from.
        digest: SHA-256 over pixels, labels and classes.
        held: which ones their folder sets aside for validation, bool, shape (n,); None: it does
            not say.
        skipped: files that could not be decoded and were left out.
        untaken: how many other files of the source were not taken and why, in words; may be empty.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    digest: str
    held: Tensor | None = None
    skipped: tuple[str, ...] = ()
    untaken: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        """A part of the images, in the order of the indices."""
        return Images(
            pixels=self.pixels[indices],
            labels=self.labels[indices],
            classes=self.classes,
            source=self.source,
            digest=self.digest,
            held=None if self.held is None else self.held[indices],
        )

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of values in [0, 1]."""
        total, squares, count = torch.zeros(3).double(), torch.zeros(3).double(), 0
        for part in self.pixels.split(1000):
            values = part.double() / 255
            total += values.sum((0, 2, 3))
            squares += values.square().sum((0, 2, 3))
            count += values.numel() // 3
        mean = total / count
        std = (squares / count - mean.square()).sqrt()
        return tuple(mean.tolist()), tuple(std.clamp_min(1e-3).tolist())


def load_images(
    source: str,
    *,
    stored: Size,
    skip_bad_images: bool = False,
    progress: Progress | None = None,
) -> Images:
    """Read labelled images, from the cache if they were read before.

    Args:
        source: a folder of class folders, a .tar(.gz/.xz/.bz2) or .zip of one, or ``cifar10``
            (``cifar10-test`` for its test split). Folders ``train`` and ``val`` of class folders
            say what is for validation.
        stored: pixels of the square to keep every image at, or height and width.
        skip_bad_images: leave out what cannot be decoded instead of refusing.
        progress: called with (images read, images in all).

    Raises:
        EdgenasError: no such source, fewer than two classes, an empty class, or an image that
            cannot be decoded.
    """
    if source in ("cifar10", "cifar10-test"):
        pixels, labels, classes = load_cifar10(source)
        return _images(_restore(pixels, stored), labels, classes, source)
    path = Path(source)
    found = list_images(path)
    entries = found.entries
    classes = sorted({name for name, *_ in entries})
    check_listing(found, classes, source)
    kept = cache_folder() / "images" / f"{fingerprint(path, entries, stored)}.npz"
    partly = kept.with_suffix(".skipped.npz")  # for those alone who ask for that
    for file in (kept, partly) if skip_bad_images else (kept,):
        if (again := _kept(file)) is not None:
            break
    else:
        again = _read(
            path, entries, stored=stored, skip_bad_images=skip_bad_images, progress=progress
        )
        with (
            new_file(partly if "skipped" in again else kept) as temporary,
            temporary.open("wb") as stream,
        ):
            np.savez(stream, **again)
    return _images(
        again["pixels"],
        again["labels"],
        classes,
        source,
        held=again.get("held"),
        skipped=again.get("skipped", ()),
        untaken=found.untaken and found.untaken + (f" ({found.hint})" if found.hint else ""),
    )


def _kept(file: Path) -> dict[str, Any] | None:
    """The arrays of a file in the cache; None: there is none, or it was damaged and is gone."""
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except DAMAGED:
        file.unlink(missing_ok=True)
        return None


def _read(
    path: Path,
    entries: list[Entry],
    *,
    stored: Size,
    skip_bad_images: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Decode every image: ``pixels``, ``labels`` and where there are any ``held``, ``skipped``."""
    classes = sorted({name for name, *_ in entries})
    numbers = {name: i for i, name in enumerate(classes)}
    pixels = np.empty((len(entries), *sides(stored), 3), np.uint8)
    labels = np.empty(len(entries), np.int64)
    names, bad = list[str](), list[str]()
    for done, (name, where, read) in enumerate(open_entries(path, entries)):
        try:
            pixels[len(names)] = decode_stored(read(), stored=stored)
        except DAMAGED as error:
            if not skip_bad_images:
                raise EdgenasError(
                    f"cannot read the image {make_printable(where)} in {path}: {_reason(error)}",
                    hint="repair or remove it, or pass --skip-bad-images",
                ) from error
            bad.append(where)
        else:
            labels[len(names)] = numbers[name]
            names.append(where)
        if progress is not None:
            progress(done + 1, len(entries))
    # An archive is read in its own order; one order makes it the same data set as its folder.
    order = np.lexsort((np.array(names, str), labels[: len(names)]))
    empty = sorted(set(range(len(classes))) - set(labels[: len(names)].tolist()))
    if empty:
        raise EdgenasError(
            f"class {classes[empty[0]]!r} in {path} has no image that can be read",
            hint="add images or remove the folder",
        )
    found: dict[str, Any] = {"pixels": pixels[order], "labels": labels[order]}
    aside = {where for _, where, _, held in entries if held}
    if aside:
        found["held"] = np.array([names[i] in aside for i in order], bool)
    if bad:
        found["skipped"] = np.array(bad, str)
    return found


def _reason(error: Exception) -> str:
    """Why an image cannot be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known kind"  # Pillow names an object in memory
    return str(error).partition("\n")[0][:120] or type(error).__name__


def decode_stored(data: bytes, *, stored: Size) -> Pixels:
    """An image file to its stored pixels, upright, shape (height, width, 3).

    Raises:
        ValueError: grey of 16 or 32 bits or of floats, or too many pixels.
    """
    return decode_image(data, size=sides(stored))


def count_copies(first: Images, second: Images) -> int:
    """How many images of the second set are copies of one of the first, see ``find_copies``."""
    return int(find_copies(second.pixels, Sketches.of(first.pixels)).sum())


def drop_copies(images: Images, others: Sequence[Images]) -> Images:
    """The images that are copies of none of the others, see ``find_copies``."""
    known = Sketches.joined([Sketches.of(other.pixels) for other in others])
    return images.take(torch.from_numpy(np.flatnonzero(~find_copies(images.pixels, known))))


@dataclass(frozen=True, slots=True)
class Split:
    """Training and validation images of one source; the test images are another source."""

    train: Images
    validation: Images


def split(images: Images, *, validation: float, seed: int) -> Split:
    """Set a part of every class aside for validation, or what its folder sets aside.

    Args:
        images: all images that may be learnt from.
        validation: the fraction of every class, at least one image of each.
        seed: of the choice.

    Raises:
        EdgenasError: a class has a single image, or none in one of the two folders.
    """
    if images.held is not None:
        return _by_folder(images, images.held)
    rng, chosen = np.random.default_rng((seed, 7)), list[NDArray[np.int64]]()
    labels = images.labels.numpy()
    for label, name in enumerate(images.classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise EdgenasError(
                f"class {name!r} must have at least 2 images to be split, found {len(members)}",
                hint="add images or remove the class",
            )
        count = min(max(1, round(len(members) * validation)), len(members) - 1)
        chosen.append(rng.permutation(members)[:count])
    held = np.zeros(len(labels), bool)
    held[np.concatenate(chosen)] = True
    return Split(
        images.take(torch.from_numpy(np.flatnonzero(~held))),
        images.take(torch.from_numpy(np.flatnonzero(held))),
    )


def _by_folder(images: Images, held: Tensor) -> Split:
    for name, part in (("training", ~held), ("validation", held)):
        counts = images.labels[part].bincount(minlength=len(images.classes))
        if not counts.all():
            raise EdgenasError(
                f"class {images.classes[int(counts.argmin())]!r} of {images.source} must have "
                f"images for training and for validation, found none for {name}",
                hint="add images, or remove the class from both folders",
            )
    return Split(images.take(torch.nonzero(~held)[:, 0]), images.take(torch.nonzero(held)[:, 0]))


def _images(
    pixels: Pixels,
    labels: NDArray[np.int64],
    classes: list[str],
    source: str,
    *,
    held: NDArray[np.bool_] | None = None,
    skipped: Iterable[str] = (),
    untaken: str = "",
) -> Images:
    digest = hashlib.sha256("\0".join(classes).encode())
    digest.update(labels.tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    if held is not None:
        digest.update(held.tobytes())
    return Images(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        labels=torch.from_numpy(labels),
        classes=tuple(classes),
        source=source,
        digest=digest.hexdigest(),
        held=None if held is None else torch.from_numpy(held),
        skipped=tuple(map(str, skipped)),
        untaken=untaken,
    )


def _restore(pixels: Pixels, stored: Size) -> Pixels:
    if pixels.shape[1:3] == sides(stored):
        return pixels
    return np.stack([cut_and_resize(Image.fromarray(p), sides(stored)) for p in pixels])
