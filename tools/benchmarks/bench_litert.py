"""LiteRT: are budgets kept, and does it get other networks than ONNX Runtime?

    python -m tools.benchmarks.bench_litert budgets --budgets 10 --out RESULTS.json
    python -m tools.benchmarks.bench_litert winners --budgets 5 --out RESULTS.json

``budgets``: evenly over the reachable range of ``--runtime`` on ``--device host``, as a user types
the command; then ``tools/benchmarks/retime.py`` times ``model.tflite`` in a process of its own,
which shares no code with edgenas. ``winners``: at each budget the most accurate network for LiteRT
and the one for ONNX Runtime, both timed on both. They must differ, and each must be better at home:
there, the other is over the budget or less accurate. Exit code 1 where that fails.

What has not been profiled yet is profiled first, which takes most of the time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import machine_lock, write_json
from edgenas.clock import measure
from edgenas.latency.device import Target
from edgenas.model.saved import ACCURACY_FILE, find_supernet, load_supernet
from edgenas.profiling.run import profile
from edgenas.profiling.tables import NoTableError, measure_network, predictor_for, table_for
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch, load_arch

RIVAL = "onnxruntime"
ALLOWED = 1.02  # a second opinion may be so many times the budget


@dataclass(frozen=True, slots=True)
class Winner:
    """The network that was made for a runtime within a budget.

    Args:
        runtime: which.
        arch: the network.
        accuracy: predicted, a fraction.
        seconds: measured on each runtime.
    """

    runtime: str
    arch: Arch
    accuracy: float
    seconds: dict[str, float]

    def loses_at(self, home: str, other: "Winner", *, limit: float) -> bool:
        """Whether another network is the better one on its home runtime."""
        return self.seconds[home] > limit or self.accuracy < other.accuracy

    @property
    def kernels(self) -> str:
        """How many blocks have which kernel."""
        sizes = Counter(block.kernel for stage in self.arch.stages for block in stage.blocks)
        return " ".join(f"{size}x{size}: {count}" for size, count in sorted(sizes.items()))


def reachable(supernet: str, runtime: str) -> tuple[float, float]:
    """Predicted seconds of the smallest and the largest network on the host."""
    space = load_supernet(find_supernet(supernet)).supernet.space
    target = Target("host", runtime, "fp32")
    try:
        table = table_for(space, target=target)
    except NoTableError:
        table = profile(space, target=target, say=print)
    rows = space.encode([space.smallest(), space.largest()])
    low, high = predictor_for(table, space).predict(rows)
    return float(low), float(high)


def specialise(budget: float, *, supernet: str, runtime: str, folder: Path) -> dict[str, Any]:
    """The JSON result of the command.

    Raises:
        EdgenasError: the command failed; what it said.
    """
    command = [sys.executable, "-m", "edgenas", "specialize", "--device", "host", "--json"]
    command += ["--runtime", runtime, "--precision", "fp32", "--supernet", supernet]
    command += ["--latency", f"{1e3 * budget:.4f}ms", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EdgenasError(done.stderr.strip())
    return json.loads(done.stdout)


def retime(model: Path, *, runtime: str, spin: float | None) -> dict[str, Any]:
    """The second opinion on a file; ``spin``: microseconds at full speed, as far as was seen."""
    script = Path(__file__).with_name("retime.py")
    command = [sys.executable, str(script), str(model)]
    command += ["--without-delegate"] if runtime == "tflite" else []
    command += [] if spin is None else ["--spin", f"{spin:.3f}"]
    with machine_lock():
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def check_budgets(given: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Deliver a network for each budget, and time it again."""
    low, high = reachable(given.supernet, given.runtime)
    print(f"reachable on this host with {given.runtime}: {1e3 * low:.3f} to {1e3 * high:.3f} ms")
    rows: list[dict[str, Any]] = []
    spin: float | None = None
    with tempfile.TemporaryDirectory() as folder:
        for i, budget in enumerate(np.linspace(low * 1.08, high * 0.97, given.budgets).tolist()):
            place = Path(folder) / str(i)
            row: dict[str, Any] = {"budget_ms": 1e3 * budget, "kept": False}
            rows.append(row)
            try:
                result = specialise(
                    budget, supernet=given.supernet, runtime=given.runtime, folder=place
                )
            except EdgenasError as error:
                print(f"{1e3 * budget:9.3f} ms  not delivered: {error}", flush=True)
                continue
            again = retime(place / "model.tflite", runtime=given.runtime, spin=spin)
            spin = min(spin or again["spin_us"], again["spin_us"])
            row |= {
                "arch": result["arch_id"],
                "measured_ms": 1e3 * result["report"]["measured"]["median"],
                "again_ms": again["median_ms"],
                "again_n": again["n"],
            }
            row["kept"] = bool(again["n"]) and again["median_ms"] <= ALLOWED * 1e3 * budget
            print(
                f"{row['budget_ms']:9.3f} ms  measured {row['measured_ms']:.3f}, again "
                f"{again['median_ms']} (n={again['n']}): {'kept' if row['kept'] else 'NOT KEPT'}",
                flush=True,
            )
    kept = sum(row["kept"] for row in rows)
    print(f"kept {kept} of {len(rows)}")
    return rows, kept == len(rows)


