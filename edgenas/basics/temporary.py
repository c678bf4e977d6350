"""Temporary files and folders with names, and how those of killed processes are removed.

The process that makes one holds a lock on it. The system releases the lock when the process ends,
for whatever reason. So if a later process makes one with the same prefix and finds others without a
lock, nobody uses these, and it removes them. Files that need no name: `edgenas.clock.spool`.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

_OLD = ".old"
_OWN = "edgenas-"
_HELD: set[Path] = set()  # folders of this process: nobody else writes into them


@contextlib.contextmanager
def scratch_folder() -> Generator[Path]:
    """A folder in the temporary directory, for programs and libraries that write files."""
    within = Path(tempfile.gettempdir())
    with new_temporary_folder(within, prefix=_OWN) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def redirect_temporary_files(folder: Path) -> Generator[None]:
    """Put all temporary files of this process into a folder, also those of libraries."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def temporary_prefix(path: Path) -> str:
    """The start of the names of temporary files and folders that will become a path."""
    return f".{path.name}.{_OWN}"


@contextlib.contextmanager
def new_temporary_file(within: Path, *, prefix: str) -> Generator[Path]:
    """A new, empty file with a lock on it; the caller moves or removes it."""
    with _alone(within):
        _sweep(within, prefix=prefix)
        handle, name = tempfile.mkstemp(prefix=prefix, dir=within)
        _lock(handle)
    try:
        yield Path(name)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_temporary_folder(within: Path, *, prefix: str) -> Generator[Path]:
    """A new, empty folder with a lock on it; the caller moves or removes it."""
    with _alone(within):
        _sweep(within, prefix=prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
        handle = os.open(folder, os.O_RDONLY)
        _lock(handle)
    held = folder.resolve()
    _HELD.add(held)
    try:
        yield folder
    finally:
        _HELD.discard(held)
        os.close(handle)


def parking_place(temporary: Path) -> Path:
    """The path of a folder while a temporary one takes its place."""
    return temporary.with_name(temporary.name + _OLD)


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Let no other process make or remove such files, so that none is seen without its lock."""
    if folder.resolve() in _HELD:  # its lock is taken, by us
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(within: Path, *, prefix: str) -> None:
    """Remove the files of processes that were killed."""
    pattern = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}(\.old)?")
    for name in sorted(os.listdir(within)):
        if not pattern.fullmatch(name):
            continue
        path = within / name
        with contextlib.suppress(OSError):  # it is another user's, or gone
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(handle).st_uid == os.getuid() and _lock(handle):
                    _remove(path, prefix=prefix)
            finally:
                os.close(handle)


def _remove(path: Path, *, prefix: str) -> None:
    """Remove a file or a folder; restore a folder that was not replaced as it should have been."""
    name = prefix.removesuffix(_OWN)[1:-1]
    if path.name.endswith(_OLD) and not path.with_name(name).exists():
        path.rename(path.with_name(name))
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
