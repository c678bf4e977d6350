"""The last step of ``train`` and ``fit-accuracy``: the accuracy predictor and its errors."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgenas.cli.console import bar

if TYPE_CHECKING:
    from torch import Tensor

    from edgenas.accuracy.predictor import AccuracyPredictor
    from edgenas.images.data import Images
    from edgenas.model.saved import TrainedSupernet


@contextmanager
def stopping(how: str) -> Generator[None]:
    """Let Ctrl-C say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None


def fit_predictor(
    trained: "TrainedSupernet",
    validation: "Images",
    calibration: "Tensor",
    *,
    count: int,
    seed: int,
    name: str,
) -> "AccuracyPredictor":
    """Evaluate networks, fit the predictor and put it into the folder of the supernet."""
    from edgenas.accuracy.measured import CHOSEN, measure_accuracies
    from edgenas.accuracy.measured import fit_accuracy as fit
    from edgenas.basics.files import sha256
    from edgenas.model import processes as parallel
    from edgenas.model.saved import ACCURACY_FILE
    from edgenas.strategies.chosen import choose_networks

    folder = trained.folder
    assert folder is not None
    state = sha256(folder / "weights.safetensors")[:16]
    journal = folder / f"accuracies-{state}-{validation.digest[:8]}-{seed}.jsonl"
    how = "what was evaluated is kept; to go on, run the same command again (train: --resume)"
    with stopping(how), bar("evaluating networks") as tell:
        predictor = fit(
            trained,
            validation=validation,
            calibration=calibration,
            count=count,
            seed=seed,
            name=name,
            journal=journal,
            tell=tell,
        )
    rows = choose_networks(predictor, count=CHOSEN, seed=seed)
    if len(rows):
        with stopping(how), bar("evaluating networks that a search chose") as tell:
            found = measure_accuracies(
                trained,
                rows,
                images=validation,
                calibration=calibration,
                split="validation",
                journal=journal,
                tell=tell,
            )
        predictor = predictor.with_chosen(rows, accuracy=found)
    if parallel.rank() == 0:
        predictor.save(folder / ACCURACY_FILE)
    return predictor


def fit_words(report: dict[str, Any]) -> str:
    """How far an accuracy predictor is off, in words."""
    error = report["predictor"]
    return (
        f"accuracy predictor: mean error {100 * error['error']:.2f} points on {error['n']} "
        f"networks ({error['method']}), rank correlation {error['spearman']:.2f}; "
        f"{_chosen_words(report['chosen'])}; {report['source']}"
    )


def _chosen_words(error: dict[str, Any] | None) -> str:
    if error is None:
        return "not known for networks that a search chooses: it was fitted to all of them"
    return (
        f"{100 * error['error']:.2f} points on {error['n']} networks that a search chose, "
        f"predicted {100 * abs(error['bias']):.2f} too {'high' if error['bias'] > 0 else 'low'} "
        "on average"
    )


def chosen_json(predictor: "AccuracyPredictor") -> dict[str, Any] | None:
    """Its error on networks that a search chose by it; None: not known."""
    return predictor.chosen and predictor.chosen.to_json()


def error_json(predictor: "AccuracyPredictor") -> dict[str, Any]:
    """Its error on networks that it was not fitted to."""
    assert predictor.error is not None, "it was fitted just now"
    return predictor.error.to_json()
