"""Training of a supernet: the sandwich rule with distillation.

Every step trains the largest network on the labels and the smallest and some random ones on the
soft output of the largest (universally slimmable networks, arXiv 1903.05134, sections 3.3-3.4), or
all of them on the labels and the answers of a given teacher.
All chance of a step comes from (seed, step), so a run that was cut off at any moment goes on to
bitwise the same weights on a CPU, on the same machine with the same number of threads.
"""

import contextlib
import ctypes
import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import wait_for_machine
from edgenas.basics.units import duration
from edgenas.images.copies import LearntImages, Sketches
from edgenas.images.data import Images, Split, split
from edgenas.images.preprocessing import Preprocessing, as_size
from edgenas.model import processes as parallel
from edgenas.model.saved import TrainedSupernet
from edgenas.model.supernet import Supernet
from edgenas.space.presets import space_to_json
from edgenas.space.space import Space
from edgenas.training.course import (
    Course,
    choose_calibration,
    evaluate_watched,
    start_state,
    take_step,
)
from edgenas.training.phases import SORTED, plan_phases, sort_channels
from edgenas.training.recipe import Recipe
from edgenas.training.runs import Run, read_planned
from edgenas.training.state import State
from edgenas.training.teacher import Teacher
from edgenas.training.timing import plan_epochs

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
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
    init: TrainedSupernet | None = None,
    teacher: Teacher | None = None,
    normalisation: Normalisation | None = None,
    resume: bool = False,
    time_budget: float | None = None,
    device: str | torch.device = "cpu",
    tell: Callable[[TrainingProgress], None] = lambda progress: None,
) -> TrainedSupernet:
    """Train a supernet, or go on with a training that was cut off.

    Args:
        space: its space; the number of classes is taken from the images.
        images: everything that may be learnt from; a part of it is set aside for validation.
        recipe: how to train.
        out: the run folder: configuration, checkpoint and metrics.
        seed: of everything that is left to chance.
        init: weights to start from; those of the classifier only for the same class names.
            Its space may have other classes, resolutions, aspect and strides.
        teacher: see ``load_teacher``; None: the networks learn from the largest one.
        normalisation: mean and standard deviation of the inputs, see ``Preprocessing``; None:
            those of the training images.
        resume: go on from the checkpoint in ``out``; start there if there is none yet.
        time_budget: seconds for the training and the evaluation of the networks that an accuracy
            predictor is fitted to. The recipe gets as many epochs as fit, see ``timing.fitted``;
            a run that goes on keeps those that it was begun with. None: the epochs of the recipe.
        device: where to train, e.g. ``cuda``; several processes: see ``edgenas.model.processes``.
        tell: called after every step.

    Returns:
        The trained supernet, not yet saved.

    Raises:
        EdgenasError: ``out`` holds another run or a damaged checkpoint, ``init`` is of another
            space, images have another aspect than the space or are fewer than a batch, there is no
            GPU for fp16, the time is too short for an epoch, or the training diverges.
    """
    keep_memory()
    if recipe.precision == "fp16" and torch.device(device).type != "cuda":
        raise EdgenasError(
            f"precision fp16 is for GPUs, found --device {torch.device(device).type}",
            hint="use --device cuda, or precision fp32",
        )
    space = space.with_classes(len(images.classes))
    divided_by = find_split_seed(images, recipe=recipe, seed=seed, init=init)
    parts = split(images, validation=recipe.validation, seed=divided_by)
    course = _course(space, parts, recipe, teacher=teacher, normalisation=normalisation, seed=seed)
    supernet = Supernet(space, seed=seed)
    if init is not None:
        copy_weights(init, supernet, classes=images.classes)
    supernet.to(torch.device(device)).to(memory_format=torch.channels_last)
    if time_budget is not None:
        before = parallel.broadcast(read_planned(out) if parallel.rank() == 0 else None)
        found = before or plan_epochs(course, supernet, seconds=time_budget)
        recipe = dataclasses.replace(recipe, **found)
        course = dataclasses.replace(course, recipe=recipe)
        tell(_start(course, note=f"{duration(time_budget)} are enough for {recipe.epochs} epochs"))
    state = start_state(course, supernet)
    configuration = _configuration(course, images, init, time_budget=time_budget)
    other = None if divided_by == seed else divided_by
    run = Run(out, configuration | {"normalisation": normalisation, "split_seed": other})
    with contextlib.closing(run):
        start, seconds = 0, 0.0
        if parallel.broadcast(parallel.rank() == 0 and run.open(resume=resume)):
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
        learnt=_learnt(parts.train, init),
    )


