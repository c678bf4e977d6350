"""The matrix of other machines, and the lock that CI installs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools.ci import test_matrix as matrix

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()


def outcome(folder: Path, test: str, *, variables: dict[str, str | None]) -> matrix.Outcome:
    """What a row comes to that has one file of tests."""
    file = folder / "test_one.py"
    file.write_text(test)
    row = matrix.Row("one", variables, tests=(str(file), "--rootdir", str(folder)), serial=True)
    return matrix.run(row, folder, timeout=100, processes="0")


@pytest.mark.parametrize(("value", "green"), [("1", True), ("2", False)])
def test_a_row_is_green_where_its_tests_pass_on_its_machine(tmp_path, value: str, green: bool):
    test = "import os\ndef test_it():\n    assert os.environ['ONE'] == '1'\n"
    found = outcome(tmp_path, test, variables={"ONE": value})
    assert found.green == green
    assert (found.passed, len(found.failed)) == ((1, 0) if green else (0, 1))
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    word = "green" if green else "RED"
    assert re.search(rf"one +{word} ", matrix.table({"one": found}))


@pytest.mark.parametrize(
    "test", ["", "import nothing_of_this_name\n", "import os\ndef test_it():\n    os._exit(0)\n"]
)
def test_a_row_without_results_is_red(tmp_path, test: str):
    assert not outcome(tmp_path, test, variables={}).green


def test_a_row_whose_command_is_missing_is_red(tmp_path):
    row = matrix.Row("one", prefix=("no-such-command",))
    found = matrix.run(row, tmp_path, timeout=100, processes="0")
    assert (found.green, found.problem) == (False, "no-such-command is not installed")


def test_the_home_that_cannot_be_written_cannot_be_written():
    home = matrix.ROWS["no-home"].variables["HOME"]
    assert home is not None
    with pytest.raises(OSError, match="Not a directory"):
        os.makedirs(home)


def test_an_unknown_row_is_refused_and_rows_are_named():
    command = [sys.executable, "-m", "tools.ci.test_matrix"]
    done = subprocess.run([*command, "nope"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no row is called nope" in done.stderr
    done = subprocess.run([*command, "--list"], cwd=ROOT, capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(matrix.ROWS)


# The lock


def test_the_lock_has_every_package_that_ci_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run = (ROOT / ".ci" / "run").read_text()
    (extras,) = re.findall(r'extras="\.\[([\w,-]+)\]"', run)
    assert f".[{extras}]" == matrix.EXTRAS
    wanted = [*project["dependencies"]]
    for extra in extras.split(","):
        wanted += project["optional-dependencies"][extra]
        assert f"--extra {extra}" in (ROOT / ".ci" / "lock").read_text()
    locked = {line.partition("==")[0] for line in LOCK if "==" in line}
    assert {re.split(r"[<>=]", name)[0].strip().lower() for name in wanted} <= locked


def test_the_lock_is_for_any_machine():
    assert "bash .ci/lock" in LOCK[1]
    for line in LOCK[2:]:
        # A name, a public version, and perhaps for whom: no address, no path, no local version.
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [\w .<>=!'()]+)?", line), line
