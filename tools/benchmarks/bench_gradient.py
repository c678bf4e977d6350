"""Gradient searches and controllers on NAS-Bench-201: the chosen cells, looked up.

    python -m tools.benchmarks.bench_gradient FOLDER --data TRAIN --out OUT [--methods gdas enas]

FOLDER holds ``nb201.npz`` (see ``tools/benchmarks/lookup.py``), TRAIN is a source of labelled
photos, e.g. those of CIFAR-10. A reduced supernet (``--width`` channels at first, ``--cells`` a
stage, photos at ``--side`` pixels) starts from random weights, which half of the photos teach; the
logits or the controller learn from the other half. The cell that a method prefers most is looked up
in the accuracies of the whole benchmark, which decide nothing.

With ``--finalists 4`` the cells that are preferred most are trained alone for ``--epochs`` epochs,
as small as in the supernet, and the best on the other half is chosen: so DARTS chooses among its
cells (arXiv 1806.09055, section 3.1), and ``specialize --retrain-top`` among its networks.

With ``--limit 0.3 --device raspi4`` the expected latency is held to that quantile of the latencies
of all cells. A table is fitted to ``--known`` cells of that device; its 95% residual is added, as a
bound. Whether the chosen cell keeps the limit is looked up.

A run that was killed goes on with the same command. ``--minutes`` ends a trial early, and prints
the processor seconds of a step.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.images.data import split
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.benchmarks import nas_bench_201
from edgenas.space.cells import parse_cell
from edgenas.space.cost import Tables
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.gradient.choosing import find_most_preferred, list_ceilings
from edgenas.strategies.gradient.collapse import EIGENVALUE, SKIPS
from edgenas.strategies.gradient.estimators import MIXTURES, STRATEGIES
from edgenas.strategies.gradient.run import LearntPolicy, SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.training.alone import train_alone
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe
from tools.benchmarks.lookup import LookUp, load_cells

OUTCOMES = "outcomes.jsonl"
_CALIBRATION = 2000  # photos for the statistics of batch norms


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run chose.

    Args:
        name: of the run: method, limit, seed and settings.
        cell: the text of the chosen cell.
        accuracy: of this cell in the benchmark, in percent.
        preferred: the same of the cell that is preferred most, before any is trained alone.
        kept: whether it keeps the limit; None: there is none.
        skips: share of skip connections at the end.
        eigenvalues: the first and the last that was measured; 0 where it was not.
        steps: done; less than asked for where the search stopped early.
        notes: of the search.
    """

    name: str
    cell: str
    accuracy: float
    preferred: float
    kept: bool | None
    skips: float
    eigenvalues: tuple[float, float]
    steps: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """A supernet, photos, and what is known of all cells."""

    space: Space
    cells: LookUp
    data: SearchData
    out: Path
    deadline: float  # of the processor's clock
    finalists: int = 1  # cells that are trained alone; 1: none is
    epochs: int = 2  # of these trainings


class OutOfTimeError(Exception):
    """A trial has had its time."""


