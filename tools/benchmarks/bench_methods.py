"""Sandwich or progressive, with or without averaged weights: accuracies for the same budget.

    python -m tools.benchmarks.bench_methods --data TRAIN --test TEST --out FOLDER [--epochs 10]

Trains the weights of --space from random ones by both methods of ``edgenas.training.recipe``, with
the same
recipe and seed otherwise. The budget is the sum of the MACs of every network of every step times
the images of a step, to which forward and backward passes are in proportion: unlike epochs it is
fair to a method whose steps train one network for a while, and unlike seconds it is the same on a
machine that is busy with something else. The sandwich rule gets --epochs, progressive shrinking
the number of epochs whose sum is nearest; sums and seconds are printed. The warm-up, which each
phase of progressive shrinking has of its own, is a twentieth of the epochs at most.

Averaging the weights (``ema`` of a recipe) changes nothing in the weights that are averaged. So
each training is done once, with ``ema``, and both are judged: the weights as they are, and their
average. What averaging is worth stands in the difference of the two lines.

Judged are the largest network, the smallest, and --archs random ones (the same for all), each with
batch-norm statistics of its own, on validation and test images.

Every training is a folder in --out (``edgenas report FOLDER/sandwich`` draws it), and every network
judged a line of ``results.jsonl``: the same command goes on where it was stopped, to the same
numbers.
"""

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.images.data import Images, split
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate
from edgenas.model.saved import load_tensors
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import macs_table
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.training.division import divide_as_trained
from edgenas.training.loop import TrainingProgress, train
from edgenas.training.options import TrainingOptions
from edgenas.training.phases import plan_phases
from edgenas.training.recipe import Recipe, default_recipe
from edgenas.training.runs import CHECKPOINT
from edgenas.training.sampling import draw_archs
from tools.benchmarks.bench_growth import networks_of
from tools.benchmarks.bench_standalone import lines_of, some

