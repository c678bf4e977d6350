"""Where images lie: folders, archives and the CIFAR-10 download; files only, nothing is decoded."""

import csv
import hashlib
import http.client
import lzma
import os
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, locked, sha256

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")

# https://www.cs.toronto.edu/~kriz/cifar.html, the binary version
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_BYTES = 170_052_171
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

# What decoders and archives raise at damaged bytes, beside the errors made for that.
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)

# How images are decoded, so that what was kept in the cache is decoded anew when it changes.
# 1: the EXIF orientation was ignored; 2: it is applied; 3: 16 bits and floats are refused.
_DECODING = 3

Pixels = NDArray[np.uint8]

# An entry: class name, path for people, handle inside an archive (or None in a folder), and
# whether its folder sets it aside for validation.
Entry = tuple[str, str, Any, bool]

# Folders that divide a source, with class folders inside each.
_TRAINING = ("train", "training")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test", "testing")


def listing(path: Path) -> list[Entry]:
    """The images of a folder or archive, with their class, sorted by both.

    Raises:
        EdgenasError: nothing there, no archive, a damaged one, or a class folder without images.
    """
    if path.is_dir():
        files, folders = _walk(path)
        return _classed(files, folders, path)
    if not path.exists():
        raise EdgenasError(
            f"no images at {path}",
            hint="give a folder of class folders, a .tar or .zip of one, a .csv, or cifar10",
        )
    if path.suffix.lower() == ".csv":
        return _listed(path)
    if not path.name.lower().endswith(ARCHIVES):
        raise EdgenasError(
            f"images must be a folder or one of {', '.join(ARCHIVES)}, .csv, found {path}",
            hint="give a folder of class folders, an archive of one, or a CSV of path,label",
        )
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [(i.filename, i.is_dir(), i) for i in archive.infolist()]
        else:
            with tarfile.open(path) as archive:
                found = [m for m in archive.getmembers() if not m.isdev()]
                _check_end(archive)
                members = [(m.name, m.isdir(), m) for m in found]
    except DAMAGED as error:
        raise EdgenasError(
            f"the archive {path} is damaged: {error or type(error).__name__}",
            hint="get it again, or pack it again",
        ) from error
    files = [(name, member) for name, is_folder, member in members if not is_folder]
    return _classed(files, [name for name, is_folder, _ in members if is_folder], path)


def _listed(path: Path) -> list[Entry]:
    """The images that a CSV file of the columns ``path`` and ``label`` names, sorted.

    Paths are relative to the folder of the file. A column ``split`` divides them as folders of
    these names do; what is for tests is left out.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            missing = {"path", "label"} - set(rows.fieldnames or ())
            if missing:
                raise EdgenasError(
                    f"the first line of {path} must name the columns path and label, "
                    f"found {','.join(rows.fieldnames or ()) or 'nothing'}",
                    hint="write path,label there",
                )
            entries: list[Entry] = []
            for row in rows:
                name, where = (row["label"] or "").strip(), (row["path"] or "").strip()
                if not name or not where:
                    raise EdgenasError(
                        f"{path}, line {rows.line_num}: path and label must both be there",
                        hint="complete or remove the line",
                    )
                if (part := _part(row, path, rows.line_num)) not in _TEST:
                    entries.append((name, where, None, part in _VALIDATION))
    except (csv.Error, UnicodeDecodeError) as error:
        raise EdgenasError(
            f"{path} is no CSV file: {error}", hint="its first line must be path,label, in UTF-8"
        ) from error
    twice = [where for where, n in Counter(where for _, where, _, _ in entries).items() if n > 1]
    if twice:
        raise EdgenasError(f"{path} names {twice[0]} more than once", hint="one label an image")
    return sorted(entries, key=lambda e: (e[0], e[1]))


def _part(row: dict[str, str | None], path: Path, line: int) -> str:
    """What a row of a CSV file is for; training, where there is no column for that."""
    part = (row.get("split", _TRAINING[0]) or "").strip().lower()
    if part not in {*_TRAINING, *_VALIDATION, *_TEST}:
        raise EdgenasError(
            f"{path}, line {line}: split must be train, val or test, found {part!r}",
            hint="or leave the column split out: then a part of every class is set aside",
        )
    return part


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse a tar that stops early: tarfile takes a damaged header for the end of the archive."""
    stream = archive.fileobj
    assert stream is not None  # the archive is open for reading
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")
    while stream.read(1 << 20):  # to where the checksum of a compressed one is
        pass


def _walk(path: Path) -> tuple[list[tuple[str, None]], list[str]]:
    """Files and folders below a folder; links are followed, each folder once."""
    files, folders, seen = list[tuple[str, None]](), list[str](), set[str]()
    for root, inside, names in os.walk(path, followlinks=True):
        inside[:] = sorted(
            d
            for d in inside
            if (real := os.path.realpath(f"{root}/{d}")) not in seen and not seen.add(real)
        )
        below = Path(root).relative_to(path)
        folders += [str(below / name) for name in inside]
        files += [(str(below / name), None) for name in names]
    return files, folders


