"""A folder of photos in an hour: edgenas against a MobileNetV3-small of torchvision.

    python -m tools.benchmarks.bench_photos --data photos/train --test photos/test --minutes 60 \
        --out DIR

Two commands of the README, ``edgenas train`` for most of the time and ``edgenas specialize``, which
measures this machine first; then torchvision's ``mobilenet_v3_small`` from random weights for as
many seconds as the training command took, on the same training images and random views, at the
largest resolution of the space, with as many threads. Its learning rate is a cosine over those
seconds. Neither sees the test images before the end.

Each part writes a JSON file into DIR when it is over, and is not done again; a training that was
cut off goes on.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from edgenas.basics.files import read_json, write_json
from edgenas.images.data import Images, split
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing, choose_stored_size
from edgenas.space.presets import load_space
from edgenas.training.augment import augment_images
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe, default_recipe
from edgenas.training.state import State

SCHEMA = "edgenas.bench-photos/1"
SHARE = 3 / 4  # of the minutes for the training; the rest is for images, the profile and the search
WARMUP = 0.03  # of the steps of the reference


def command(*words: str | Path) -> tuple[dict[str, Any], float]:
    """The JSON answer of an edgenas command, and the seconds that it took."""
    begun = time.monotonic()
    line = [sys.executable, "-m", "edgenas", *map(str, words), "--json"]
    print("$ edgenas", *words, file=sys.stderr)
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout), time.monotonic() - begun


def trained(given: argparse.Namespace) -> dict[str, Any]:
    """``edgenas train``; test accuracies of the largest and the smallest network."""
    folder = given.out / "supernet"
    resume = ["--resume"] if folder.exists() else []
    words = ["--space", given.space, "--data", given.data, "--test", given.test, "--out", folder]
    if given.init:
        words += ["--init", given.init]
    budget = f"{60 * SHARE * given.minutes:.0f}s"
    found, seconds = command("train", *words, "--time", budget, "--threads", given.threads, *resume)
    return {"seconds": seconds, "resumed": bool(resume), "epochs": found["epochs"]} | {
        row["network"]: row["accuracy"] for row in found["test"]
    }


def specialised(given: argparse.Namespace) -> dict[str, Any]:
    """``edgenas specialize``, the profile of this machine included."""
    words = ["--device", "host", "--latency", given.latency, "--supernet", given.out / "supernet"]
    words += ["--data", given.data, "--test", given.test, "--out", given.out / "bundle"]
    found, seconds = command("specialize", *words)
    report = found["report"]
    return {
        "seconds": seconds,
        "accuracy": report["accuracy"]["value"],
        "latency": report["measured"]["median"],
    }


def reference(given: argparse.Namespace, *, seconds: float) -> dict[str, Any]:
    """The network of torchvision, trained for a time."""
    torch.set_num_threads(int(given.threads) or torch.get_num_threads())
    keep_memory()
    stored = choose_stored_size(load_space(given.space))
    images = load_images(given.data, stored=stored)
    test = load_images(given.test, stored=stored)
    recipe = default_recipe(load_space(given.space), images=len(images))
    parts = split(images, validation=recipe.validation, seed=0)
    mean, std = parts.train.statistics()
    usual = Preprocessing(stored=stored, mean=mean, std=std)
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(num_classes=len(images.classes))
    network.to(memory_format=torch.channels_last)
    steps = fit(network, parts.train, recipe=recipe, preprocessing=usual, seconds=seconds)
    return {
        "seconds": seconds,
        "epochs": steps * recipe.batch / len(parts.train),
        "validation": accuracy(network, parts.validation, preprocessing=usual),
        "test": accuracy(network, test, preprocessing=usual),
    }


def fit(
    network: nn.Module,
    images: Images,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seconds: float,
) -> int:
    """Train with the optimiser, views and label smoothing of a recipe; the steps made."""
    state = State.of(network, recipe)
    rng, order, steps = np.random.default_rng(0), np.empty(0, int), 0
    begun = time.monotonic()
    network.train()
    while (passed := (time.monotonic() - begun) / seconds) < 1:
        if len(order) < recipe.batch:
            order = rng.permutation(len(images))
        chosen, order = torch.from_numpy(order[: recipe.batch]), order[recipe.batch :]
        rate = recipe.learning_rate * min(1, passed / WARMUP)
        pixels = augment_images(images.pixels[chosen], recipe=recipe, rng=rng)
        logits = network(preprocessing.prepare(pixels, resolution=preprocessing.kept[0]))
        labels, smooth = images.labels[chosen], recipe.label_smoothing
        F.cross_entropy(logits, labels, label_smoothing=smooth).backward()
        state.step(rate * 0.5 * (1 + math.cos(math.pi * passed)))
        steps += 1
    return steps


def accuracy(network: nn.Module, images: Images, *, preprocessing: Preprocessing) -> float:
    """Of all images, in evaluation mode."""

    def right(pixels: Tensor, labels: Tensor) -> int:
        logits = network(preprocessing.prepare(pixels, resolution=preprocessing.kept[0]))
        return int((logits.argmax(1) == labels).sum())

    network.eval()
    batches = zip(images.pixels.split(250), images.labels.split(250), strict=True)
    with torch.inference_mode():
        return sum(right(pixels, labels) for pixels, labels in batches) / len(images)


def part(path: Path, work: Any) -> dict[str, Any]:
    """What a part found, now or before."""
    if path.exists():
        return read_json(path, schema=SCHEMA)
    found = work()
    write_json(path, {"schema": SCHEMA, **found})
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="for both commands together")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="mbv3-photo")
    parser.add_argument("--init", help="supernet to start from; default: random weights")
    parser.add_argument("--latency", default="0.5ms", help="budget of the specialised network")
    parser.add_argument("--threads", default="0", help="of both trainings; 0: one per core")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    ours = part(given.out / "train.json", lambda: trained(given))
    bundle = part(given.out / "specialise.json", lambda: specialised(given))
    # How long a training took that was cut off is not known: what it was given, then.
    seconds = 60 * SHARE * given.minutes if ours["resumed"] else ours["seconds"]
    theirs = part(given.out / "reference.json", lambda: reference(given, seconds=seconds))
    minutes = (ours["seconds"] + bundle["seconds"]) / 60
    start = f"from {given.init}" if given.init else "from random weights"
    print(
        f"edgenas train        {ours['seconds'] / 60:5.1f} min, {ours['epochs']} epochs {start}"
        + (" (resumed: the minutes are those of its last part)" if ours["resumed"] else "")
    )
    print(f"edgenas specialize   {bundle['seconds'] / 60:5.1f} min; together {minutes:.1f} min")
    print(f"mobilenet_v3_small   {theirs['seconds'] / 60:5.1f} min, {theirs['epochs']:.0f} epochs")
    print("test accuracy")
    print(f"  largest network      {ours['largest']:.2%}")
    print(f"  smallest network     {ours['smallest']:.2%}")
    print(f"  mobilenet_v3_small   {theirs['test']:.2%}")
    took = 1e3 * bundle["latency"]
    print(f"  specialised          {bundle['accuracy']:.2%}, {took:.3f} ms measured")
    print(f"largest to mobilenet_v3_small: {ours['largest'] / theirs['test']:.3f}")


if __name__ == "__main__":
    main()
