"""Every strategy on networks whose accuracies are known, so that a search costs no training.

    python -m tools.benchmarks.bench_lookup FOLDER --seeds 20

prints, for each strategy, the mean and the standard deviation over seeds of the best accuracy after
50, 100 and 150 evaluations, on the cells of NAS-Bench-201 and the networks of NAS-Bench-Macro. The
folder holds ``nb201.npz`` and ``macro.json.xz`` (see ``tools/benchmarks/lookup.py``).
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from edgenas.accuracy.encoding import Encoding, encode_choices
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.problem import Problem
from edgenas.strategies.run import STRATEGIES
from tools.benchmarks.lookup import LookUp, cell_encodings, load_cells, load_macro

AFTER = (50, 100, 150)


def best_after(
    problem: LookUp, strategy: str, *, seed: int, encodings: tuple[Encoding, ...]
) -> list[float]:
    """The best accuracy of a search after each number of evaluations."""
    found = list[Vector]()

    def score(rows: Codes) -> Vector:
        found.append(problem.score(rows))
        return found[-1]

    STRATEGIES[strategy](
        Problem(
            space=problem.space,
            maximize=score,
            limits=(),
            evaluations=AFTER[-1],
            seed=seed,
            encodings=encodings,
        )
    )
    best = np.maximum.accumulate(np.concatenate(found))
    return [float(best[min(after, len(best)) - 1]) for after in AFTER]


def print_strategies(
    problem: LookUp, ways: dict[str, tuple[str, tuple[Encoding, ...]]], *, seeds: int
) -> None:
    """A line for each strategy."""
    print(f"\n{problem.space.name}: best of all {problem.accuracy.max():.2f}, {seeds} seeds\n")
    print("| strategy | " + " | ".join(map(str, AFTER)) + " | s a search |")
    print("|---|" + "---|" * (len(AFTER) + 1))
    for name, (strategy, encodings) in ways.items():
        started = time.process_time()
        runs = [
            best_after(problem, strategy, seed=seed, encodings=encodings) for seed in range(seeds)
        ]
        spent = (time.process_time() - started) / seeds
        means, spreads = np.mean(runs, 0), np.std(runs, 0, ddof=1)
        cells = [f"{mean:.2f} ± {spread:.2f}" for mean, spread in zip(means, spreads, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {spent:.1f} |", flush=True)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    arguments = parser.parse_args()
    for load, choices in ((load_cells, [5] * 6), (load_macro, [3] * 8)):
        problem = load(arguments.folder)
        plain = (encode_choices(choices),)
        ways: dict[str, tuple[str, tuple[Encoding, ...]]] = {
            name: (name, plain) for name in arguments.strategies
        }
        if load is load_cells and "gaussian" in ways:
            ways["gaussian, paths too"] = ("gaussian", cell_encodings())
        print_strategies(problem, ways, seeds=arguments.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
