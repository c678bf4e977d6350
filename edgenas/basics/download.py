"""Fetches large files, and knows where the authors publish their supernets."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import cache_folder, file_lock, write_text
from edgenas.basics.files import sha256 as sha256_of

# The SHA-256 of these files is not known to this project: `download` records what it sees first
# and insists on it from then on.
ADDRESSES: Mapping[str, str] = {
    "ofa-mbv3-w1.0": "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
    "ofa_mbv3_d234_e346_k357_w1.0",
    "ofa-mbv3-w1.2": "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
    "ofa_mbv3_d234_e346_k357_w1.2",
    "ofa-proxyless-w1.3": "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
    "ofa_proxyless_d234_e346_k357_w1.3",
    "ofa-resnet50": "https://huggingface.co/han-cai/ofa/resolve/main/ofa_supernet_resnet50",
}

_TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20  # bytes

Report = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes of the whole file."""


def _report_nothing(done: int, total: int) -> None:
    pass


def download(
    address: str, to: Path, *, sha256: str | None = None, progress: Report = _report_nothing
) -> Path:
    """Fetch a file. A second try goes on where the first one broke off.

    The SHA-256 is recorded beside the file (``<name>.sha256``, as ``sha256sum`` writes it). With no
    hash given, the first download is trusted and every later use must match its record.

    Args:
        address: where the file is published, e.g. one of ``ADDRESSES``.
        to: where to keep it.
        sha256: of the expected file, in hex, from a source that the user trusts.
        progress: is called after every part.

    Returns:
        ``to``.

    Raises:
        EdgenasError: there is no network, the answer is not complete, or the file is another one.
    """
    record = to.with_name(f"{to.name}.sha256")
    if sha256 is None and record.exists():
        sha256 = (record.read_text(encoding="utf-8").split() or [""])[0]
    with _lock(to):
        if not to.exists():
            part = _fetch(address, to, size=None, progress=progress)
            part.replace(to)
            _tag_of(part).unlink(missing_ok=True)
    digest = sha256_of(to)
    if sha256 is not None and digest != sha256.lower():
        raise EdgenasError(
            f"{to} is not the expected file: SHA-256 must be {sha256}, found {digest}",
            hint="delete it and fetch it again, or check the expected hash",
        )
    write_text(record, f"{digest}  {to.name}\n")
    return to


def download_known(address: str, to: Path, *, size: int, sha256: str) -> Path:
    """Fetch a file whose size and hash are known. A second try goes on where the first broke off.

    Args:
        address: where the file is published.
        to: where to keep it. A file that is there already and has the hash is not fetched.
        size: of the file, in bytes.
        sha256: of the file, in hex.

    Returns:
        ``to``.

    Raises:
        EdgenasError: there is no network, the answer is not complete, or the file is another one.
    """

    def is_there() -> bool:
        return to.exists() and to.stat().st_size == size and sha256_of(to) == sha256

    if is_there():
        return to
    with _lock(to):
        if is_there():  # another process has fetched it meanwhile
            return to
        part = _fetch(address, to, size=size, progress=_report_nothing)
        if part.stat().st_size != size or sha256_of(part) != sha256:
            part.unlink()
            raise EdgenasError(
                f"{address} is not the expected file ({size} bytes, SHA-256 {sha256[:12]}...)",
                hint=f"get it elsewhere and put it at {to}",
            )
        part.replace(to)
    return to


def download_by_prefix(
    address: str, to: Path, *, mebibytes: float, prefix: str, progress: Report = _report_nothing
) -> Path:
    """Fetch a file of which the beginning of the hash and the rounded size are known.

    Args:
        address: where the file is published.
        to: where to keep it. A file that is there already and is the right one is not fetched.
        mebibytes: its size in 2^20 bytes, rounded to a thousandth.
        prefix: the first digits of its SHA-256, in hex.
        progress: is called after every part.

    Returns:
        ``to``.

    Raises:
        EdgenasError: there is no network, the answer is not complete, or the file is another one.
    """

    def is_right(file: Path) -> bool:
        size = file.stat().st_size / (1 << 20)
        return abs(size - mebibytes) < 1e-3 and sha256_of(file).startswith(prefix)

    with _lock(to):
        if to.exists() and is_right(to):
            return to
        part = _fetch(address, to, size=None, progress=progress)
        _tag_of(part).unlink(missing_ok=True)
        if not is_right(part):
            part.unlink()
            raise EdgenasError(
                f"{address} is not the expected file ({mebibytes} MiB, SHA-256 {prefix}...)",
                hint=f"get it elsewhere and put it at {to}",
            )
        part.replace(to)
    return to


@contextmanager
def _lock(to: Path) -> Generator[None]:
    """Let one process at a time fetch a file; the folder for it is made."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(cache_folder() / "downloads.lock"):
        yield


def _tag_of(part: Path) -> Path:
    """The file that keeps the server's tag (ETag) of what was begun."""
    return part.with_name(f"{part.name}.etag")


def _fetch(address: str, to: Path, *, size: int | None, progress: Report) -> Path:
    """Fetch what is still missing of a file, into ``<name>.part``.

    A file of known size has a known hash too, so its rest may come from any answer. Of other files
    the server must say, by its tag, that it still has the same file; else all of it is fetched.
    """
    part = to.with_name(f"{to.name}.part")
    start, headers = _plan_request(part, size=size)
    hint = f"try again (it resumes), or put the file at {to} yourself"
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            done = start if answer.status == 206 else 0
            total = size
            if total is None:
                total = done + _content_length(answer.headers, address)
                write_text(_tag_of(part), answer.headers.get("ETag", ""))
            with part.open("ab" if done else "wb") as stream:
                while done <= total and (chunk := answer.read(_CHUNK)):
                    stream.write(chunk)
                    done += len(chunk)
                    progress(done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # the server's file has no byte behind those of the part
            part.unlink()
            return _fetch(address, to, size=size, progress=progress)
        raise EdgenasError(
            f"could not download {address}: {error}",
            hint=f"check the address, or put the file at {to} yourself",
        ) from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise EdgenasError(f"could not download {address}: {error}", hint=hint) from error
    if done < total:
        raise EdgenasError(
            f"could not download {address}: it broke off after {done} of {total} bytes", hint=hint
        )
    return part


def _plan_request(part: Path, *, size: int | None) -> tuple[int, dict[str, str]]:
    """The byte to go on from, and the headers that ask for what comes behind it."""
    start = part.stat().st_size if part.exists() else 0
    if size is not None:
        if start >= size:
            part.unlink()
            start = 0
        return start, {"Range": f"bytes={start}-"} if start else {}
    tag = _tag_of(part).read_text(encoding="utf-8") if _tag_of(part).exists() else ""
    if not start or not tag:
        return 0, {}
    return start, {"Range": f"bytes={start}-", "If-Range": tag}


def _content_length(headers: Message, address: str) -> int:
    length = headers.get("Content-Length")
    if length is None:
        raise EdgenasError(f"{address} does not say how long it is")
    return int(length)


def address_of(space: str) -> str:
    """Where the weights of a released space are published.

    Raises:
        EdgenasError: nothing is published for that name.
    """
    if space not in ADDRESSES:
        raise unknown_name(
            "released supernet", space, names=ADDRESSES, listing="edgenas list spaces"
        )
    return ADDRESSES[space]