def reduced_space(
    *, width: int, cells: int, side: int, operations: tuple[str, ...] | None = None
) -> Space:
    """NAS-Bench-201 with fewer cells or channels, on smaller photos.

    Args:
        width: channels of the first cells.
        cells: in each of the three stages.
        side: of photos, in pixels.
        operations: to choose from; None: those of the benchmark.
    """
    whole = nas_bench_201()
    (cell,) = whole.cells
    stages = tuple(
        dataclasses.replace(
            stage,
            widths=(stage.widths[0] * width // 16,),
            depths=(cells,) if stage.kind == "cell" else stage.depths,
        )
        for stage in whole.stages
    )
    return dataclasses.replace(
        whole,
        name="nas-bench-201-small",
        resolutions=(side,),
        stages=stages,
        cells=(dataclasses.replace(cell, operations=operations or cell.operations),),
    )


def fit_table(cells: LookUp, device: str, *, known: int) -> Tables:
    """Seconds by the operation of each edge, fitted to some cells, with the 95% residual added."""
    chosen = np.random.default_rng(0).permutation(len(cells.rows))[:known]
    rows, seconds = cells.rows[chosen], cells.seconds[device][chosen]
    ones = (rows[:, :, None] == np.arange(1, 6)).astype(float).reshape(len(rows), 30)
    # One unknown for each operation of each edge, and a little weight that makes them unique.
    system = np.concatenate([np.hstack([ones, np.ones((len(rows), 1))]), 1e-3 * np.eye(31)])
    found = np.linalg.lstsq(system, np.concatenate([seconds, np.zeros(31)]), rcond=None)[0]
    above = float(np.quantile(seconds - np.hstack([ones, np.ones((len(rows), 1))]) @ found, 0.95))
    values = tuple(np.concatenate([[np.nan], part]) for part in found[:30].reshape(6, 5))
    columns = tuple((edge,) for edge in range(6))
    return Tables(columns, values, "sum", constant=float(found[30]) + above)


def run_method(
    bench: Bench,
    method: str,
    *,
    name: str,
    limit: Limit | None,
    seed: int,
    settings: GradientSettings,
) -> tuple[Outcome, LearntPolicy]:
    """Search, choose by what was learnt alone, and look the chosen cell up."""

    def watch(step: str, done: int, total: int, words: str) -> None:
        if time.process_time() > bench.deadline:
            raise OutOfTimeError(f"{name}: {done} of {total} steps")

    limits = [] if limit is None else [limit]
    learnt = learn(
        Supernet(bench.space, seed=seed),
        strategy=method,
        data=bench.data,
        ceilings=list_ceilings(bench.space, limits),
        seed=seed,
        settings=settings,
        folder=bench.out,
        progress=watch,
    )
    preference = learnt.policy.preference()
    most = find_most_preferred(
        bench.space, preference, limits=limits, seed=seed, count=bench.finalists
    )
    first = most[choose_finalist(bench, [candidate.arch for candidate in most], seed=seed)]
    whole = dataclasses.replace(bench.space, cells=bench.cells.space.cells)
    row, history = whole.encode([first.arch]), learnt.history
    preferred = float(bench.cells.score(whole.encode([most[0].arch]))[0])
    device = None if limit is None else limit.constraint.target.replace("-", "_")
    kept = None
    if limit is not None and device is not None:
        (seconds,) = bench.cells.seconds[device][bench.cells.places(row)]
        kept = bool(seconds <= limit.constraint.limit)
    outcome = Outcome(
        name=name,
        cell=first.arch.cells[0],
        accuracy=float(bench.cells.score(row)[0]),
        preferred=preferred,
        kept=kept,
        skips=history[-1].get(SKIPS, 0.0),
        eigenvalues=(history[0].get(EIGENVALUE, 0.0), history[-1].get(EIGENVALUE, 0.0)),
        steps=len(history),
        notes=learnt.notes,
    )
    return outcome, learnt


def choose_finalist(bench: Bench, archs: list[Arch], *, seed: int) -> int:
    """Which of some cells is best on the search photos, trained alone for a moment."""
    if len(archs) == 1 or bench.data.training is None:
        return 0
    images, found = bench.data.training.images, list[float]()
    recipe = dataclasses.replace(bench.data.training.recipe, epochs=bench.epochs)
    preprocessing = bench.data.preprocessing
    for arch in archs:
        named = f"{bench.space!r} {len(images)} {recipe} {arch} {seed}"
        digest = hashlib.sha256(named.encode()).hexdigest()[:16]
        network = train_alone(
            Supernet(bench.space, seed=seed).extract(arch),
            images,
            recipe=recipe,
            preprocessing=preprocessing,
            seed=seed,
            state=bench.out / f"alone-{digest}.safetensors",
        )
        calibrate(network, images.pixels[:_CALIBRATION], preprocessing=preprocessing)
        searched = bench.data.images
        found.append(
            measure_accuracy(network, searched, preprocessing=preprocessing, split="search").value
        )
    return int(np.argmax(found))


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """What earlier runs chose, by name; a line that was left unfinished is done again."""
    found: dict[str, Outcome] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            fields = json.loads(line)
            fields |= {key: tuple(fields[key]) for key in ("eigenvalues", "notes")}
            found[fields["name"]] = Outcome(**fields)
        except (ValueError, KeyError, TypeError):
            continue
    return found


def print_line(method: str, outcomes: list[Outcome]) -> None:
    """A line of the table: one method, all of its seeds."""
    columns = [[o.preferred for o in outcomes], [o.accuracy for o in outcomes]]
    means = [f"{np.mean(c):.2f} ± {np.std(c, ddof=1) if len(c) > 1 else 0:.2f}" for c in columns]
    kept = [outcome.kept for outcome in outcomes if outcome.kept is not None]
    first, last = np.mean([outcome.eigenvalues for outcome in outcomes], 0)
    operations = [name for terms in parse_cell(outcomes[0].cell) for name, _ in terms]
    told = sum(any("collapse" in n or "stopped" in n for n in o.notes) for o in outcomes)
    print(
        f"| {method} | {' | '.join(means)} | {max(columns[1]):.2f} "
        f"| {f'{sum(kept)} of {len(kept)}' if kept else ''} "
        f"| {np.mean([o.skips for o in outcomes]):.2f} | {first:.2g} to {last:.2g} "
        f"| {told} of {len(outcomes)} | {', '.join(operations)} |",
        flush=True,
    )


def open_bench(options: argparse.Namespace) -> Bench:
    """The reduced supernet's space, the photos in two halves, and the accuracies of all cells."""
    images = load_images(options.data, stored=32)
    if options.photos:
        order = np.random.default_rng(0).permutation(len(images))[: options.photos]
        images = images.take(torch.from_numpy(np.sort(order)))
    halves = split(images, validation=0.5, seed=0)
    mean, std = images.statistics()
    operations = tuple(options.operations) or None
    space = reduced_space(
        width=options.width, cells=options.cells, side=options.side, operations=operations
    )
    recipe = Recipe(
        batch=options.batch,
        learning_rate=options.weight_rate,
        weight_decay=5e-4,
        label_smoothing=0.0,
        warmup=0,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    return Bench(
        space=space.with_classes(len(images.classes)),
        cells=load_cells(options.folder),
        data=SearchData(
            images=halves.validation,
            preprocessing=Preprocessing(stored=32, mean=mean, std=std),
            training=WeightTraining(images=halves.train, recipe=recipe),
        ),
        out=options.out,
        deadline=time.process_time() + 60 * options.minutes,
        finalists=options.finalists,
        epochs=options.epochs,
    )


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--methods", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--operations", nargs="+", default=[], help="of the edges; default: all")
    parser.add_argument("--width", type=int, default=16, help="channels of the first cells")
    parser.add_argument("--cells", type=int, default=1, help="in each of the three stages")
    parser.add_argument("--side", type=int, default=16, help="pixels")
    parser.add_argument("--photos", type=int, default=0, help="of them all; 0: all")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.003, help="of logits")
    parser.add_argument("--weight-rate", type=float, default=0.1)
    parser.add_argument("--device", default="raspi4")
    parser.add_argument("--limit", type=float, default=0.0, help="quantile; 0: no limit")
    parser.add_argument("--known", type=int, default=200, help="cells that the table is fitted to")
    parser.add_argument("--skip-dropout", type=float, default=0.0)
    parser.add_argument("--decay", type=float, default=0.0, help="of logits")
    parser.add_argument("--early-stop", action="store_true")
    parser.add_argument("--warmup", type=int, default=600, help="steps of the weights alone")
    parser.add_argument("--finalists", type=int, default=1, help="cells trained alone; 1: none")
    parser.add_argument("--epochs", type=int, default=2, help="of these trainings")
    parser.add_argument("--minutes", type=float, default=1e6, help="of the processor")
    options = parser.parse_args(arguments)
    if options.limit and options.operations:
        parser.error("--limit needs all operations: the table of latencies is fitted to them")
    return options