def _classed(files: list[tuple[str, Any]], folders: list[str], path: Path) -> list[Entry]:
    """The images with their class: the folder right below the outermost folder that branches.

    So a folder, an archive of it and an archive of its parent are the same data set. Where that
    folder has ``train`` and ``val`` inside, these divide the images; what is in ``test`` beside
    them is left out.
    """
    images = [
        (PurePosixPath(name).parts[:-1], name, handle)
        for name, handle in files
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not _hidden(name)
    ]
    places = {PurePosixPath(name).parts for name in folders if not _hidden(name)}
    places |= {parent[: i + 1] for parent, _, _ in images for i in range(len(parent))}
    top: tuple[str, ...] = ()
    while len(first := {p[len(top)] for p in places if len(p) > len(top)}) == 1:
        if not any(len(place) > len(top) + 1 for place in places):
            break
        top = (*top, *first)
        places = {place for place in places if place[: len(top)] == top}
    level = len(top)
    inside = [(p, name, handle) for p, name, handle in images if len(p) > level]
    divided = _divided(inside, level)
    if divided:
        inside = [image for image in inside if image[0][level].lower() not in _TEST]
        places = {p for p in places if len(p) > level and p[level].lower() not in _TEST}
        level += 1
    entries = [
        (p[level], name, handle, divided and p[level - 1].lower() in _VALIDATION)
        for p, name, handle in inside
    ]
    known = {p[: level + 1] for p, _, _ in inside}
    empty = {place[: level + 1] for place in places if len(place) > level} - known
    if entries and empty:
        raise EdgenasError(
            f"class folder {PurePosixPath(*min(empty))} in {path} has no images "
            f"({', '.join(SUFFIXES)})",
            hint="add images or remove the folder",
        )
    return sorted(entries, key=lambda e: (e[0], e[1]))


def _divided(images: list[tuple[tuple[str, ...], str, Any]], level: int) -> bool:
    """Whether the folders at a level are ``train``, ``val`` and ``test``, not classes."""
    names = {parts[level].lower() for parts, _, _ in images}
    return (
        len(names) > 1
        and names <= {*_TRAINING, *_VALIDATION, *_TEST}
        and not names.isdisjoint(_TRAINING)
        and all(len(parts) > level + 1 for parts, _, _ in images)
    )


def _hidden(name: str) -> bool:
    # What macOS puts into archives beside every file, and folders like .git.
    parts = PurePosixPath(name).parts
    return any((p.startswith(".") and p != "..") or p == "__MACOSX" for p in parts)


def contents(path: Path, entries: list[Entry]) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Class, name and a function that reads the bytes, of every entry, in the source's own order.

    Nothing is ever unpacked to the disk, so a name inside an archive cannot do harm.
    """
    if path.is_dir() or path.suffix.lower() == ".csv":
        for name, where, *_ in entries:
            yield name, where, (_base(path) / where).read_bytes
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name, where, member, _ in entries:
                yield name, where, lambda m=member: archive.read(m)
    else:
        # A tar is read forwards once: seeking back in a compressed one starts it over.
        with tarfile.open(path) as archive:
            for name, where, member, _ in sorted(entries, key=lambda e: e[2].offset_data):
                yield name, where, lambda m=member: archive.extractfile(m).read()  # pyright: ignore[reportOptionalMemberAccess]


def _base(path: Path) -> Path:
    """What the names of entries are relative to."""
    return path if path.is_dir() else path.parent


def check_classes(entries: list[Entry], classes: list[str], source: str) -> None:
    """Refuse what no classifier can learn from: no images, or a single class."""
    listed = source.lower().endswith(".csv")
    hint = "one line per image: path,label" if listed else "one folder per class, images inside"
    if not entries:
        raise EdgenasError(f"no images in {source}", hint=hint)
    if len(classes) < 2:
        raise EdgenasError(
            f"{source} must have at least 2 classes, found {len(classes)} ({classes[0]!r})",
            hint=hint,
        )


def fingerprint(path: Path, entries: list[Entry], stored: int | tuple[int, int]) -> str:
    """A name for what would be decoded now: it changes with the path, a size or a time."""
    digest = hashlib.sha256(f"{_DECODING} {stored} {path.resolve()}".encode())
    if any(held for *_, held in entries):
        digest.update(bytes(held for *_, held in entries))
    files = [path]
    if path.is_dir() or path.suffix.lower() == ".csv":
        files = [_base(path) / where for _, where, *_ in entries]
        digest.update("\0".join(name for name, *_ in entries).encode())
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise EdgenasError(
                f"cannot read the image {file} of {path}: {error.strerror}",
                hint="correct the path, or leave the image out",
            ) from error
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def cifar10(source: str) -> tuple[Pixels, NDArray[np.int64], list[str]]:
    """Pixels (n, 32, 32, 3), labels (n,) and class names of CIFAR-10, downloaded once.

    Args:
        source: ``cifar10`` for the 50,000 training images, ``cifar10-test`` for the test split.

    Raises:
        EdgenasError: as ``fetch``.
    """
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

    def there() -> bool:
        return to.exists() and to.stat().st_size == size and sha256(to) == digest

    if not there():
        part = to.with_name(to.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache_folder() / "downloads.lock"):
            if not there():  # another process may have fetched it meanwhile
                _download(url, part, to=to, size=size, digest=digest)
    return to


def _download(url: str, part: Path, *, to: Path, size: int, digest: str) -> None:
    """The rest of a file that was begun, then its name."""
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
        if have < size:
            raise ConnectionError(f"it broke off after {have} of {size} bytes")
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.unlink()  # what is there is no beginning of the server's file
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
