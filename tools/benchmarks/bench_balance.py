"""Uneven classes: does it help to draw rare ones more often, or to weigh their loss?

    edgenas import lite0 --out lite0
    python -m tools.benchmarks.bench_balance --supernet lite0 --data photos/waste/train.tar \
        --test photos/waste/test.tar --steps 400 --seeds 2 --out waste.json

Fine-tunes one network, the smallest of the space, with every way to balance classes, from the same
weights, on the same images and for the same number of steps. The way is chosen by the validation
images, a fifth of each class; the test images are told beside them. Accuracy is over all images;
the mean over classes counts each class alike. What was done already stands in the file, and is not
done again.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.basics.files import read_json, write_json
from edgenas.images.data import Images, split
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate, predict_logits
from edgenas.model.network import Network
from edgenas.model.saved import TrainedSupernet, load_supernet
from edgenas.training.augment import augment_images
from edgenas.training.course import choose_calibration, choose_indices
from edgenas.training.recipe import Recipe, learning_rate
from edgenas.training.state import State

SCHEMA = "edgenas.bench-balance/1"
RECIPE = Recipe(
    batch=64,
    learning_rate=0.02,
    head_rate=5.0,
    augmentation="crop",
    smallest_crop=0.7,
    validation=0.2,
    calibration=500,
)
# How often images are drawn, and how much their loss counts: powers of the images of their class.
WAYS = {
    "as they come": (0.0, 0.0),
    "drawn by the square root": (0.5, 0.0),
    "drawn equally": (1.0, 0.0),
    "loss by the square root": (0.0, 0.5),
}


def fine_tune(
    trained: TrainedSupernet, images: Images, *, way: tuple[float, float], steps: int, seed: int
) -> Network:
    """The smallest network after so many steps, calibrated."""
    drawn, weighed = way
    recipe = replace(RECIPE, balance=drawn)
    torch.manual_seed(seed)
    network = trained.supernet.extract(trained.supernet.space.smallest())
    channels = network.get_parameter("head.classifier.weight").shape[1]
    network.head.classifier = nn.Linear(channels, len(images.classes))
    network = network.train().to(memory_format=torch.channels_last)
    sizes = images.labels.bincount(minlength=len(images.classes)).float()
    weights = sizes**-weighed
    weights *= len(images) / (weights * sizes).sum()  # an image weighs 1 on average
    state, resolution = State.of(network, recipe), network.arch.resolution
    for step in range(steps):
        rows = choose_indices(images, recipe, recipe.batch, seed, step)
        rng = np.random.default_rng((seed, 1, step))
        size = trained.preprocessing.size(resolution)
        pixels = augment_images(images.pixels[rows], recipe=recipe, rng=rng, size=size)
        logits = network(trained.preprocessing.prepare(pixels, resolution=resolution))
        labels = images.labels[rows]
        losses = F.cross_entropy(
            logits, labels, label_smoothing=recipe.label_smoothing, reduction="none"
        )
        (losses * weights[labels]).mean().backward()
        state.step(learning_rate(step, steps, steps // 10, recipe))
    network.eval()
    pixels = choose_calibration(images, recipe, seed=seed)
    calibrate(network, pixels, preprocessing=trained.preprocessing)
    return network


def rate(trained: TrainedSupernet, network: Network, images: Images) -> dict[str, float]:
    """Accuracy over all images, and the mean over the classes."""
    found = predict_logits(network, images.pixels, preprocessing=trained.preprocessing).argmax(1)
    right = (found == images.labels).double()
    return {"accuracy": float(right.mean()), "per_class": float(_class_means(right, images).mean())}


def _class_means(right: Tensor, images: Images) -> Tensor:
    classes = len(images.classes)
    counts = images.labels.bincount(minlength=classes)
    return images.labels.bincount(weights=right, minlength=classes) / counts


def _relabel(images: Images, classes: tuple[str, ...]) -> Images:
    """Images with the labels of other classes; a name may have a prefix that the other lacks."""
    names = [
        name if name in classes else next(c for c in classes if name.endswith(c))
        for name in images.classes
    ]
    labels = torch.tensor([classes.index(name) for name in names])[images.labels]
    return replace(images, labels=labels, classes=classes)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_supernet(given.supernet)
    steps = trained.preprocessing
    images = load_images(given.data, stored=96, framing=steps.framing)
    test = _relabel(load_images(given.test, stored=96, framing=steps.framing), images.classes)
    trained = replace(trained, preprocessing=replace(steps, stored=96))
    rows: list[dict[str, Any]] = []
    if given.out.exists():
        rows = list(read_json(given.out, schema=SCHEMA)["rows"])
    for seed in range(given.seeds):
        parts = split(images, validation=RECIPE.validation, seed=seed)
        for name, way in WAYS.items():
            if any(
                (row["way"], row["seed"], row["steps"]) == (name, seed, given.steps) for row in rows
            ):
                continue
            begun = time.process_time()
            network = fine_tune(trained, parts.train, way=way, steps=given.steps, seed=seed)
            rows.append(
                {
                    "way": name,
                    "seed": seed,
                    "steps": given.steps,
                    "validation": rate(trained, network, parts.validation),
                    "test": rate(trained, network, test),
                    "processor_seconds": time.process_time() - begun,
                }
            )
            write_json(given.out, {"schema": SCHEMA, "rows": rows})
            print(rows[-1], flush=True)
    for name in WAYS:
        own = [row for row in rows if row["way"] == name and row["steps"] == given.steps]
        cells = [
            f"{100 * np.mean([row[part][kind] for row in own]):5.1f}"
            for part in ("validation", "test")
            for kind in ("accuracy", "per_class")
        ]
        print(f"{name:26}", *cells, f"({len(own)} seeds)")


if __name__ == "__main__":
    main()
