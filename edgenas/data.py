"""Images as users have them: folders or archives of class folders, and CIFAR-10.

Every image is decoded once, cut to its centre square and brought to one stored size; the stored
pixels (uint8) serve training, calibration, evaluation and the sample in a bundle. From there to a
network's resolution there is one named interpolation.
"""

import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from edgenas.errors import EdgenasError
from edgenas.files import cache_folder, check_fields, check_schema, sha256, writing

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
INTERPOLATION = "bilinear, antialiased, on uint8 (Pillow's BILINEAR)"
PREPROCESSING_SCHEMA = "edgenas.preprocessing/1"

# https://www.cs.toronto.edu/~kriz/cifar.html, the binary version
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_BYTES = 170_052_171
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

Progress = Callable[[int, int], None]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From an image file to the input of a network.

    Decode to RGB, cut the centre square, resize to ``stored`` pixels, resize to the resolution
    of the network, divide by 255, subtract ``mean``, divide by ``std``; layout NCHW, float32.

    Args:
        stored: pixels of the square that images are kept at.
        mean: per channel (R, G, B), of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    stored: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": PREPROCESSING_SCHEMA,
            "stored": self.stored,
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
        check_fields(fields, required=("stored", "interpolation", "mean", "std"), where=where)
        if fields["interpolation"] != INTERPOLATION:
            raise EdgenasError(f"{where}.interpolation must be {INTERPOLATION!r}")
        mean, std = (tuple(float(v) for v in fields[name]) for name in ("mean", "std"))
        return Preprocessing(stored=int(fields["stored"]), mean=mean, std=std)

    def prepare(self, pixels: Tensor, *, resolution: int) -> Tensor:
        """Stored pixels to the input of a network.

        Args:
            pixels: uint8, shape (n, 3, stored, stored).
            resolution: of the network, in pixels.

        Returns:
            float32, shape (n, 3, resolution, resolution), channels last in memory.
        """
        resized = resize(pixels, resolution=resolution)
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        scaled = resized.contiguous(memory_format=torch.channels_last).float()
        return scaled.div_(255).sub_(mean).div_(std)


def resize(pixels: Tensor, *, resolution: int) -> Tensor:
    """uint8 images (n, 3, h, w) to (n, 3, resolution, resolution), see ``INTERPOLATION``."""
    if tuple(pixels.shape[2:]) == (resolution, resolution):
        return pixels
    return TF.resize(pixels, [resolution, resolution], antialias=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A set of labelled images.

    Args:
        pixels: uint8, shape (n, 3, stored, stored).
        labels: int64, shape (n,).
        classes: the name of each label.
        source: where they come from.
        digest: SHA-256 over pixels, labels and classes.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    digest: str

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
    stored: int,
    skip_bad_images: bool = False,
    progress: Progress | None = None,
) -> Images:
    """Read labelled images, from the cache if they were read before.

    Args:
        source: a folder of class folders, a .tar(.gz/.xz/.bz2) or .zip of one, or ``cifar10``
            (``cifar10-test`` for its test split).
        stored: pixels of the square to keep every image at.
        skip_bad_images: leave out what cannot be decoded instead of refusing.
        progress: called with (images read, images in all).

    Raises:
        EdgenasError: no such source, fewer than two classes, an empty class, or an image that
            cannot be decoded.
    """
    if source in ("cifar10", "cifar10-test"):
        pixels, labels, classes = _cifar10(source)
        return _images(_restore(pixels, stored), labels, classes, source)
    path = Path(source)
    entries = _listing(path)
    classes = sorted({name for name, _, _ in entries})
    _check_classes(entries, classes, source)
    kept = cache_folder() / "images" / f"{_fingerprint(path, entries, stored)}.npz"
    if kept.exists():
        try:
            with np.load(kept, allow_pickle=False) as arrays:
                return _images(arrays["pixels"], arrays["labels"], classes, source)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            kept.unlink(missing_ok=True)
    pixels = np.empty((len(entries), stored, stored, 3), np.uint8)
    labels = np.empty(len(entries), np.int64)
    names, bad = list[str](), list[str]()
    for done, (name, where, read) in enumerate(_contents(path, entries)):
        try:
            pixels[len(names)] = decode(read(), stored=stored)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            if not skip_bad_images:
                raise EdgenasError(
                    f"cannot read the image {where} in {source}: {error}",
                    hint="repair or remove it, or pass --skip-bad-images",
                ) from error
            bad.append(where)
        else:
            labels[len(names)] = classes.index(name)
            names.append(where)
        if progress is not None:
            progress(done + 1, len(entries))
    # An archive is read in its own order; one order makes it the same data set as its folder.
    order = np.lexsort((names, labels[: len(names)]))
    pixels, labels = pixels[order], labels[order]
    empty = sorted(set(range(len(classes))) - set(labels.tolist()))
    if empty:
        raise EdgenasError(
            f"class {classes[empty[0]]!r} in {source} has no image that can be read",
            hint="add images or remove the folder",
        )
    if not bad:
        with writing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, pixels=pixels, labels=labels)
    return _images(pixels, labels, classes, source)


