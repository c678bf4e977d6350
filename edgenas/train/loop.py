"""Training of a supernet: the sandwich rule with in-place distillation.

Every step trains the largest network on the labels and the smallest and some random ones on the
soft output of the largest (universally slimmable networks, arXiv 1903.05134, sections 3.3-3.4).
All chance of a step comes from (seed, step), so a run that was cut off at any moment goes on to
bitwise the same weights, on the same machine with the same number of threads.
"""

import copy
import ctypes
import dataclasses
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgenas import parallel
from edgenas.arch import Arch
from edgenas.data import Images, Preprocessing, split
from edgenas.errors import EdgenasError
from edgenas.evaluate import evaluate
from edgenas.files import wait_for_machine
from edgenas.recipe import Recipe
from edgenas.space import Space
from edgenas.spaces import space_to_json
from edgenas.supernet import Supernet
from edgenas.train.augment import mixed, views
from edgenas.train.phases import phases, sort_channels
from edgenas.train.runs import Run
from edgenas.train.sampling import drawn
from edgenas.train.step import follow, sandwich_step
from edgenas.trained import TrainedSupernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands, told after every step."""

    step: int
    steps: int
    epoch: float
    images_per_second: float
    loss: float
    note: str = ""


def train(
    space: Space,
    images: Images,
    *,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    init: Supernet | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    tell: Callable[[Progress], None] = lambda progress: None,
) -> TrainedSupernet:
    """Train a supernet, or go on with a training that was cut off.

    Args:
        space: its space; the number of classes is taken from the images.
        images: everything that may be learnt from; a part of it is set aside for validation.
        recipe: how to train.
        out: the run folder: configuration, checkpoint and metrics.
        seed: of everything that is left to chance.
        init: weights to start from; those of the classifier only for the same number of classes.
        resume: go on from the checkpoint in ``out``; start there if there is none yet.
        device: where to train, e.g. ``cuda``; several processes: see ``edgenas.parallel``.
        tell: called after every step.

    Returns:
        The trained supernet, not yet saved.

    Raises:
        EdgenasError: ``out`` holds another run or a damaged checkpoint, ``init`` is of another
            space, there are fewer training images than a batch, or the training diverges.
    """
    keep_memory()
    place = torch.device(device)
    space = space.with_classes(len(images.classes))
    parts = split(images, validation=recipe.validation, seed=seed)
    count, step_images = len(parts.train), recipe.batch * recipe.accumulate * parallel.world()
    steps_per_epoch = count // step_images
    if steps_per_epoch == 0:
        raise EdgenasError(
            f"the training images must fill a batch of {step_images}, found {count}",
            hint="use more images or a recipe with a smaller batch",
        )
    steps = recipe.epochs * steps_per_epoch
    mean, std = parts.train.statistics()
    preprocessing = Preprocessing(stored=images.pixels.shape[-1], mean=mean, std=std)
    supernet = Supernet(space, seed=seed)
    if init is not None:
        _start_from(init, supernet)
    supernet.to(place).to(memory_format=torch.channels_last)
    optimiser = _optimiser(supernet, recipe)
    average = {n: p.detach().clone() for n, p in supernet.named_parameters()} if recipe.ema else {}
    run = Run(out, _configuration(space, images, recipe, seed, init))
    start, seconds = 0, 0.0
    if parallel.from_first(parallel.rank() == 0 and run.open(resume=resume)):
        start, seconds = run.load(supernet, optimiser, average)

    planned, corners = phases(space, recipe, steps=steps), [space.largest(), space.smallest()]
    calibration = calibration_pixels(parts.train, recipe, seed=seed)
    saved = clock = time.monotonic()
    for step in range(start, steps):
        waited = wait_for_machine()
        clock, saved = clock + waited, saved + waited
        phase = next(p for p in reversed(planned) if p.first <= step)
        if step == phase.first and phase.elastic == "expands":
            sort_channels(supernet, optimiser, average)
        for group in optimiser.param_groups:
            group["lr"] = phase.learning_rate(step, steps_per_epoch, recipe)
        losses = _step(
            supernet, phase.space, parts.train, recipe, preprocessing, seed=seed, step=step
        )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if average:
            follow(average, supernet, decay=recipe.ema, step=step)
        if not all(map(math.isfinite, losses)):
            raise EdgenasError(
                f"the training diverged at step {step}: the losses are {losses}",
                hint="use a recipe with a smaller learning_rate, in another --out",
            )

        done, now = step + 1, time.monotonic()
        speed = step_images / max(now - clock, 1e-9)
        seconds, clock = seconds + now - clock, now
        epoch_over = done % steps_per_epoch == 0
        progress = Progress(
            step=done,
            steps=steps,
            epoch=done / steps_per_epoch,
            images_per_second=speed,
            loss=losses[0],
        )
        tell(progress)
        if done % 20 == 0 or epoch_over:
            run.log(step=done, losses=losses, seconds=round(seconds, 1))
        if epoch_over:
            values = _validated(
                supernet, average, corners, parts.validation, calibration, preprocessing
            )
            run.log(step=done, epoch=done // steps_per_epoch, validation=values)
            note = f"validation: largest {values[0]:.2%}, smallest {values[1]:.2%}"
            tell(dataclasses.replace(progress, note=note))
            clock = time.monotonic()
        if epoch_over or time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(supernet, optimiser, average, step=done, seconds=seconds)
            saved = time.monotonic()
    record = run.configuration | {
        "validation_images": len(parts.validation),
        "train_images": count,
        "seconds": round(seconds),
        "curve": run.curve(),
    }
    return TrainedSupernet(
        supernet=_averaged(supernet, average).cpu().eval(),
        classes=images.classes,
        preprocessing=preprocessing,
        training=record,
    )


def _step(
    supernet: Supernet,
    space: Space,
    images: Images,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seed: int,
    step: int,
) -> list[float]:
    """Gradients of one step, added up over batches and processes; the mean losses."""
    archs, chance = drawn(space, recipe, seed=seed, step=step)
    place = next(supernet.parameters()).device
    batches = recipe.accumulate * parallel.world()
    indices = _indices(images, recipe, recipe.batch * batches, seed, step).split(recipe.batch)
    sums = torch.zeros(len(archs), dtype=torch.float64)
    for i in range(recipe.accumulate):
        number = parallel.rank() * recipe.accumulate + i
        rng = chance if number == 0 else np.random.default_rng((seed, 1, step, number))
        pixels = views(images.pixels[indices[number]], recipe=recipe, rng=rng)
        pixels, labels = mixed(
            pixels,
            images.labels[indices[number]],
            recipe=recipe,
            classes=space.classes,
            rng=rng,
        )
        losses = sandwich_step(
            supernet,
            archs,
            pixels.to(place),
            labels.to(place),
            preprocessing=preprocessing,
            label_smoothing=recipe.label_smoothing,
            parts=batches,
            half=recipe.precision == "bf16",
        )
        sums += torch.tensor(losses, dtype=torch.float64)
    # Every process trains the same archs, so the same parameters have a gradient.
    parallel.add_up(p.grad for p in supernet.parameters() if p.grad is not None)
    sums = sums.to(place)
    parallel.add_up([sums])
    return sums.tolist()


def _validated(
    supernet: Supernet,
    average: dict[str, Tensor],
    corners: list[Arch],
    validation: Images,
    calibration: Tensor,
    preprocessing: Preprocessing,
) -> list[float]:
    """Validation accuracy of some networks, shared out over the processes."""
    mine = evaluate(
        _averaged(supernet, average),
        corners[parallel.rank() :: parallel.world()],
        images=validation,
        calibration=calibration,
        preprocessing=preprocessing,
        split="validation",
    )
    found = parallel.gathered([round(a.value, 4) for a in mine])
    return [found[i % len(found)][i // len(found)] for i in range(len(corners))]


def _averaged(supernet: Supernet, average: dict[str, Tensor]) -> Supernet:
    """The supernet itself, or a copy of it with averaged weights where there are some."""
    if not average:
        return supernet
    copied = copy.deepcopy(supernet)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            parameter.copy_(average[name])
    return copied


def calibration_pixels(images: Images, recipe: Recipe, *, seed: int) -> Tensor:
    """The training images that batch-norm statistics are computed on: a fixed random choice."""
    order = np.random.default_rng((seed, 3)).permutation(len(images))[: recipe.calibration]
    return images.pixels[torch.from_numpy(order)]


def keep_memory() -> None:
    """Let glibc keep freed memory: page faults are dear, and every step frees all activations."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 10**9)


