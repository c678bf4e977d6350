"""Run the quick tests as other machines would: other processors, versions, locales and folders.

    python -m tools.ci.test_matrix --list
    python -m tools.ci.test_matrix aten-avx2 one-core     some rows
    python -m tools.ci.test_matrix                        all of them, one after another

Ends with a table, and with exit code 1 where a row is red. A row that cannot run here (there is no
``uv`` or no ``qemu-x86_64``) is red too. Each row's whole output and its ``junit.xml`` lie in a
folder of its own below ``--out``. Rows with other versions make an environment there with uv; what
uv should know of mirrors and local wheels is said in its own variables, such as UV_FIND_LINKS.

The Python that runs this must have edgenas' extras. It needs no rights of an administrator.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ".[test,imagenet,heic,ofa,openvino,ncnn,litert,tensorrt-rtx]"
VERSIONS = ("torch", "onnxruntime", "onnx", "numpy")
INT8 = ("tests/test_quantize.py",)


@dataclass(frozen=True, slots=True)
class Row:
    """One machine.

    Attributes:
        about: what is other on it.
        variables: of the environment; None: not set.
        prefix: the command that runs Python.
        python: the version of an environment that uv makes; empty: the Python that runs this.
        resolution: of uv, which versions that environment has.
        tests: files or folders; all by default.
        folder: the name of the folder that a copy of the checkout lies in; empty: no copy.
        serial: whether all tests run in one process.
    """

    about: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    python: str = ""
    resolution: str = "highest"
    tests: tuple[str, ...] = ("tests",)
    folder: str = ""
    serial: bool = False


def emulated(processor: str, about: str) -> Row:
    """A processor emulated by qemu: ONNX Runtime chooses its kernels by what the processor has."""
    return Row(
        about,
        # OpenBLAS does not know qemu's processors by their numbers, and would pick AVX-512.
        variables={"OPENBLAS_CORETYPE": processor, "OMP_NUM_THREADS": "1"},
        prefix=("qemu-x86_64", "-cpu", processor, "-0", sys.executable),
        tests=INT8,
        serial=True,
    )


# A folder below a file that is no folder: nobody can write there, an administrator neither.
_NO_HOME = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": None, "XDG_DATA_HOME": None}
_NO_HOME |= {"XDG_CONFIG_HOME": None, "EDGENAS_CACHE": None}
# Python would take C for UTF-8 if it were not told to take it as it is.
_PLAIN = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

ROWS = {
    "plain": Row("as it is"),
    "aten-default": Row("PyTorch without AVX", {"ATEN_CPU_CAPABILITY": "default"}),
    "aten-avx2": Row("PyTorch with AVX2 at most", {"ATEN_CPU_CAPABILITY": "avx2"}),
    "onednn-sse41": Row("oneDNN with SSE4.1 at most", {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "onednn-avx2": Row("oneDNN with AVX2 at most", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "onednn-avx512": Row("oneDNN with AVX-512 at most", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "one-core": Row(
        "one processor",
        prefix=("taskset", "-c", str(min(os.sched_getaffinity(0)))),
        serial=True,
    ),
    "lowest": Row("the lowest versions declared", python="3.11", resolution="lowest-direct"),
    "newest": Row("the newest versions", python="3.11"),
    "newest-3.13": Row("the newest versions, Python 3.13", python="3.13"),
    "lang-c": Row("a locale without Unicode", _PLAIN),
    "no-home": Row("a home that cannot be written", _NO_HOME),
    "path": Row("a path with blanks and CJK letters", folder="une copie 与 空格"),
    "qemu-haswell": emulated("Haswell", "INT8 with AVX2, without VNNI"),
    "qemu-nehalem": emulated("Nehalem", "INT8 with SSE4.2, without AVX"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row came to.

    Attributes:
        passed: number of tests.
        skipped: number of tests.
        failed: names of tests.
        problem: why there are no results; empty where there are.
        versions: of what it ran on, by name.
        seconds: the tests took.
    """

    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    problem: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def green(self) -> bool:
        """Whether tests ran and all that did passed."""
        return not self.problem and not self.failed and self.passed > 0


def environment(row: Row, place: Path) -> str:
    """The Python of a row; uv makes its environment where it is told to.

    Raises:
        OSError: a command is not here.
        CalledProcessError: uv failed.
    """
    if not row.python:
        return sys.executable
    folder = place / "environment"
    python = str(folder / "bin" / "python")
    with (place / "install.log").open("w") as log:
        chosen = ["--python", python, "--resolution", row.resolution]
        for command in (
            ["uv", "venv", "--clear", "--python", row.python, str(folder)],
            ["uv", "pip", "install", *chosen, "-e", EXTRAS],
        ):
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)
    return python


