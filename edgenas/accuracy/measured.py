"""The last step of training: evaluate sampled networks and fit the accuracy predictor."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.accuracy.predictor import AccuracyPredictor, load_accuracy
from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import disk_errors, parse_json, read_text, wait_for_machine
from edgenas.basics.progress import Progress, no_progress
from edgenas.basics.ranges import Fraction, Id, Positive, Words
from edgenas.images.data import Images
from edgenas.model import processes as parallel
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet
from edgenas.space.arch import Arch
from edgenas.space.genes import Codes
from edgenas.space.space import Space

CHOSEN = 12  # networks that a search chooses, measured once the predictor is fitted
_SOURCE = re.compile(r"(?P<data>.+) (?P<split>\S+), n=(?P<images>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _JournalEntry:
    """A line of a journal: a network that was evaluated."""

    arch: Id
    accuracy: Fraction
    n: Positive = 1
    split: Words = ""


def load_predictor(trained: TrainedSupernet) -> AccuracyPredictor:
    """The accuracy predictor of a supernet on disk.

    Raises:
        EdgenasError: it has none, one of another space, or one whose error is not known.
    """
    assert trained.folder is not None
    path = trained.folder / ACCURACY_FILE
    hint = f"fit one: edgenas fit-accuracy {trained.folder} --data PATH"
    if not path.exists():
        raise EdgenasError(f"the supernet {trained.folder} has no accuracy predictor", hint=hint)
    predictor = load_accuracy(path)
    if predictor.space != trained.supernet.space:
        raise EdgenasError(f"{path} is of another space than its supernet", hint=hint)
    if predictor.error is None and predictor.chosen is None:
        raise EdgenasError(f"{path} does not know how far off it is", hint=hint)
    return predictor


def evaluated_on(predictor: AccuracyPredictor) -> tuple[str, str, int]:
    """The images whose accuracy is predicted: data set, split, and how many; 0: not known."""
    match = _SOURCE.fullmatch(predictor.source)
    if match is None:
        return predictor.source, "", 0
    return match["data"], match["split"], int(match["images"])


def sample_archs(space: Space, count: int, *, seed: int) -> Codes:
    """Different rows to evaluate, shape (count, genes) or all that there are.

    The largest and the smallest network, then half by gene, half by arch: a search ends among
    deep networks, which a draw by gene alone seldom shows.
    """
    rng = np.random.default_rng((seed, 4))
    corners = space.encode([space.largest(), space.smallest()])
    by_gene, by_arch = (space.sample(3 * count, rng=rng, by=by) for by in ("gene", "arch"))
    mixed = np.stack([by_gene, by_arch], axis=1).reshape(-1, corners.shape[1])
    rows = np.concatenate([corners, mixed])
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
    step: str = "evaluating networks",
    progress: Progress = no_progress,
) -> np.ndarray:
    """Top-1 accuracies of rows, shape (n,), each network calibrated first.

    Every result goes to the journal at once; what is already there is not evaluated again. Several
    processes share the networks out, and each gets all results.

    Args:
        trained: the supernet.
        rows: canonical rows of its space, shape (n, genes).
        images: to be classified.
        calibration: stored training images for the batch-norm statistics.
        split: the name of the split that ``images`` are.
        journal: a JSON-lines file of (arch id, accuracy); made if absent.
        step: what ``progress`` calls this work.
        progress: called with (step, networks done, networks in all, "").
    """
    archs = trained.supernet.space.decode(rows)
    known = parallel.broadcast(_read_journal(journal) if parallel.rank() == 0 else {})

    def accuracies(mine: Sequence[Arch]) -> Iterator[float]:
        for done, arch in enumerate(mine):
            progress(step, done * parallel.world(), len(archs), "")
            if arch.id not in known:
                wait_for_machine()
                (found,) = evaluate_archs(
                    trained.supernet,
                    [arch],
                    images=images,
                    calibration=calibration,
                    preprocessing=trained.preprocessing,
                    split=split,
                )
                known[arch.id] = found.value
                line = {"arch": arch.id, "accuracy": found.value, "n": found.n, "split": split}
                with disk_errors(journal), journal.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
            yield known[arch.id]

    values = parallel.share_out(archs, accuracies)
    progress(step, len(archs), len(archs), "")
    return np.array(values)


def fit_accuracy(
    trained: TrainedSupernet,
    *,
    validation: Images,
    calibration: Tensor,
    count: int,
    seed: int,
    name: str,
    journal: Path,
    progress: Progress = no_progress,
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
        progress: see ``measure_accuracies``.
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
        progress=progress,
    )
    source = f"{name} validation, n={len(validation)}"
    assert _SOURCE.fullmatch(source)
    return AccuracyPredictor.fit(space, rows, accuracy=accuracies, seed=seed, source=source)


def _read_journal(journal: Path) -> dict[str, float]:
    """The accuracies of a journal by arch id.

    A line that cannot be read is left out, so that its network is evaluated again: a killed process
    may leave its last line unfinished.
    """
    accuracies: dict[str, float] = {}
    text = read_text(journal) if journal.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(EdgenasError):
            entry = decode(_JournalEntry, parse_json(line, where="it"), where="it")
            accuracies[entry.arch] = entry.accuracy
    if text and not text.endswith("\n"):
        with disk_errors(journal), journal.open("a") as stream:
            stream.write("\n")
    return accuracies
