"""Zero-cost proxies against the real accuracies of networks that others trained one by one.

    nice -n 10 python -m tools.benchmarks.bench_proxies FOLDER --data TRAIN [--networks 100]

FOLDER is as for ``bench_lookup.py``, TRAIN the training images of CIFAR-10. For a sample of
NAS-Bench-201's cells and of NAS-Bench-Macro's networks it prints the rank correlations of each
proxy with test accuracies after full trainings, beside those of the mere counts, and the processor
seconds of a network in one thread. Every network is built as it ships, with fresh weights of one
seed. The quick proxies come first, so that what an interrupted run printed is whole.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.strategies.proxies.agreement import count_tables, measure_agreement
from edgenas.strategies.proxies.batch import ProxyBatch, draw_batch
from edgenas.strategies.proxies.score import PROXIES, ProxyScore
from tools.benchmarks.lookup import load_cells, load_macro

Sample = tuple[Space, Codes, Vector]
_LAST = ("grasp", "kernel")  # they take longest
_MEAN, _DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def draw_networks(folder: Path, *, count: int, seed: int) -> dict[str, Sample]:
    """Networks of both benchmarks with their accuracies, each in the space that builds it."""
    samples: dict[str, Sample] = {}
    for name, known in (
        ("nas-bench-201", load_cells(folder)),
        ("nas-bench-macro", load_macro(folder)),
    ):
        space = load_space(name)
        drawn = np.random.default_rng(seed).choice(len(known.rows), count, replace=False)
        samples[name] = space, known.rows[drawn], known.accuracy[drawn]
    return samples


def scorers(
    space: Space, batch: ProxyBatch, *, proxies: list[str], few: int
) -> dict[str, Callable[[Codes], Vector]]:
    """The counts, then the proxies; the kernel sees the first ``few`` images alone."""
    small = replace(batch, pixels=batch.pixels[:few], labels=batch.labels[:few])
    made: dict[str, Callable[[Codes], Vector]] = dict(count_tables(space))
    for name in sorted(proxies, key=_LAST.__contains__):
        made[name] = ProxyScore(space, proxy=name, batch=small if name == "kernel" else batch)
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, help="training images of CIFAR-10")
    parser.add_argument("--networks", type=int, default=100, help="of each benchmark")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--kernel-images", type=int, default=8)
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=[*PROXIES])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = Preprocessing(stored=32, mean=_MEAN, std=_DEVIATION)
    images = load_images(options.data, stored=steps.stored)
    batch = draw_batch(images, count=options.images, preprocessing=steps, seed=options.seed)
    samples = draw_networks(options.folder, count=options.networks, seed=options.seed)
    print(
        f"{options.networks} networks of each, {len(batch.pixels)} training images of CIFAR-10 "
        f"(kernel: {options.kernel_images}), "
        f"torch {torch.__version__}\n\n"
        "| space | ranked by | Spearman | 95% | Kendall | processor ms a network |\n"
        "|---|---|---|---|---|---|"
    )
    of = "test accuracy of full trainings"
    ready = {
        name: scorers(space, batch, proxies=options.proxies, few=options.kernel_images)
        for name, (space, _, _) in samples.items()
    }
    for proxy in next(iter(ready.values())):
        for name, (_, rows, accuracy) in samples.items():
            started = time.process_time()
            scores = ready[name][proxy](rows)
            spent = 1e3 * (time.process_time() - started) / len(rows)
            found = measure_agreement(scores, accuracy, of=of)
            print(
                f"| {name} | {proxy} | {found.spearman:.2f} | {found.low:.2f} to {found.high:.2f} "
                f"| {found.kendall:.2f} | {spent:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
