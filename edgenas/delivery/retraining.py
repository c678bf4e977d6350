"""The best networks of a search, trained further each on its own; the best of them then is taken.

Weights are learnt from the training images alone, the validation images choose, and the accuracy
that is reported is that of test images where there are some. Every training is kept in the user's
cache, under ``retrained/``, in a file of its own: what was killed goes on to the same weights.
"""

import dataclasses
import time
from typing import Literal

import torch

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder
from edgenas.basics.units import duration, milliseconds
from edgenas.bundle.record import Accuracy, Retrained, Retraining
from edgenas.delivery.building import Built, Job, build, judged_copies
from edgenas.delivery.choosing import afresh, candidates, keeps
from edgenas.delivery.images import own_recipe
from edgenas.delivery.request import Request
from edgenas.delivery.strategies import joint_training, measured
from edgenas.images.data import Images
from edgenas.model.evaluate import accuracy, calibrate
from edgenas.model.network import Network, initialise
from edgenas.model.saved import TrainedSupernet
from edgenas.space.arch import Arch
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.training.alone import train_alone
from edgenas.training.loop import keep_memory
from edgenas.training.recipe import Recipe

_VERSION = "1"  # raise it where the same request would be trained otherwise
# Epochs and peak learning rate; None: the recipe's. Inherited weights need little, and lose what
# they know where steps are large.
_USUAL: dict[str, tuple[int, float | None]] = {"inherited": (10, 0.02), "scratch": (60, None)}


def recipe_for(request: Request, trained: TrainedSupernet) -> Recipe:
    """How networks are trained further: as their supernet was, but for epochs and rate.

    Args:
        request: what is asked for.
        trained: the supernet.

    Raises:
        EdgenasError: the record of its training is damaged.
    """
    own = own_recipe(trained)
    epochs, rate = _USUAL[request.retrain_from]
    return dataclasses.replace(
        own,
        epochs=request.retrain_epochs or epochs,
        learning_rate=request.retrain_rate or rate or own.learning_rate,
        warmup=min(own.warmup, 0.5),
    )


def retrain(job: Job, first: Built) -> Built:
    """Train the best networks further, and build the one that is then best on validation images.

    Args:
        job: whose; the networks that were trained and how stay in it.
        first: the best network of the search, which keeps every budget.

    Returns:
        It or another one, with weights of its own, measured afresh where that is possible.

    Raises:
        EdgenasError: a training diverges, or no network keeps the budget when measured again.
    """
    keep_memory()
    request, material = job.request, job.material
    train, validation = material.train, material.search
    assert train is not None, "checked with the request"
    assert validation is not None, "as it was read with them"
    archs = [built.arch for built in candidates(job, first, count=request.retrain_top)]
    if len(archs) < request.retrain_top:
        job.notes.append(f"no more than {len(archs)} networks were found to be retrained")
    before = measured(job, job.space.encode(archs)).tolist()
    recipe = recipe_for(request, job.trained)
    found = [
        _trained(job, arch, train, recipe=recipe, number=i, of=len(archs))
        for i, arch in enumerate(archs)
    ]
    after = [_judged(job, network, validation, "validation") for network in found]
    job.own.update(zip(archs, found, strict=True))
    order = sorted(range(len(archs)), key=lambda i: -after[i].value)
    for i in order:
        built = build(job, archs[i])
        if job.latency.reachable:
            built = afresh(job, built)
        if not (job.latency.reachable and not keeps(job, built)):
            break
    else:
        assert job.budget is not None
        raise EdgenasError(
            f"no retrained network was measured within {milliseconds(job.budget)} again",
            hint="allow a little more, or end other work on this machine and run it again",
        )
    ranked = tuple(
        Retrained(
            arch_id=archs[i].id, arch_text=str(archs[i]), before=before[i], after=after[i].value
        )
        for i in sorted(order, key=lambda i: (archs[i] != built.arch, -after[i].value))
    )
    _put_on_record(
        job,
        built.arch,
        start=request.retrain_from,
        recipe=recipe,
        candidates=ranked,
        worse="retraining made the network worse: give it more --retrain-epochs or another "
        "--retrain-rate, or leave out --retrain-top",
    )
    return built