def limit_of(bench: Bench, options: argparse.Namespace) -> Limit | None:
    """The limit on latency; None where there is none."""
    if not options.limit:
        return None
    seconds = float(np.quantile(bench.cells.seconds[options.device], options.limit))
    text = f"latency@{options.device.replace('_', '-')}<={seconds * 1e3!r}ms"
    table = fit_table(bench.cells, options.device, known=options.known)
    return Limit(constraint=parse_constraint(text), values=table)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    options = read_options(arguments)
    keep_memory()
    bench = open_bench(options)
    limit, known = limit_of(bench, options), read_outcomes(options.out / OUTCOMES)
    settings = GradientSettings(
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        skip_dropout=options.skip_dropout,
        decay=options.decay,
        measure=max(options.steps // 10, 1),
        early_stop=options.early_stop,
        warmup=options.warmup,
    )
    sizes = f"{options.width} channels, {options.cells} cells a stage, {options.side} pixels"
    images = len(bench.data.images)
    within = "no limit" if limit is None else f"{limit.constraint}"
    print(
        f"{sizes}; 2 x {images} photos; {options.steps} steps of {options.batch}; {within}; "
        f"best of all cells {bench.cells.accuracy.max():.2f}\n\n"
        "| method | preferred, % | chosen, % | best | keep limit | skips | eigenvalue | told "
        "| a cell |\n" + "|---" * 9 + "|",
        flush=True,
    )
    for method in options.methods:
        outcomes: list[Outcome] = []
        for seed in options.seeds:
            mixing = method in MIXTURES
            asked = settings if mixing else dataclasses.replace(settings, skip_dropout=0.0)
            recipe = "" if bench.data.training is None else bench.data.training.recipe
            made = f"{bench.space!r} {images} {recipe} {asked} {bench.finalists} {bench.epochs}"
            name = f"{method} {within} {seed} {hashlib.sha256(made.encode()).hexdigest()[:16]}"
            if name not in known:
                started = time.process_time()
                try:
                    known[name], learnt = run_method(
                        bench, method, name=name, limit=limit, seed=seed, settings=asked
                    )
                except OutOfTimeError as end:
                    print(f"out of time: {method}, seed {seed}: {end}"[:200], file=sys.stderr)
                    return 1
                spent = time.process_time() - started
                print(
                    f"{method}, seed {seed}: {spent / len(learnt.history):.3f} s a step where it "
                    "did not go on from before",
                    file=sys.stderr,
                )
                with (options.out / OUTCOMES).open("a") as stream:
                    stream.write(json.dumps(asdict(known[name])) + "\n")
            outcomes.append(known[name])
        print_line(method, outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
