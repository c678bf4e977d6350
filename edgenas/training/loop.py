"""Training of a supernet: the sandwich rule with distillation.

Every step trains the largest network on the labels and the smallest and some random ones on the
soft output of the largest (universally slimmable networks, arXiv 1903.05134, sections 3.3-3.4), or
all of them on the labels and the answers of a given teacher.
All chance of a step comes from (seed, step), so a run that was cut off at any moment goes on to
bitwise the same weights on a CPU, on the same machine with the same number of threads.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import wait_for_machine
from edgenas.basics.units import duration
from edgenas.images.data import Images, split
from edgenas.model import processes as parallel
from edgenas.model.saved import TrainedSupernet
from edgenas.model.supernet import Supernet
from edgenas.space.space import Space
from edgenas.training.course import Course, evaluate_watched, start_state, take_step
from edgenas.training.memory import give_memory_back, keep_memory
from edgenas.training.options import TrainingOptions
from edgenas.training.phases import SORTED, plan_phases, sort_channels
from edgenas.training.recipe import Recipe
from edgenas.training.runs import Run, read_planned
from edgenas.training.start import (
    describe_run,
    find_split_seed,
    make_course,
    make_supernet,
    record_learnt,
)
from edgenas.training.state import State
from edgenas.training.timing import plan_epochs

_LOGGED = 20  # steps from one line of losses in the metrics to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a training is; one is reported after every step.

    Args:
        step: steps done.
        steps: steps in all.
        epoch: epochs done.
        images_per_second: the speed of the last step.
        loss: of the largest network in the last step.
        note: what people should read; mostly empty.
    """

    step: int
    steps: int
    epoch: float
    images_per_second: float
    loss: float
    note: str = ""


Report = Callable[[TrainingProgress], None]


def _report_nothing(progress: TrainingProgress) -> None:
    pass


def train(
    space: Space,
    images: Images,
    *,
    recipe: Recipe,
    out: Path,
    options: TrainingOptions | None = None,
    resume: bool = False,
    progress: Report = _report_nothing,
) -> TrainedSupernet:
    """Train a supernet, or go on with a training that was cut off.

    Args:
        space: of the supernet. The number of its classes is taken from the images.
        images: everything that may be learnt from. A part of them is set aside for validation.
        recipe: how to train.
        out: the folder of the run. It holds the configuration, the checkpoint and the metrics.
        options: what the training begins from, and how long it may take.
        resume: go on from the checkpoint in ``out``, or start there if it holds none yet.
        progress: is called after every step.

    Returns:
        The trained supernet, which is not saved yet.

    Raises:
        EdgenasError: ``out`` holds another run or a damaged checkpoint, the weights to start from
            are of another space, the images have another aspect than the space or do not fill a
            batch, there is no GPU for fp16, the time is too short for an epoch, or the training
            diverges.
    """
    options = options or TrainingOptions()
    course, supernet, split_seed = _lay_out(space, images, recipe, options)
    parts = course.parts
    if options.time_budget is not None:
        course = _with_planned_epochs(course, supernet, out=out, options=options)
        words = f"{duration(options.time_budget)} are enough for {course.recipe.epochs} epochs"
        progress(_begin(course, note=words))
    state = start_state(course, supernet)
    run = Run(out, describe_run(course, images, options, split_seed=split_seed))
    with contextlib.closing(run):
        start, seconds = 0, 0.0
        if parallel.broadcast(parallel.rank() == 0 and run.open(resume=resume)):
            start, seconds = run.load(state)
        seconds = _run_steps(course, state, run, start=start, seconds=seconds, progress=progress)
        record = run.configuration | {
            "validation_images": len(parts.validation),
            "train_images": len(parts.train),
            "seconds": round(seconds),
            "curve": run.curve(),
        }
        if options.init is not None and options.init.origin:
            record["origin"] = options.init.origin
    return TrainedSupernet(
        supernet=state.final_model().cpu().eval(),
        classes=images.classes,
        preprocessing=course.preprocessing,
        training=record,
        learnt=record_learnt(parts.train, options.init),
    )


def plan_training(
    space: Space, images: Images, *, recipe: Recipe, options: TrainingOptions
) -> dict[str, int]:
    """What a time budget decides about a training, see ``plan_epochs``; nothing is trained yet.

    Args:
        space: as for ``train``.
        images: as for ``train``.
        recipe: as for ``train``.
        options: as for ``train``, with a time budget.

    Raises:
        TooLittleTimeError: not even one epoch fits.
        EdgenasError: as ``train``.
    """
    course, supernet, _ = _lay_out(space, images, recipe, options)
    seconds = options.time_budget or 0.0
    return plan_epochs(course, supernet, seconds=seconds, most=options.most_epochs)


