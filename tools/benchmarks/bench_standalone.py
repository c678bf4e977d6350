"""Do predictor and supernet rank networks as training them alone does?

    python -m tools.benchmarks.bench_standalone --data TRAIN --out FOLDER [--test TEST] \
        [--epochs 10]

Draws networks of a supernet's space, one from each equal part of the order of MACs, none of which
the accuracy predictor was fitted to, and trains each alone, from random weights, on the training
part of the images with the recipe of the supernet but for its epochs. Printed are the accuracy of
each by the predictor, with the weights it inherits, and trained alone, both calibrated with the
same training images and judged on the validation images (with --test on those); then Spearman's
and Kendall's correlations of all pairs, and the mean gap between inherited and own weights, with
bootstrap intervals over networks.

To hold a supernet against networks that were trained as long, train it first (edgenas train) and
give its folder with --supernet.

Every training is a file in --out and every result a line of ``results.jsonl``: the same command
goes on where it was stopped, to the same numbers. Seconds are those of the processor. Two processes
share the networks out with ``--part 1/2`` and ``--part 2/2`` and the same --out; the command
without a part then prints all.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.accuracy.measured import load_predictor
from edgenas.images.data import Images
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate
from edgenas.model.network import initialise
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector, macs_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.training.alone import train_alone
from edgenas.training.division import divide_as_trained, recipe_of
from edgenas.training.recipe import Recipe

_DRAWS = 2000
_VERSION = "2"  # of what a training alone is: another one is another file
_PAIRS = (
    ("predicted", "supernet"),
    ("predicted", "alone"),
    ("supernet", "alone"),
    ("macs", "alone"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A supernet, how networks of it are trained alone, and what they are judged on.

    Args:
        trained: the supernet.
        recipe: of networks alone.
        images: that they learn from.
        judged: that they are judged on, with ``split``.
        calibration: stored training images for batch-norm statistics.
        seed: of weights and of the order of images.
        folder: where trainings are kept.
    """

    trained: TrainedSupernet
    recipe: Recipe
    images: Images
    judged: Images
    split: str
    calibration: torch.Tensor
    seed: int
    folder: Path

    def measured(self, arch: Arch, *, name: str) -> dict[str, float]:
        """Accuracies of a network with inherited weights and with its own, and seconds to train it.

        Args:
            arch: the network.
            name: of its file.
        """
        supernet = self.trained.supernet
        fresh = supernet.extract(arch).train()
        initialise(fresh, generator=torch.Generator().manual_seed(self.seed))
        start, ran, steps = time.process_time(), 0, 0

        def tell(step: str, done: int, total: int, words: str) -> None:
            nonlocal ran, steps
            ran, steps = ran + 1, total
            print(f"\r{arch.id} {done}/{total} steps, {words}", end="", file=sys.stderr)

        alone = train_alone(
            fresh,
            self.images,
            recipe=self.recipe,
            preprocessing=self.trained.preprocessing,
            seed=self.seed,
            state=self.folder / f"{name}.safetensors",
            progress=tell,
        )
        # Of the whole training, though a part of it may have run before.
        spent = time.process_time() - start
        found = {"seconds": spent / ran * steps if ran else float("nan")}
        for kind, network in (("supernet", supernet.extract(arch)), ("alone", alone)):
            network = network.to(memory_format=torch.channels_last)
            given = {"preprocessing": self.trained.preprocessing}
            calibrate(network, self.calibration, **given)
            found[kind] = measure_accuracy(network, self.judged, **given, split=self.split).value
        return found


def stratified(space: Space, count: int, *, seed: int, without: Codes | None) -> list[Arch]:
    """Networks drawn by gene, one from each of ``count`` equal parts of the order of MACs.

    Args:
        space: of the networks.
        count: how many.
        seed: of the draw.
        without: rows that are left out, if any.
    """
    rng = np.random.default_rng((seed, 10))
    rows = np.unique(space.sample(400 * count, rng=rng, by="gene"), axis=0)
    known = set() if without is None else {row.tobytes() for row in without}
    rows = rows[[row.tobytes() not in known for row in rows]]
    rows = rows[np.argsort(macs_table(space)(rows), kind="stable")]
    parts = np.array_split(rows, count)
    return space.decode(np.stack([part[rng.integers(len(part))] for part in parts]))


