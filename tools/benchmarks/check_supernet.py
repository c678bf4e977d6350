"""How good a supernet and its accuracy predictor are, on test images that nothing was learnt from.

    python -m tools.benchmarks.check_supernet mbv3-cifar10 --data TRAIN --test TEST

prints the test accuracy of the largest and the smallest network and, on archs stratified by MACs
that the predictor was not fitted to, its rank correlation and its mean error once the offset
between validation and test images, which all archs share, is removed.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from torch import Tensor

from edgenas.accuracy.measured import measure_accuracies
from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.files import cache_folder, sha256
from edgenas.basics.held_out import compare_with_truth
from edgenas.images.data import Images
from edgenas.images.loading import load_images
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet, find_supernet, load_supernet
from edgenas.space.cost import Vector, macs_table
from edgenas.space.genes import Codes
from edgenas.training.division import split_as_trained


def stratified(trained: TrainedSupernet, count: int, *, seed: int, without: Codes) -> Codes:
    """Rows spread evenly over the range of MACs, none of them in ``without``."""
    space = trained.supernet.space
    rng = np.random.default_rng((seed, 9))
    pool = np.unique(space.sample(40_000, rng=rng, by="gene"), axis=0)
    known = {row.tobytes() for row in without}
    pool = pool[[row.tobytes() not in known for row in pool]]
    macs = macs_table(space)(pool)
    edges = np.linspace(macs.min(), macs.max(), count // 5 + 1)
    chosen: list[int] = []
    for low, high in itertools.pairwise(edges):
        members = np.flatnonzero((macs >= low) & (macs <= high))
        chosen += rng.permutation(members)[:5].tolist()
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    chosen += rng.permutation(rest)[: count - len(chosen)].tolist()
    return pool[chosen]


def measure_and_keep(
    trained: TrainedSupernet,
    rows: Codes,
    *,
    name: str,
    images: Images,
    calibration: Tensor,
    split: str,
) -> Vector:
    """Accuracies of rows, shape (n,), kept in the user's cache; their number goes to stderr.

    Args:
        trained: the supernet.
        rows: canonical rows of its space.
        name: of the file in the cache, after the weights and the images.
        images: to be classified.
        calibration: stored training images for the batch-norm statistics.
        split: the name of the split that ``images`` are.
    """
    journal = cache_folder() / f"{name}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    measured = measure_accuracies(
        trained,
        rows,
        images=images,
        calibration=calibration,
        split=split,
        journal=journal,
        progress=lambda step, done, total, words: print(
            f"\r{done}/{total}", end="", file=sys.stderr
        ),
    )
    print(file=sys.stderr)
    return measured


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("supernet", help="name or folder")
    parser.add_argument("--data", required=True, help="the images it was trained on")
    parser.add_argument("--test", required=True, help="the test images")
    parser.add_argument("--archs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    trained = load_supernet(find_supernet(arguments.supernet))
    assert trained.folder is not None
    space, stored = trained.supernet.space, trained.preprocessing.stored
    calibration, _ = split_as_trained(trained, load_images(arguments.data, stored=stored))
    test = load_images(arguments.test, stored=stored)
    predictor = load_accuracy(trained.folder / ACCURACY_FILE)
    assert predictor.rows is not None
    picked = stratified(trained, arguments.archs, seed=arguments.seed, without=predictor.rows)
    rows = np.concatenate([space.encode([space.largest(), space.smallest()]), picked])
    name = f"check-{sha256(trained.weights_path)[:16]}-{test.digest[:8]}"
    measured = measure_and_keep(
        trained, rows, name=name, images=test, calibration=calibration, split="test"
    )
    print(f"{Path(arguments.supernet).name}, {len(test)} test images, batch norms calibrated with")
    print(f"{len(calibration)} training images")
    print(f"largest network   {measured[0]:.2%}  {space.largest()}")
    print(f"smallest network  {measured[1]:.2%}  {space.smallest()}")
    true, predicted = measured[2:], predictor.predict(picked)
    offset, error, rank = agreement(predicted, true)
    rng = np.random.default_rng(arguments.seed)
    draws = [rng.integers(len(true), size=len(true)) for _ in range(2000)]
    again = np.array([agreement(predicted[d], true[d]) for d in draws])
    low, high = np.quantile(again, (0.025, 0.975), axis=0)
    print(f"accuracy predictor on {len(true)} archs stratified by MACs, none of them fitted to")
    print(f"(95% bootstrap intervals of 2000 draws over archs; fitted to {predictor.source}):")
    print(f"offset test - predicted  {offset:+.2%}  [{low[0]:+.2%}, {high[0]:+.2%}]")
    print(f"mean error without it    {error:.2%}  [{low[1]:.2%}, {high[1]:.2%}]")
    print(f"Spearman                 {rank:.3f}  [{low[2]:.3f}, {high[2]:.3f}]")
    return 0


def agreement(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Common offset, mean absolute error without it, Spearman's rank correlation."""
    offset = float(np.mean(true - predicted))
    error = float(np.abs(true - predicted - offset).mean())
    return offset, error, compare_with_truth(predicted, true, method="").spearman


if __name__ == "__main__":
    sys.exit(main())
