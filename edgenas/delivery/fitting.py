"""``fit-accuracy``: the accuracy predictor of a supernet, fitted to networks that are evaluated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgenas.accuracy.measured import CHOSEN, measure_accuracies
from edgenas.accuracy.measured import fit_accuracy as fit_predictor
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.accuracy.request import FitAccuracyRequest
from edgenas.basics.files import sha256
from edgenas.basics.options import check_request
from edgenas.basics.progress import Progress, Say, explain_stop, no_progress, say_nothing
from edgenas.delivery.reading import count_learnt_copies, read_images
from edgenas.images.data import Images, check_classes
from edgenas.model import processes as parallel
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet, find_supernet, load_supernet
from edgenas.strategies.chosen import choose_networks
from edgenas.training.division import split_as_trained

_GO_ON = "what was evaluated is kept; to go on, run the same command again (train: --resume)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedAccuracy:
    """The accuracy predictor of a supernet.

    Args:
        supernet: its name or folder.
        predictor: with its errors.
    """

    supernet: str
    predictor: AccuracyPredictor

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.accuracy-fit/1",
            "supernet": self.supernet,
            **errors_to_json(self.predictor),
        }


def errors_to_json(predictor: AccuracyPredictor) -> dict[str, Any]:
    """What a predictor was fitted to and how far it is off: fields of a JSON object.

    ``predictor`` is the error on networks that it was not fitted to, and ``chosen`` the error on
    networks that a search chose by it: None where it was fitted to the whole space.
    """
    return {
        "source": predictor.source,
        "predictor": predictor.error and predictor.error.to_json(),
        "chosen": predictor.chosen and predictor.chosen.to_json(),
    }


def fit_accuracy(
    request: FitAccuracyRequest,
    *,
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> FittedAccuracy:
    """Evaluate networks of a supernet on images and fit its accuracy predictor.

    The images are divided as the training divided them: what it learnt from calibrates batch
    norms, and accuracy is measured on the rest. For an imported supernet, accuracy is measured on
    a tenth of every class.

    Raises:
        EdgenasError: the supernet or the images cannot be read, or do not belong together.
    """
    check_request(request)
    folder = find_supernet(request.supernet)
    trained = load_supernet(folder)
    images = read_images(
        request.data,
        stored=trained.preprocessing.stored,
        framing=trained.preprocessing.framing,
        skip_bad_images=request.skip_bad_images,
        progress=progress,
        say=say,
    )
    check_classes(images, trained.classes)
    calibration, validation = split_as_trained(trained, images)
    count_learnt_copies(trained, validation, split="validation", say=say)
    predictor = fit_and_save(
        trained,
        validation,
        folder=folder,
        calibration=calibration,
        count=request.archs,
        seed=request.seed,
        name=request.name or name_of(request.data),
        progress=progress,
    )
    return FittedAccuracy(supernet=request.supernet, predictor=predictor)


def name_of(data: str) -> str:
    """The name of a data set, from its file or folder."""
    return Path(data).name.split(".")[0] or "images"


def fit_and_save(
    trained: TrainedSupernet,
    validation: Images,
    *,
    folder: Path,
    calibration: Tensor,
    count: int,
    seed: int,
    name: str,
    progress: Progress,
) -> AccuracyPredictor:
    """Evaluate networks, fit the predictor and put it into the folder of the supernet.

    Args:
        trained: the supernet.
        validation: the images that accuracy is measured on.
        folder: of the supernet.
        calibration: pixels that batch norms are calibrated with.
        count: networks to evaluate.
        seed: of the sample of networks.
        name: of the data set, for people.
        progress: called with (step, done, total, words).
    """
    state = sha256(folder / "weights.safetensors")[:16]
    journal = folder / f"accuracies-{state}-{validation.digest[:8]}-{seed}.jsonl"
    with explain_stop(_GO_ON):
        predictor = fit_predictor(
            trained,
            validation=validation,
            calibration=calibration,
            count=count,
            seed=seed,
            name=name,
            journal=journal,
            progress=progress,
        )
    rows = choose_networks(predictor, count=CHOSEN, seed=seed)
    if len(rows):
        with explain_stop(_GO_ON):
            accuracies = measure_accuracies(
                trained,
                rows,
                images=validation,
                calibration=calibration,
                split="validation",
                journal=journal,
                step="evaluating networks that a search chose",
                progress=progress,
            )
        predictor = predictor.with_chosen(rows, accuracy=accuracies)
    if parallel.rank() == 0:
        predictor.save(folder / ACCURACY_FILE)
    return predictor
