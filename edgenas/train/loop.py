"""Training of a supernet: the sandwich rule with distillation.

Every step trains the largest network on the labels and the smallest and some random ones on the
soft output of the largest (universally slimmable networks, arXiv 1903.05134, sections 3.3-3.4), or
all of them on the labels and the answers of a given teacher.
All chance of a step comes from (seed, step), so a run that was cut off at any moment goes on to
bitwise the same weights, on the same machine with the same number of threads.
"""

import contextlib
import ctypes
import dataclasses
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgenas import parallel
from edgenas.arch import Arch
from edgenas.data import Images, Preprocessing, Split, split
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
from edgenas.train.sampling import attended, drawn
from edgenas.train.state import State
from edgenas.train.step import sandwich_step
from edgenas.train.teacher import Teacher
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a training is to do, from its first step to its last.

    Args:
        space: of the supernet.
        recipe: how to train.
        seed: of everything that is left to chance.
        parts: the images.
        preprocessing: how they become inputs.
        calibration: stored training images for batch-norm statistics.
        watched: networks that are judged after every epoch: the largest, the smallest, others.
        teacher: a given model whose answers the networks learn; None: they learn from the largest.
        steps_per_epoch: of which an epoch consists.
    """

    space: Space
    recipe: Recipe
    seed: int
    parts: Split
    preprocessing: Preprocessing
    calibration: Tensor
    watched: Sequence[Arch]
    teacher: Teacher | None
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def step_images(self) -> int:
        """Images of a step."""
        return self.recipe.batch * self.recipe.accumulate * parallel.world()


def train(
    space: Space,
    images: Images,
    *,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    init: Supernet | None = None,
    teacher: Teacher | None = None,
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
        teacher: see ``load_teacher``; None: the networks learn from the largest one.
        resume: go on from the checkpoint in ``out``; start there if there is none yet.
        device: where to train, e.g. ``cuda``; several processes: see ``edgenas.parallel``.
        tell: called after every step.

    Returns:
        The trained supernet, not yet saved.

    Raises:
        EdgenasError: ``out`` holds another run or a damaged checkpoint, ``init`` is of another
            space, there are fewer training images than a batch, there is no GPU for fp16, or the
            training diverges.
    """
    keep_memory()
    if recipe.precision == "fp16" and torch.device(device).type != "cuda":
        raise EdgenasError(
            f"precision fp16 is for GPUs, found --device {torch.device(device).type}",
            hint="use --device cuda, or precision fp32",
        )
    space = space.with_classes(len(images.classes))
    course = _course(space, images, recipe, teacher=teacher, seed=seed)
    supernet = Supernet(space, seed=seed)
    if init is not None:
        _start_from(init, supernet)
    supernet.to(torch.device(device)).to(memory_format=torch.channels_last)
    state = State.of(supernet, recipe)
    run = Run(out, _configuration(course, images, init))
    with contextlib.closing(run):
        start, seconds = 0, 0.0
        if parallel.from_first(parallel.rank() == 0 and run.open(resume=resume)):
            start, seconds = run.load(state)
        seconds = _steps(course, state, run, start=start, seconds=seconds, tell=tell)
        record = run.configuration | {
            "validation_images": len(course.parts.validation),
            "train_images": len(course.parts.train),
            "seconds": round(seconds),
            "curve": run.curve(),
        }
    return TrainedSupernet(
        supernet=state.judged().cpu().eval(),
        classes=images.classes,
        preprocessing=course.preprocessing,
        training=record,
    )


def _course(
    space: Space, images: Images, recipe: Recipe, *, teacher: Teacher | None, seed: int
) -> Course:
    parts = split(images, validation=recipe.validation, seed=seed)
    count, step_images = len(parts.train), recipe.batch * recipe.accumulate * parallel.world()
    if count < step_images:
        raise EdgenasError(
            f"the training images must fill a batch of {step_images}, found {count}",
            hint="use more images or a recipe with a smaller batch",
        )
    mean, std = parts.train.statistics()
    rows = space.sample(recipe.watched, rng=np.random.default_rng((seed, 6)), by="gene")
    return Course(
        space=space,
        recipe=recipe,
        seed=seed,
        parts=parts,
        preprocessing=Preprocessing(stored=images.pixels.shape[-1], mean=mean, std=std),
        calibration=calibration_pixels(parts.train, recipe, seed=seed),
        watched=(space.largest(), space.smallest(), *space.decode(rows)),
        teacher=teacher,
        steps_per_epoch=count // step_images,
    )