def compare_winners(given: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Make the network of both runtimes for each budget, and time each on both."""
    names = (given.runtime, RIVAL)
    ranges = [reachable(given.supernet, name) for name in names]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    score = load_accuracy(find_supernet(given.supernet) / ACCURACY_FILE)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for i, budget in enumerate(np.linspace(low * 1.1, high * 0.9, given.budgets).tolist()):
            made: list[Winner] = []
            for name in names:
                place = Path(folder) / f"{i}-{name}"
                specialise(budget, supernet=given.supernet, runtime=name, folder=place)
                arch = load_arch(place / "arch.json")
                accuracy = float(score.predict(score.space.encode([arch]))[0])
                seconds = _time_on(names, (place / "model.onnx").read_bytes())
                made.append(Winner(name, arch, accuracy, seconds))
            rows.append(_tell(budget, made))
    good = all(row["differ"] and row["better_at_home"] for row in rows)
    print(
        f"different, and each better at home, at {sum(map(_is_good, rows))} of {len(rows)} budgets"
    )
    return rows, good


def _is_good(row: dict[str, Any]) -> bool:
    return row["differ"] and row["better_at_home"]


def _time_on(names: Sequence[str], onnx: bytes) -> dict[str, float]:
    return {
        name: measure_network(
            onnx, target=Target("host", name, "fp32"), settings=measure.NETWORK
        ).median
        for name in names
    }


def _tell(budget: float, made: Sequence[Winner]) -> dict[str, Any]:
    """Print the networks of one budget; what they say."""
    first, second = made
    differ = first.arch != second.arch
    home = second.loses_at(first.runtime, first, limit=budget)
    home = home and first.loses_at(second.runtime, second, limit=budget)
    print(
        f"\nbudget {1e3 * budget:.3f} ms: {'different' if differ else 'THE SAME'} networks", end=""
    )
    print(f", {'each better at home' if home else 'NOT each better at home'}")
    for one in made:
        times = ", ".join(
            f"{1e3 * seconds:.3f} ms on {name}{'' if seconds <= budget else ' (over)'}"
            for name, seconds in one.seconds.items()
        )
        print(f"  for {one.runtime:12} {one.accuracy:.2%} predicted; {times}; {one.kernels}")
    return {
        "budget_ms": 1e3 * budget,
        "differ": differ,
        "better_at_home": home,
        "networks": [
            {
                "runtime": one.runtime,
                "arch": str(one.arch),
                "accuracy": one.accuracy,
                "kernels": one.kernels,
                "ms": {name: 1e3 * seconds for name, seconds in one.seconds.items()},
            }
            for one in made
        ],
    }


def main() -> int:
    """Run one of both benchmarks."""
    parser = argparse.ArgumentParser(description="LiteRT: budgets kept, networks of its own.")
    parser.add_argument("what", choices=("budgets", "winners"))
    parser.add_argument("--budgets", type=int, default=10)
    parser.add_argument("--runtime", choices=("litert", "tflite"), default="litert")
    parser.add_argument("--supernet", default="mbv3-cifar10")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if why_not := runtimes.get(given.runtime).available():
        raise SystemExit(f"{given.runtime}: {why_not}")
    rows, good = check_budgets(given) if given.what == "budgets" else compare_winners(given)
    if given.out:
        schema = "edgenas.bench-litert/1"
        write_json(given.out, {"schema": schema, "runtime": given.runtime, "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
