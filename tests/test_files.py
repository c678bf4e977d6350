"""The disk: all or nothing, one schema, one clock at a time."""

import errno
import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics import files
from edgenas.basics.errors import EdgenasError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no text: JSON can hold it, UTF-8 cannot.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


def litter(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Round trips


@given(fields=st.dictionaries(st.text("xyz", min_size=1), json_values))
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, fields: dict):
    path = tmp_path_factory.mktemp("round") / "a.json"
    files.write_json(path, {"schema": "edgenas.thing/1", **fields})
    assert files.read_json(path, schema="edgenas.thing/1") == fields


def test_json_is_written_in_the_order_given_and_ends_its_line(tmp_path: Path):
    path = tmp_path / "a.json"
    files.write_json(path, {"schema": "edgenas.thing/1", "b": 1, "a": [1.5]})
    text = path.read_text()
    assert list(json.loads(text)) == ["schema", "b", "a"]
    assert text.endswith("}\n")


def test_toml_is_read_by_its_schema(tmp_path: Path):
    path = tmp_path / "a.toml"
    path.write_text('schema = "edgenas.device/1"\nname = "rpi4"\n[ssh]\nport = 22\n')
    found = files.read_toml(path, schema="edgenas.device/1")
    assert found == {"name": "rpi4", "ssh": {"port": 22}}


def test_text_is_written_in_folders_that_do_not_exist_yet(tmp_path: Path):
    files.write_text(tmp_path / "a/b/c.txt", "Grüße ×\n")
    assert (tmp_path / "a/b/c.txt").read_text(encoding="utf-8") == "Grüße ×\n"


@given(st.binary(max_size=300))
def test_a_sha256_is_that_of_the_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.mktemp("sum") / "a"
    path.write_bytes(data)
    assert files.sha256(path) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_written_file_is_as_public_as_any_other(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "a", "x")
        with files.new_folder(tmp_path / "d"):
            pass
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
    assert (tmp_path / "d").stat().st_mode & 0o777 == mode | (mode & 0o444) >> 2


# All or nothing


