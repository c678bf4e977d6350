"""A supernet of NAS-Bench-Macro against the accuracies of its networks, each trained alone.

    cd tools/benchmarks
    edgenas train --space macro_space.toml --recipe macro_recipe.toml --data TRAIN --out RUN
    cd ../..
    python -m tools.benchmarks.bench_macro FOLDER --supernet RUN --data TRAIN [--networks 500]

FOLDER holds ``macro.json.xz`` (see ``lookup.py``), TRAIN the training images of CIFAR-10. The space
has the choices of the benchmark, fewer channels and smaller photos. It prints how the supernet
orders random networks, each calibrated and measured on the validation images of its training,
beside the order of MACs and of parameters, with 95% intervals over networks. Then it lets a
predictor that was fitted to these choose among all 6,561 networks, measures the best of them, and
looks up the one that measures best. A run that was killed goes on with the same command.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.files import sha256
from edgenas.images.loading import load_images
from edgenas.model.saved import find_supernet, load_supernet
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.training.division import split_as_trained
from tools.benchmarks.check_supernet import measure_and_keep
from tools.benchmarks.lookup import load_macro

_DRAWS = 1000  # of the bootstrap


def kendall(scores: Vector, accuracy: Vector, *, seed: int = 0) -> tuple[float, float, float]:
    """Kendall's tau-b, and the ends of its 95% bootstrap interval over networks."""
    from scipy import stats

    def tau(draw: NDArray[np.intp]) -> float:
        return float(stats.kendalltau(scores[draw], accuracy[draw]).statistic)  # pyright: ignore[reportAttributeAccessIssue]

    rng, size = np.random.default_rng(seed), len(scores)
    again = [tau(rng.integers(size, size=size)) for _ in range(_DRAWS)]
    low, high = np.quantile(again, (0.025, 0.975))
    return tau(np.arange(size)), float(low), float(high)


def choose_best(
    predictor: AccuracyPredictor, rows: Codes, measured: dict[bytes, float], *, count: int
) -> Codes:
    """The networks to measure: those that were not measured yet and are predicted best."""
    order = np.argsort(-predictor.predict(rows), kind="stable")
    new = [i for i in order.tolist() if rows[i].tobytes() not in measured]
    return rows[new[:count]]


def main(arguments: list[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--supernet", required=True, help="name or folder")
    parser.add_argument("--data", required=True, help="the images it was trained on")
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--finalists", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    trained, known = load_supernet(find_supernet(options.supernet)), load_macro(options.folder)
    assert trained.supernet.space.genes == known.space.genes, "the choices are the benchmark's"
    places = np.random.default_rng(options.seed).choice(
        len(known.rows), options.networks, replace=False
    )
    rows, truth = known.rows[places], known.accuracy[places]
    images = load_images(options.data, stored=trained.preprocessing.stored)
    calibration, validation = split_as_trained(trained, images)
    measure = partial(
        measure_and_keep,
        trained,
        name=f"macro-{sha256(trained.weights_path)[:16]}-{images.digest[:8]}",
        images=validation,
        calibration=calibration,
        split="validation",
    )
    found = measure(rows)
    print(
        f"{trained.training.get('seconds', 0) / 3600:.1f} hours of training; {len(rows)} networks"
    )
    print("\n| ordered by | Kendall | 95% interval |\n|---|---|---|")
    counts = {name: values[places] for name, values in known.counts.items()}
    for name, scores in {"the supernet": found, **counts}.items():
        tau, low, high = kendall(scores, truth)
        print(f"| {name} | {tau:.3f} | {low:.3f} to {high:.3f} |")
    predictor = AccuracyPredictor.fit(trained.supernet.space, rows, accuracy=found)
    measured = dict(zip([row.tobytes() for row in rows], found.tolist(), strict=True))
    finalists = choose_best(predictor, known.rows, measured, count=options.finalists)
    values = measure(finalists)
    every, scores = np.concatenate([rows, finalists]), np.concatenate([found, values])
    best = every[[scores.argmax()]]
    digits = "".join(str(code - 1) for code in best[0])
    print(
        f"\npicked {digits}: {known.score(best)[0]:.2f}%; best of all {known.accuracy.max():.2f}%"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