def _course(
    space: Space,
    parts: Split,
    recipe: Recipe,
    *,
    teacher: Teacher | None,
    normalisation: Normalisation | None,
    seed: int,
) -> Course:
    count, step_images = len(parts.train), recipe.batch * recipe.accumulate * parallel.world()
    if count < step_images:
        raise EdgenasError(
            f"the training images must fill a batch of {step_images}, found {count}",
            hint="use more images or a recipe with a smaller batch",
        )
    height, width = (int(size) for size in parts.train.pixels.shape[2:])
    if height * space.aspect[1] != width * space.aspect[0]:
        raise EdgenasError(
            f"images must have the aspect {[*space.aspect]} of the space {space.name}, "
            f"found {height}x{width} pixels",
            hint="load them with stored=choose_stored_size(space)",
        )
    mean, std = normalisation or parts.train.statistics()
    rows = space.sample(recipe.watched, rng=np.random.default_rng((seed, 6)), by="gene")
    return Course(
        space=space,
        recipe=recipe,
        seed=seed,
        parts=parts,
        preprocessing=Preprocessing(stored=as_size(height, width), mean=mean, std=std),
        calibration=choose_calibration(parts.train, recipe, seed=seed),
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
    tell: Callable[[TrainingProgress], None],
) -> float:
    """All steps from ``start`` on; the seconds that those before and these took."""
    recipe, per_epoch = course.recipe, course.steps_per_epoch
    planned = plan_phases(course.space, recipe, steps=course.steps)
    saved = clock = time.monotonic()
    logged = start, seconds
    for step in range(start, course.steps):
        waited = wait_for_machine()
        clock, saved = clock + waited, saved + waited
        phase = next(p for p in reversed(planned) if p.first <= step)
        if step == phase.first and phase.elastic in SORTED:
            sort_channels(state.model, state.optimiser, state.average, elastic=phase.elastic)
        rate = phase.learning_rate(step, per_epoch, recipe)
        losses = take_step(course, state, phase.space, step=step, rate=rate)

        done, now = step + 1, time.monotonic()
        speed = course.step_images / max(now - clock, 1e-9)
        seconds, clock = seconds + now - clock, now
        epoch_over = done % per_epoch == 0
        judged = epoch_over and (
            done // per_epoch % recipe.judge_every == 0 or done == course.steps
        )
        progress = TrainingProgress(
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
        if judged:
            found = evaluate_watched(course, state)
            told = {"validation": found[:2]} | ({"random": found[2:]} if found[2:] else {})
            run.log(step=done, epoch=done // per_epoch, **told)
            tell(dataclasses.replace(progress, note=_note(found)))
            clock = time.monotonic()
        if epoch_over or time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(state, step=done, seconds=seconds)
            saved = time.monotonic()
    return seconds


def _start(course: Course, *, note: str) -> TrainingProgress:
    return TrainingProgress(
        step=0, steps=course.steps, epoch=0.0, images_per_second=0.0, loss=0.0, note=note
    )


def _note(accuracies: Sequence[float]) -> str:
    """The accuracies of the watched networks in words."""
    largest, smallest, *others = accuracies
    text = f"validation: largest {largest:.2%}, smallest {smallest:.2%}"
    if others:
        text += f", mean of {len(others)} random ones {sum(others) / len(others):.2%}"
    return text


def keep_memory() -> None:
    """Let glibc keep freed memory: page faults are dear, and every step frees all activations."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 10**9)


def _configuration(
    course: Course, images: Images, init: TrainedSupernet | None, *, time_budget: float | None
) -> dict[str, Any]:
    return {
        "space": space_to_json(course.space),
        "time_budget": time_budget,
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
        "init": None if init is None else _digest(init.supernet),
        "teacher": None if course.teacher is None else course.teacher.record,
    }


def _learnt(train: Images, init: TrainedSupernet | None) -> LearntImages:
    """What weights will have learnt from: the images of this training and of those before it."""
    mine = Sketches.of(train.pixels)
    if init is None:
        return LearntImages(mine, whole=True)
    if (before := init.learnt) is None:
        return LearntImages(mine, whole=False)
    return LearntImages(Sketches.joined([before.sketches, mine]), whole=before.whole)


def copy_weights(init: TrainedSupernet, supernet: Supernet, *, classes: tuple[str, ...]) -> None:
    """Copy weights; statistics stay behind, they belong to the networks of the old training.

    Classes, resolutions, aspect and strides may be others: no weight but those of the classifier
    depends on them.
    """
    space, old = supernet.space, init.supernet.space
    pairs = zip(old.stages, space.stages, strict=False)
    alike = dataclasses.replace(
        old.with_classes(space.classes),
        name=space.name,
        resolutions=space.resolutions,
        aspect=space.aspect,
        stages=tuple(dataclasses.replace(one, stride=other.stride) for one, other in pairs),
    )
    if alike != space or len(old.stages) != len(space.stages):
        raise EdgenasError(
            f"--init must have the stages of the space {space.name}, found {old.name}",
            hint="classes, resolutions, aspect and strides may be others, nothing else",
        )
    with torch.no_grad():
        for name, parameter in init.supernet.named_parameters():
            if init.classes == classes or not name.startswith("head.classifier"):
                supernet.get_parameter(name).copy_(parameter)


def find_split_seed(
    images: Images, *, recipe: Recipe, seed: int, init: TrainedSupernet | None
) -> int:
    """The seed by which a training sets images aside for validation.

    That of the training, unless it starts from weights that have learnt from as many images of the
    same classes. Those may be these very ones, perhaps kept at another size; so these are divided
    as they were for those weights, and what was set aside stays unseen.

    Args:
        images: everything that may be learnt from.
        recipe: of the training.
        seed: of the training.
        init: the weights to start from, if any.

    Raises:
        EdgenasError: the recipe sets another part of the images aside than that of the weights.
    """
    if init is None or images.held is not None or init.classes != images.classes:
        return seed
    record = init.training
    if record.get("data", {}).get("images") != len(images):
        return seed
    part = record.get("recipe", {}).get("validation")
    if part != recipe.validation:
        raise EdgenasError(
            f"--init was trained on {len(images)} images of the same classes with {part:.0%} of "
            f"them for validation: if they are these, with {recipe.validation:.0%} images would "
            "be set aside that it has learnt from",
            hint=f"use a recipe with validation = {part}",
        )
    given = record.get("split_seed")
    return record.get("seed", 0) if given is None else given


def _digest(supernet: Supernet) -> str:
    total = sum(p.double().sum().item() for p in supernet.parameters())
    return f"{total:.9e}"
