"""The best networks of a search, trained further each on its own; the best of them then is taken.

    Chosen -> retrain -> Chosen

Weights are learnt from the training images alone, the validation images choose, and the accuracy
that is reported is that of test images where there are some. Every training is kept in the user's
cache, under ``retrained/``, in a file of its own: what was killed goes on to the same weights.
"""

import copy
import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder
from edgenas.basics.units import duration, milliseconds
from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.record import RetrainedNetwork, Retraining
from edgenas.delivery.building import BuiltNetwork, build
from edgenas.delivery.choosing import Chosen, DeviceBench, find_candidates
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.ranking import joint_training, measure_on_validation
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.shortlist import (
    Shortlisted,
    Turn,
    describe_lengths,
    train_all,
    train_by_rungs,
)
from edgenas.delivery.strategy import MIXING
from edgenas.images.data import Images
from edgenas.model.calibration import calibrate
from edgenas.model.network import Network, initialise
from edgenas.model.saved import TrainedSupernet
from edgenas.space.arch import Arch
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.training.alone import train_alone
from edgenas.training.division import recipe_of
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe

_VERSION = "2"  # raise it where the same request would be trained otherwise
# Epochs and peak learning rate; None stands for the recipe's. Inherited weights need little, and
# lose what they have learnt where steps are large.
_USUAL: dict[str, tuple[int, float | None]] = {"inherited": (10, 0.02), "scratch": (60, None)}

Start = Literal["inherited", "scratch", "joint", "original"]


def recipe_for(request: SpecializeRequest, trained: TrainedSupernet) -> Recipe:
    """How networks are trained further: as their supernet was, but for epochs and rate.

    Args:
        request: what is asked for.
        trained: the supernet.

    Raises:
        EdgenasError: the record of its training is damaged.
    """
    own = recipe_of(trained)
    epochs, rate = _USUAL[request.retrain_from]
    return dataclasses.replace(
        own,
        epochs=request.retrain_epochs or epochs,
        learning_rate=request.retrain_rate or rate or own.learning_rate,
        warmup=min(own.warmup, 0.5),
    )


def retrain(prepared: Prepared, chosen: Chosen) -> Chosen:
    """Train the best networks further, and build the one that is then best on validation images.

    Args:
        prepared: the images and the target.
        chosen: the best network of the search, which keeps every budget.

    Returns:
        The choice with that network or another one, with weights of its own, measured afresh where
        that is possible.

    Raises:
        EdgenasError: a training diverges, or no network keeps the budget when measured again.
    """
    keep_memory()
    request = prepared.request
    wanted = request.retrain_top
    candidates, bench, log = find_candidates(prepared, chosen, count=wanted)
    archs, notes = [built.arch for built in candidates], chosen.notes
    if len(archs) < wanted:
        notes += (f"only {len(archs)} networks could be retrained",)
    before = measure_on_validation(prepared, chosen.learnt, prepared.space.encode(archs)).tolist()
    recipe = recipe_for(request, prepared.trained)
    trained, told = _train_candidates(prepared, archs, recipe=recipe)
    notes += told
    # Only full trainings are compared; a shorter one ships where none of these fits.
    trained.sort(key=lambda one: (-one.epochs, -one.accuracy))
    networks = [one.network for one in trained]
    best, built, bench = build_best(
        prepared,
        [network.arch for network in networks],
        networks,
        order=range(len(networks)),
        bench=bench,
    )
    inherited = dict(zip(archs, before, strict=True))
    rows = tuple(
        RetrainedNetwork(
            arch_id=one.network.arch.id,
            arch_text=str(one.network.arch),
            before=inherited[one.network.arch],
            after=one.accuracy,
        )
        for one in [trained[best], *trained[:best], *trained[best + 1 :]]
    )
    retraining = describe_training(
        prepared,
        networks[best],
        arch=built.arch,
        start=request.retrain_from,
        recipe=dataclasses.replace(recipe, epochs=trained[best].epochs),
        candidates=rows,
    )
    if retraining.after.value < retraining.before.value:
        notes += (
            "retraining made the network worse: give it more --retrain-epochs or another "
            "--retrain-rate, or leave out --retrain-top",
        )
    if bench is not None:
        chosen = dataclasses.replace(chosen, timed=bench.timed)
        log = log.join(bench.log)
    return dataclasses.replace(
        chosen, built=built, log=chosen.log.join(log), notes=notes, retraining=retraining
    )


def _train_candidates(
    prepared: Prepared, archs: Sequence[Arch], *, recipe: Recipe
) -> tuple[list[Shortlisted], tuple[str, ...]]:
    """Train candidates as the request says it; those that were trained, and notes on it."""
    request, train = prepared.request, partial(_train_one, prepared, recipe=recipe)
    strategy = request.retrain_strategy
    if strategy == "all":
        return train_all(archs, epochs=recipe.epochs, train=train), ()
    trained = train_by_rungs(
        prepared.space,
        archs,
        strategy=strategy,
        epochs=recipe.epochs,
        train=train,
        seed=request.seed,
    )
    return trained, (describe_lengths(trained, strategy=strategy, candidates=len(archs)),)


