"""The last step of training: evaluate sampled networks and fit the accuracy predictor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgenas.data import Images
from edgenas.evaluate import evaluate
from edgenas.files import wait_for_machine
from edgenas.predict import AccuracyPredictor
from edgenas.space import Codes, Space
from edgenas.trained import TrainedSupernet

Tell = Callable[[int, int, str], None]


def sample_archs(space: Space, count: int, *, seed: int) -> Codes:
    """Different rows to evaluate, shape (count, genes) or all that there are.

    The largest and the smallest network, then half by gene, half by arch: a search ends among
    deep networks, which a draw by gene alone seldom shows.
    """
    rng = np.random.default_rng((seed, 4))
    corners = space.encode([space.largest(), space.smallest()])
    rows = np.concatenate(
        [
            corners,
            space.sample(3 * count, rng=rng, by="gene"),
            space.sample(3 * count, rng=rng, by="arch"),
        ]
    )
    middle = np.arange(2, 2 + 3 * count)
    order = np.concatenate([[0, 1], np.stack([middle, middle + 3 * count], 1).ravel()])
    rows = rows[order]
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)][:count]


def measure_accuracies(
    trained: TrainedSupernet,
    rows: Codes,
    *,
    images: Images,
    calibration: Tensor,
    split: str,
    journal: Path,
    tell: Tell,
) -> np.ndarray:
    """Top-1 accuracies of rows, shape (n,), each network calibrated first.

    Every result goes to the journal at once; what is already there is not evaluated again.

    Args:
        trained: the supernet.
        rows: canonical rows of its space, shape (n, genes).
        images: to be classified.
        calibration: stored training images for the batch-norm statistics.
        split: the name of the split that ``images`` are.
        journal: a JSON-lines file of (arch id, accuracy); made if absent.
        tell: called with (networks done, networks in all, words).
    """
    archs = trained.supernet.space.decode(rows)
    known = _read(journal)
    for done, arch in enumerate(archs):
        tell(done, len(archs), "")
        if arch.id in known:
            continue
        wait_for_machine()
        (found,) = evaluate(
            trained.supernet,
            [arch],
            images=images,
            calibration=calibration,
            preprocessing=trained.preprocessing,
            split=split,
        )
        known[arch.id] = found.value
        line = {"arch": arch.id, "accuracy": found.value, "n": found.n, "split": split}
        with journal.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    tell(len(archs), len(archs), "")
    return np.array([known[arch.id] for arch in archs])


def fit_accuracy(
    trained: TrainedSupernet,
    *,
    validation: Images,
    calibration: Tensor,
    count: int,
    seed: int,
    name: str,
    journal: Path,
    tell: Tell,
) -> AccuracyPredictor:
    """Evaluate sampled networks on validation images and fit a predictor to them.

    Args:
        trained: the supernet.
        validation: images that nothing was learnt from.
        calibration: stored training images for the batch-norm statistics.
        count: networks to evaluate.
        seed: of the sample.
        name: of the data set, for people.
        journal: see ``measure_accuracies``; belongs to one state of the weights.
        tell: called with (networks done, networks in all, words).
    """
    space = trained.supernet.space
    rows = sample_archs(space, count, seed=seed)
    accuracies = measure_accuracies(
        trained,
        rows,
        images=validation,
        calibration=calibration,
        split="validation",
        journal=journal,
        tell=tell,
    )
    source = f"{name} validation, n={len(validation)}"
    return AccuracyPredictor.fit(space, rows, accuracy=accuracies, seed=seed, source=source)


def _read(journal: Path) -> dict[str, float]:
    known: dict[str, float] = {}
    if journal.exists():
        for text in journal.read_text().splitlines():
            try:
                line: dict[str, Any] = json.loads(text)
            except json.JSONDecodeError:
                break  # the last line of a run that was cut off
            known[line["arch"]] = float(line["accuracy"])
    return known
