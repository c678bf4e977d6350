"""How many epochs fit into a time."""

import copy
import math
import time
from collections.abc import Callable

import numpy as np

from edgenas.accuracy.measured import CHOSEN
from edgenas.accuracy.predictor import FEWEST
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import wait_for_machine
from edgenas.basics.units import duration
from edgenas.model import processes as parallel
from edgenas.model.supernet import Supernet
from edgenas.training.course import (
    Course,
    evaluate_in_turn,
    evaluate_watched,
    start_state,
    take_step,
)
from edgenas.training.memory import give_memory_back
from edgenas.training.phases import plan_phases

_WARM, _STEPS = 2, 6  # steps of a phase: to warm up, and to measure
_NOMINAL = 1000  # steps of a training, whose phases are then as long as they should be
_ARCHS = 4  # networks evaluated to learn what one takes
_EVALUATING = 0.05  # of the time of an epoch, at most, for the evaluations
_PREDICTING = 0.3  # of the time, at most, for the networks of a predictor, where it decides them
_RESERVE = 0.03  # of the time: checkpoints, and what is slower later


class TooLittleTimeError(EdgenasError):
    """A time budget that is not enough for an epoch.

    Args:
        message: of the error.
        least: seconds that are enough.
    """

    def __init__(self, message: str, *, least: float) -> None:
        hint = f"give --time {math.ceil(least)}s, or a smaller accuracy_archs in a recipe"
        super().__init__(message, hint=hint)
        self.least = least


def plan_epochs(
    course: Course, supernet: Supernet, *, seconds: float, most: int | None = None
) -> dict[str, int]:
    """Plan the epochs that fit into a time, and how often networks are evaluated meanwhile.

    Some steps of every phase and some evaluations are timed on a copy of the weights. The time is
    divided once, at the start, so that a run depends on its recipe alone.

    Args:
        course: the training; its epochs play no part.
        supernet: its weights at the start.
        seconds: for all epochs and the networks that an accuracy predictor is fitted to.
        most: the most epochs; None: as many as fit. Where it is given, the networks for the
            predictor become as few as the time demands.

    Returns:
        ``epochs``, ``judge_every`` and ``accuracy_archs`` of the recipe.

    Raises:
        TooLittleTimeError: not even one epoch fits.
    """
    wait_for_machine()
    recipe, begun = course.recipe, time.monotonic()
    step = _seconds_per_step(course, copy.deepcopy(supernet))
    give_memory_back()
    evaluation = _time_of(lambda: evaluate_watched(course, start_state(course, supernet)))
    per_network, archs = _seconds_per_network(course, supernet), recipe.accuracy_archs
    if most is not None:
        archs = min(archs, max(FEWEST, int(_PREDICTING * seconds / per_network) - CHOSEN))
    networks = min(archs + CHOSEN, course.space.size)
    predictor = networks * per_network
    epoch = step * course.steps_per_epoch
    every = max(1, math.ceil(evaluation / (_EVALUATING * epoch)))
    left = seconds * (1 - _RESERVE) - (time.monotonic() - begun) - predictor - evaluation
    # What was timed differs between processes.
    epochs, every, archs = parallel.broadcast(
        (int(left / (epoch + evaluation / every)), every, archs)
    )
    if epochs < 1:
        least = seconds - left + epoch + evaluation
        raise TooLittleTimeError(
            f"--time must be enough for an epoch ({duration(epoch)}) and the evaluation of "
            f"{networks} networks ({duration(predictor)}), found {duration(seconds)}",
            least=1.1 * least,
        )
    epochs = epochs if most is None else min(epochs, most)
    return {"epochs": epochs, "judge_every": min(every, epochs), "accuracy_archs": archs}


def _time_of(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _seconds_per_step(course: Course, supernet: Supernet) -> float:
    """The mean seconds of a step over all phases, each with its share; changes the weights."""
    state, mean = start_state(course, supernet), 0.0
    for phase in plan_phases(course.space, course.recipe, steps=_NOMINAL):
        begun = time.monotonic()
        for step in range(_WARM + _STEPS):
            if step == _WARM:
                begun = time.monotonic()
            take_step(course, state, phase.space, step=step, rate=0.0)
        mean += (time.monotonic() - begun) / _STEPS * phase.steps / _NOMINAL
    return mean


def _seconds_per_network(course: Course, supernet: Supernet) -> float:
    """The seconds that the evaluation of one network takes, shared by all processes."""
    rng = np.random.default_rng((course.seed, 8))
    halves = [course.space.sample(_ARCHS // 2, rng=rng, by=by) for by in ("gene", "arch")]
    archs = course.space.decode(np.concatenate(halves))
    accuracies = evaluate_in_turn(course, supernet, archs)
    return _time_of(lambda: list(accuracies)) / _ARCHS / parallel.world()
