"""Does a specialised network keep its budget when somebody else times it?

    python -m tools.benchmarks.bench_budgets --budgets 5 --out RESULTS.json

Budgets spread evenly over the reachable range on ``--device host``; ``edgenas specialize`` as a
user types it, then ``tools/benchmarks/retime.py`` in a process of its own on the delivered model.
A budget that ``specialize`` refuses is told, with its words, and counts as not delivered.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import machine_lock, write_json
from edgenas.latency.device import load
from edgenas.model.saved import find_supernet, load_supernet
from edgenas.profiling.run import profile
from edgenas.profiling.tables import NoTableError, predictor_for, table_for


def specialise(
    budget_ms: float, *, supernet: str, folder: Path, seed: int
) -> tuple[dict[str, Any], float]:
    """The JSON result of the command, and the seconds that it took.

    Raises:
        EdgenasError: the command failed; what it said.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "edgenas", "specialize", "--device", "host", "--json"]
    command += ["--latency", f"{budget_ms:.4f}ms", "--supernet", supernet, "--seed", str(seed)]
    done = subprocess.run([*command, "--out", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise EdgenasError(done.stderr.strip())
    return json.loads(done.stdout), time.monotonic() - start


def retime(model: Path, *, spin: float | None) -> dict[str, Any]:
    """The second opinion on a model; ``spin``: microseconds at full speed, as far as was seen."""
    script = Path(__file__).with_name("retime.py")
    command = [sys.executable, str(script), str(model)]
    if spin is not None:
        command += ["--spin", f"{spin:.3f}"]
    with machine_lock():
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def reachable(supernet: str) -> tuple[float, float]:
    """Predicted milliseconds of the fastest and the slowest network on the host."""
    space = load_supernet(find_supernet(supernet)).supernet.space
    target = load("host").target()
    try:
        table = table_for(space, target=target)
    except NoTableError:
        table = profile(space, target=target, say=print)
    rows = space.encode([space.smallest(), space.largest()])
    low, high = predictor_for(table, space).predict(rows)
    return low * 1e3, high * 1e3


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Budgets, delivered and timed again.")
    parser.add_argument("--budgets", type=int, default=5)
    parser.add_argument("--supernet", default="mbv3-cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    low, high = reachable(arguments.supernet)
    # From a little above the fastest network to a little below the slowest.
    budgets = np.linspace(low * 1.08, high * 0.97, arguments.budgets)
    print(f"reachable on this host: {low:.3f} to {high:.3f} ms")
    print(
        "budget ms   predicted   bound   measured   timed again   used   kept   seconds   accuracy"
    )
    rows: list[dict[str, Any]] = []
    spin: float | None = None
    delivered = 0
    with tempfile.TemporaryDirectory() as folder:
        for i, budget in enumerate(budgets.tolist()):
            place = Path(folder) / str(i)
            try:
                result, seconds = specialise(
                    budget, supernet=arguments.supernet, folder=place, seed=arguments.seed
                )
            except EdgenasError as error:
                print(f"{budget:9.3f}  not delivered: {error}", flush=True)
                continue
            delivered += 1
            again = retime(place / "model.onnx", spin=spin)
            if again["median_ms"] is None:
                print(f"{budget:9.3f}  the machine was never at full speed", flush=True)
                continue
            spin = min(spin or again["spin_us"], again["spin_us"])
            report = result["report"]
            row = {
                "budget_ms": budget,
                "predicted_ms": report["predicted"]["seconds"] * 1e3,
                "bound_ms": report["predicted"]["upper"] * 1e3,
                "measured_ms": report["measured"]["median"] * 1e3,
                "again_ms": again["median_ms"],
                "again_n": again["n"],
                "seconds": seconds,
                "accuracy": report["accuracy"]["value"],
                "arch": result["arch_id"],
            }
            rows.append(row)
            used = row["again_ms"] / budget
            print(
                f"{budget:9.3f} {row['predicted_ms']:11.3f} {row['bound_ms']:7.3f} "
                f"{row['measured_ms']:10.3f} {row['again_ms']:13.3f} {used:6.3f} "
                f"{'yes' if used <= 1.02 else 'NO':>6} {seconds:9.1f} {row['accuracy']:10.4f}",
                flush=True,
            )
    used = np.array([row["again_ms"] / row["budget_ms"] for row in rows])
    print(
        f"delivered {delivered} of {len(budgets)}, timed again {len(used)}; "
        f"within 1.02 x budget: {(used <= 1.02).sum()} of {len(used)}; at least 0.85 of it: "
        f"{(used >= 0.85).sum()}; median use "
        f"{np.median(used) if len(used) else float('nan'):.3f}"
    )
    if arguments.out:
        write_json(arguments.out, {"schema": "edgenas.bench-budgets/1", "rows": rows})
    return 0 if delivered == len(budgets) else 1


if __name__ == "__main__":
    sys.exit(main())
