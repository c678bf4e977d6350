"""Files: atomic writes, limits for reading, schemas, the user's folders, and the machine lock.

People write TOML, programs write JSON. A JSON file starts with ``"schema": "edgenas.<kind>/<n>"``;
unknown schemas and unknown fields are refused.
"""

import codecs
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from edgenas.basics import temporary as temporaries
from edgenas.basics.errors import EdgenasError, quote

# Limits in bytes for files that are read as a whole. Any JSON of this size needs less than 1 GB of
# memory, and Python reads about 1 MB of TOML a second.
LARGEST, LARGEST_TOML = 16 << 20, 1 << 20
_DOTS = 64  # in one name of a TOML file
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def cache_folder() -> Path:
    """The user's cache: ``$EDGENAS_CACHE``, else ``$XDG_CACHE_HOME/edgenas``, else ~/.cache."""
    folder = os.environ.get("EDGENAS_CACHE")
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgenas"


def data_folders(kind: str) -> list[Path]:
    """The folders in which to look for ``device_profiles`` or ``latency_tables``, in order.

    First come the folders of ``$EDGENAS_PATH``, then the user's data folder, then the files that
    edgenas ships. Folders that do not exist are left out.
    """
    package = Path(__file__).parent.parent
    user = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edgenas"
    own = [Path(p) for p in os.environ.get("EDGENAS_PATH", "").split(os.pathsep) if p]
    # The wheel carries the two data folders inside the package; a checkout has them beside it.
    roots = [*own, user, package / "shipped", package.parent]
    return [root / kind for root in roots if (root / kind).is_dir()]