def versions(python: str) -> dict[str, str]:
    """The versions of Python and of the libraries whose numbers the tests compare."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {name: m.version(name) for name in sys.argv[1:]}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    done = subprocess.run(
        [python, "-c", code, *VERSIONS], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def checkout(row: Row, place: Path) -> Path:
    """The folder that the tests run in: this checkout, or a copy of its files."""
    if not row.folder:
        return ROOT
    copy = place / row.folder
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def run(row: Row, place: Path, *, timeout: float, processes: str) -> Outcome:
    """Run the tests of a row and read what pytest reports.

    Args:
        row: the machine.
        place: the folder of the row, which exists.
        timeout: seconds, against a hang.
        processes: of pytest, its ``-n``.
    """
    try:
        python = environment(row, place)
        found = versions(python)
        here = checkout(row, place)
        prefix = list(row.prefix)
        if prefix and shutil.which(prefix[0]) is None:
            return Outcome(problem=f"{prefix[0]} is not installed", versions=found)
    except (OSError, subprocess.CalledProcessError) as error:
        return Outcome(problem=f"{error}; see {place}")
    report = place / "junit.xml"
    report.unlink(missing_ok=True)
    command = [*prefix, os.path.realpath(python) if "-0" in prefix else python, "-m", "pytest"]
    command += ["-n", "0" if row.serial else processes, "-m", "not slow", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", *row.tests]
    start = time.monotonic()
    # What tests leave in temporary folders is gone with this one. Sockets want short paths.
    with (
        tempfile.TemporaryDirectory(prefix=row.folder or "matrix-") as temporary,
        (place / "pytest.log").open("w") as log,
    ):
        given = {"PYTHONPATH": str(here), "TMPDIR": temporary, **row.variables}
        given["PATH"] = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {k: v for k, v in {**os.environ, **given}.items() if v is not None}
        try:
            code = subprocess.run(
                command, cwd=here, env=variables, stdout=log, stderr=log, timeout=timeout
            ).returncode
        except subprocess.TimeoutExpired:
            return Outcome(problem=f"no end after {timeout:.0f} s; see {place}", versions=found)
    if not report.exists():
        return Outcome(problem=f"pytest ended with {code}; see {place}", versions=found)
    return read(report, versions=found, seconds=time.monotonic() - start, code=code)


def read(report: Path, *, versions: dict[str, str], seconds: float, code: int) -> Outcome:
    """The outcome that a JUnit report tells.

    Args:
        report: of pytest.
        versions: of what the tests ran on.
        seconds: the tests took.
        code: pytest's exit code; one that does not fit the report is a problem.
    """
    passed = skipped = 0
    failed: list[str] = []
    for case in ET.parse(report).iter("testcase"):
        if any(case.find(tag) is not None for tag in ("failure", "error")):
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    problem = (
        f"pytest ended with {code}" if code not in (0, 1) or (code == 1) != (failed != []) else ""
    )
    return Outcome(passed, skipped, tuple(failed), problem, versions, seconds)


def table(outcomes: dict[str, Outcome]) -> str:
    """The table of all rows, and below it what failed."""
    lines = [f"{'row':13} {'':6} {'passed':>6} {'failed':>6} {'skipped':>7} {'min':>5}  ran on"]
    for name, outcome in outcomes.items():
        word = "green" if outcome.green else "RED"
        ran = ", ".join(f"{key} {value}" for key, value in outcome.versions.items())
        lines.append(
            f"{name:13} {word:6} {outcome.passed:6} {len(outcome.failed):6} {outcome.skipped:7}"
            f" {outcome.seconds / 60:5.1f}  {ran}"
        )
    for name, outcome in outcomes.items():
        if outcome.problem:
            lines.append(f"{name}: {outcome.problem}")
        lines += [f"{name}: FAILED {test}" for test in outcome.failed]
    return "\n".join(lines)


def main() -> int:
    """Run rows and print the table. 1: a row is red."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all, where none is named")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "matrix")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for a row")
    parser.add_argument("-n", dest="processes", default="auto", help="processes of pytest")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.rows) - set(ROWS)):
        parser.error(f"no row is called {unknown[0]}; rows are {', '.join(ROWS)}")
    if arguments.list:
        print("\n".join(f"{name:13} {row.about}" for name, row in ROWS.items()))
        return 0
    outcomes: dict[str, Outcome] = {}
    for name in dict.fromkeys(arguments.rows or ROWS):
        print(f"{name}: {ROWS[name].about} ...", file=sys.stderr, flush=True)
        place = arguments.out.resolve() / name
        place.mkdir(parents=True, exist_ok=True)
        outcomes[name] = run(
            ROWS[name], place, timeout=arguments.timeout, processes=arguments.processes
        )
        print(table({name: outcomes[name]}), file=sys.stderr, flush=True)
    print(table(outcomes))
    return 0 if all(outcome.green for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
