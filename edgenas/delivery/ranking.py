"""The best networks within limits, by each strategy: by prediction, by images, or by gradients."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.accuracy.measured import measure_accuracies
from edgenas.basics.files import cache_folder
from edgenas.bundle.trace import Learning
from edgenas.delivery.learning import describe_learning
from edgenas.delivery.limits import limits_for
from edgenas.delivery.log import (
    SearchLog,
    Watch,
    describe_measured_search,
    describe_search,
)
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.strategy import MIXING, SLOPES
from edgenas.model.saved import TrainedSupernet
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.constraint import Limit
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.strategies.gradient.choosing import FINALISTS, find_most_preferred, list_ceilings
from edgenas.strategies.gradient.run import SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.strategies.neighbours import list_neighbours
from edgenas.strategies.problem import Score
from edgenas.strategies.run import FRUGAL, search
from edgenas.training.division import recipe_of
from edgenas.training.memory import keep_memory

EVALUATIONS = 40  # of networks on images, at the first search
MEASUREMENTS = 10  # of the dominant eigenvalue, in the course of a search of mixtures
_AGAIN = 12  # and when a measurement has corrected the prediction of latency
_POOL = 50  # of the best networks for each that is wanted
# Of weights trained beside choices; larger steps lose what the supernet has learnt.
_EPOCHS, _RATE = 2, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a strategy has learnt from images before it ranks networks.

    Args:
        inherited: the supernet whose weights networks inherit: the one of the request, or a copy
            whose weights the strategy has trained.
        preference: how much a gradient strategy prefers rows; None for other strategies.
        notes: what a reader of the result should know.
        learning: the course of a gradient strategy; None for other strategies.
    """

    inherited: TrainedSupernet
    preference: Score | None = None
    notes: tuple[str, ...] = ()
    learning: Learning | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The best networks of a search, best first, and what the search saw."""

    archs: tuple[Arch, ...]
    log: SearchLog


def learn_from_images(prepared: Prepared, limits: Sequence[Limit]) -> Learnt:
    """Let a gradient strategy learn what it prefers. Other strategies learn nothing beforehand.

    Raises:
        EdgenasError: the training diverges.
    """
    request, trained = prepared.request, prepared.trained
    if request.strategy not in SLOPES:
        return Learnt(inherited=trained)
    images = prepared.images.require_validation()
    prepared.progress("learning", 0, 1, "")
    settings, training = joint_training(prepared) or (GradientSettings(), None)
    settings = dataclasses.replace(
        settings,
        skip_dropout=request.skip_dropout,
        decay=request.logit_decay,
        measure=max(settings.steps // MEASUREMENTS, 1),
        early_stop=request.early_stop,
    )
    result = learn(
        trained.supernet,
        strategy=request.strategy,
        data=SearchData(images=images, preprocessing=trained.preprocessing, training=training),
        ceilings=list_ceilings(prepared.space, limits),
        seed=request.seed,
        settings=settings,
        folder=cache_folder() / "searches",
        progress=prepared.progress,
    )
    inherited, notes = trained, tuple[str, ...]()
    if result.supernet is not None and request.strategy in MIXING:
        notes = (
            f"{request.strategy} trained weights of mixtures, which served the search alone: the "
            "network has those of the supernet",
        )
    elif result.supernet is not None:
        inherited = dataclasses.replace(trained, supernet=result.supernet)
    note = (
        f"{request.strategy} learnt from {len(images)} validation images, in "
        f"{len(result.history)} batches; of the networks within the budgets that it prefers, "
        f"{FINALISTS} were measured on all of these images, and the best was taken"
    )
    preference = result.policy.preference()
    return Learnt(
        inherited=inherited,
        preference=preference,
        notes=(note, *notes, *result.notes),
        learning=describe_learning(request.strategy, result),
    )


def joint_training(prepared: Prepared) -> tuple[GradientSettings, WeightTraining] | None:
    """How weights are trained beside choices, in whole epochs; None where they are fixed.

    Raises:
        EdgenasError: the record of the supernet's training is damaged.
    """
    if prepared.request.weights == "fixed":
        return None
    images, own = prepared.images.require_training(), recipe_of(prepared.trained)
    per_epoch = len(images) // min(own.batch, len(images))
    epochs = max(_EPOCHS, math.ceil(GradientSettings().steps / per_epoch))
    recipe = dataclasses.replace(
        own, epochs=epochs, learning_rate=_RATE, warmup=min(own.warmup, 0.5)
    )
    settings = dataclasses.replace(GradientSettings(), steps=epochs * per_epoch)
    return settings, WeightTraining(images=images, recipe=recipe)


def rank_networks(
    prepared: Prepared,
    learnt: Learnt,
    limits: Sequence[Limit],
    *,
    name: str,
    count: int = 1,
    again: bool = False,
) -> Ranking:
    """The best networks within limits, by the strategy that was asked for.

    Args:
        prepared: the space, the predictors and the images.
        learnt: what the strategy has learnt.
        limits: to keep.
        name: of the search, for the report.
        count: how many networks at most.
        again: whether networks were measured on images for this request before.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    if learnt.preference is not None:
        return _rank_by_preference(prepared, learnt, limits, name=name, count=count)
    if prepared.request.strategy in FRUGAL:
        evaluations = _AGAIN if again else EVALUATIONS
        return _rank_by_bayes(
            prepared, learnt, limits, name=name, count=count, evaluations=evaluations
        )
    return rank_by_prediction(prepared, limits, name=name, count=count)


