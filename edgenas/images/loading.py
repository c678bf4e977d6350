"""Reads images: each is decoded once and then kept in the cache."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, new_file
from edgenas.images.archives import DAMAGED
from edgenas.images.cifar10 import load_cifar10
from edgenas.images.data import Images
from edgenas.images.layout import Entry, make_printable
from edgenas.images.pictures import Pixels, frame_image
from edgenas.images.preprocessing import Size, decode_stored, sides
from edgenas.images.sources import check_listing, fingerprint, list_images, open_entries
from edgenas.space.framing import USUAL_FRAMING, Framing

Progress = Callable[[int, int], None]


def load_images(
    source: str,
    *,
    stored: Size,
    framing: Framing = USUAL_FRAMING,
    labelled: bool = True,
    skip_bad_images: bool = False,
    progress: Progress | None = None,
) -> Images:
    """Read images, from the cache if they were read before.

    Args:
        source: a folder of class folders, a .tar(.gz/.xz/.bz2) or .zip of one, or ``cifar10``
            (``cifar10-test`` for its test split). Folders ``train`` and ``val`` of class folders
            say what is for validation.
        stored: pixels of the square to keep every image at, or height and width.
        framing: how an image gets that shape.
        labelled: whether folders are classes. Images without labels may lie in any folders; all
            get the label 0, and there are no classes.
        skip_bad_images: leave out what cannot be decoded instead of refusing.
        progress: called with (images read, images in all).

    Raises:
        EdgenasError: no such source, fewer than two classes, an empty class, or an image that
            cannot be decoded.
    """
    if source in ("cifar10", "cifar10-test"):
        pixels, labels, classes = load_cifar10(source)
        pixels = _restore(pixels, stored, framing)
        return _images(pixels, labels, classes, source, framing=framing)
    path = Path(source)
    listing = list_images(path, labelled=labelled)
    entries = listing.entries
    classes = sorted({name for name, *_ in entries})
    check_listing(listing, classes, source, labelled=labelled)
    form = f"{stored}" if framing == USUAL_FRAMING else f"{stored} {framing}"
    kept = cache_folder() / "images" / f"{fingerprint(path, entries, form)}.npz"
    partly = kept.with_suffix(".skipped.npz")  # for those alone who ask for that
    for file in (kept, partly) if skip_bad_images else (kept,):
        if (again := _kept(file)) is not None:
            break
    else:
        again = _read(
            path,
            entries,
            stored=stored,
            framing=framing,
            skip_bad_images=skip_bad_images,
            progress=progress,
        )
        with (
            new_file(partly if "skipped" in again else kept) as temporary,
            temporary.open("wb") as stream,
        ):
            np.savez(stream, **again)
    return _images(
        again["pixels"],
        again["labels"],
        classes if labelled else [],
        source,
        framing=framing,
        held=again.get("held"),
        skipped=again.get("skipped", ()),
        untaken=listing.untaken
        and listing.untaken + (f" ({listing.hint})" if listing.hint else ""),
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
    framing: Framing,
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
            pixels[len(names)] = decode_stored(read(), stored=stored, framing=framing)
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
    arrays: dict[str, Any] = {"pixels": pixels[order], "labels": labels[order]}
    aside = {where for _, where, _, held in entries if held}
    if aside:
        arrays["held"] = np.array([names[i] in aside for i in order], bool)
    if bad:
        arrays["skipped"] = np.array(bad, str)
    return arrays


def _reason(error: Exception) -> str:
    """Why an image cannot be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known kind"  # Pillow names an object in memory
    return str(error).partition("\n")[0][:120] or type(error).__name__


def _images(
    pixels: Pixels,
    labels: NDArray[np.int64],
    classes: list[str],
    source: str,
    *,
    framing: Framing,
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
        framing=framing,
        held=None if held is None else torch.from_numpy(held),
        skipped=tuple(map(str, skipped)),
        untaken=untaken,
    )


def _restore(pixels: Pixels, stored: Size, framing: Framing) -> Pixels:
    if pixels.shape[1:3] == sides(stored) and framing.crop_fraction == 1:
        return pixels
    size = sides(stored)
    return np.stack([frame_image(Image.fromarray(p), size, framing) for p in pixels])
