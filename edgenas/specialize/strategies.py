"""The search of a specialisation by each strategy: by prediction, by images, or by gradients."""

from collections.abc import Sequence

import numpy as np

from edgenas.arch import Arch
from edgenas.cost import Tables, Vector
from edgenas.evaluate import evaluate
from edgenas.gradient import ceilings_of, learn, most_preferred
from edgenas.search import Limit, search
from edgenas.space import Codes
from edgenas.specialize.building import Job

EVALUATIONS = 40  # of networks on images, at the first search
_AGAIN = 12  # and when a measurement has corrected the prediction of latency


def most_accurate(job: Job, limits: Sequence[Limit], *, name: str) -> Arch:
    """The network within limits whose predicted accuracy is highest.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    request = job.request
    found = search(
        job.space,
        maximize=job.trail,
        subject_to=limits,
        strategy="evolution" if request.learns else request.strategy,
        seed=request.seed,
    )
    job.trail.searched(name, found)
    return found.best.arch


def best_of(job: Job, limits: Sequence[Limit], *, name: str) -> Arch:
    """The best network within limits, by the strategy that was asked for.

    What a gradient strategy learns and what networks measured on images is kept in the job: once
    a measurement has corrected the prediction of latency, the next choice is quick.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    request = job.request
    if not request.learns:
        return most_accurate(job, limits, name=name)
    if request.strategy == "bayes":
        found = search(
            job.space,
            maximize=lambda rows: _measured(job, rows),
            subject_to=limits,
            strategy="bayes",
            seed=request.seed,
            evaluations=_AGAIN if job.measured else EVALUATIONS,
        )
        job.trail.searched(f"{name}, measured accuracies", found)
        return found.best.arch
    if not job.learnt:
        job.learnt.append(_preference(job, limits))
    found = most_preferred(job.space, job.learnt[0], limits=limits, seed=request.seed)
    return found.best.arch


def _preference(job: Job, limits: Sequence[Limit]) -> Tables:
    assert job.material.search is not None, "checked with the request"
    job.tell("learning", 0, 1, "")
    found = learn(
        job.trained.supernet,
        strategy=job.request.strategy,
        images=job.material.search,
        preprocessing=job.trained.preprocessing,
        ceilings=ceilings_of(job.space, limits),
        seed=job.request.seed,
        tell=lambda done, total, words: job.tell("learning", done, total, words),
    )
    return found.policy.preference()


def _measured(job: Job, rows: Codes) -> Vector:
    """Accuracies on the search images, each network calibrated; none is measured twice."""
    assert job.material.search is not None, "checked with the request"
    archs = job.space.decode(rows)
    for arch in archs:
        if arch in job.measured:
            continue
        job.tell("evaluating networks", len(job.measured), EVALUATIONS, str(arch))
        (found,) = evaluate(
            job.trained.supernet,
            [arch],
            images=job.material.search,
            calibration=job.material.calibration,
            preprocessing=job.trained.preprocessing,
            split="validation",
        )
        job.measured[arch] = found.value
    return np.array([job.measured[arch] for arch in archs])