def _steps(
    course: Course,
    state: State[Supernet],
    run: Run,
    *,
    start: int,
    seconds: float,
    tell: Callable[[Progress], None],
) -> float:
    """All steps from ``start`` on; the seconds that those before and these took."""
    recipe, per_epoch = course.recipe, course.steps_per_epoch
    planned = phases(course.space, recipe, steps=course.steps)
    saved = clock = time.monotonic()
    logged = start, seconds
    for step in range(start, course.steps):
        waited = wait_for_machine()
        clock, saved = clock + waited, saved + waited
        phase = next(p for p in reversed(planned) if p.first <= step)
        if step == phase.first and phase.elastic == "expands":
            sort_channels(state.model, state.optimiser, state.average)
        rate = phase.learning_rate(step, per_epoch, recipe)
        losses = _step(course, state, phase.space, step=step, rate=rate)

        done, now = step + 1, time.monotonic()
        speed = course.step_images / max(now - clock, 1e-9)
        seconds, clock = seconds + now - clock, now
        epoch_over = done % per_epoch == 0
        progress = Progress(
            step=done,
            steps=course.steps,
            epoch=done / per_epoch,
            images_per_second=speed,
            loss=losses[0],
        )
        tell(progress)
        if done % 20 == 0 or epoch_over:
            speed = (done - logged[0]) * course.step_images / max(seconds - logged[1], 1e-9)
            logged = done, seconds
            run.log(
                step=done,
                losses=losses,
                learning_rate=rate,
                images_per_second=round(speed, 1),
                seconds=round(seconds, 1),
            )
        if epoch_over:
            found = _validated(course, state)
            told = {"validation": found[:2]} | ({"random": found[2:]} if found[2:] else {})
            run.log(step=done, epoch=done // per_epoch, **told)
            tell(dataclasses.replace(progress, note=_note(found)))
            clock = time.monotonic()
        if epoch_over or time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(state, step=done, seconds=seconds)
            saved = time.monotonic()
    return seconds


def _step(
    course: Course, state: State[Supernet], space: Space, *, step: int, rate: float
) -> list[float]:
    """One step, with the networks of ``space``; its losses."""
    losses = _gradients(course, state, space, step=step)
    state.step(rate)
    state.follow(decay=course.recipe.ema, step=step)
    if not all(map(math.isfinite, losses)):
        raise EdgenasError(
            f"the training diverged at step {step}: the losses are {losses}",
            hint="use a recipe with a smaller learning_rate, in another --out",
        )
    return losses


def _gradients(course: Course, state: State[Supernet], space: Space, *, step: int) -> list[float]:
    """Gradients of one step, added up over batches and processes; the mean losses."""
    recipe, supernet = course.recipe, state.model
    draw = drawn(space, recipe, seed=course.seed, step=step)
    place = next(supernet.parameters()).device
    first = parallel.rank() * recipe.accumulate
    archs, sums = draw.corners, torch.zeros(0, dtype=torch.float64)
    for number in range(first, first + recipe.accumulate):
        pixels, labels = _batch(course, draw.chance, step=step, number=number)
        pixels, labels = pixels.to(place), labels.to(place)
        if number == first:
            # Of several processes, the first one chooses for all.
            chosen = None
            if parallel.rank() == 0:
                chosen = attended(
                    supernet,
                    draw.groups,
                    pixels,
                    labels,
                    recipe=recipe,
                    preprocessing=course.preprocessing,
                )
            archs = [*draw.corners, *parallel.from_first(chosen)]
            sums = torch.zeros(len(archs), dtype=torch.float64)
        losses = sandwich_step(
            supernet,
            archs,
            pixels,
            labels,
            preprocessing=course.preprocessing,
            label_smoothing=recipe.label_smoothing,
            answers=None if course.teacher is None else course.teacher.logits(pixels),
            distillation=recipe.distillation,
            temperature=recipe.temperature,
            parts=recipe.accumulate * parallel.world(),
            precision=recipe.precision,
            scaler=state.scaler,
        )
        sums += torch.tensor(losses, dtype=torch.float64)
    # Every process trains the same archs, so the same parameters have a gradient.
    parallel.add_up(p.grad for p in supernet.parameters() if p.grad is not None)
    sums = sums.to(place)
    parallel.add_up([sums])
    return sums.tolist()


def _batch(
    course: Course, chance: np.random.Generator, *, step: int, number: int
) -> tuple[Tensor, Tensor]:
    """Views of the images of one of a step's batches, and their labels or shares of classes."""
    recipe, images = course.recipe, course.parts.train
    indices = indices_of(images, recipe, course.step_images, course.seed, step)
    mine = indices[number * recipe.batch : (number + 1) * recipe.batch]
    rng = np.random.default_rng((course.seed, 1, step, number)) if number else chance
    pixels = views(images.pixels[mine], recipe=recipe, rng=rng)
    labels, classes = images.labels[mine], len(images.classes)
    return mixed(pixels, labels, recipe=recipe, classes=classes, rng=rng)


def _validated(course: Course, state: State[Supernet]) -> list[float]:
    """Validation accuracy of the watched networks, shared out over the processes."""
    mine = evaluate(
        state.judged(),
        course.watched[parallel.rank() :: parallel.world()],
        images=course.parts.validation,
        calibration=course.calibration,
        preprocessing=course.preprocessing,
        split="validation",
    )
    found = parallel.gathered([round(a.value, 4) for a in mine])
    return [found[i % len(found)][i // len(found)] for i in range(len(course.watched))]


def _note(accuracies: Sequence[float]) -> str:
    """The accuracies of the watched networks in words."""
    largest, smallest, *others = accuracies
    text = f"validation: largest {largest:.2%}, smallest {smallest:.2%}"
    if others:
        text += f", mean of {len(others)} random ones {sum(others) / len(others):.2%}"
    return text


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


def indices_of(images: Images, recipe: Recipe, count: int, seed: int, step: int) -> Tensor:
    """Which images a step learns from, shape (count,): every epoch in another random order."""
    epoch, place = divmod(step, len(images) // count)
    rng = np.random.default_rng((seed, 2, epoch))
    if recipe.balance:
        sizes = images.labels.bincount(minlength=len(images.classes)).double().numpy()
        weights = sizes[images.labels.numpy()] ** -recipe.balance
        order = rng.choice(len(images), size=len(images), p=weights / weights.sum())
    else:
        order = rng.permutation(len(images))
    return torch.from_numpy(order[place * count : (place + 1) * count])


def _configuration(course: Course, images: Images, init: Supernet | None) -> dict[str, Any]:
    return {
        "space": space_to_json(course.space),
        "recipe": dataclasses.asdict(course.recipe),
        "seed": course.seed,
        "data": {
            "source": Path(images.source).name,
            "digest": images.digest,
            "classes": len(images.classes),
            "images": len(images),
        },
        "threads": torch.get_num_threads(),
        "processes": parallel.world(),
        "init": None if init is None else _digest(init),
        "teacher": None if course.teacher is None else course.teacher.record,
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
