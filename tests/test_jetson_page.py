"""The commands of the page for Jetson owners, run as they are printed, against a stand-in."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
import recorded_boards
from conftest import ROOT
from trtexec_board import StandIn

PAGE = ROOT / "docs" / "guides" / "tensorrt.md"


def commands(heading: str = "Six commands") -> list[list[str]]:
    """The commands of a section, in their order."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^\$ (edgenas .*)$", section, re.MULTILINE)]


def test_there_are_six_commands_from_doctor_to_check():
    verbs = [words[1] for words in commands()]
    assert len(verbs) == 6
    assert verbs[0] == "doctor"
    assert {"profile", "specialize", "verify", "check"} <= set(verbs)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback.Loopback]:
    """A board that the ssh client here knows as ``jetson``."""
    recorded_boards.orin_nano_super(tmp_path / "root")
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    root = str(tmp_path / "root")
    with loopback.board_or_skip(tmp_path / "ssh", EDGENAS_BOARD_ROOT=root) as running:
        config = running.folder / "ssh_config"
        config.write_text(config.read_text().replace("Host loop\n", "Host loop jetson\n"))
        tool = tmp_path / "root" / "usr/src/tensorrt/bin"
        (tmp_path / "stand-in").mkdir()
        StandIn(tmp_path / "stand-in", tool, {"version": "10.3.0"})
        yield running


@pytest.mark.slow  # a whole profile of a space
def test_the_commands_work_as_printed(there, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{there.folder / 'client'}:{os.environ['PATH']}",
    }
    for words in [*commands(), *commands("Heat")]:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        # Drift is a finding, no failure: the stand-in's engines differ from build to build.
        fine = (0, 1) if words[1] == "check" else (0,)
        assert done.returncode in fine, (words, done.stderr[-3000:])
        if "--heat" in words:
            assert "after 10 min of steady load" in " ".join(done.stdout.split())
    assert there.quiet()
