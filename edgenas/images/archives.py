"""Archives of images, read member by member: nothing is unpacked to the disk, bombs are refused.

A small archive may hold gigabytes of zeros, or a header that asks for as much memory. So every
read goes through a stream that ends where no archive of photos does.
"""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.images.pictures import HEAD, MOST_BYTES

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")

# Bytes that an archive may unpack to: this many, or so many times its own size. Photos hardly
# shrink at all; zeros shrink a thousandfold.
_FREE, _RATIO = 2**29, 100
# Files of an archive: a list of more takes a gigabyte by itself.
_MOST_FILES = 500_000
# Bytes that a header inside a tar may have, e.g. a long name.
_MOST_HEADER = 2**20

# What decoders and archives raise at damaged bytes, beside the errors made for that.
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


class _BombError(Exception):
    """An archive asks for more than archives of photos do."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its name, its first bytes, and what it is read with."""

    name: str
    head: bytes
    handle: Any


@dataclass(frozen=True, slots=True)
class Members:
    """What is in an archive: its files, its folders, and how many others by what they are."""

    files: list[Member]
    folders: list[str]
    left: Counter[str]


def list_members(path: Path) -> Members:
    """Everything in an archive.

    Raises:
        EdgenasError: it is damaged, has too many files, or unpacks to far more than photos would.
    """
    try:
        return _list_zip(path) if path.suffix.lower() == ".zip" else _list_tar(path)
    except _BombError as error:
        raise EdgenasError(
            f"the archive {path} is refused: {error}",
            hint="unpack it yourself if you trust it, and give the folder",
        ) from error
    except DAMAGED as error:
        said = str(error).partition("\n")[0][:120] or type(error).__name__
        raise EdgenasError(
            f"the archive {path} is damaged: {said}", hint="get it again, or pack it again"
        ) from error


def read_members(
    path: Path, handles: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Callable[[], bytes]]]:
    """Members in the order of the archive, each with a function that reads its bytes.

    Args:
        path: the archive.
        handles: rows whose third value is the handle of a member.

    Yields:
        The row, and the function; it raises one of ``DAMAGED`` where the member cannot be read.
    """
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for row in handles:
                yield row, lambda m=row[2]: _read_from_zip(archive, m)
        return
    # A tar is read forwards once: seeking back in a compressed one starts it over.
    with _open_stream(path) as stream:
        kept: dict[int, bytes] = {}

        def read(member: tarfile.TarInfo) -> bytes:
            if member.offset_data not in kept:  # a link has the place of what it leads to
                kept.clear()
                kept[member.offset_data] = _read_from_tar(stream, member)
            return kept[member.offset_data]

        for row in sorted(handles, key=lambda row: row[2].offset_data):
            yield row, lambda m=row[2]: read(m)


def _read_from_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_size(member.file_size)
    return archive.read(member)


def _read_from_tar(stream: "_Bounded", member: tarfile.TarInfo) -> bytes:
    _check_size(member.size)
    stream.seek(member.offset_data)
    data = stream.read(member.size)
    if len(data) < member.size:
        raise tarfile.ReadError("the archive ends inside it")
    return data


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"it has {size >> 20} MB, more than {MOST_BYTES >> 20}")


def _list_zip(path: Path) -> Members:
    files, folders, left = list[Member](), list[str](), Counter[str]()
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        _check_count(len(infos))
        _check_total(sum(info.file_size for info in infos), path)
        for info in infos:
            mode = info.external_attr >> 16
            # Some packers of Windows write their own separator.
            name = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
            if name.endswith("/"):
                folders.append(name)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                left["links" if stat.S_ISLNK(mode) else "devices or pipes"] += 1
            else:
                files.append(Member(name, _read_head(archive, info), info))
    return Members(files, folders, left)


def _read_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The first bytes of a member; none where it cannot be read: that is told when it is wanted."""
    try:
        with archive.open(info) as stream:
            return stream.read(HEAD)
    except DAMAGED:
        return b""


def _list_tar(path: Path) -> Members:
    files, folders, left = list[Member](), list[str](), Counter[str]()
    places: dict[str, Member] = {}
    links: list[tarfile.TarInfo] = []
    with _open_stream(path) as stream:
        stream.longest = _MOST_HEADER
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                _check_count(len(files) + len(folders) + len(links) + left.total() + 1)
                if info.isdir():
                    folders.append(info.name)
                elif info.issym() or info.islnk():
                    links.append(info)
                elif not info.isreg() or info.sparse is not None:
                    left["devices or pipes" if not info.isreg() else "sparse files"] += 1
                else:
                    stream.seek(info.offset_data)
                    files.append(Member(info.name, stream.read(min(info.size, HEAD)), info))
                    places[info.name] = files[-1]
            _check_end(archive, stream)
    for link in links:
        target = places.get(_resolve_link(link))
        if target is None:
            left["links that lead to no file in the archive"] += 1
        else:
            files.append(Member(link.name, target.head, target.handle))
    return Members(files, folders, left)


def _resolve_link(link: tarfile.TarInfo) -> str:
    """The name in the archive that a link leads to."""
    if link.islnk():
        return link.linkname
    parts: list[str] = link.name.split("/")[:-1]
    for part in link.linkname.split("/"):
        if part == "..":
            if not parts:
                return ""
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _check_end(archive: tarfile.TarFile, stream: "_Bounded") -> None:
    """Refuse a tar that stops early: tarfile takes a damaged header for the end of the archive."""
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")
    while stream.read(_MOST_HEADER):  # to where the checksum of a compressed one is
        pass


def _check_count(files: int) -> None:
    if files > _MOST_FILES:
        raise _BombError(f"it has more than {_MOST_FILES:,} files")


def _check_total(size: int, path: Path) -> None:
    most = _most_bytes(path)
    if size > most:
        raise _BombError(
            f"{path.stat().st_size:,} bytes unpack to more than {most:,}, as no photos do"
        )


def _most_bytes(path: Path) -> int:
    return max(_FREE, _RATIO * path.stat().st_size)


class _Bounded(io.RawIOBase):
    """A stream that raises where more is asked of it than an archive of photos needs."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        super().__init__()
        self.stream, self.path = stream, path
        self.longest = MOST_BYTES

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; ``size`` must be given."""
        if not 0 <= size <= self.longest:
            raise _BombError(f"a header inside has {size:,} bytes")
        _check_total(self.stream.tell(), self.path)
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """To a place from the start."""
        assert whence == io.SEEK_SET
        _check_total(offset, self.path)
        return self.stream.seek(offset)

    def tell(self) -> int:
        """The place of the next byte."""
        return self.stream.tell()


@contextmanager
def _open_stream(path: Path) -> Generator[_Bounded]:
    """The bytes of a tar, unpacked on the way, whatever its name says of how it is packed."""
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        start = raw.read(6)
        raw.seek(0)
        stream: IO[bytes] | gzip.GzipFile = raw
        if start[:2] == b"\x1f\x8b":
            stream = stack.enter_context(gzip.open(raw))
        elif start == b"\xfd7zXZ\0" or start[:3] == b"\x5d\0\0":
            stream = stack.enter_context(lzma.open(raw))
        elif start[:3] == b"BZh":
            stream = stack.enter_context(bz2.open(raw))
        yield _Bounded(stream, path)
