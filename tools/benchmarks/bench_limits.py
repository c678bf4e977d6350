"""Searches under a limit of latency, on cells whose accuracies and latencies are known.

    python -m tools.benchmarks.bench_limits FOLDER --seeds 20

prints by how many points of accuracy each strategy misses the best cell of NAS-Bench-201 that keeps
a limit, with 150 evaluations: the mean and the largest over seeds. The limits are the latencies
that 10%, 30% and 60% of all cells keep, on each of four devices. Cells are compared by choices and
paths.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from edgenas.strategies.problem import Problem
from edgenas.strategies.run import STRATEGIES
from tools.benchmarks.lookup import LookUp, load_cells

DEVICES = ("raspi4", "pixel3", "gold_6226", "1080ti_1")
KEPT = (0.1, 0.3, 0.6)
EVALUATIONS = 150


def missed(problem: LookUp, strategy: str, *, device: str, seconds: float, seed: int) -> float:
    """Points of accuracy from the best cell that keeps a limit to the one of a search."""
    limit = problem.limit(device, seconds)
    account = STRATEGIES[strategy](
        Problem(
            space=problem.space,
            maximize=problem.score,
            limits=(limit,),
            evaluations=EVALUATIONS,
            seed=seed,
        )
    )
    assert account.best is not None
    assert limit.of(account.best)[0] <= seconds
    return float(problem.accuracy[problem.seconds[device] <= seconds].max() - account.best_score)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--strategies", nargs="+", default=["gaussian", "evolution", "random"])
    arguments = parser.parse_args()
    problem, names = load_cells(arguments.folder), arguments.strategies
    print("| device | limit ms | best % | " + " | ".join(names) + " |")
    print("|---|---|---|" + "---|" * len(names))
    means = list[list[float]]()
    for device in DEVICES:
        for kept in KEPT:
            seconds = float(np.quantile(problem.seconds[device], kept, method="lower"))
            runs = np.array(
                [
                    [
                        missed(problem, name, device=device, seconds=seconds, seed=seed)
                        for seed in range(arguments.seeds)
                    ]
                    for name in names
                ]
            )
            means.append(runs.mean(1).tolist())
            best = problem.accuracy[problem.seconds[device] <= seconds].max()
            cells = [f"{run.mean():.3f}, {run.max():.2f}" for run in runs]
            print(
                f"| {device} | {1e3 * seconds:.2f} | {best:.2f} | {' | '.join(cells)} |", flush=True
            )
    print("| mean | | | " + " | ".join(f"{mean:.3f}" for mean in np.mean(means, 0)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
