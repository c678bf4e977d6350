"""Searches over trainings of several lengths, on cells whose accuracies are known.

    python -m tools.benchmarks.bench_fidelity FOLDER --seeds 20

prints, for each strategy, the mean and the standard deviation over seeds of the best accuracy after
200 epochs, at a cost of 25, 50 and 75 full trainings, on the cells of NAS-Bench-201. Trainings of
12 and of 200 epochs are known. The controls: at the same cost, random cells for 12 epochs, of which
the best five are trained for 200; and full trainings of random cells alone.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgenas.accuracy.encoding import encode_choices
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.fidelity.problem import Expenses, Trainings
from edgenas.strategies.fidelity.run import FIDELITY_STRATEGIES
from tools.benchmarks.lookup import LookUp, load_cells

RUNGS = (12, 200)
COSTS = (25, 50, 75)  # full trainings
FULL = 5  # full trainings of the control


def best_cell(
    problem: LookUp, strategy: Callable[[Trainings], Expenses], *, cost: int, seed: int
) -> float:
    """The best accuracy after a full training that a search comes to."""
    early = problem.early
    assert early is not None

    def train(rows: Codes, epochs: int) -> Vector:
        places = problem.places(rows)
        return problem.accuracy[places] if epochs == RUNGS[-1] else early[places]

    expenses = strategy(
        Trainings(
            space=problem.space,
            train=train,
            rungs=RUNGS,
            budget=cost * RUNGS[-1],
            seed=seed,
            encodings=(encode_choices([5] * 6),),
        )
    )
    assert expenses.spent <= cost * RUNGS[-1]
    return float(expenses.last.scores.max())


def five_of_many(trainings: Trainings) -> Expenses:
    """The control: short trainings of random cells, then the best five in full."""
    expenses = Expenses(trainings)
    rest = trainings.budget - FULL * RUNGS[-1]
    rows = expenses.draw(int(rest / RUNGS[0]))
    order = np.argsort(-expenses.score(rows, 0), kind="stable")[:FULL]
    expenses.score(rows[order], 1)
    return expenses


def full_alone(trainings: Trainings) -> Expenses:
    """The other control: full trainings of random cells."""
    expenses = Expenses(trainings)
    expenses.score(expenses.draw(expenses.affordable(1)), 1)
    return expenses


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    problem = load_cells(arguments.folder)
    ways = {"control: full alone": full_alone, "control: five of many": five_of_many}
    print("| strategy | " + " | ".join(f"cost of {c}" for c in COSTS) + " | s a search |")
    print("|---|" + "---|" * (len(COSTS) + 1))
    for name, strategy in {**ways, **FIDELITY_STRATEGIES}.items():
        cells, started = list[str](), time.process_time()
        for cost in COSTS:
            runs = [
                best_cell(problem, strategy, cost=cost, seed=seed)
                for seed in range(arguments.seeds)
            ]
            cells.append(f"{np.mean(runs):.2f} ± {np.std(runs, ddof=1):.2f}")
        spent = (time.process_time() - started) / arguments.seeds / len(COSTS)
        print(f"| {name} | {' | '.join(cells)} | {spent:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
