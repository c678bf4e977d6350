"""Search on the published Note10 tables: the reference package and edgenas side by side.

    python -m tools.benchmarks.bench_search --published FOLDER [--seeds 10] [--long 60] \
        [--no-reference]

FOLDER holds what the authors of once-for-all published: ``note10/*_lookup_table.yaml`` and
``acc_predictor.pth``. The reference is the PyPI package ``ofa``: its EvolutionFinder, its
LatencyEstimator and its AccuracyPredictor, as its tutorial uses them (500 generations of 100). Both
sides maximise the same predicted accuracy under the same latency. With ``--long``, edgenas also
searches for that many seconds, over as many seeds as fit, and prints the best networks known.
"""

import argparse
import contextlib
import io
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from edgenas.accuracy.ofa_predictor import import_accuracy
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.latency.ofa_tables import import_latency_tables
from edgenas.space.cost import Tables
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.result import SearchResult
from edgenas.strategies.run import search
from tools.benchmarks.bench_ofa import tutorial

# What 500 generations of the reference, and a rough search like ours, had reached before.
KNOWN = {15: 78.80, 20: 80.67, 25: 82.11, 30: 83.02}


@dataclass(frozen=True)
class Task:
    """The space as far as it was measured, its latency table, its accuracy predictor."""

    space: Space
    latency: Tables
    accuracy: AccuracyPredictor

    def run(self, milliseconds: float, *, seed: int, evaluations: int) -> SearchResult:
        """One search of edgenas."""
        limit = Limit(
            constraint=parse_constraint(f"latency<={milliseconds:g}ms"), values=self.latency
        )
        return search(
            self.space,
            maximize=self.accuracy,
            subject_to=[limit],
            seed=seed,
            evaluations=evaluations,
        )


def load(folder: Path) -> Task:
    """The task from the published files."""
    table = import_latency_tables(folder / "note10")
    whole = load_space("ofa-mbv3-w1.2")
    space = whole.restrict(resolution=table.covered_resolutions(whole))
    accuracy = import_accuracy(folder / "acc_predictor.pth", space=space)
    return Task(space, table.compile(space), accuracy)


def speed(score: Callable[[Any], Any], rows: Any, *, rounds: int = 3) -> tuple[float, float]:
    """Rows a second of wall time (the best of some rounds), and of processor time."""
    score(rows[:2048])
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        score(rows)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return len(rows) / min(walls), len(rows) / min(cpus)


class Estimator:
    """The reference's estimators of all resolutions, as its finder asks them."""

    def __init__(self, folder: Path) -> None:
        kind = tutorial("latency_table").LatencyEstimator
        self.estimators: dict[int, Any] = {}
        for path in folder.glob("*_lookup_table.yaml"):
            # Its constructor calls yaml.load in a way that PyYAML 6 refuses.
            estimator = kind.__new__(kind)
            estimator.lut = yaml.safe_load(path.read_text())
            self.estimators[int(path.name.partition("_")[0])] = estimator

    def predict_efficiency(self, spec: dict[str, Any]) -> float:
        """Milliseconds."""
        return self.estimators[spec["r"][0]].predict_network_latency_given_spec(spec)


def reference(
    folder: Path, milliseconds: float, *, seed: int, generations: int
) -> tuple[float, float]:
    """The best accuracy that the reference predicts, and the seconds it took."""
    predictor = tutorial("accuracy_predictor").AccuracyPredictor(pretrained=False, device="cpu")
    state = torch.load(folder / "acc_predictor.pth", weights_only=True, map_location="cpu")
    predictor.model.load_state_dict(state)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the reference draws from the global source
    finder = tutorial("evolution_finder").EvolutionFinder(
        "note10", milliseconds, Estimator(folder / "note10"), predictor, max_time_budget=generations
    )
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        best, _ = finder.run_evolution_search()
    return float(best[-1]), time.perf_counter() - start


def print_speeds(task: Task) -> None:
    """How many networks a second are scored."""
    rows = task.space.sample(131_072, rng=np.random.default_rng(0), by="gene")
    print("| scored by | archs/s | archs per processor second |\n|---|---|---|")

    def both(rows: Any) -> Any:
        return task.latency(rows) + task.accuracy(rows)

    for name, score in (("latency table", task.latency), ("table and 128-400-400-400-1", both)):
        wall, cpu = speed(score, rows)
        print(f"| {name} | {wall:,.0f} | {cpu:,.0f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=list(KNOWN), help="in ms")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=120_000)
    parser.add_argument("--generations", type=int, default=500, help="of the reference")
    parser.add_argument("--no-reference", action="store_true", help="it takes 20 s a budget")
    parser.add_argument("--long", type=float, default=0, metavar="SECONDS", help="a long run")
    options = parser.parse_args()
    task = load(options.published)
    print(
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {task.space.size:.3g} archs"
    )
    print_speeds(task)
    print(
        f"\nbest predicted accuracy in %, {options.seeds} seeds of edgenas, "
        f"{options.evaluations:,} archs scored each; the reference: seed 0\n\n"
        "| budget | reference | its s | edgenas median | lowest | highest | s | processor s |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for budget in options.budgets:
        theirs, seconds = "-", "-"
        if not options.no_reference:
            accuracy, took = reference(
                options.published, budget, seed=0, generations=options.generations
            )
            theirs, seconds = f"{100 * accuracy:.2f}", f"{took:.1f}"
        start = time.process_time()
        found = [
            task.run(budget, seed=seed, evaluations=options.evaluations)
            for seed in range(options.seeds)
        ]
        cpu = (time.process_time() - start) / options.seeds
        scores = np.array([100 * result.best.score for result in found])
        assert all(result.best.values["latency"] <= budget / 1e3 for result in found)
        print(
            f"| {budget:g} ms | {theirs} | {seconds} | {np.median(scores):.2f} "
            f"| {scores.min():.2f} | {scores.max():.2f} "
            f"| {np.median([result.seconds for result in found]):.2f} | {cpu:.2f} |",
            flush=True,
        )
    if options.long:
        print_long(task, options.budgets, seconds=options.long)


def print_long(task: Task, budgets: list[float], *, seconds: float) -> None:
    """The best networks known after long searches."""
    print(f"\n| budget | best known in {seconds:g} s | latency | network |\n|---|---|---|---|")
    for budget in budgets:
        start, best, seed = time.perf_counter(), None, 0
        while best is None or time.perf_counter() - start < seconds:
            found = task.run(budget, seed=seed, evaluations=500_000).best
            best = found if best is None or found.score > best.score else best
            seed += 1
        print(
            f"| {budget:g} ms | {100 * best.score:.3f} | {1e3 * best.values['latency']:.3f} ms "
            f"| {best.arch} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