def tell_joint(job: Job, arch: Arch) -> None:
    """Put on record how a network came by weights that were trained beside the choices.

    Args:
        job: whose strategy trained them.
        arch: the network to be delivered.
    """
    training, validation = joint_training(job), job.material.search
    assert training is not None, "checked with the request"
    assert validation is not None, "as it was read with the request"
    job.own[arch] = job.network(arch)
    before, after = (
        _judged(job, network, validation, "validation").value
        for network in (_inherited(job, arch), job.own[arch])
    )
    _put_on_record(
        job,
        arch,
        start="joint",
        recipe=training[1].recipe,
        candidates=(Retrained(arch_id=arch.id, arch_text=str(arch), before=before, after=after),),
        worse="training weights jointly made the network worse: --weights fixed",
    )


def _put_on_record(
    job: Job,
    arch: Arch,
    *,
    start: Literal["inherited", "scratch", "joint"],
    recipe: Recipe,
    candidates: tuple[Retrained, ...],
    worse: str,
) -> None:
    """How the network that is delivered came by its weights; a note where they are ``worse``."""
    train, validation = job.material.train, job.material.search
    assert train is not None, "checked with the request"
    assert validation is not None, "as it was read with them"
    before, after = _told(job, arch)
    job.retrained.append(
        Retraining(
            start=start,
            epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            images=len(train),
            validation=len(validation),
            candidates=candidates,
            before=before,
            after=after,
        )
    )
    if after.value < before.value:
        job.notes.append(worse)


def _trained(
    job: Job, arch: Arch, images: Images, *, recipe: Recipe, number: int, of: int
) -> Network:
    """One network with weights of its own."""
    network, seed = job.network(arch).train(), job.request.seed
    if job.request.retrain_from == "scratch":
        initialise(network, generator=torch.Generator().manual_seed(seed))
    texts = [_VERSION, repr(job.space), arch.id, str(recipe), str(seed)]
    texts += [str(job.trained.preprocessing), str(torch.get_num_threads())]
    name = digest(texts, [*network.parameters(), images.pixels, images.labels])
    started, first = time.monotonic(), -1

    def tell(done: int, total: int, words: str) -> None:
        nonlocal first
        first = done - 1 if first < 0 else first
        left = (time.monotonic() - started) / (done - first) * (total * (of - number) - done)
        words = f"network {number + 1} of {of}, {words}, {duration(left)} left"
        job.tell("retraining", number * total + done, of * total, words)

    return train_alone(
        network,
        images,
        recipe=recipe,
        preprocessing=job.trained.preprocessing,
        seed=seed,
        state=cache_folder() / "retrained" / f"{arch.id}-{name[:24]}.safetensors",
        tell=tell,
    )


def _judged(job: Job, network: Network, images: Images, split: str) -> Accuracy:
    """The accuracy of a network, calibrated first."""
    preprocessing = job.trained.preprocessing
    calibrate(network, job.material.calibration, preprocessing=preprocessing)
    value = accuracy(network, images, preprocessing=preprocessing, split=split).value
    return Accuracy.of(
        correct=round(value * len(images)),
        images=len(images),
        data=images.source.rpartition("/")[2],
        split=split,
    )


def _told(job: Job, arch: Arch) -> tuple[Accuracy, Accuracy]:
    """Accuracies before and after, on the images that the result is judged on."""
    judged, split = job.material.judged, job.material.split
    assert judged is not None, "there are validation images at least"
    before = _judged(job, _inherited(job, arch), judged, split)
    after = _judged(job, job.own[arch], judged, split)
    return (
        dataclasses.replace(before, copies=job.material.copies),
        dataclasses.replace(after, copies=judged_copies(job)),
    )


def _inherited(job: Job, arch: Arch) -> Network:
    """A network with the weights of the supernet as it was given."""
    return job.trained.supernet.extract(arch).to(memory_format=torch.channels_last)
