"""NSGA-II of edgenas and of pymoo, side by side on the published Note10 tables.

    python tools/bench_pareto.py --published FOLDER [--seeds 10] [--populations 100 256 512]

FOLDER is as for ``bench_search.py``. Both sides minimise the same function (negative predicted
accuracy, latency) from the same first population, over as many evaluations; hypervolumes are of
the front of all networks scored, for both, with the reference point at the accuracy of the
smallest network and the latency of the largest. pymoo runs twice: with the operators that its
documentation gives for integers, and with those of edgenas; edgenas is held against the better.

Seconds are wall time; "alone" is without the time in the function, which both sides spend alike.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import Task, load
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as PymooProblem
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

from edgenas.search import least
from edgenas.search.dominance import front_of
from edgenas.search.feasible import first_population
from edgenas.search.nsga2 import nsga2
from edgenas.search.problem import Problem
from edgenas.space import Codes

Matrix = NDArray[np.float64]


@dataclass
class Function:
    """What both sides minimise; keeps what it gave, and the seconds it took."""

    task: Task
    seconds: float = 0.0
    found: list[Matrix] = field(default_factory=list[Matrix])

    def __call__(self, rows: Codes) -> Matrix:
        """Canonical rows to costs, shape (n, genes) -> (n, 2)."""
        start = time.perf_counter()
        costs = np.stack([-self.task.accuracy(rows), self.task.latency(rows)], 1)
        self.seconds += time.perf_counter() - start
        self.found.append(costs)
        return costs


class Redrawn(Mutation):
    """One code in a row drawn anew on average, as in edgenas."""

    def _do(self, problem: Any, X: Any, random_state: Any = None, **kwargs: Any) -> Any:  # noqa: N803
        drawn = random_state.integers(1, problem.xu + 1, size=X.shape)
        return np.where(random_state.random(X.shape) < 1 / X.shape[1], drawn, X)


class Codings(PymooProblem):
    """The space as pymoo sees it: integers; genes of absent blocks change nothing."""

    def __init__(self, function: Function) -> None:
        self.function = function
        highest = np.array([len(gene.values) for gene in function.task.space.genes])
        super().__init__(n_var=len(highest), n_obj=2, xl=1, xu=highest, vtype=int)

    def _evaluate(self, x: Any, out: Any, *args: Any, **kwargs: Any) -> None:
        out["F"] = self.function(self.function.task.space.canonical(x.astype(np.uint8)))


def operators() -> dict[str, dict[str, Any]]:
    """Crossover and mutation by name."""
    rounded: dict[str, Any] = {"vtype": float, "repair": RoundingRepair()}
    return {
        "pymoo, SBX and PM": {
            "crossover": SBX(prob=1.0, eta=3, **rounded),
            "mutation": PM(prob=1.0, eta=3, **rounded),
        },
        "pymoo, uniform": {
            "crossover": UniformCrossover(prob=1.0),
            "mutation": Redrawn(prob=1.0),
        },
    }


def first(task: Task, *, seed: int, size: int) -> Codes:
    """The first population of both sides."""
    rng = np.random.default_rng(seed)
    return first_population(_problem(task, seed, 1), rng, size=size, ends=_ends(task))


def _problem(task: Task, seed: int, evaluations: int) -> Problem:
    return Problem(
        space=task.space,
        maximize=task.accuracy,
        limits=(),
        evaluations=evaluations,
        seed=seed,
    )


def _ends(task: Task) -> list[Codes]:
    return [least(task.space, task.latency)]


def run_edgenas(function: Function, *, seed: int, population: int, generations: int) -> None:
    """One search of edgenas."""
    task = function.task
    problem = _problem(task, seed, population * generations)
    nsga2(problem, function, population=population, ends=_ends(task))


def run_pymoo(
    function: Function, *, seed: int, population: int, generations: int, **rest: Any
) -> None:
    """One search of pymoo."""
    start = first(function.task, seed=seed, size=population)
    highest = np.array([len(gene.values) for gene in function.task.space.genes])
    # Absent blocks have no code 0 there: any will do.
    drawn = np.random.default_rng((seed, 1)).integers(1, highest + 1, size=start.shape)
    whole: Any = np.where(start == 0, drawn, start)
    algorithm = NSGA2(pop_size=population, sampling=whole, **rest)
    minimize(Codings(function), algorithm, ("n_gen", generations), seed=seed)


def measured(
    task: Task, run: Callable[[Function], None], *, reference: Matrix, ideal: Matrix
) -> tuple[float, float, float]:
    """Hypervolume as a part of the box, seconds, seconds without the function."""
    function = Function(task)
    start = time.perf_counter()
    run(function)
    seconds = time.perf_counter() - start
    costs = np.concatenate(function.found)
    front = (costs[front_of(costs)] - ideal) / (reference - ideal)
    volume = HV(ref_point=np.ones(2))(front)
    assert volume is not None
    return float(volume), seconds, seconds - function.seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--populations", type=int, nargs="+", default=[100, 256, 512])
    parser.add_argument("--generations", type=int, default=100)
    options = parser.parse_args()
    task = load(options.published)
    corners = task.space.encode([task.space.smallest(), task.space.largest()])
    accuracies, latencies = task.accuracy(corners), task.latency(corners)
    reference = np.array([-accuracies[0], latencies[1]])
    ideal = np.array([-1.0, latencies[0]])
    print(
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {task.space.size:.3g} archs; "
        f"{options.seeds} seeds, {options.generations} generations; reference point "
        f"{accuracies[0]:.2%}, {latencies[1] * 1e3:.1f} ms\n\n"
        "| population | search | mean hypervolume | part of pymoo's best | s | speed-up | alone s "
        "| speed-up alone |\n|---|---|---|---|---|---|---|---|"
    )
    for population in options.populations:
        size = {"population": population, "generations": options.generations}
        sides: dict[str, Callable[[Function, int], None]] = {
            "edgenas": lambda f, seed, size=size: run_edgenas(f, seed=seed, **size)
        }
        for name, rest in operators().items():
            sides[name] = lambda f, seed, size=size, rest=rest: run_pymoo(
                f, seed=seed, **size, **rest
            )
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
        # One seed of each after the other: a slow minute of the machine meets all of them.
        for seed in range(options.seeds):
            for name, side in sides.items():
                runs[name].append(
                    measured(
                        task,
                        lambda f, side=side, seed=seed: side(f, seed),
                        reference=reference,
                        ideal=ideal,
                    )
                )
        volumes = {name: float(np.mean([r[0] for r in found])) for name, found in runs.items()}
        times = {name: np.median(np.array(found)[:, 1:], 0) for name, found in runs.items()}
        best = max(volume for name, volume in volumes.items() if name != "edgenas")
        for name in sides:
            whole, alone = times[name]
            quicker = "" if name == "edgenas" else f"{whole / times['edgenas'][0]:.1f}"
            quicker_alone = "" if name == "edgenas" else f"{alone / times['edgenas'][1]:.1f}"
            print(
                f"| {population} | {name} | {volumes[name]:.5f} | {volumes[name] / best:.4f} "
                f"| {whole:.3f} | {quicker} | {alone:.3f} | {quicker_alone} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
