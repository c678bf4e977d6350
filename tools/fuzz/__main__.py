"""Read thousands of hostile inputs and print what became of them; exit 1 where one broke the law.

python -m tools.fuzz --inputs 10000 [--kinds bundle,board] [--seed 0] [--keep FOLDER]
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked process cannot use threads of its parent
os.environ.setdefault("NO_COLOR", "1")

from tools.fuzz.kinds import Base, all_kinds
from tools.fuzz.law import SECONDS
from tools.fuzz.trees import Unchanged
from tools.fuzz.worker import Outcome, import_all, outcomes

ROOT = Path(__file__).resolve().parents[2]
_COLUMNS = "kind inputs accepted refused tracebacks hangs crashes other MB seconds".split()


def prepared(folder: Path) -> Base:
    """What inputs are made from, in a folder; made in another process, which may start threads."""
    command = [sys.executable, "-m", "tools.fuzz.prepare", str(folder), str(ROOT)]
    cache = {"EDGENAS_CACHE": str(folder / "cache")}
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True, timeout=300
    )
    if ran.returncode:
        raise SystemExit(f"the good inputs cannot be made:\n{ran.stderr}")
    return Base(folder=folder, root=ROOT)


def row(kind: str, found: Sequence[Outcome]) -> list[str]:
    """A line of the table: what became of the inputs of a kind."""
    first = Counter(fault.partition(":")[0] for one in found for fault in one.faults[:1])
    other = first.total() - first["traceback"] - first["hang"] - first["crash"]
    counts = (
        len(found),
        sum(one.code == 0 for one in found),
        sum(one.code in (1, 2) for one in found),
        *(first[name] for name in ("traceback", "hang", "crash")),
        other,
    )
    memory = max((one.memory for one in found), default=0) / 1e6
    seconds = max((one.seconds for one in found), default=0.0)
    return [kind, *map(str, counts), f"{memory:.0f}", f"{seconds:.2f}"]


def faults_of(found: Iterable[Outcome]) -> list[tuple[str, str, int, int]]:
    """Each fault once: the kind of its inputs, the fault, how many they are, the first of them."""
    groups: dict[tuple[str, str], list[int]] = {}
    for one in found:
        for fault in one.faults:
            groups.setdefault((one.kind, fault), []).append(one.number)
    return [(*key, len(numbers), numbers[0]) for key, numbers in groups.items()]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all")
    parser.add_argument("--kinds", default="", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of a kind")
    parser.add_argument("--unchanged", action="store_true", help="good inputs, all to be accepted")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that break the law")
    given = parser.parse_args()
    kinds = given.kinds.split(",") if given.kinds else list(all_kinds())
    each = -(-given.inputs // len(kinds))
    started, every = time.monotonic(), list[Outcome]()
    with tempfile.TemporaryDirectory(prefix="edgenas-fuzz-") as folder:
        base = prepared(Path(folder))
        import_all()
        print(" ".join(f"{name:>10}" for name in _COLUMNS), flush=True)
        for kind in kinds:
            numbers = range(given.first, given.first + each)
            keep = None if given.keep is None else given.keep.resolve()
            chance = Unchanged if given.unchanged else random.Random
            every_input = {"base": base, "seed": given.seed, "keep": keep, "chance": chance}
            found = list(outcomes(kind, numbers, **every_input))
            every += found
            print(" ".join(f"{cell:>10}" for cell in row(kind, found)), flush=True)
    print(" ".join(f"{cell:>10}" for cell in row("all", every)))
    for kind, fault, count, first in faults_of(every):
        print(f"{kind} {count}x, first {first}: {fault}")
    minutes = (time.monotonic() - started) / 60
    print(
        f"{len(every)} inputs of seed {given.seed} in {minutes:.1f} minutes; allowed are ", end=""
    )
    print(f"{SECONDS:g} s of computing each, 1 GiB, one line of 300 characters")
    return int(any(one.faults for one in every))


if __name__ == "__main__":
    sys.exit(main())
