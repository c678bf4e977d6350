"""NSGA-II of edgenas and of pymoo, side by side on the published Note10 tables.

    taskset -c 0 python -m tools.benchmarks.bench_pareto --published FOLDER [--seeds 10]

FOLDER is as for ``bench_search.py``. Both sides minimise the same function (negative predicted
accuracy, latency) from the same first population, over as many evaluations, which is generations
times population; hypervolumes are of the front of all networks scored, for both, with the reference
point at the accuracy of the smallest network and the latency of the largest. pymoo runs twice: with
the operators that its documentation gives for integers, and with those of edgenas; edgenas is held
against the one with the larger hypervolume. pymoo's compiled modules must be there.

What is an evaluation: both drop children that are in their population already. edgenas never scores
a network twice in a search; in pymoo a network that died out may come back and is scored again, and
so are codings that differ in absent blocks only.

Seconds are of the processor, with everything in one thread: on an idle machine, those of the clock.
edgenas makes its first population within its seconds, pymoo is given one. "alone" is without the
function, which both sides spend alike. The second table says when the front of edgenas is as good
as that of pymoo at its end.
"""

import argparse
import os
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pymoo
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as PymooProblem
from pymoo.functions import is_compiled
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

from edgenas.space.genes import Codes
from edgenas.strategies.dominance import find_front
from edgenas.strategies.feasible import first_population
from edgenas.strategies.least import find_least
from edgenas.strategies.nsga2 import nsga2
from edgenas.strategies.problem import Problem
from tools.benchmarks.bench_search import Task, load

Matrix = NDArray[np.float64]


@dataclass
class Function:
    """What both sides minimise; keeps what it gave, when, and the seconds it took."""

    task: Task
    seconds: float = 0.0
    found: list[Matrix] = field(default_factory=list[Matrix])
    times: list[float] = field(default_factory=list[float])

    def __call__(self, rows: Codes) -> Matrix:
        """Canonical rows to costs, shape (n, genes) -> (n, 2)."""
        start = time.process_time()
        costs = np.empty((len(rows), 2))
        costs[:, 0] = -self.task.accuracy(rows)
        costs[:, 1] = self.task.latency(rows)
        self.times.append(time.process_time())
        self.seconds += self.times[-1] - start
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


def first(task: Task, *, seed: int, size: int) -> NDArray[np.int64]:
    """The first population of both sides, as pymoo takes it, shape (size, genes)."""
    rng = np.random.default_rng(seed)
    rows = first_population(_problem(task, seed, 1), rng, size=size, ends=_ends(task))
    highest = np.array([len(gene.values) for gene in task.space.genes])
    # Absent blocks have no code 0 there: any will do.
    drawn = np.random.default_rng((seed, 1)).integers(1, highest + 1, size=rows.shape)
    return np.where(rows == 0, drawn, rows)


def _problem(task: Task, seed: int, evaluations: int) -> Problem:
    return Problem(
        space=task.space,
        maximize=task.accuracy,
        limits=(),
        evaluations=evaluations,
        seed=seed,
    )


def _ends(task: Task) -> list[Codes]:
    return [find_least(task.space, task.latency)]


def run_edgenas(function: Function, *, seed: int, population: int, generations: int) -> None:
    """One search of edgenas."""
    task = function.task
    problem = _problem(task, seed, population * generations)
    nsga2(problem, function, population=population, ends=_ends(task))


def run_pymoo(function: Function, *, start: Any, seed: int, generations: int, **rest: Any) -> None:
    """One search of pymoo from a first population."""
    algorithm = NSGA2(pop_size=len(start), sampling=start, **rest)
    minimize(Codings(function), algorithm, ("n_gen", generations), seed=seed)


@dataclass(frozen=True)
class Box:
    """Where hypervolume is measured: from the ideal point to the reference point."""

    ideal: Matrix
    reference: Matrix

    def volume(self, batches: list[Matrix]) -> float:
        """Of the front of all costs together, as a part of the box."""
        costs = np.concatenate(batches)
        front = (costs[find_front(costs)] - self.ideal) / (self.reference - self.ideal)
        volume = HV(ref_point=np.ones(2))(front)
        assert volume is not None
        return float(volume)


