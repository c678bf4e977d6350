"""How well zero-cost proxies rank networks, held against the measured accuracies of a supernet.

    python -m tools.benchmarks.check_proxies mbv3-cifar10 --data TRAIN

prints Spearman's and Kendall's correlation of each proxy, and of the mere numbers of parameters and
MACs, with the accuracies that the supernet's predictor was fitted to: on real images and on the
synthetic ones, and for several draws of weights and images.
"""

import argparse
import sys
import time

import numpy as np

from edgenas.accuracy.measured import load_predictor
from edgenas.images.loading import load_images
from edgenas.model.saved import find_supernet, load_supernet
from edgenas.strategies.proxies.agreement import (
    count_tables,
    draw_measured_networks,
    measure_agreement,
)
from edgenas.strategies.proxies.batch import ProxyBatch, draw_batch, draw_synthetic_batch
from edgenas.strategies.proxies.score import PROXIES, ProxyScore


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("supernet", help="name or folder")
    parser.add_argument("--data", help="the images it was trained on; without, synthetic ones only")
    parser.add_argument("--archs", type=int, default=300)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3, help="draws of weights and images")
    arguments = parser.parse_args()

    trained = load_supernet(find_supernet(arguments.supernet))
    space = trained.supernet.space
    rows, accuracies, of = draw_measured_networks(load_predictor(trained), count=arguments.archs)
    images = arguments.data and load_images(arguments.data, stored=trained.preprocessing.stored)

    def batches(seed: int) -> dict[str, ProxyBatch]:
        found = {"synthetic": draw_synthetic_batch(trained, count=arguments.images, seed=seed)}
        if images:
            found["real"] = draw_batch(
                images, count=arguments.images, preprocessing=trained.preprocessing, seed=seed
            )
        return found

    print(f"{len(rows)} networks of {space.name} against {of}")
    print(f"{arguments.images} images a batch, {arguments.seeds} draws of weights and images")
    print("                       Spearman  95% (first)       Kendall   range  ms/network")
    for name, table in count_tables(space).items():
        found = measure_agreement(table(rows), accuracies, of=of)
        low, high = f"{found.low:+.2f}", f"{found.high:+.2f}"
        print(f"{name:22} {found.spearman:+8.3f}  [{low}, {high}]    {found.kendall:+7.3f}")
    for name in PROXIES:
        for kind in batches(0):
            agreements, started = [], time.perf_counter()
            for seed in range(arguments.seeds):
                score = ProxyScore(space, proxy=name, batch=batches(seed)[kind], seed=seed)
                agreements.append(measure_agreement(score(rows), accuracies, of=of))
                print(f"\r{name} {kind} {seed + 1}", end="", file=sys.stderr)
            spent = 1e3 * (time.perf_counter() - started) / len(rows) / arguments.seeds
            ranks = [found.spearman for found in agreements]
            kendall = np.mean([found.kendall for found in agreements])
            low, high = f"{agreements[0].low:+.2f}", f"{agreements[0].high:+.2f}"
            print(
                f"\r{name:8} {kind:13} {np.mean(ranks):+8.3f}  [{low}, {high}]    {kendall:+7.3f}"
                f"  {np.ptp(ranks):7.3f}  {spent:10.0f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
