"""The search of a specialisation by each strategy: by prediction, by images, or by gradients."""

from collections.abc import Sequence

from edgenas.accuracy import measure_accuracies
from edgenas.arch import Arch
from edgenas.cost import Tables, Vector
from edgenas.files import cache_folder
from edgenas.gradient import ceilings_of, digest, learn, most_preferred
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
        folder=cache_folder() / "searches",
        tell=lambda done, total, words: job.tell("learning", done, total, words),
    )
    return found.policy.preference()


def _measured(job: Job, rows: Codes) -> Vector:
    """Accuracies on the search images, each network calibrated; none is measured twice, ever."""
    images, calibration = job.material.search, job.material.calibration
    assert images is not None, "checked with the request"
    trained = job.trained
    data = [*trained.supernet.parameters(), images.pixels, images.labels, calibration]
    name = digest([repr(job.space), str(trained.preprocessing)], data)[:24]
    folder = cache_folder() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    found = measure_accuracies(
        trained,
        rows,
        images=images,
        calibration=calibration,
        split="validation",
        journal=folder / f"accuracies-{name}.jsonl",
        tell=lambda done, total, words: job.tell(
            "evaluating networks", min(len(job.measured), EVALUATIONS), EVALUATIONS, words
        ),
    )
    job.measured.update(job.space.decode(rows))
    return found
