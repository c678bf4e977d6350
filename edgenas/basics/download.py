"""Where the authors publish the supernets, and how a large file gets here whole."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import sha256 as sha256_of
from edgenas.basics.files import write_text

# Where the authors publish the supernets. The SHA-256 of these files is not known to this project:
# `download` records what it sees first and insists on it from then on.
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
_CHUNK = 1 << 20


Tell = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


def download(address: str, to: Path, *, sha256: str | None = None, tell: Tell = _silent) -> Path:
    """Fetch a released file; what an earlier try fetched is kept and gone on with.

    The SHA-256 is recorded beside the file (``<name>.sha256``, as ``sha256sum`` writes it). With no
    hash given, the first download is trusted and every later use must match its record.

    Args:
        address: where it is published, e.g. one of ``ADDRESSES``.
        to: where to keep it.
        sha256: of the expected file, in hex, from a source the user trusts.
        tell: called with the bytes fetched and the bytes of the file.

    Returns:
        ``to``.

    Raises:
        EdgenasError: no network, an incomplete answer, or another file than expected.
    """
    record = to.with_name(f"{to.name}.sha256")
    if sha256 is None and record.exists():
        sha256 = (record.read_text(encoding="utf-8").split() or [""])[0]
    if not to.exists():
        part = to.with_name(f"{to.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _fetch(address, part, tell)
        part.replace(to)
        to.with_name(f"{to.name}.part.etag").unlink(missing_ok=True)
    found = sha256_of(to)
    if sha256 is not None and found != sha256.lower():
        raise EdgenasError(
            f"{to} is not the expected file: SHA-256 must be {sha256}, found {found}",
            hint="delete it and fetch it again, or check the expected hash",
        )
    write_text(record, f"{found}  {to.name}\n")
    return to


def _fetch(address: str, part: Path, tell: Tell) -> None:
    """Bring ``part`` to the size that the server names, from where it stands."""
    etag = part.with_name(f"{part.name}.etag")
    known = etag.read_text(encoding="utf-8") if etag.exists() else ""
    # Only what the server vouches for as the same file may be gone on with.
    have = part.stat().st_size if known and part.exists() else 0
    wanted = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=wanted), timeout=_TIMEOUT
        ) as answer:
            if answer.status != 206:
                have = 0
            length = answer.headers.get("Content-Length")
            if length is None:
                raise EdgenasError(f"{address} does not say how long it is")
            total = have + int(length)
            write_text(etag, answer.headers.get("ETag", ""))
            with part.open("ab" if have else "wb") as stream:
                while chunk := answer.read(_CHUNK):
                    stream.write(chunk)
                    have += len(chunk)
                    tell(have, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch, or the file has become shorter
            part.unlink()
            _fetch(address, part, tell)
            return
        raise EdgenasError(
            f"could not fetch {address}: {error}", hint="is the address still right?"
        ) from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise EdgenasError(
            f"could not fetch {address}: {error}",
            hint="run the same command again: it goes on where it broke off",
        ) from error
    if part.stat().st_size != total:
        raise EdgenasError(
            f"{address} broke off after {part.stat().st_size} of {total} bytes",
            hint="run the same command again: it goes on where it broke off",
        )


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
