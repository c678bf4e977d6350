"""What killed processes leave is removed by the next one, and nothing else is."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from edgenas.basics.files import new_folder, write_text
from edgenas.basics.temporary import (
    parking_place,
    redirect_temporary_files,
    scratch_folder,
    temporary_prefix,
)

WAYS = {
    "a file": "with new_file(Path('out')) as path:",
    "a folder": "with new_folder(Path('out')) as path, (path / 'inside').open('w'):",
    "scratch": "with scratch_folder() as path, (path / 'inside').open('w'):",
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def child(way: str) -> subprocess.Popen[bytes]:
    """A process that makes a temporary file or folder and keeps it."""
    code = "from edgenas.basics.files import *\nfrom edgenas.basics.temporary import *\n"
    code += f"{WAYS[way]}\n print('made', flush=True)\n sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"made\n"
    return process


def again(way: str) -> None:
    """The same in this process, to its end."""
    if way == "a file":
        write_text(Path("out"), "new")
    elif way == "a folder":
        with new_folder(Path("out")):
            pass
    else:
        with scratch_folder():
            pass


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_process_left_is_removed_by_the_next(way):
    with child(way) as process:
        process.send_signal(signal.SIGKILL)
    assert len(list(Path().iterdir())) == 1
    again(way)
    assert [path.name for path in Path().iterdir()] == (["out"] if way != "scratch" else [])


@pytest.mark.parametrize("way", WAYS)
def test_what_a_living_process_uses_is_left_alone(way):
    with child(way) as process:
        (used,) = Path().iterdir()
        again(way)
        assert used.exists()
        process.kill()


def test_what_is_not_ours_is_left_alone():
    kept = [".out.backup_1", ".out.edgenas-short", ".other.edgenas-12345678", "edgenas-12345678x"]
    for name in kept:
        Path(name).touch()
    Path("target").mkdir()
    Path(".out.edgenas-abcdefgh").symlink_to("target")
    again("a file")
    again("scratch")
    for name in (*kept, ".out.edgenas-abcdefgh", "target"):
        assert Path(name).exists()


def test_a_folder_that_was_about_to_be_replaced_comes_back():
    old = parking_place(Path(f"{temporary_prefix(Path('out'))}12345678"))
    old.mkdir()
    (old / "kept").touch()
    with pytest.raises(RuntimeError), new_folder(Path("out")):
        raise RuntimeError
    assert [path.name for path in Path("out").iterdir()] == ["kept"]


def test_files_are_written_into_a_folder_that_is_being_made():
    with new_folder(Path("out")) as made:
        write_text(made / "a", "b")
    assert Path("out/a").read_text() == "b"


def test_files_of_libraries_go_along():
    with scratch_folder() as folder, redirect_temporary_files(folder):
        left = Path(tempfile.mkdtemp())
        assert left.parent == folder
    assert list(Path().iterdir()) == []