def decode(data: bytes, *, stored: int) -> Pixels:
    """An image file to its stored pixels, shape (stored, stored, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    if side != stored:
        square = square.resize((stored, stored), Image.Resampling.BILINEAR)
    return np.asarray(square, np.uint8)


@dataclass(frozen=True, slots=True)
class Split:
    """Training and validation images of one source; the test images are another source."""

    train: Images
    validation: Images


def split(images: Images, *, validation: float, seed: int) -> Split:
    """Set a part of every class aside for validation.

    Args:
        images: all images that may be learnt from.
        validation: the fraction of every class, at least one image of each.
        seed: of the choice.

    Raises:
        EdgenasError: a class has a single image.
    """
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


# An entry: class name, path for people, handle inside an archive (or None in a folder).
_Entry = tuple[str, str, Any]


def _listing(path: Path) -> list[_Entry]:
    if path.is_dir():
        found: list[_Entry] = []
        for folder in sorted(p for p in path.iterdir() if p.is_dir()):
            if not folder.name.startswith("."):
                files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
                found += [(folder.name, str(f.relative_to(path)), None) for f in files]
                if not files:
                    raise EdgenasError(
                        f"class folder {folder} has no images ({', '.join(SUFFIXES)})",
                        hint="add images or remove the folder",
                    )
        return found
    if not path.exists():
        raise EdgenasError(
            f"no images at {path}",
            hint="give a folder of class folders, a .tar or .zip of one, or cifar10",
        )
    if not path.name.lower().endswith(ARCHIVES):
        raise EdgenasError(f"images must be a folder or one of {', '.join(ARCHIVES)}, found {path}")
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [(i.filename, i) for i in archive.infolist() if not i.is_dir()]
        else:
            with tarfile.open(path) as archive:
                members = [(m.name, m) for m in archive.getmembers() if m.isfile()]
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise EdgenasError(f"the archive {path} is damaged: {error}") from error
    images = [(n, m) for n, m in members if PurePosixPath(n).suffix.lower() in SUFFIXES]
    # The class is the folder that holds the image, however deep the archive's own folders are.
    named = [(PurePosixPath(n).parent.name, n, m) for n, m in images]
    return sorted((e for e in named if e[0]), key=lambda e: e[1])


def _contents(path: Path, entries: list[_Entry]) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    if path.is_dir():
        for name, where, _ in entries:
            yield name, where, (path / where).read_bytes
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name, where, member in entries:
                yield name, where, lambda m=member: archive.read(m)
    else:
        # A tar is read forwards once: seeking back in a compressed one starts it over.
        with tarfile.open(path) as archive:
            for name, where, member in sorted(entries, key=lambda e: e[2].offset_data):
                yield name, where, lambda m=member: archive.extractfile(m).read()  # pyright: ignore[reportOptionalMemberAccess]


def _check_classes(entries: list[_Entry], classes: list[str], source: str) -> None:
    if not entries:
        raise EdgenasError(
            f"no images in {source}",
            hint="it must hold one folder per class, with images inside",
        )
    if len(classes) < 2:
        raise EdgenasError(
            f"{source} must have at least 2 classes, found {len(classes)} ({classes[0]!r})",
            hint="one folder per class, with images inside",
        )


def _fingerprint(path: Path, entries: list[_Entry], stored: int) -> str:
    digest = hashlib.sha256(f"1 {stored} {path.resolve()}".encode())
    files = [path / where for _, where, _ in entries] if path.is_dir() else [path]
    for file in files:
        status = os.stat(file)
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _images(pixels: Pixels, labels: NDArray[np.int64], classes: list[str], source: str) -> Images:
    digest = hashlib.sha256("\0".join(classes).encode())
    digest.update(labels.tobytes())
    digest.update(pixels.tobytes())
    return Images(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        labels=torch.from_numpy(labels),
        classes=tuple(classes),
        source=source,
        digest=digest.hexdigest(),
    )


def _restore(pixels: Pixels, stored: int) -> Pixels:
    if pixels.shape[1] == stored:
        return pixels
    images = (
        Image.fromarray(p).resize((stored, stored), Image.Resampling.BILINEAR) for p in pixels
    )
    return np.stack([np.asarray(image) for image in images])


def _cifar10(source: str) -> tuple[Pixels, NDArray[np.int64], list[str]]:
    archive = fetch(
        CIFAR10_URL,
        to=cache_folder() / "downloads" / "cifar-10-binary.tar.gz",
        size=CIFAR10_BYTES,
        digest=CIFAR10_SHA256,
    )
    wanted = ["test_batch"] if source.endswith("test") else [f"data_batch_{i}" for i in range(1, 6)]
    parts: list[Pixels] = []
    names: list[str] = []
    with tarfile.open(archive) as tar:
        for name in (*wanted, "batches.meta"):
            suffix = ".txt" if name == "batches.meta" else ".bin"
            stream = tar.extractfile(f"cifar-10-batches-bin/{name}{suffix}")
            assert stream is not None  # the archive's hash is known
            if suffix == ".txt":
                names = stream.read().decode().split()
            else:
                parts.append(np.frombuffer(stream.read(), np.uint8).reshape(-1, 3073))
    records = np.concatenate(parts)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, 0].astype(np.int64), names


def fetch(url: str, *, to: Path, size: int, digest: str) -> Path:
    """A file from the network, resumed where an earlier try broke off, checked before use.

    Args:
        url: its address.
        to: where to keep it.
        size: its bytes.
        digest: its SHA-256.

    Raises:
        EdgenasError: no network, or the file is not the expected one.
    """
    if to.exists() and to.stat().st_size == size and sha256(to) == digest:
        return to
    part = to.with_name(to.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            with part.open("ab" if resumed else "wb") as stream:
                have = have if resumed else 0
                while chunk := response.read(1 << 20):
                    have += len(chunk)
                    if have > size:
                        break
                    stream.write(chunk)
    except (urllib.error.URLError, OSError) as error:
        raise EdgenasError(
            f"could not download {url}: {error}",
            hint=f"try again (it resumes), or put the file at {to} yourself",
        ) from error
    if have != size or sha256(part) != digest:
        part.unlink()
        raise EdgenasError(
            f"{url} is not the expected file ({size} bytes, SHA-256 {digest[:12]}...)",
            hint=f"get it elsewhere and put it at {to}",
        )
    part.replace(to)
    return to
