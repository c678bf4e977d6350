"""What a training is to do, and one step of it.

All chance of a step comes from (seed, step).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images, Split
from edgenas.images.preprocessing import Preprocessing
from edgenas.model import processes as parallel
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.space import Space
from edgenas.training.augment import augment_images, mix_images
from edgenas.training.guide import Guide
from edgenas.training.recipe import Recipe
from edgenas.training.sampling import draw_archs, measure_losses, select_attentively
from edgenas.training.state import State
from edgenas.training.step import sandwich_step
from edgenas.training.teacher import Teacher


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


def start_state(course: Course, supernet: Supernet) -> State[Supernet]:
    """The start of a training from given weights."""
    recipe = course.recipe
    attentive = recipe.sampling in ("best-up", "worst-up") and recipe.guide == "predictor"
    return State.of(supernet, recipe, guide=Guide.of(course.space) if attentive else None)


def take_step(
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
    draw = draw_archs(space, recipe, seed=course.seed, step=step)
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
                by_batch = partial(
                    measure_losses,
                    supernet=supernet,
                    pixels=pixels,
                    labels=labels,
                    recipe=recipe,
                    preprocessing=course.preprocessing,
                )
                guide = by_batch if state.guide is None else state.guide.predict
                chosen = select_attentively(draw.groups, guide, worst=recipe.sampling == "worst-up")
            archs = [*draw.corners, *parallel.broadcast(chosen)]
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
    losses = sums.tolist()
    if state.guide is not None and draw.groups:
        state.guide.learn(archs[2:], losses[2:], smallest=losses[1])
    return losses


def _batch(
    course: Course, chance: np.random.Generator, *, step: int, number: int
) -> tuple[Tensor, Tensor]:
    """Views of the images of one of a step's batches, and their labels or shares of classes."""
    recipe, images = course.recipe, course.parts.train
    indices = choose_indices(images, recipe, course.step_images, course.seed, step)
    mine = indices[number * recipe.batch : (number + 1) * recipe.batch]
    rng = np.random.default_rng((course.seed, 1, step, number)) if number else chance
    pixels = augment_images(images.pixels[mine], recipe=recipe, rng=rng)
    labels, classes = images.labels[mine], len(images.classes)
    return mix_images(pixels, labels, recipe=recipe, classes=classes, rng=rng)


def evaluate_watched(course: Course, state: State[Supernet]) -> list[float]:
    """Validation accuracy of the watched networks."""
    work = partial(
        evaluate_archs,
        state.judged(),
        images=course.parts.validation,
        calibration=course.calibration,
        preprocessing=course.preprocessing,
        split="validation",
    )
    found = parallel.share_out(course.watched, work)
    return [round(accuracy.value, 4) for accuracy in found]


def choose_calibration(images: Images, recipe: Recipe, *, seed: int) -> Tensor:
    """The training images that batch-norm statistics are computed on: a fixed random choice."""
    order = np.random.default_rng((seed, 3)).permutation(len(images))[: recipe.calibration]
    return images.pixels[torch.from_numpy(order)]


def choose_indices(images: Images, recipe: Recipe, count: int, seed: int, step: int) -> Tensor:
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