def _rank_by_preference(
    prepared: Prepared, learnt: Learnt, limits: Sequence[Limit], *, name: str, count: int
) -> Ranking:
    """What a gradient strategy prefers, measured on the validation images, best first."""
    assert learnt.preference is not None
    request, space = prepared.request, prepared.space
    preferred = find_most_preferred(
        space,
        learnt.preference,
        limits=limits,
        seed=request.seed,
        count=max(FINALISTS, count),
    )
    finalists = [candidate.arch for candidate in preferred]
    accuracies = measure_on_validation(prepared, learnt, space.encode(finalists))
    order = np.argsort(-accuracies, kind="stable")[:count]
    entry = describe_measured_search(f"{name}, measured accuracies", request.strategy, accuracies)
    return Ranking(archs=tuple(finalists[i] for i in order), log=SearchLog(searches=(entry,)))


def _rank_by_bayes(
    prepared: Prepared,
    learnt: Learnt,
    limits: Sequence[Limit],
    *,
    name: str,
    count: int,
    evaluations: int,
) -> Ranking:
    """The best of the networks that Bayesian optimisation measured on the validation images."""
    done = 0

    def measure(rows: Codes) -> Vector:
        nonlocal done
        done = min(done + len(rows), evaluations)
        counting = dataclasses.replace(
            prepared,
            progress=lambda step, _, __, words: prepared.progress(step, done, evaluations, words),
        )
        return measure_on_validation(counting, learnt, rows)

    result = search(
        prepared.space,
        maximize=measure,
        subject_to=limits,
        strategy=prepared.request.strategy,
        seed=prepared.request.seed,
        evaluations=evaluations,
        top=count,
    )
    return Ranking(
        archs=tuple(candidate.arch for candidate in result.top),
        log=SearchLog(searches=(describe_search(f"{name}, measured accuracies", result),)),
    )


def rank_by_prediction(
    prepared: Prepared, limits: Sequence[Limit], *, name: str, count: int = 1
) -> Ranking:
    """The networks within limits whose predicted accuracy is highest, best first.

    Each differs from those before it in more than one choice, as far as there are such networks:
    neighbours differ by less than the error of the prediction, and all share its error.

    Raises:
        EdgenasError: no network keeps the limits.
    """
    request, space = prepared.request, prepared.space
    watch = Watch(
        space, accuracy=prepared.predictor, latency=prepared.latency.predictor, seed=request.seed
    )
    result = search(
        space,
        maximize=watch,
        subject_to=limits,
        strategy="evolution" if request.learns else request.strategy,
        seed=request.seed,
        top=1 if count == 1 else _POOL * count,
    )
    archs = [candidate.arch for candidate in result.top]
    log = SearchLog(watch.seen, (describe_search(name, result),))
    return Ranking(archs=tuple(_spread(space.encode(archs), archs)[:count]), log=log)


def _spread(rows: Codes, archs: list[Arch]) -> list[Arch]:
    """Networks in their order; those that differ from a better one in one choice only come last."""
    apart = [0]
    for i in range(1, len(rows)):
        if ((rows[i] != rows[apart]).sum(axis=1) > 1).all():
            apart.append(i)
    near = [i for i in range(len(rows)) if i not in apart]
    return [archs[i] for i in (*apart, *near)]


def best_without_budget(prepared: Prepared, best: Arch) -> Ranking | None:
    """The most accurate network without the latency budgets; None where these decide.

    They do where a network that differs from ``best`` in one choice, and that only they forbid,
    is predicted to be better. That costs some dozens of predictions; only where no such network is
    near, the whole space is searched.
    """
    limits = limits_for(prepared, own=None)
    row = prepared.space.encode([best])
    near = list_neighbours(prepared.space, row, genes=1)
    allowed = np.ones(len(near), bool)
    for limit in limits:
        allowed &= limit.of(near) <= limit.constraint.limit
    better = prepared.predictor(near[allowed]) > prepared.predictor(row)[0]
    if better.any():
        return None
    return rank_by_prediction(prepared, limits, name="without the latency budget")


def measure_on_validation(prepared: Prepared, learnt: Learnt, rows: Codes) -> Vector:
    """Accuracies on the validation images, each network calibrated; none is measured twice, ever.

    Args:
        prepared: the images.
        learnt: whose weights networks inherit.
        rows: the networks, shape (n, genes).

    Returns:
        Accuracies, fractions, shape (n,).
    """
    images, calibration = prepared.images.require_validation(), prepared.images.calibration
    trained = learnt.inherited
    data = [*trained.supernet.parameters(), images.pixels, images.labels, calibration]
    name = digest([repr(prepared.space), str(trained.preprocessing)], data)[:24]
    folder = cache_folder() / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    keep_memory()
    return measure_accuracies(
        trained,
        rows,
        images=images,
        calibration=calibration,
        split="validation",
        journal=folder / f"accuracies-{name}.jsonl",
        progress=prepared.progress,
    )