def test_a_writer_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.new_file(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert litter(tmp_path) == ["a.txt"]


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    files.write_json(path, {"schema": "edgenas.thing/1", "x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"schema": "edgenas.thing/1", "x": float("nan")})
    assert files.read_json(path, schema="edgenas.thing/1") == {"x": 1}
    assert litter(tmp_path) == ["a.json"]


@pytest.mark.parametrize("make", [files.new_file, files.new_folder])
def test_interrupting_leaves_nothing(
    tmp_path: Path, make: Callable[[Path], AbstractContextManager[Path]]
):
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "a"):
        raise KeyboardInterrupt
    assert litter(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    code = (
        "import os, sys; from pathlib import Path; from edgenas.basics import files\n"
        "with files.new_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('new')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_folder_is_complete_or_absent(tmp_path: Path):
    path = tmp_path / "out"
    with files.new_folder(path) as temporary:
        (temporary / "a").mkdir()
        (temporary / "a/b").write_text("1")
        assert not path.exists()
    assert (path / "a/b").read_text() == "1"
    with pytest.raises(ZeroDivisionError), files.new_folder(path) as temporary:
        (temporary / "c").write_text("2")
        raise ZeroDivisionError
    assert litter(path) == ["a"]
    assert litter(tmp_path) == ["out"]


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path: Path):
    path = tmp_path / "out"
    for name in ("old", "new"):
        with files.new_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert litter(path) == ["new"]
    assert litter(tmp_path) == ["out"]


# Disks that refuse


def fill_the_disk(_: Path) -> None:
    with open("/dev/full", "w") as stream:
        stream.write("x")


@pytest.mark.parametrize("make", [files.new_file, files.new_folder])
def test_a_full_disk_is_said_and_nothing_is_left(
    tmp_path: Path, make: Callable[[Path], AbstractContextManager[Path]]
):
    path = tmp_path / "a"
    with pytest.raises(EdgenasError) as caught, make(path) as temporary:
        fill_the_disk(temporary)
    assert caught.value.message == f"no space left on the disk for {path}"
    assert caught.value.hint == (
        "free some space and run the same command again; nothing was half-written"
    )
    assert litter(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("make", [files.new_file, files.new_folder])
def test_a_place_that_may_not_be_written_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], AbstractContextManager[Path]],
    code: int,
):
    # Root may write everywhere, so the system's answer is put in its mouth.
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(EdgenasError) as caught, make(tmp_path / "a"):
        pass
    assert caught.value.message == f"may not write {tmp_path / 'a'}"
    assert caught.value.hint == "make it writable, or choose another folder"


def test_for_the_cache_the_variable_is_named_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(EdgenasError) as caught:
        files.write_text(files.cache_folder() / "images/a.npz", "x")
    assert caught.value.hint == (
        "move it away, or name another cache folder: export EDGENAS_CACHE=FOLDER"
    )


def test_what_is_in_the_way_is_said_and_kept(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EdgenasError) as caught, files.new_folder(tmp_path / "file"):
        pass
    assert caught.value.message == f"cannot write {tmp_path / 'file'}: a file is in its way"
    assert caught.value.hint == "move it away, or choose another folder"
    with pytest.raises(EdgenasError, match="a file is in its way"):
        files.write_text(tmp_path / "file/below", "x")
    with pytest.raises(EdgenasError, match=r"cannot write .*: a folder is in its way"):
        files.write_text(tmp_path / "folder", "x")
    assert litter(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_other_errors_of_the_writer_pass(tmp_path: Path):
    with pytest.raises(OSError, match="broken") as caught, files.new_file(tmp_path / "a"):
        raise OSError(errno.EIO, "broken")
    assert caught.value.errno == errno.EIO


# What is refused on reading


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "there is no file {path}", ""),
        (
            b'{"schema": ',
            "{path} is damaged or not what it should be: Expecting value: line 1 column 12 "
            "(char 11)",
            "restore the file or make it anew",
        ),
        (
            b'{"schema": "edgenas.thing/2"}',
            "{path} must have schema 'edgenas.thing/1', found 'edgenas.thing/2'",
            "this file is of another kind or of another edgenas version",
        ),
        (
            b"{}",
            "{path} must have schema 'edgenas.thing/1', found None",
            "this file is of another kind or of another edgenas version",
        ),
        (b"[1]", "{path} must hold an object, found list", ""),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, content: bytes | None, message: str, hint: str
):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EdgenasError) as caught:
        files.read_json(path, schema="edgenas.thing/1")
    assert (caught.value.message, caught.value.hint) == (message.format(path=path), hint)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(data)
    for read in (files.read_json, files.read_toml):
        with pytest.raises(EdgenasError):
            read(path, schema="edgenas.thing/1")


def test_a_folder_and_a_path_below_a_file_are_refused(tmp_path: Path):
    with pytest.raises(EdgenasError) as caught:
        files.read_toml(tmp_path, schema="edgenas.device/1")
    assert caught.value.message == f"{tmp_path} is a folder; a file is needed here"
    (tmp_path / "a").write_text("")
    with pytest.raises(EdgenasError, match=r"^cannot read .*/a/b: Not a directory"):
        files.read_json(tmp_path / "a/b", schema="edgenas.thing/1")


