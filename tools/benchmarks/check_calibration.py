"""How well networks do when they are calibrated with the synthetic images of their supernet.

    python -m tools.benchmarks.check_calibration mbv3-cifar10 --data TRAIN --test TEST

calibrates random networks twice, with the real training images that training itself uses and with
the synthetic ones, and prints the accuracy of both on all test images. Exit code 1: they differ by
more than 0.5 points on average, or a network is worse by more than 1.5.
"""

import argparse
import sys

import numpy as np
import torch

from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.images.loading import load_images
from edgenas.model.saved import find_supernet, load_supernet
from edgenas.training.division import split_as_trained

MEAN, WORST = 0.005, 0.015


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("supernet", help="name or folder")
    parser.add_argument("--data", required=True, help="the images it was trained on")
    parser.add_argument("--test", required=True, help="the test images")
    parser.add_argument("--archs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    trained = load_supernet(find_supernet(arguments.supernet))
    space, stored = trained.supernet.space, trained.preprocessing.stored
    real, _ = split_as_trained(trained, load_images(arguments.data, stored=stored))
    synthetic = trained.calibration_images()
    test = load_images(arguments.test, stored=stored)
    rng = np.random.default_rng((arguments.seed, 13))
    archs = space.decode(space.sample(arguments.archs, rng=rng, by="gene"))
    trained.supernet.to(memory_format=torch.channels_last)
    print(f"accuracy on {len(test)} images of the test split ({test.source}), calibrated with")
    print(f"{len(real)} real training images, {len(synthetic)} synthetic images; difference")
    found: list[tuple[float, float]] = []
    for arch in archs:
        real_value, synthetic_value = (
            next(
                evaluate_archs(
                    trained.supernet,
                    [arch],
                    images=test,
                    calibration=pixels,
                    preprocessing=trained.preprocessing,
                    split="test",
                )
            ).value
            for pixels in (real, synthetic)
        )
        found.append((real_value, synthetic_value))
        change = 100 * (synthetic_value - real_value)
        print(f"{real_value:7.2%} {synthetic_value:7.2%} {change:+6.2f}  {arch}", flush=True)
    changes = np.array([b - a for a, b in found])
    error = changes.std(ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else float("nan")
    print(f"mean difference of {len(changes)} random networks: ", end="")
    print(f"{100 * changes.mean():+.2f} points (standard error {100 * error:.2f})")
    print(f"worst network: {100 * changes.min():+.2f} points")
    return int(abs(changes.mean()) > MEAN or changes.min() < -WORST)


if __name__ == "__main__":
    sys.exit(main())