def build_best(
    prepared: Prepared,
    archs: Sequence[Arch],
    networks: Sequence[Network],
    *,
    order: Sequence[int],
    bench: DeviceBench | None,
) -> tuple[int, BuiltNetwork, DeviceBench | None]:
    """The first network in an order that keeps the budget with its own weights.

    Raises:
        EdgenasError: none keeps it.
    """
    budget = prepared.budget
    for i in order:
        built = build(prepared, archs[i], network=copy.deepcopy(networks[i]))
        if bench is None:
            return i, built, None
        bench, built = bench.measure_final(built)
        if budget is None or bench.seconds(built) <= budget:
            return i, built, bench
    raise EdgenasError(
        f"no retrained network was measured within {milliseconds(budget or 0.0)} again",
        hint="allow a little more, or end other work on this machine and run it again",
    )


def describe_joint_training(prepared: Prepared, chosen: Chosen) -> Chosen:
    """Put on record how a network came by weights that were trained beside the choices.

    Args:
        prepared: the images.
        chosen: the network to be delivered, whose strategy trained its weights.
    """
    training = joint_training(prepared)
    if training is None or prepared.request.strategy in MIXING:
        return chosen
    arch, validation = chosen.built.arch, prepared.images.require_validation()
    trained = chosen.learnt.inherited.supernet.extract(arch)
    before, after = (
        measure(prepared, network, validation, "validation").value
        for network in (inherit(prepared, arch), trained)
    )
    retraining = describe_training(
        prepared,
        trained,
        arch=arch,
        start="joint",
        recipe=training[1].recipe,
        candidates=(
            RetrainedNetwork(arch_id=arch.id, arch_text=str(arch), before=before, after=after),
        ),
    )
    notes = chosen.notes
    if retraining.after.value < retraining.before.value:
        notes += ("training weights jointly made the network worse: use --weights fixed",)
    return dataclasses.replace(chosen, notes=notes, retraining=retraining)


def describe_training(
    prepared: Prepared,
    network: Network,
    *,
    arch: Arch,
    start: Start,
    recipe: Recipe,
    candidates: tuple[RetrainedNetwork, ...],
) -> Retraining:
    """How the delivered network came by its weights, with its accuracies before and after."""
    images = prepared.images
    evaluation = images.evaluation or images.require_validation()
    before = measure(prepared, inherit(prepared, arch), evaluation, images.split)
    after = measure(prepared, network, evaluation, images.split)
    return Retraining(
        start=start,
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        images=len(images.require_training()),
        validation=len(images.require_validation()),
        candidates=candidates,
        before=dataclasses.replace(before, copies=images.copies),
        after=dataclasses.replace(after, copies=prepared.evaluation_copies),
    )


def _train_one(prepared: Prepared, arch: Arch, turn: Turn, *, recipe: Recipe) -> Shortlisted:
    """One network with weights of its own, from those that it inherits or from random ones.

    Args:
        prepared: the training images.
        arch: the network.
        turn: for how long, and which training it is.
        recipe: how it is trained.
    """
    images, seed = prepared.images.require_training(), prepared.request.seed
    recipe = dataclasses.replace(recipe, epochs=turn.epochs)
    network = inherit(prepared, arch).train()
    if prepared.request.starts_from_scratch:
        initialise(network, generator=torch.Generator().manual_seed(seed))
    texts = [_VERSION, repr(prepared.space), arch.id, str(recipe), str(seed)]
    texts += [str(prepared.trained.preprocessing), str(torch.get_num_threads())]
    name = digest(texts, [*network.parameters(), images.pixels, images.labels])
    started, first = time.monotonic(), -1

    def show(step: str, done: int, total: int, words: str) -> None:
        nonlocal first
        first = done - 1 if first < 0 else first
        before, whole = (round(total / turn.epochs * e) for e in (turn.before, turn.all))
        left = (time.monotonic() - started) / (done - first) * (whole - before - done)
        words = f"{turn.words}, {words}, {duration(left)} left"
        prepared.progress("retraining", before + done, whole, words)

    network = train_alone(
        network,
        images,
        recipe=recipe,
        preprocessing=prepared.trained.preprocessing,
        seed=seed,
        state=cache_folder() / "retrained" / f"{arch.id}-{name[:24]}.safetensors",
        progress=show,
    )
    validation = prepared.images.require_validation()
    accuracy = measure(prepared, network, validation, "validation").value
    return Shortlisted(network=network, epochs=turn.epochs, accuracy=accuracy)


def measure(prepared: Prepared, network: Network, images: Images, split: str) -> AccuracyRecord:
    """The accuracy of a network, calibrated first."""
    preprocessing = prepared.trained.preprocessing
    calibrate(network, prepared.images.calibration, preprocessing=preprocessing)
    value = measure_accuracy(network, images, preprocessing=preprocessing, split=split).value
    return AccuracyRecord.of(
        correct=round(value * len(images)),
        images=len(images),
        data=images.source.rpartition("/")[2],
        split=split,
    )


def inherit(prepared: Prepared, arch: Arch) -> Network:
    """A network with the weights of the supernet as it was given."""
    return prepared.trained.supernet.extract(arch).to(memory_format=torch.channels_last)