def _lay_out(
    space: Space, images: Images, recipe: Recipe, options: TrainingOptions
) -> tuple[Course, Supernet, int]:
    """The course of a training, its weights at the start, and the seed that divides its images."""
    keep_memory()
    _check_precision(recipe, torch.device(options.device))
    space = space.with_classes(len(images.classes))
    split_seed = find_split_seed(images, recipe=recipe, seed=options.seed, init=options.init)
    parts = split(images, validation=recipe.validation, seed=split_seed)
    course = make_course(space, parts, recipe, options)
    return course, make_supernet(course, options), split_seed


def _check_precision(recipe: Recipe, device: torch.device) -> None:
    if recipe.precision == "fp16" and device.type != "cuda":
        raise EdgenasError(
            f"precision fp16 is for GPUs, found --device {device.type}",
            hint="use --device cuda, or precision fp32",
        )


def _with_planned_epochs(
    course: Course, supernet: Supernet, *, out: Path, options: TrainingOptions
) -> Course:
    """The course with the epochs that fit into a time, or with those of the run in ``out``."""
    planned = parallel.broadcast(read_planned(out) if parallel.rank() == 0 else None)
    seconds = options.time_budget or 0.0
    planned = planned or options.planned
    planned = planned or plan_epochs(course, supernet, seconds=seconds, most=options.most_epochs)
    return dataclasses.replace(course, recipe=dataclasses.replace(course.recipe, **planned))


def _run_steps(
    course: Course,
    state: State[Supernet],
    run: Run,
    *,
    start: int,
    seconds: float,
    progress: Report,
) -> float:
    """Take all steps from number ``start`` on.

    Args:
        course: what to do.
        state: changes with every step.
        run: where metrics and checkpoints are written.
        start: steps done before.
        seconds: that those steps took.
        progress: is called after every step.

    Returns:
        The seconds that all steps took, those before included.
    """
    recipe, per_epoch = course.recipe, course.steps_per_epoch
    phases = plan_phases(course.space, recipe, steps=course.steps)
    saved = clock = time.monotonic()
    logged = start, seconds
    for step in range(start, course.steps):
        waited = wait_for_machine()
        clock, saved = clock + waited, saved + waited
        phase = next(p for p in reversed(phases) if p.first <= step)
        if step == phase.first and phase.elastic in SORTED:
            sort_channels(state.model, state.optimiser, state.average, elastic=phase.elastic)
        rate = phase.learning_rate(step, per_epoch, recipe)
        losses = take_step(course, state, phase.space, step=step, rate=rate)

        done, now = step + 1, time.monotonic()
        speed = course.step_images / max(now - clock, 1e-9)
        seconds, clock = seconds + now - clock, now
        report = TrainingProgress(
            step=done,
            steps=course.steps,
            epoch=done / per_epoch,
            images_per_second=speed,
            loss=losses[0],
        )
        progress(report)
        epoch_is_over = done % per_epoch == 0
        if done % _LOGGED == 0 or epoch_is_over:
            speed = (done - logged[0]) * course.step_images / max(seconds - logged[1], 1e-9)
            logged = done, seconds
            run.log(
                step=done,
                losses=losses,
                learning_rate=rate,
                images_per_second=round(speed, 1),
                seconds=round(seconds, 1),
            )
        if _is_evaluated_after(done, course):
            progress(dataclasses.replace(report, note=_evaluate(course, state, run, step=done)))
            clock = time.monotonic()
        if epoch_is_over or time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(state, step=done, seconds=seconds)
            saved = time.monotonic()
    return seconds


def _is_evaluated_after(done: int, course: Course) -> bool:
    """Whether the watched networks are evaluated after so many steps."""
    epoch, rest = divmod(done, course.steps_per_epoch)
    return rest == 0 and (epoch % course.recipe.judge_every == 0 or done == course.steps)


def _evaluate(course: Course, state: State[Supernet], run: Run, *, step: int) -> str:
    """Evaluate the watched networks and log their accuracies; the accuracies in words."""
    # Batches of other sizes find no place in what the steps keep, and would come on top of it.
    give_memory_back()
    accuracies = evaluate_watched(course, state)
    largest, smallest, *others = accuracies
    line = {"validation": [largest, smallest]} | ({"random": others} if others else {})
    run.log(step=step, epoch=step // course.steps_per_epoch, **line)
    text = f"validation: largest {largest:.2%}, smallest {smallest:.2%}"
    if others:
        text += f", mean of {len(others)} random ones {sum(others) / len(others):.2%}"
    return text


def _begin(course: Course, *, note: str) -> TrainingProgress:
    """The progress of a training that has not taken a step."""
    return TrainingProgress(
        step=0, steps=course.steps, epoch=0.0, images_per_second=0.0, loss=0.0, note=note
    )
