"""The files of a fine-tuning: what it is, what its time allows, how far it is.

A folder holds all of it, so that another process can do the work, and whoever comes later goes on::

    job.json             the network, the recipe and the time
    start.safetensors    the weights to start from
    plan.json            the steps that the time allows
    state.safetensors    the checkpoint
    metrics.jsonl        the accuracy on validation images, epoch by epoch
    trained.safetensors  the weights at the end

The images lie beside such folders, in one file for all of them (`save_images`).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import parse_json, read_text, write_json
from edgenas.basics.ranges import Count, Fraction, Positive, Range, Seconds, Seed, Words
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network
from edgenas.model.saved import save_tensors
from edgenas.space.presets import space_to_json
from edgenas.training.recipe import Recipe
from edgenas.training.transfer import TRANSFER

JOB, START, PLAN = "job.json", "start.safetensors", "plan.json"
STATE, METRICS, TRAINED = "state.safetensors", "metrics.jsonl", "trained.safetensors"
JOB_SCHEMA, PLAN_SCHEMA = "edgenas.fine-tuning/1", "edgenas.fine-tuning-plan/1"

_RESERVE = 0.03  # of the time, for checkpoints and for what is slower later


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """``job.json``: everything that decides a fine-tuning, beside weights and images.

    Args:
        space: of the network, as `edgenas.space.presets` reads it.
        arch: the network.
        recipe: how it is trained; its epochs are the most that are taken.
        preprocessing: from stored images to inputs.
        seed: of the order and the views of images.
        seconds: that the training may take.
        patience: see `edgenas.training.transfer.TransferRecipe`, as all that follow.
        cooldown: epochs.
        evaluated_share: a fraction.
        calibration: a number of images.
        start: where the weights come from.
        epochs_before: of fine-tunings of these weights before this one.
    """

    space: Any
    arch: Any
    recipe: Recipe
    preprocessing: Any
    seed: Seed
    seconds: Seconds
    patience: Count
    cooldown: Annotated[float, Range(0, 1000, "count")]
    evaluated_share: Fraction
    calibration: Annotated[int, Range(2, 10_000_000, "count")]
    start: Literal["inherited", "original", "scratch", "joint"] = "inherited"
    epochs_before: Annotated[float, Range(0, 1e9, "count")] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``plan.json``: what the time allows.

    Args:
        steps: of the training.
        per_epoch: steps of an epoch.
        evaluate_every: epochs from one evaluation to the next.
        step_seconds: that a step takes.
        evaluation_seconds: that an evaluation takes.
    """

    steps: Positive
    per_epoch: Positive
    evaluate_every: Positive
    step_seconds: Seconds
    evaluation_seconds: Seconds

    @property
    def epochs(self) -> float:
        """Passes over the training images."""
        return self.steps / self.per_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAccuracy:
    """A line of ``metrics.jsonl``.

    Args:
        step: steps done.
        steps: in all, from now on.
        seconds: that they took, evaluations included.
        validation: accuracy on the validation images.
        why: the training ends sooner than it was to; empty: it goes on as it was.
    """

    step: Positive
    steps: Positive
    seconds: Seconds
    validation: Fraction
    why: Words = ""


def write_job(folder: Path, job: Job, network: Network) -> None:
    """Lay out a fine-tuning, unless it is laid out already.

    Args:
        folder: of the fine-tuning, made if it is not there.
        job: what decides it.
        network: with the weights to start from.
    """
    if (folder / JOB).exists():
        return
    save_tensors(folder / START, dict(network.named_parameters()))
    write_json(folder / JOB, {"schema": JOB_SCHEMA, **asdict(job)})


def make_job(
    network: Network,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: int,
    seconds: float,
    start: Literal["inherited", "original", "scratch", "joint"] = "inherited",
    epochs_before: float = 0.0,
) -> Job:
    """A job with the usual patience.

    Args:
        network: to be fine-tuned.
        recipe: how.
        preprocessing: from stored images to inputs.
        seed: of the order and the views of images.
        seconds: that the training may take.
        start: where its weights come from.
        epochs_before: of fine-tunings of these weights before this one.
    """
    return Job(
        space=space_to_json(network.space),
        arch=network.arch.to_json(),
        recipe=recipe,
        preprocessing=preprocessing.to_json(),
        seed=seed,
        seconds=seconds,
        patience=TRANSFER.patience,
        cooldown=TRANSFER.cooldown,
        evaluated_share=TRANSFER.evaluated_share,
        calibration=TRANSFER.calibration,
        start=start,
        epochs_before=epochs_before,
    )


def save_images(path: Path, *, training: Images, validation: Images) -> None:
    """Write the images that networks learn from and are evaluated on, once for all of them."""
    if path.exists():
        return
    save_tensors(
        path,
        {
            "training.pixels": training.pixels,
            "training.labels": training.labels,
            "validation.pixels": validation.pixels,
            "validation.labels": validation.labels,
        },
    )


def read_evaluations(folder: Path) -> list[EpochAccuracy]:
    """The accuracies of a fine-tuning so far, in the order of their steps.

    A line that was cut off is left out. After a kill a step may be measured anew: its last line
    counts.
    """
    path = folder / METRICS
    lines = read_text(path).splitlines() if path.exists() else []
    by_step: dict[int, EpochAccuracy] = {}
    for line in lines:
        try:
            one = decode(EpochAccuracy, parse_json(line, where=str(path)), where=str(path))
        except EdgenasError:
            continue
        by_step[one.step] = one
    return [by_step[step] for step in sorted(by_step)]


def plan_steps(
    job: Job, *, per_epoch: int, step_seconds: float, evaluation_seconds: float, spent: float
) -> Plan:
    """The steps that fit into the time of a job.

    Args:
        job: with its time, its most epochs, and the share of evaluations.
        per_epoch: steps of an epoch.
        step_seconds: that a step takes.
        evaluation_seconds: that an evaluation takes.
        spent: seconds that are gone already.
    """
    epoch = per_epoch * step_seconds
    every = max(1, -int(-evaluation_seconds // max(1e-9, job.evaluated_share * epoch)))
    left = max(0.0, job.seconds * (1 - _RESERVE) - spent - evaluation_seconds)
    steps = int(left / (step_seconds + evaluation_seconds / (every * per_epoch)))
    if steps > per_epoch:
        steps -= steps % per_epoch  # whole epochs
    steps = max(1, min(steps, job.recipe.epochs * per_epoch))
    return Plan(
        steps=steps,
        per_epoch=per_epoch,
        evaluate_every=every,
        step_seconds=step_seconds,
        evaluation_seconds=evaluation_seconds,
    )