def _indices(images: Images, recipe: Recipe, count: int, seed: int, step: int) -> Tensor:
    epoch, place = divmod(step, len(images) // count)
    rng = np.random.default_rng((seed, 2, epoch))
    if recipe.balance:
        sizes = images.labels.bincount(minlength=len(images.classes)).double().numpy()
        weights = sizes[images.labels.numpy()] ** -recipe.balance
        order = rng.choice(len(images), size=len(images), p=weights / weights.sum())
    else:
        order = rng.permutation(len(images))
    return torch.from_numpy(order[place * count : (place + 1) * count])


def _optimiser(supernet: Supernet, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for n, p in supernet.named_parameters() if p.ndim > 1 and "kernel_" not in n]
    others = [p for n, p in supernet.named_parameters() if not (p.ndim > 1 and "kernel_" not in n)]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
    )


def _configuration(
    space: Space, images: Images, recipe: Recipe, seed: int, init: Supernet | None
) -> dict[str, Any]:
    return {
        "space": space_to_json(space),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "data": {
            "source": Path(images.source).name,
            "digest": images.digest,
            "classes": len(images.classes),
            "images": len(images),
        },
        "threads": torch.get_num_threads(),
        "processes": parallel.world(),
        "init": None if init is None else _digest(init),
    }


def _start_from(init: Supernet, supernet: Supernet) -> None:
    """Copy weights; statistics stay behind, they belong to the networks of the old training."""
    if init.space.with_classes(supernet.space.classes) != supernet.space:
        raise EdgenasError(
            f"--init must be of the space {supernet.space.name}, found {init.space.name}",
            hint="train with the space of the supernet that you start from",
        )
    with torch.no_grad():
        for (name, old), new in zip(init.named_parameters(), supernet.parameters(), strict=True):
            if old.shape == new.shape:
                new.copy_(old)
            else:
                assert name.startswith("head.classifier"), name


def _digest(supernet: Supernet) -> str:
    total = sum(p.double().sum().item() for p in supernet.parameters())
    return f"{total:.9e}"