def lines_of(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by name; a last line that was left unfinished is measured again."""
    known: dict[str, dict[str, Any]] = {}
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines():
        try:
            told = json.loads(line)
            known[told.pop("name")] = told
        except (json.JSONDecodeError, KeyError):
            continue
    if text and not text.endswith("\n"):
        with path.open("a") as stream:
            stream.write("\n")
    return known


def correlations(first: Vector, second: Vector) -> tuple[float, float]:
    """Spearman's and Kendall's (tau-b); 0 where all values are alike."""
    found = (
        float(f(first, second).statistic)  # pyright: ignore[reportAttributeAccessIssue]
        if np.ptp(first) and np.ptp(second)
        else 0.0
        for f in (spearmanr, kendalltau)
    )
    spearman, kendall = found
    return spearman, kendall


def tell(rows: list[dict[str, Any]], *, n: int, seed: int) -> None:
    """Print the tables of the networks that are done.

    Args:
        rows: of each network what is known.
        n: images judged on.
        seed: of the bootstrap.
    """
    print(f"{'MACs':>8} {'predicted':>9} {'supernet':>9} {'alone':>8} {'gap':>7} {'s':>7}  network")
    for row in rows:
        print(
            f"{row['macs'] / 1e6:7.2f}M {row['predicted']:9.2%} {row['supernet']:9.2%} "
            f"{row['alone']:8.2%} {100 * (row['supernet'] - row['alone']):+7.2f} "
            f"{row['seconds']:7.0f}  {row['text']}"
        )
    if len(rows) < 3:
        print("correlations need 3 networks and more")
        return
    columns = {k: np.array([row[k] for row in rows]) for k in {k for pair in _PAIRS for k in pair}}
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(rows), size=len(rows)) for _ in range(_DRAWS)]
    print(f"95% intervals: {_DRAWS} bootstrap draws of {len(rows)} networks")
    print(f"{'':21} {'Spearman':>9} {'':16} {'Kendall':>9}")
    for first, second in _PAIRS:
        x, y = columns[first], columns[second]
        spearman, kendall = correlations(x, y)
        again = np.array([correlations(x[d], y[d]) for d in draws])
        low, high = np.quantile(again, (0.025, 0.975), axis=0)
        print(
            f"{first + ' - ' + second:21} {spearman:+9.2f} [{low[0]:+.2f}, {high[0]:+.2f}] "
            f"{kendall:+9.2f} [{low[1]:+.2f}, {high[1]:+.2f}]"
        )
    gaps = 100 * (columns["supernet"] - columns["alone"])
    low, high = np.quantile([gaps[d].mean() for d in draws], (0.025, 0.975))
    error = 100 * np.sqrt(columns["alone"] * (1 - columns["alone"]) / n).max()
    print(
        f"gap supernet - alone: {gaps.mean():+.2f} points [{low:+.2f}, {high:+.2f}]; "
        f"standard error of one accuracy: {error:.2f} points at most"
    )


def some(images: Images, *, count: int | None, seed: int) -> Images:
    """So many of some images, at random; None: all."""
    if not count or count >= len(images):
        return images
    order = np.random.default_rng((seed, 11)).permutation(len(images))
    return images.take(torch.from_numpy(order[:count]))


def part_of(text: str) -> tuple[int, int]:
    """``K/N``: the K-th of N parts, counted from 1.

    Raises:
        ValueError: it is not one.
    """
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def bench_of(options: argparse.Namespace) -> Bench:
    """Everything that is read from files."""
    trained = load_supernet(find_supernet(options.supernet))
    images = load_images(options.data, stored=trained.preprocessing.stored)
    parts, calibration = divide_as_trained(trained, images)
    recipe = dataclasses.replace(recipe_of(trained), epochs=options.epochs)
    train, judged, name = parts.train, parts.validation, "validation"
    train = some(train, count=options.images, seed=options.seed)
    if options.test:
        judged, name = load_images(options.test, stored=trained.preprocessing.stored), "test"
    return Bench(
        trained=trained,
        recipe=recipe,
        images=train,
        judged=judged,
        split=name,
        calibration=calibration,
        seed=options.seed,
        folder=options.out,
    )


def main() -> None:
    """Train what is not trained yet, judge, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--supernet", default="mbv3-cifar10", help="name or folder")
    parser.add_argument("--data", required=True, help="the images it was trained on")
    parser.add_argument("--test", help="judge on these instead of the validation images")
    parser.add_argument("--out", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--archs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, help="train on so many only: to try the tool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=part_of, default=(1, 1), help="K/N: train these alone")
    options = parser.parse_args()
    bench = bench_of(options)
    trained, space = bench.trained, bench.trained.supernet.space
    predictor = load_predictor(trained)
    archs = stratified(space, options.archs, seed=options.seed, without=predictor.rows)
    rows = space.encode(archs)
    texts = [_VERSION, repr(space), str(bench.recipe), str(options.seed)]
    texts += [str(torch.get_num_threads())]
    data = [bench.images.pixels, bench.images.labels]
    state = digest(texts, [*trained.supernet.parameters(), *data, bench.judged.pixels])[:12]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    known = lines_of(path)
    told: list[dict[str, Any]] = []
    # In an order that shows networks of all sizes early.
    names = [f"{arch.id}-{state}" for arch in archs]
    part, parts = options.part
    order = np.random.default_rng(options.seed).permutation(len(archs)).tolist()
    for i in order[part - 1 :: parts]:
        if names[i] not in known:
            known[names[i]] = bench.measured(archs[i], name=names[i])
            with path.open("a") as stream:
                stream.write(json.dumps({"name": names[i], **known[names[i]]}) + "\n")
    for arch, name, macs, value in zip(
        archs, names, macs_table(space)(rows), predictor.predict(rows), strict=True
    ):
        if name in known:
            told.append(known[name] | {"macs": macs, "predicted": value, "text": str(arch)})
    print(
        f"\n{Path(options.supernet).name}, trained for "
        f"{trained.training.get('recipe', {}).get('epochs', '?')} epochs; alone: "
        f"{bench.recipe.epochs} epochs on {len(bench.images)} training images; judged on "
        f"{len(bench.judged)} {bench.split} images; predictor fitted to {predictor.source}"
    )
    tell(told, n=len(bench.judged), seed=options.seed)


if __name__ == "__main__":
    main()
