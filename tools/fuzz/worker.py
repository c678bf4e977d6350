"""A process that reads hostile inputs one after the other, and the one that watches it."""

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import edgenas
from tools.fuzz.kinds import Base, Reader, all_kinds
from tools.fuzz.law import PATIENCE, Seen, broken, listing
from tools.fuzz.trees import Unchanged

Chance = Callable[[str], random.Random]

_ADDRESSES = 4 << 30  # bytes of addresses beyond those taken at the start: a guard, not the law
_LOCK = ".timing.lock"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input: how it ended, and how it broke the law."""

    kind: str
    number: int
    code: int | None
    seconds: float
    memory: int
    faults: tuple[str, ...]
    said: str


def import_all() -> None:
    """Import what the verbs need, before processes are forked, so that each has it at once."""
    root = Path(edgenas.__file__).parent
    files = (path.relative_to(root).with_suffix("") for path in sorted(root.rglob("*.py")))
    own = (f"edgenas.{'.'.join(path.parts)}" for path in files if path.name[0] != "_")
    others = ("yaml", "onnxruntime", "onnx.reference", "matplotlib", "PIL.Image")
    for name in (*own, *others):
        with contextlib.suppress(ModuleNotFoundError):  # a runtime that is not installed
            importlib.import_module(name)
    all_kinds()


def outcomes(
    kind: str,
    numbers: range,
    *,
    base: Base,
    seed: int,
    keep: Path | None = None,
    chance: Chance = random.Random,
) -> Iterator[Outcome]:
    """The inputs of a kind, one after the other, each in a process that can be killed.

    Args:
        kind: of the inputs.
        numbers: which of them; with the seed, a number decides all of an input.
        base: what they are made from.
        seed: of all inputs.
        keep: a folder for those that break the law; None: none is kept.
        chance: from a seed; with ``Unchanged`` the inputs are good, and all must be accepted.
    """
    fork = multiprocessing.get_context("fork")
    left = list(numbers)
    while left:
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=_serve, args=(there, kind, left, base, seed, keep, chance))
        process.start()
        there.close()
        while left:
            found = _next(here, process, kind, left[0])
            left.pop(0)
            yield found
            if found.code is None and found.faults[0].startswith(("hang", "crash")):
                break
        process.kill()
        process.join()
        here.close()


def _next(here: Connection, process: Any, kind: str, number: int) -> Outcome:
    """The next outcome of a worker; where none comes, that is the outcome."""
    try:
        if here.poll(PATIENCE):
            return here.recv()
        fault = f"hang: no end within {PATIENCE:.0f} s"
    except EOFError:
        process.join()
        fault = f"crash: the process ended with {process.exitcode}"
    return Outcome(kind, number, None, PATIENCE, 0, (fault,), "")


def _serve(
    there: Connection,
    kind: str,
    numbers: list[int],
    base: Base,
    seed: int,
    keep: Path | None,
    chance: Chance,
) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _ADDRESSES, taken + _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    make = all_kinds()[kind]
    for number in numbers:
        rng = chance(f"{seed}/{kind}/{number}")
        home = Path(tempfile.mkdtemp(prefix="input-", dir=base.folder))
        try:
            for name in ("work", "tmp", "cache"):
                (home / name).mkdir()
            _enter(home)
            reader = make(base, home / "work", rng)
            seen = _seen(reader, home)
            verb = "" if callable(reader) else reader[0]
            faults = tuple(broken(seen, verb=verb, good=isinstance(rng, Unchanged)))
            if faults and keep is not None:
                _keep(home, keep / f"{kind}-{number}", reader, seen, faults)
        finally:
            os.chdir("/")
            shutil.rmtree(home, ignore_errors=True)
        said = seen.said[:2000]
        there.send(Outcome(kind, number, seen.code, seen.seconds, seen.memory, faults, said))


def _enter(home: Path) -> None:
    os.chdir(home / "work")
    os.environ["TMPDIR"] = tempfile.tempdir = str(home / "tmp")
    os.environ["EDGENAS_CACHE"] = str(home / "cache")
    os.environ["XDG_DATA_HOME"] = str(home / "share")


def _seen(reader: Reader, home: Path) -> Seen:
    """Let an input be read; what it did, seen from outside of Python too."""
    before = listing(home / "work")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set starts anew
    start = _computed()
    code, error = None, ""
    with _captured(home) as said:
        try:
            code = _called(reader)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except Exception:  # noqa: BLE001 -- to catch what nobody expects is the purpose
            error = traceback.format_exc()
    seconds = _computed() - start
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    new = listing(home / "work") - before
    left = [name for name in listing(home / "tmp") if not name.endswith(_LOCK)]
    hidden = [name for name in new if Path(name).name.startswith(".")]
    left += sorted(new) if code != 0 else hidden
    left += [n for n in listing(home / "cache") if Path(n).name.startswith(".")]
    return Seen(code, said[0], said[1], error, seconds, int(peak) << 10, tuple(sorted(left)))


def _called(reader: Reader) -> int:
    """Run a command line, or a reader as a verb would; the exit code."""
    import typer

    from edgenas import cli

    if not callable(reader):
        sys.argv = ["edgenas", *reader]
        cli.main()
        return 0
    try:
        cli.report_errors("fuzz", reader)()
    except typer.Exit as end:
        return end.exit_code
    return 0


def _computed() -> float:
    """Seconds that this process and its children have computed."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, whose))


@contextlib.contextmanager
def _captured(home: Path) -> Iterator[list[str]]:
    """What is said on both streams, by native libraries as well."""
    said = list[str]()
    files = [home / "stdout", home / "stderr"]
    kept = [os.dup(1), os.dup(2)]
    for number, path in enumerate(files, 1):
        handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
    try:
        yield said
    finally:
        for number, stream in enumerate((sys.stdout, sys.stderr), 1):
            stream.flush()
            os.dup2(kept[number - 1], number)
            os.close(kept[number - 1])
        said += [path.read_bytes().decode(errors="replace") for path in files]


def _keep(home: Path, to: Path, reader: Reader, seen: Seen, faults: tuple[str, ...]) -> None:
    """Put an input aside, with what it did."""
    to.mkdir(parents=True, exist_ok=True)
    words = "a reader, not a verb" if callable(reader) else list(reader)
    told = {"faults": faults, "command": words, "code": seen.code, "seconds": seen.seconds}
    told |= {"memory": seen.memory, "left": seen.left}
    (to / "told.json").write_text(json.dumps(told, indent=1))
    (to / "said.txt").write_text(f"{seen.said}\n{seen.error}\n{seen.out}", errors="replace")
    if not callable(reader) or (home / "work").exists():
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(home / "work", to / "work", symlinks=True, dirs_exist_ok=True)
