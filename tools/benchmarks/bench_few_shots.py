"""The latency of cells on a device that few of them were timed on, where five others are known.

    python -m tools.benchmarks.bench_few_shots FOLDER --seeds 20

holds each of the six devices of NAS-Bench-201's cells (HELP, arXiv 2106.08630) to be new in turn,
has 10 and 20 chosen cells timed there, and predicts all others. It prints Spearman's correlation,
the median error, half of the 90% interval as a part of the latency, and how many times lie in it.
The cells to time are chosen among 2,000 of chance, which a seed draws.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from edgenas.basics.held_out import rank_correlation
from edgenas.latency.few_shots import (
    Groups,
    Shots,
    choose_networks,
    fit_few_shots,
    learn_variances,
    scale_groups,
)
from edgenas.space.cost import Vector
from tools.benchmarks.lookup import (
    DEVICES,
    LookUp,
    count_operations,
    count_used_operations,
    load_cells,
)

SHOTS = (10, 20)
_DRAWN = 2000
_PRIOR = 60  # cells of each known device that variances are learnt from


def groups_of(problem: LookUp, known: list[str]) -> Groups:
    """Features of all cells: latencies on known devices in their means, and what is in a cell."""
    seconds = np.stack([problem.seconds[d] / problem.seconds[d].mean() for d in known], 1)
    rows = problem.rows
    return scale_groups([seconds, count_operations(rows), count_used_operations(rows)])


def variances_of(problem: LookUp, known: list[str]) -> Vector:
    """What the known devices say of how much each group counts."""
    rng, shots = np.random.default_rng(0), list[Shots]()
    for device in known:
        at = rng.permutation(len(problem.rows))[:_PRIOR]
        groups = groups_of(problem, [d for d in known if d != device])
        shots.append(
            Shots(groups=tuple(g[at] for g in groups), seconds=problem.seconds[device][at])
        )
    return learn_variances(shots)


def rate(
    groups: Groups, logs: Vector, seconds: Vector, *, count: int, seed: int
) -> tuple[float, float, float, float]:
    """Spearman, median error, half width of the interval, and its coverage, of one seed."""
    drawn = np.random.default_rng(seed).permutation(len(seconds))[:_DRAWN]
    chosen = choose_networks(tuple(g[drawn] for g in groups), logs, count=count)
    at = drawn[chosen]
    fit = fit_few_shots(Shots(groups=tuple(g[at] for g in groups), seconds=seconds[at]), logs)
    rest = np.setdiff1d(np.arange(len(seconds)), at)
    mean, _ = fit.predict(tuple(g[rest] for g in groups))
    low, high = fit.interval(tuple(g[rest] for g in groups), confidence=0.9)
    true = seconds[rest]
    return (
        rank_correlation(mean, true),
        float(np.median(np.abs(mean / true - 1))),
        float(np.median((high - low) / 2 / true)),
        float(((low <= true) & (true <= high)).mean()),
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    problem = load_cells(arguments.folder)
    print("| new device | cells | Spearman | median error % | half interval % | in interval % |")
    print("|---|---|---|---|---|---|")
    found = dict[int, list[Vector]]({count: [] for count in SHOTS})
    for device in DEVICES:
        known = [d for d in DEVICES if d != device]
        logs, groups = variances_of(problem, known), groups_of(problem, known)
        for count in SHOTS:
            runs = [
                rate(groups, logs, problem.seconds[device], count=count, seed=seed)
                for seed in range(arguments.seeds)
            ]
            found[count].append(np.mean(runs, 0))
            _print(device, count, found[count][-1], spread=float(np.std(runs, axis=0, ddof=1)[0]))
    for count in SHOTS:
        _print("mean", count, np.mean(found[count], 0), spread=None)
    return 0


def _print(device: str, count: int, numbers: Vector, *, spread: float | None) -> None:
    spearman, *parts = numbers.tolist()
    beside = "" if spread is None else f" ± {spread:.3f}"
    cells = " | ".join(f"{100 * part:.1f}" for part in parts)
    print(f"| {device} | {count} | {spearman:.3f}{beside} | {cells} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