def test_nesting_without_end_is_refused(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("[" * 200_000)
    with pytest.raises(EdgenasError, match="is damaged"):
        files.read_json(path, schema="edgenas.thing/1")


def test_missing_and_unknown_fields_are_refused():
    check = files.check_fields
    check({"a": 1, "b": 2}, required=["a"], optional=["b"], where="rpi4.toml")
    check({"a": 1}, required=iter(["a"]), optional=iter(["b"]), where="rpi4.toml")
    with pytest.raises(EdgenasError) as caught:
        check({"b": 2}, required=["a"], optional=["b"], where="rpi4.toml")
    assert str(caught.value) == "rpi4.toml: the field 'a' is missing"
    with pytest.raises(EdgenasError) as caught:
        check({"a": 1, "c": 3}, required=["a"], optional=["b"], where="rpi4.toml")
    assert str(caught.value) == "rpi4.toml: unknown field 'c'\nhint: known fields: a, b"


# The user's folders


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert files.cache_folder() == Path("/one")
    monkeypatch.delenv("EDGENAS_CACHE")
    assert files.cache_folder() == Path("/two/edgenas")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/three")
    assert files.cache_folder() == Path("/three/.cache/edgenas")


def test_the_users_own_data_comes_before_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = [tmp_path / name for name in ("first", "second")]
    for folder in (*own, tmp_path / "share/edgenas"):
        (folder / "device_profiles").mkdir(parents=True)
    path = os.pathsep.join(["", *map(str, own), str(tmp_path / "absent")])
    monkeypatch.setenv("EDGENAS_PATH", path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    found = files.data_folders("device_profiles")
    assert found[:3] == [
        folder / "device_profiles" for folder in (*own, tmp_path / "share/edgenas")
    ]
    # What is left is edgenas's own, and it is there.
    assert found[3:]
    assert files.data_folders("no_such_kind") == []


# The clock of the machine

HOLD = "with files.machine_lock():\n    print('held', flush=True)\n    sys.stdin.read(1)\n"
WAIT = "print('waiting', flush=True)\nfiles.wait_for_machine()\nprint('free', flush=True)\n"


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom edgenas.basics import files\n{code}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def is_silent(process: subprocess.Popen[str]) -> bool:
    assert process.stdout
    return not select.select([process.stdout], [], [], 0.3)[0]


def is_locked() -> bool:
    """Asked of the system itself, not of the code under test."""
    with files.machine_lock_path().open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_nobody_times_or_trains_while_another_times():
    with start(HOLD) as holder:
        assert says(holder) == "held"
        assert is_locked()
        with start(WAIT) as trainer, start(HOLD) as second:
            assert says(trainer) == "waiting"
            assert is_silent(trainer)
            assert is_silent(second)
            holder.communicate("x", timeout=30)
            # The system may let either go first: what must not happen is that one never goes.
            assert says(second) == "held"
            second.communicate("x", timeout=30)
            assert says(trainer) == "free"
    assert not is_locked()


def test_a_killed_holder_frees_the_machine():
    with start(HOLD) as holder:
        assert says(holder) == "held"
        holder.kill()
    assert not is_locked()
    assert files.wait_for_machine() >= 0


def test_an_error_while_timing_frees_the_machine():
    with pytest.raises(ZeroDivisionError), files.machine_lock():
        raise ZeroDivisionError
    assert not is_locked()


# What others put in a file's place


def test_a_fifo_and_a_device_are_refused_and_never_waited_for(tmp_path: Path):
    fifo = tmp_path / "a.json"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero")):
        for read in (files.read_bytes, files.sha256, files.check_regular):
            with pytest.raises(EdgenasError, match="is no regular file"):
                read(path)


def test_a_file_of_the_proc_file_system_is_read_though_it_tells_no_size():
    assert files.read_text(Path("/proc/self/status")).startswith("Name:")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "a.toml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(EdgenasError, match=r"must have at most 1048576 bytes, found 1099511627776"):
        files.read_toml(path, schema="edgenas.device/1")
    with pytest.raises(EdgenasError, match=r"must have at most 16777216 bytes"):
        files.read_json(path, schema="edgenas.device/1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "it has the field 'a' twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "an integer has too many digits"),
        (b"[" * 200_000 + b"]" * 200_000, "it is nested too deeply"),
        (b'\xef\xbb\xbf{"a": 1}', "must be UTF-8 text: it begins with a byte-order mark"),
        ('{"a": 1}'.encode("utf-16"), "must be UTF-8 text: it begins with a byte-order mark"),
        (b'{"a": "\xff"}', "must be UTF-8 text: byte 7 is none"),
        (b"", "is damaged or not what it should be"),
    ],
    ids="twice nan infinity digits deep bom utf-16 latin-1 empty".split(),
)
def test_json_that_is_none_is_refused(tmp_path: Path, data: bytes, message: str):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(EdgenasError, match=message):
        files.read_json(path, schema="edgenas.thing/1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\na = 2\n", "overwrite"),
        (f"a = {'1' * 5000}\n", "an integer has too many digits"),
        (f"a = {'[' * 200_000}{']' * 200_000}\n", "it is nested too deeply"),
        (f"a = {'{a=' * 100_000}1{'}' * 100_000}\n", "it is nested too deeply"),
        (f"{'a.' * 300_000}a = 1\n", "a name has too many dots"),
        (f"[{'a.' * 300_000}a]\n", "a name has too many dots"),
    ],
    ids="twice digits lists tables dots header".split(),
)
def test_toml_that_is_none_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(EdgenasError, match=message):
        files.read_toml(path, schema="edgenas.thing/1")