@dataclass(frozen=True)
class Run:
    """One search: what it found when, and its processor seconds, whole and without the function."""

    function: Function
    volume: float
    start: float
    seconds: float

    @property
    def alone(self) -> float:
        """Seconds without the function."""
        return self.seconds - self.function.seconds

    def reached(self, volume: float, box: Box) -> tuple[float, float]:
        """Evaluations and seconds until the front was that good; infinite where it never was."""
        found = self.function.found
        at = bisect_left(range(len(found)), volume, key=lambda last: box.volume(found[: last + 1]))
        if at == len(found):
            return np.inf, np.inf
        return sum(map(len, found[: at + 1])), self.function.times[at] - self.start


def measured(task: Task, run: Callable[[Function], None], box: Box) -> Run:
    """A search, timed."""
    function = Function(task)
    start = time.process_time()
    run(function)
    seconds = time.process_time() - start
    return Run(function, box.volume(function.found), start, seconds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--populations", type=int, nargs="+", default=[100, 256, 512])
    parser.add_argument("--generations", type=int, default=100)
    options = parser.parse_args()
    assert is_compiled(), "pymoo runs without its compiled modules"
    task = load(options.published)
    corners = task.space.encode([task.space.smallest(), task.space.largest()])
    accuracies, latencies = task.accuracy(corners), task.latency(corners)
    box = Box(np.array([-1.0, latencies[0]]), np.array([-accuracies[0], latencies[1]]))
    print(
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; pymoo {pymoo.__version__}, "
        f"compiled; {task.space.size:.3g} archs; {options.seeds} seeds, {options.generations} "
        f"generations; reference point {accuracies[0]:.2%}, {latencies[1] * 1e3:.1f} ms\n\n"
        "| population | search | mean hypervolume | part of pymoo's best | s | speed-up | alone s "
        "| speed-up alone |\n|---|---|---|---|---|---|---|---|"
    )
    found = {
        population: compared(task, box, population, options) for population in options.populations
    }
    print(
        "\n| population | evaluations of pymoo | its s | evaluations of edgenas, as good | its s "
        "| speed-up | seeds that came so far |\n|---|---|---|---|---|---|---|"
    )
    for population, runs in found.items():
        print_reached(population, runs, box)


def compared(task: Task, box: Box, population: int, options: Any) -> dict[str, list[Run]]:
    """All searches of one population by side; prints their lines of the first table."""
    sides = {"edgenas": {}} | operators()
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    # One seed of each after the other: a slow minute of the machine meets all of them.
    for seed in range(options.seeds):
        start = first(task, seed=seed, size=population)
        size = {"seed": seed, "generations": options.generations}
        for name, rest in sides.items():
            if rest:
                side = partial(run_pymoo, start=start, **size, **rest)
            else:
                side = partial(run_edgenas, population=population, **size)
            runs[name].append(measured(task, side, box))
    volumes = {name: float(np.mean([r.volume for r in some])) for name, some in runs.items()}
    times = {n: np.median([(r.seconds, r.alone) for r in some], 0) for n, some in runs.items()}
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
    return runs


def print_reached(population: int, runs: dict[str, list[Run]], box: Box) -> None:
    """When edgenas was as good as pymoo's better side at its end, in the mean of its seeds."""
    theirs = max((some for n, some in runs.items() if n != "edgenas"), key=_volume)
    evaluations = [sum(map(len, r.function.found)) for r in theirs]
    seconds = float(np.median([r.seconds for r in theirs]))
    until = np.array([r.reached(_volume(theirs), box) for r in runs["edgenas"]])
    middle = np.median(until, 0)
    print(
        f"| {population} | {np.median(evaluations):,.0f} | {seconds:.3f} | {middle[0]:,.0f} "
        f"| {middle[1]:.3f} | {seconds / middle[1]:.1f} "
        f"| {np.isfinite(until[:, 0]).sum()} of {len(until)} |",
        flush=True,
    )


def _volume(runs: list[Run]) -> float:
    return float(np.mean([r.volume for r in runs]))


if __name__ == "__main__":
    main()
