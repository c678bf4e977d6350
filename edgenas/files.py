"""How edgenas touches the disk: atomic writes, schemas, the user's folders, the machine lock.

People write TOML, programs write JSON. A JSON file starts with ``"schema": "edgenas.<kind>/<n>"``;
unknown schemas and unknown fields are refused.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgenas.errors import EdgenasError


def cache_folder() -> Path:
    """The user's cache: ``$EDGENAS_CACHE``, else ``$XDG_CACHE_HOME/edgenas``, else ~/.cache."""
    given = os.environ.get("EDGENAS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgenas"


def data_folders(kind: str) -> list[Path]:
    """Where files of a kind (``device_profiles``, ``latency_tables``) are looked for, in order.

    The folders of ``$EDGENAS_PATH`` first, then the user's data folder, then what edgenas ships.
    Only folders that exist are returned.
    """
    package = Path(__file__).parent
    user = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edgenas"
    given = [Path(p) for p in os.environ.get("EDGENAS_PATH", "").split(os.pathsep) if p]
    # The wheel carries the two data folders inside the package; a checkout has them beside it.
    roots = [*given, user, package / "shipped", package.parent]
    return [root / kind for root in roots if (root / kind).is_dir()]


@contextlib.contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn what a disk refuses into an EdgenasError: full, protected, something in the way."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgenasError(
                f"no space left on the disk for {path}",
                hint="free some space and run the same command again; nothing was half-written",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EdgenasError(f"may not write {path}", hint="choose another --out") from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            found = "folder" if error.errno == errno.EISDIR else "file"
            raise EdgenasError(
                f"cannot write {path}: a {found} is in its way", hint="choose another --out"
            ) from error
        raise


def _sync(path: Path) -> None:
    """Put what was written to a file or folder on the disk, so that a power cut keeps it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Generator[Path]:
    """A temporary file beside ``path`` that takes its place, durably, when the block succeeds.

    Yields:
        The path to write to. A failure leaves ``path`` as it was and no litter.

    Raises:
        EdgenasError: the disk is full or may not be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes private files; what edgenas writes is as public as any other file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A temporary folder that becomes ``path`` when the block succeeds: complete or absent.

    An existing ``path`` is replaced; callers that must not replace check first.

    Raises:
        EdgenasError: the disk is full or may not be written, or ``path`` is a file.
    """
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise FileExistsError(errno.EEXIST, "a file is there", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            for inside in (*temporary.rglob("*"), temporary):
                _sync(inside)
            if path.exists():
                old = temporary.with_name(temporary.name + ".old")
                path.rename(old)
                temporary.rename(path)
                shutil.rmtree(old)
            else:
                temporary.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, indented, in the order given."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, schema: str) -> dict[str, Any]:
    """Read a JSON object of a given schema, without the schema field.

    Raises:
        EdgenasError: absent, no JSON, no object, or another schema.
    """
    value = _read(path, json.loads)
    return check_schema(value, schema=schema, where=str(path))


def read_toml(path: Path, *, schema: str) -> dict[str, Any]:
    """Read a TOML file of a given schema, without the schema field. Raises like read_json."""
    return check_schema(_read(path, tomllib.loads), schema=schema, where=str(path))


def _read(path: Path, loads: Any) -> Any:
    try:
        return loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgenasError(f"no file {path}") from None
    except IsADirectoryError:
        raise EdgenasError(f"{path} is a folder, a file was expected") from None
    except OSError as error:
        raise EdgenasError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EdgenasError(
            f"{path} is damaged or not what it should be: {error}",
            hint="restore the file or make it anew",
        ) from error


def check_schema(value: Any, *, schema: str, where: str) -> dict[str, Any]:
    """The object without its schema field.

    Raises:
        EdgenasError: no object, or another schema than the one asked for.
    """
    if not isinstance(value, dict):
        raise EdgenasError(f"{where} must hold one object, found {type(value).__name__}")
    found = value.get("schema")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if found != schema:
        raise EdgenasError(
            f"{where} must have schema {schema!r}, found {found!r}",
            hint="this file is of another kind or of another edgenas version",
        )
    return {str(k): v for k, v in value.items() if k != "schema"}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def check_fields(
    value: Mapping[str, Any], *, required: Iterable[str], optional: Iterable[str] = (), where: str
) -> None:
    """Refuse an object with missing or unknown fields.

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
                f"{where}: unknown field {field!r}", hint=f"known fields: {', '.join(need + may)}"
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def machine_lock_path() -> Path:
    """The file whose lock says that this machine is being timed."""
    return Path(tempfile.gettempdir()) / f"edgenas-{os.getuid()}.timing.lock"


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock of a file, which is made if it is not there; another process waits for it."""
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


@contextlib.contextmanager
def machine_lock() -> Generator[None]:
    """Hold this machine for timing: two measurements never run at once, and training pauses."""
    with locked(machine_lock_path()):
        yield


def wait_for_machine() -> float:
    """Return once nothing is being timed here; the seconds waited."""
    start = time.monotonic()
    with machine_lock_path().open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        fcntl.flock(stream, fcntl.LOCK_UN)
    return time.monotonic() - start