@contextlib.contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn errors of a disk into an EdgenasError: full, protected, or a file in the way."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgenasError(
                f"no space left on the disk for {path}",
                hint="free some space and run the same command again; nothing was half-written",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EdgenasError(
                f"may not write {path}", hint=_elsewhere(path, "make it writable")
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            obstacle = "folder" if error.errno == errno.EISDIR else "file"
            raise EdgenasError(
                f"cannot write {path}: a {obstacle} is in its way",
                hint=_elsewhere(path, "move it away"),
            ) from error
        raise


def _elsewhere(path: Path, remedy: str) -> str:
    """The hint for a path that cannot be written. No option names the files of the cache."""
    if path.absolute().is_relative_to(cache_folder().absolute()):
        return f"{remedy}, or name another cache folder: export EDGENAS_CACHE=FOLDER"
    return f"{remedy}, or choose another folder"


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_umask() -> int:
    """The permissions that new files of this process do not get; the system only swaps them."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def new_file(path: Path) -> Generator[Path]:
    """A temporary file beside ``path`` that replaces it when the block succeeds.

    Yields:
        The path to write to. If the block fails, ``path`` stays as it was and the temporary file
        is removed. If the process is killed, the next one that writes ``path`` removes it.

    Raises:
        EdgenasError: the disk is full or may not be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = temporaries.temporary_prefix(path)
        with temporaries.new_temporary_file(path.parent, prefix=prefix) as temporary:
            try:
                yield temporary
                # mkstemp makes private files, but files of edgenas are as public as all others.
                temporary.chmod(0o666 & ~_read_umask())
                _sync(temporary)
                temporary.replace(path)
                _sync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path, *, beside: Path | None = None) -> Generator[Path]:
    """A temporary folder that becomes ``path`` when the block succeeds; else there is none.

    An existing ``path`` is replaced. A caller that must not replace it has to check that first.

    Args:
        path: of the folder.
        beside: what the temporary folder lies beside, on the same disk; None: ``path``.

    Raises:
        EdgenasError: the disk is full or may not be written, or ``path`` is a file.
    """
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise FileExistsError(errno.EEXIST, "a file is there", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = temporaries.temporary_prefix(path)
        within = path.parent if beside is None else beside.parent
        with temporaries.new_temporary_folder(within, prefix=prefix) as temporary:
            try:
                yield temporary
                temporary.chmod(0o777 & ~_read_umask())
                for inside in (*temporary.rglob("*"), temporary):
                    _sync(inside)
                if path.exists():
                    old = temporaries.parking_place(temporary)
                    path.rename(old)
                    temporary.rename(path)
                    shutil.rmtree(old)
                else:
                    temporary.rename(path)
                _sync(path.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def check_absent(path: Path) -> None:
    """Refuse to write over anything but an empty folder.

    Raises:
        EdgenasError: something is there.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise EdgenasError(f"--out {path} exists", hint="choose another --out, or remove it")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, indented, in the order of its fields."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_bytes(path: Path, *, most: int = LARGEST) -> bytes:
    """Read a regular file. Its size is checked before any byte is read.

    Args:
        path: of the file. A FIFO or a device is refused without waiting for it.
        most: the largest size, in bytes.

    Raises:
        EdgenasError: the file is absent, no regular file or too large, or it cannot be read.
    """
    with _regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        # Files in /proc report a size of 0, and any file may grow meanwhile.
        data = stream.read(most + 1) if size <= most else b""
    if size > most or len(data) > most:
        raise EdgenasError(f"{path} must have at most {most} bytes, found {max(size, len(data))}")
    return data


def check_regular(path: Path) -> None:
    """Refuse a path that is no regular file before a library opens it. Raises as ``read_bytes``."""
    with _regular(path):
        pass


@contextlib.contextmanager
def _regular(path: Path) -> Generator[io.BufferedReader]:
    try:
        # This check comes before opening, because opening a device can have an effect.
        if stat.S_ISREG(path.stat().st_mode):
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as stream:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    yield stream
                    return
    except FileNotFoundError:
        raise EdgenasError(f"there is no file {path}") from None
    except OSError as error:
        raise EdgenasError(f"cannot read {path}: {error.strerror}") from error
    what = "a folder" if path.is_dir() else "no regular file"
    raise EdgenasError(f"{path} is {what}; a file is needed here")


def read_text(path: Path, *, most: int = LARGEST) -> str:
    """Read the text of a file. Raises as ``read_bytes``, and if the text is not UTF-8."""
    data = read_bytes(path, most=most)
    mark = next((m for m in (codecs.BOM_UTF8, *_UTF16) if data.startswith(m)), b"")
    try:
        if mark:
            raise ValueError("it begins with a byte-order mark")
        return data.decode("utf-8")
    except ValueError as error:
        why = f"byte {error.start} is none" if isinstance(error, UnicodeDecodeError) else error
        raise EdgenasError(
            f"{path} must be UTF-8 text: {why}", hint="save it as UTF-8, without a byte-order mark"
        ) from None


def parse_json(text: str, *, where: str) -> Any:
    """Parse JSON.

    Raises:
        EdgenasError: the text is no JSON or nested too deeply, an object has a field twice, or a
            number is NaN, infinite or too long.
    """
    with _damage(where):
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Parse TOML. Raises as ``parse_json``."""
    with _damage(where):
        # The time of Python's reader grows with the square of the dots in one name.
        if any(part.count(".") > _DOTS for part in re.split(r"[\n=,{}\[\]]", text)):
            raise ValueError("a name has too many dots")
        return tomllib.loads(text)


@contextlib.contextmanager
def _damage(where: str) -> Generator[None]:
    try:
        yield
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = "an integer has too many digits" if "digits" in str(error) else str(error)
    else:
        return
    raise EdgenasError(
        f"{where} is damaged or not what it should be: {why}",
        hint="restore the file or make it anew",
    ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"it has the field {quote(twice)} twice")
    return fields


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


def read_json(path: Path, *, schema: str) -> dict[str, Any]:
    """Read a JSON object of a given schema, without the schema field.

    Raises:
        EdgenasError: as ``read_text`` and ``parse_json``; no object, or another schema.
    """
    value = parse_json(read_text(path), where=str(path))
    return check_schema(value, schema=schema, where=str(path))


def read_toml(path: Path, *, schema: str) -> dict[str, Any]:
    """Read a TOML file of a given schema, without the schema field. Raises as ``read_json``."""
    value = parse_toml(read_text(path, most=LARGEST_TOML), where=str(path))
    return check_schema(value, schema=schema, where=str(path))


def check_schema(value: Any, *, schema: str, where: str) -> dict[str, Any]:
    """Check the schema of an object, and return the object without its schema field.

    Raises:
        EdgenasError: the value is no object, or it has another schema.
    """
    if not isinstance(value, dict):
        raise EdgenasError(f"{where} must hold an object, found {type(value).__name__}")
    fields = cast(dict[Any, Any], value)
    if fields.get("schema") != schema:
        raise EdgenasError(
            f"{where} must have schema {schema!r}, found {quote(fields.get('schema'))}",
            hint="this file is of another kind or of another edgenas version",
        )
    return {str(k): v for k, v in fields.items() if k != "schema"}


def check_fields(
    value: Mapping[str, Any], *, required: Iterable[str], optional: Iterable[str] = (), where: str
) -> None:
    """Refuse an object with missing or unknown fields, where the names depend on other values.

    Objects whose fields are always the same go through `edgenas.basics.decode`.

    Raises:
        EdgenasError: names the first missing or unknown field.
    """
    need, may = list(required), list(optional)
    for field in need:
        if field not in value:
            raise EdgenasError(f"{where}: the field {field!r} is missing")
    for field in value:
        if field not in need and field not in may:
            raise EdgenasError(
                f"{where}: unknown field {quote(field)}",
                hint=f"known fields: {', '.join(need + may)}",
            )


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a regular file of any size, in hex. Raises as ``read_bytes``."""
    with _regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def machine_lock_path() -> Path:
    """The file whose lock shows that this machine is being timed."""
    return Path(tempfile.gettempdir()) / f"edgenas-{os.getuid()}.timing.lock"


@contextlib.contextmanager
def file_lock(path: Path) -> Generator[None]:
    """Hold the lock of a file; other processes wait for it. The file is created if it is absent."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


@contextlib.contextmanager
def machine_lock() -> Generator[None]:
    """Reserve this machine for timing: other measurements wait, and training pauses."""
    with file_lock(machine_lock_path()):
        yield


def wait_for_machine() -> float:
    """Wait until nothing is being timed on this machine; returns the seconds waited."""
    start = time.monotonic()
    with machine_lock_path().open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        fcntl.flock(stream, fcntl.LOCK_UN)
    return time.monotonic() - start
