"""The course of a training: everything that decides it, and how one step of it is taken.

All chance of a step comes from (seed, step).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgenas.accuracy.evaluation import ImageAccuracy, evaluate_archs
from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images, Split
from edgenas.images.preprocessing import Preprocessing
from edgenas.model import processes as parallel
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.space import Space
from edgenas.training.augment import augment_images, mix_images
from edgenas.training.guide import Guide
from edgenas.training.memory import give_memory_back
from edgenas.training.recipe import Recipe
from edgenas.training.sampling import Draw, draw_archs, measure_losses, select_attentively
from edgenas.training.state import State
from edgenas.training.step import TrainingBatch, sandwich_step
from edgenas.training.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Everything that decides a training, from its first step to its last.

    Args:
        space: of the supernet.
        recipe: how to train.
        seed: of everything that is left to chance.
        parts: the images.
        preprocessing: how they become inputs.
        calibration: stored training images for batch-norm statistics.
        watched: networks that are evaluated after every epoch: the largest, the smallest, others.
        teacher: a model whose answers the networks learn. None: they learn from the largest one.
        steps_per_epoch: how many steps an epoch has.
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
        """The steps of all epochs."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def step_images(self) -> int:
        """The images that one step learns from."""
        return self.recipe.batch * self.recipe.accumulate * parallel.world()


def start_state(course: Course, supernet: Supernet) -> State[Supernet]:
    """Make the state that a training starts from."""
    recipe = course.recipe
    attentive = recipe.sampling in ("best-up", "worst-up") and recipe.guide == "predictor"
    return State.of(supernet, recipe, guide=Guide.of(course.space) if attentive else None)


def take_step(
    course: Course, state: State[Supernet], space: Space, *, step: int, rate: float
) -> list[float]:
    """Take one step with the networks of ``space``; the losses of the step."""
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
    """Add up the gradients of one step over its batches and processes; the mean losses."""
    recipe, supernet = course.recipe, state.model
    draw = draw_archs(space, recipe, seed=course.seed, step=step)
    place = next(supernet.parameters()).device
    first = parallel.rank() * recipe.accumulate
    archs, sums = draw.corners, torch.zeros(0, dtype=torch.float64)
    for number in range(first, first + recipe.accumulate):
        batch = _make_batch(course, draw.chance, step=step, number=number, place=place)
        if number == first:
            archs = [*draw.corners, *_choose_archs(course, state, draw, batch)]
            sums = torch.zeros(len(archs), dtype=torch.float64)
        losses = sandwich_step(
            supernet,
            archs,
            batch,
            recipe=recipe,
            preprocessing=course.preprocessing,
            parts=recipe.accumulate * parallel.world(),
            scaler=state.scaler,
        )
        sums += torch.tensor(losses, dtype=torch.float64)
    # Every process trains the same archs, so the same parameters have a gradient.
    parallel.add_up(p.grad for p in supernet.parameters() if p.grad is not None)
    sums = sums.to(place)
    parallel.add_up([sums])
    losses = sums.tolist()
    if state.guide is not None and draw.groups:
        state.guide.learn(archs[2:], losses[2:], smallest=losses[1])
    return losses


def _choose_archs(
    course: Course, state: State[Supernet], draw: Draw, batch: TrainingBatch
) -> list[Arch]:
    """Choose one network of each group. Of several processes, the first one chooses for all."""
    archs = None
    if parallel.rank() == 0:
        by_batch = partial(
            measure_losses,
            supernet=state.model,
            batch=batch,
            recipe=course.recipe,
            preprocessing=course.preprocessing,
        )
        losses = by_batch if state.guide is None else state.guide.predict
        worst = course.recipe.sampling == "worst-up"
        archs = select_attentively(draw.groups, losses, worst=worst)
    return parallel.broadcast(archs)


def _make_batch(
    course: Course, chance: np.random.Generator, *, step: int, number: int, place: torch.device
) -> TrainingBatch:
    """Make one of the batches of a step: augmented images, their labels and the answers to them.

    Args:
        course: the training.
        chance: of the first batch. Each other batch has its own.
        step: of the training.
        number: of the batch, over all processes.
        place: the device of the supernet.
    """
    recipe, images = course.recipe, course.parts.train
    indices = choose_indices(images, recipe, course.step_images, course.seed, step)
    own = indices[number * recipe.batch : (number + 1) * recipe.batch]
    rng = np.random.default_rng((course.seed, 1, step, number)) if number else chance
    pixels = augment_images(images.pixels[own], recipe=recipe, rng=rng)
    labels, classes = images.labels[own], len(images.classes)
    pixels, labels = mix_images(pixels, labels, recipe=recipe, classes=classes, rng=rng)
    pixels = pixels.to(place)
    answers = None if course.teacher is None else course.teacher.logits(pixels)
    return TrainingBatch(pixels=pixels, labels=labels.to(place), answers=answers)


def evaluate_in_turn(
    course: Course, supernet: Supernet, archs: Sequence[Arch]
) -> Iterator[ImageAccuracy]:
    """Evaluate networks on the validation images, one after the other.

    Memory is given back after each: what one network has freed is in pieces that the next one,
    with inputs of another size, finds no place in.
    """
    for accuracy in evaluate_archs(
        supernet,
        archs,
        images=course.parts.validation,
        calibration=course.calibration,
        preprocessing=course.preprocessing,
        split="validation",
    ):
        give_memory_back()
        yield accuracy


def evaluate_watched(course: Course, state: State[Supernet]) -> list[float]:
    """Evaluate the watched networks on the validation images; their accuracies."""
    work = partial(evaluate_in_turn, course, state.final_model())
    accuracies = parallel.share_out(course.watched, work)
    return [round(accuracy.value, 4) for accuracy in accuracies]


def choose_calibration(images: Images, recipe: Recipe, *, seed: int) -> Tensor:
    """Choose the training images that batch-norm statistics are computed on, at random."""
    order = np.random.default_rng((seed, 3)).permutation(len(images))[: recipe.calibration]
    return images.pixels[torch.from_numpy(order)]


def choose_indices(images: Images, recipe: Recipe, count: int, seed: int, step: int) -> Tensor:
    """Choose the images that a step learns from, shape (count,); every epoch has its own order."""
    epoch, place = divmod(step, len(images) // count)
    rng = np.random.default_rng((seed, 2, epoch))
    if recipe.balance:
        sizes = images.labels.bincount(minlength=len(images.classes)).double().numpy()
        weights = sizes[images.labels.numpy()] ** -recipe.balance
        order = rng.choice(len(images), size=len(images), p=weights / weights.sum())
    else:
        order = rng.permutation(len(images))
    return torch.from_numpy(order[place * count : (place + 1) * count])
