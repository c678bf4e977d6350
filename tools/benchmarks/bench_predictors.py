"""Accuracy predictors with intervals, on cells whose accuracies are known.

    python -m tools.benchmarks.bench_predictors FOLDER --seeds 10

prints, for cells of NAS-Bench-201, Kendall's correlation of each predictor on 2,000 others after
50, 100 and 200 cells, with the seconds of a fit; and how many accuracies lie in the 90% intervals
after 100 cells: of cells of chance, and of the 100 that a search by the predictor puts first.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from edgenas.accuracy.believing import Believer, fit_believer, fit_process_model
from edgenas.accuracy.encoding import encode_choices, encode_pairs
from edgenas.accuracy.ensemble import fit_ensemble
from edgenas.accuracy.graphs import fit_graph_ensemble
from edgenas.space.presets import load_space
from tools.benchmarks.lookup import LookUp, cell_encodings, load_cells

SIZES, COVERED = (50, 100, 200), 100
_ASKED, _CHOSEN = 2000, 100
CHOICES = (encode_choices([5] * 6),)
WAYS = {
    "process, choices": fit_process_model(CHOICES),
    "process, choices and pairs": fit_process_model((*CHOICES, encode_pairs([5] * 6))),
    "process, choices and paths": fit_process_model(cell_encodings()),
    "perceptrons, choices": fit_ensemble(CHOICES),
    "perceptrons, choices and paths": fit_ensemble(cell_encodings()),
    "graph networks": fit_graph_ensemble(load_space("nas-bench-201")),
}


def coverage(believer: Believer, problem: LookUp, places: np.ndarray) -> float:
    """How many accuracies lie in the 90% intervals."""
    low, high = believer.interval(problem.rows[places], confidence=0.9)
    true = problem.accuracy[places] / 100
    return float(((low <= true) & (true <= high)).mean())


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--predictors", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    problem = load_cells(arguments.folder)
    sizes = " | ".join(f"Kendall, {n}" for n in SIZES)
    print(f"| predictor | {sizes} | s a fit, {SIZES[-1]} | in interval %, chance | searched |")
    print("|---|" + "---|" * (len(SIZES) + 3))
    for name in arguments.predictors:
        fit = WAYS[name]
        kendall, held, spent = dict[int, list[float]](), list[tuple[float, float]](), 0.0
        for seed in range(arguments.seeds):
            order = np.random.default_rng(seed).permutation(len(problem.rows))
            asked = order[SIZES[-1] : SIZES[-1] + _ASKED]
            for size in SIZES:
                known, started = order[:size], time.process_time()
                believer = fit_believer(problem.rows[known], problem.accuracy[known] / 100, fit=fit)
                spent += (time.process_time() - started) * (size == SIZES[-1])
                tau: Any = kendalltau(
                    believer.predict(problem.rows[asked]), problem.accuracy[asked]
                )
                kendall.setdefault(size, []).append(float(tau.statistic))
                if size == COVERED:
                    others = order[size:]
                    first = np.argsort(-believer.predict(problem.rows[others]), kind="stable")
                    searched = others[first[:_CHOSEN]]
                    held.append(
                        (coverage(believer, problem, asked), coverage(believer, problem, searched))
                    )
        cells = [f"{np.mean(kendall[size]):.3f}" for size in SIZES]
        cells += [f"{spent / arguments.seeds:.2f}"]
        cells += [f"{100 * part:.1f}" for part in np.mean(held, 0)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
