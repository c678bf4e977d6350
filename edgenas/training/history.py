"""The history of a training, read from the folder of its run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.model.saved import ACCURACY_FILE
from edgenas.space.cost import macs_table
from edgenas.space.presets import space_from_json
from edgenas.space.space import Space
from edgenas.training.run_file import read_run_file
from edgenas.training.runs import RUN, read_metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingHistory:
    """A training that has ended or still goes on.

    Args:
        space: of the supernet.
        configuration: what ``run.json`` says.
        metrics: the lines of ``metrics.jsonl``, in order.
        macs: of the networks that were evaluated at the end; empty before the end.
        accuracies: of these networks, fractions of 1.
        source: the images that the accuracies were measured on, for people.
    """

    space: Space
    configuration: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    macs: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()
    source: str = ""


def read_history(folder: Path) -> TrainingHistory:
    """Read the history of the run in a folder.

    Raises:
        EdgenasError: there is none, a file is damaged, or no networks have been evaluated yet.
    """
    path = folder / RUN
    configuration = read_run_file(path)
    space = space_from_json(configuration["space"], where=f"{path}: space")
    metrics = read_metrics(folder)
    if not any("validation" in line for line in metrics):
        every = dict(configuration["recipe"]).get("judge_every", 1)
        epochs = "the first epoch" if every == 1 else f"every {every} epochs"
        raise EdgenasError(
            f"no networks of the training in {folder} have been evaluated yet",
            hint=f"they are after {epochs}; a training that was cut off goes on with "
            "edgenas train ... --resume",
        )
    macs: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()
    source = ""
    if (folder / ACCURACY_FILE).exists():
        predictor = load_accuracy(folder / ACCURACY_FILE)
        if (
            predictor.space == space
            and predictor.rows is not None
            and predictor.accuracies is not None
        ):
            macs = tuple(macs_table(space)(predictor.rows).tolist())
            accuracies, source = tuple(predictor.accuracies.tolist()), predictor.source
    return TrainingHistory(
        space=space,
        configuration=configuration,
        metrics=tuple(metrics),
        macs=macs,
        accuracies=accuracies,
        source=source,
    )