_STEPS = 200  # of a phase, whose networks are counted


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One line of the table.

    Args:
        name: the method, and whether the weights are averages.
        supernet: the weights.
        epochs: that they were trained for.
        macs: of all passes of the training.
        seconds: of its steps, by the clock.
    """

    name: str
    supernet: Supernet
    epochs: int
    macs: float
    seconds: float


def trained_macs(space: Space, recipe: Recipe, *, images: int, seed: int) -> float:
    """MACs of the networks of all steps of a training, times the images of a step.

    Args:
        space: of the supernet.
        recipe: how it is trained.
        images: training images.
        seed: of the training.

    Returns:
        Each phase's mean over at most ``2 * _STEPS`` steps, evenly spread, times its steps.
    """
    steps = recipe.epochs * (images // (recipe.batch * recipe.accumulate))
    summed = 0.0
    for phase in plan_phases(space, recipe, steps=steps):
        last, every = phase.first + phase.steps, max(1, phase.steps // _STEPS)
        draws = [
            draw_archs(phase.space, recipe, seed=seed, step=step)
            for step in range(phase.first, last, every)
        ]
        archs = [arch for draw in draws for arch in networks_of(draw)]
        macs = macs_table(space)(space.encode(archs)).sum()
        summed += float(macs) / len(draws) * phase.steps
    return summed * recipe.batch * recipe.accumulate


def recipes(space: Space, *, epochs: int, ema: float, images: int, seed: int) -> list[Recipe]:
    """The recipes of both methods, the sandwich rule first, of nearly the same sum of MACs.

    Args:
        space: of the supernet.
        epochs: of the sandwich rule.
        ema: see ``Recipe``.
        images: training images.
        seed: of the training.
    """
    usual = default_recipe(space)
    first = dataclasses.replace(
        usual, epochs=epochs, ema=ema, warmup=min(usual.warmup, epochs / 20), watched=0
    )
    other = dataclasses.replace(first, method="progressive")
    given = {"images": images, "seed": seed}
    ratio = trained_macs(space, first, **given) / trained_macs(space, other, **given)
    return [first, dataclasses.replace(other, epochs=max(1, round(epochs * ratio)))]


def trained(
    space: Space, images: Images, recipe: Recipe, *, out: Path, seed: int
) -> tuple[list[Weights], Preprocessing, Images, Tensor]:
    """Both lines of a method, and what its networks are judged with.

    Returns:
        The weights as they are and, with ``ema``, their averages; how images become inputs; the
        validation images; the images for batch-norm statistics.
    """

    def tell(progress: TrainingProgress) -> None:
        words = f"{progress.step}/{progress.steps} steps, {progress.images_per_second:.0f} images/s"
        print(f"\r{recipe.method} {words}, loss {progress.loss:.3f}", end="", file=sys.stderr)

    folder = out / recipe.method
    done = train(
        space,
        images,
        recipe=recipe,
        out=folder,
        resume=True,
        progress=tell,
        options=TrainingOptions(seed=seed),
    )
    print(file=sys.stderr)
    parts, calibration = divide_as_trained(done, images)
    plain = Supernet(done.supernet.space, seed=seed)
    stored = load_tensors(folder / CHECKPOINT)
    plain.load_state_dict(
        {n.removeprefix("model."): t for n, t in stored.items() if n.startswith("model.")}
    )
    found = {recipe.method: plain}
    if recipe.ema:
        found[f"{recipe.method}, ema {recipe.ema:g}"] = done.supernet
    macs = trained_macs(done.supernet.space, recipe, images=len(parts.train), seed=seed)
    lines = [
        Weights(
            name=name,
            supernet=supernet.eval(),
            epochs=recipe.epochs,
            macs=macs,
            seconds=float(done.training["seconds"]),
        )
        for name, supernet in found.items()
    ]
    return lines, done.preprocessing, parts.validation, calibration


def judged(
    weights: Weights,
    archs: list[Arch],
    *,
    sets: dict[str, Images],
    calibration: Tensor,
    preprocessing: Preprocessing,
    journal: Path,
) -> dict[str, list[float]]:
    """Accuracies of networks on every set of images; what the journal knows is not done again."""
    known = lines_of(journal)
    pixels = [images.pixels for images in sets.values()]
    state = digest([], [*weights.supernet.parameters(), calibration, *pixels])[:12]
    found: dict[str, list[float]] = {name: [] for name in sets}
    for arch in archs:
        name = f"{arch.id}-{state}"
        if name not in known:
            network = weights.supernet.extract(arch).to(memory_format=torch.channels_last)
            calibrate(network, calibration, preprocessing=preprocessing)
            known[name] = {
                kind: measure_accuracy(
                    network, images, preprocessing=preprocessing, split=kind
                ).value
                for kind, images in sets.items()
            }
            with journal.open("a") as stream:
                stream.write(json.dumps({"name": name, **known[name]}) + "\n")
        for kind in sets:
            found[kind].append(known[name][kind])
    return found


def tell(rows: list[tuple[Weights, dict[str, list[float]]]], *, sets: dict[str, Images]) -> None:
    """Print a table for every set of images."""
    for kind, images in sets.items():
        count = len(rows[0][1][kind]) - 2
        print(f"\n{len(images)} {kind} images")
        print(
            f"{'':24} {'epochs':>6} {'MACs trained':>12} {'seconds':>8} {'largest':>8} "
            f"{'smallest':>8} {f'mean of {count}':>11} {'worst':>8}"
        )
        for weights, found in rows:
            largest, smallest, *others = found[kind]
            print(
                f"{weights.name:24} {weights.epochs:6} {weights.macs / 1e12:11.2f}T "
                f"{weights.seconds:8.0f} {largest:8.2%} {smallest:8.2%} {np.mean(others):11.2%} "
                f"{min(others):8.2%}"
            )
        values = np.array([value for _, found in rows for value in found[kind]])
        error = 100 * np.sqrt(values * (1 - values) / len(images)).max()
        print(f"standard error of one accuracy: {error:.2f} points at most; one seed a method")


def main() -> None:
    """Train what is not trained yet, judge, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--data", required=True, help="images to learn from")
    parser.add_argument("--test", help="images to judge on, beside the validation images")
    parser.add_argument("--out", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--epochs", type=int, default=10, help="of the sandwich rule")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the average; 0: none")
    parser.add_argument("--archs", type=int, default=20, help="random networks to judge")
    parser.add_argument("--images", type=int, help="use so many only: to try the tool")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    images, sets = _read(given)
    space = load_space(given.space).with_classes(len(images.classes))
    usual = default_recipe(space)
    count = len(split(images, validation=usual.validation, seed=given.seed).train)
    rows = space.sample(given.archs, rng=np.random.default_rng((given.seed, 12)), by="gene")
    archs = [space.largest(), space.smallest(), *space.decode(rows)]
    told: list[tuple[Weights, dict[str, list[float]]]] = []
    both = recipes(space, epochs=given.epochs, ema=given.ema, images=count, seed=given.seed)
    for recipe in both:
        lines, preprocessing, validation, calibration = trained(
            space, images, recipe, out=given.out, seed=given.seed
        )
        sets = {"validation": validation} | sets
        told += [
            (
                weights,
                judged(
                    weights,
                    archs,
                    sets=sets,
                    calibration=calibration,
                    preprocessing=preprocessing,
                    journal=given.out / "results.jsonl",
                ),
            )
            for weights in lines
        ]
    print(f"{space.name}, {count} training images, seed {given.seed}, from random weights")
    tell(told, sets=sets)


def _read(given: argparse.Namespace) -> tuple[Images, dict[str, Images]]:
    """The images to learn from, and those to judge on beside the validation images."""
    stored = max(load_space(given.space).resolutions)
    part = partial(some, count=given.images, seed=given.seed)
    found: dict[str, Any] = {}
    if given.test:
        found["test"] = part(load_images(given.test, stored=stored))
    return part(load_images(given.data, stored=stored)), found


if __name__ == "__main__":
    main()
