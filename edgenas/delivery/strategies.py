"""The search of a specialisation by each strategy: by prediction, by images, or by gradients."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from edgenas.accuracy.measured import measure_accuracies
from edgenas.basics.files import cache_folder
from edgenas.delivery.building import Job
from edgenas.delivery.images import own_recipe
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables, Vector
from edgenas.space.space import Codes
from edgenas.strategies.constraint import Limit
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.strategies.gradient.choosing import FINALISTS, ceilings_of, most_preferred
from edgenas.strategies.gradient.run import learn
from edgenas.strategies.gradient.step import Settings
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.strategies.run import search
from edgenas.training.loop import keep_memory

EVALUATIONS = 40  # of networks on images, at the first search
_AGAIN = 12  # and when a measurement has corrected the prediction of latency
_POOL = 50  # of the best networks for each that is wanted
# Of weights trained beside choices; larger steps lose what the supernet knows.
_EPOCHS, _RATE = 2, 0.02


def most_accurate(job: Job, limits: Sequence[Limit], *, name: str) -> Arch:
    """The network within limits whose predicted accuracy is highest.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    return _predicted(job, limits, name=name, count=1)[0]


def best_of(job: Job, limits: Sequence[Limit], *, name: str) -> Arch:
    """The best network within limits, by the strategy that was asked for.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    return ranked(job, limits, name=name, count=1)[0]


def ranked(job: Job, limits: Sequence[Limit], *, name: str, count: int) -> list[Arch]:
    """The best networks within limits, by the strategy that was asked for, best first.

    What a gradient strategy learns and what networks measured on images is kept in the job: once
    a measurement has corrected the prediction of latency, the next choice is quick.

    Args:
        job: whose.
        limits: to keep.
        name: of the search, for the report.
        count: how many at most.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    request = job.request
    if not request.learns:
        return _predicted(job, limits, name=name, count=count)
    if request.strategy == "bayes":
        found = search(
            job.space,
            maximize=lambda rows: measured(job, rows),
            subject_to=limits,
            strategy="bayes",
            seed=request.seed,
            evaluations=_AGAIN if job.measured else EVALUATIONS,
            top=count,
        )
        job.trail.searched(f"{name}, measured accuracies", found)
        return [candidate.arch for candidate in found.top]
    if not job.learnt:
        job.learnt.append(_preference(job, limits))
    preferred = most_preferred(
        job.space,
        job.learnt[0],
        limits=limits,
        seed=request.seed,
        count=max(FINALISTS, count),
    )
    finalists = [candidate.arch for candidate in preferred]
    accuracies = measured(job, job.space.encode(finalists))
    job.trail.judged(f"{name}, measured accuracies", request.strategy, accuracies)
    order = np.argsort(-accuracies, kind="stable")[:count]
    return [finalists[i] for i in order]


def _predicted(job: Job, limits: Sequence[Limit], *, name: str, count: int) -> list[Arch]:
    """The networks within limits whose predicted accuracy is highest, best first.

    Each differs from those before it in more than one choice, as far as there are such: neighbours
    differ by less than the prediction is off, and all share its error.
    """
    request = job.request
    found = search(
        job.space,
        maximize=job.trail,
        subject_to=limits,
        strategy="evolution" if request.learns else request.strategy,
        seed=request.seed,
        top=1 if count == 1 else _POOL * count,
    )
    job.trail.searched(name, found)
    archs = [candidate.arch for candidate in found.top]
    rows = job.space.encode(archs)
    kept = [0]
    for i in range(1, len(rows)):
        if ((rows[i] != rows[kept]).sum(axis=1) > 1).all():
            kept.append(i)
    kept += [i for i in range(len(rows)) if i not in kept]
    return [archs[i] for i in kept[:count]]


def _preference(job: Job, limits: Sequence[Limit]) -> Tables:
    images = job.material.search
    assert images is not None, "checked with the request"
    job.tell("learning", 0, 1, "")
    settings, training = joint_training(job) or (None, None)
    found = learn(
        job.trained.supernet,
        strategy=job.request.strategy,
        images=images,
        preprocessing=job.trained.preprocessing,
        ceilings=ceilings_of(job.space, limits),
        seed=job.request.seed,
        settings=settings,
        training=training,
        folder=cache_folder() / "searches",
        tell=lambda done, total, words: job.tell("learning", done, total, words),
    )
    if found.supernet is not None:
        job.joint.append(dataclasses.replace(job.trained, supernet=found.supernet))
    job.notes.append(
        f"{job.request.strategy} learnt from {len(images)} validation images, in "
        f"{len(found.history)} batches; of the networks within the budgets that it prefers, "
        f"{FINALISTS} were measured on all of these images, and the best was taken"
    )
    return found.policy.preference()


def joint_training(job: Job) -> tuple[Settings, WeightTraining] | None:
    """How weights are trained beside choices: in whole epochs; None: they are fixed.

    Raises:
        EdgenasError: the record of the supernet's training is damaged.
    """
    if job.request.weights == "fixed":
        return None
    images, own, usual = job.material.train, own_recipe(job.trained), Settings()
    assert images is not None, "read with the request"
    per_epoch = len(images) // min(own.batch, len(images))
    epochs = max(_EPOCHS, math.ceil(usual.steps / per_epoch))
    recipe = dataclasses.replace(
        own, epochs=epochs, learning_rate=_RATE, warmup=min(own.warmup, 0.5)
    )
    settings = dataclasses.replace(usual, steps=epochs * per_epoch)
    return settings, WeightTraining(images=images, recipe=recipe)


def _evaluated(job: Job, done: int, total: int) -> tuple[int, int]:
    """Networks evaluated of how many: bayes asks for them one by one."""
    if job.request.strategy == "bayes":
        return min(len(job.measured), EVALUATIONS), EVALUATIONS
    return done, total


def measured(job: Job, rows: Codes) -> Vector:
    """Accuracies on the search images, each network calibrated; none is measured twice, ever."""
    images, calibration = job.material.search, job.material.calibration
    assert images is not None, "checked with the request"
    trained = job.inherited
    data = [*trained.supernet.parameters(), images.pixels, images.labels, calibration]
    name = digest([repr(job.space), str(trained.preprocessing)], data)[:24]
    folder = cache_folder() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    keep_memory()
    found = measure_accuracies(
        trained,
        rows,
        images=images,
        calibration=calibration,
        split="validation",
        journal=folder / f"accuracies-{name}.jsonl",
        tell=lambda done, total, words: job.tell(
            "evaluating networks", *_evaluated(job, done, total), words
        ),
    )
    job.measured.update(job.space.decode(rows))
    return found
