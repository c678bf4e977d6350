"""Training of one network on its own: the labels alone, with the recipe's views and schedule.

All chance of a step comes from (seed, step), so a training that was cut off at any moment goes on
to bitwise the same weights on a CPU, on the same machine with the same number of threads.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import wait_for_machine
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.network import Network
from edgenas.model.saved import load_tensors, save_tensors
from edgenas.training.augment import augment_images, mix_images
from edgenas.training.course import choose_indices
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe, learning_rate
from edgenas.training.state import State


class DivergedError(EdgenasError):
    """A training whose loss is no finite number any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a training goes on, where its recipe does not say it.

    Args:
        steps: in all.
        look: called after every epoch and after the last step with the network as it would be
            taken now, in evaluation mode but not calibrated; with the steps done; and with those
            in all. It returns the steps in all from now on: fewer, where the training shall end
            sooner.
    """

    steps: int
    look: Callable[[Network, int, int], int]


def count_steps(recipe: Recipe, *, images: int) -> tuple[int, int]:
    """The images of a step, and the steps of an epoch, of a network that is trained alone."""
    step_images = min(recipe.batch * recipe.accumulate, images)
    return step_images, images // step_images


def train_alone(
    network: Network,
    images: Images,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress = no_progress,
    pace: Pace | None = None,
) -> Network:
    """Train one network.

    Args:
        network: with the weights to start from; it stays as it is.
        images: to learn from, all of them.
        recipe: how; its method, random networks and sampling are those of supernets and play no
            part.
        preprocessing: how images become inputs.
        seed: of the order and the views of images.
        state: a file where the training is kept: one that was cut off goes on, one that ended is
            only read. It belongs to these very arguments. None: nowhere.
        progress: called with ("training", steps done, steps in all, words).
        pace: how long the training goes on; None: the epochs of the recipe.

    Returns:
        Another network, in evaluation mode; the statistics of its batch norms are to be computed
        anew, see ``calibrate``.

    Raises:
        DivergedError: the training diverges.
        EdgenasError: the file is damaged.
    """
    keep_memory()
    network = copy.deepcopy(network).train().to(memory_format=torch.channels_last)
    # Networks are trained on the processor, which has no fp16.
    precision = "fp32" if recipe.precision == "fp16" else recipe.precision
    recipe = dataclasses.replace(recipe, batch=min(recipe.batch, len(images)), precision=precision)
    step_images, steps_per_epoch = count_steps(recipe, images=len(images))
    training = State.of(network, recipe)
    step, steps = 0, recipe.epochs * steps_per_epoch if pace is None else pace.steps
    if state is not None and state.exists():
        step, steps = take_up(training, state, steps=steps)
    saved = time.monotonic()
    while step < steps:
        saved += wait_for_machine()
        lines = choose_indices(images, recipe, step_images, seed, step)
        loss = _step(
            network, images, lines, recipe=recipe, preprocessing=preprocessing, seed=(seed, 1, step)
        )
        training.step(learning_rate(step, steps, steps_per_epoch, recipe))
        training.follow(decay=recipe.ema, step=step)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the training of {network.arch} diverged at step {step}: the loss is {loss}",
                hint="train with a smaller learning rate",
            )
        step += 1
        progress("training", step, steps, f"loss {loss:.3f}")
        if pace is not None and (step % steps_per_epoch == 0 or step == steps):
            steps = max(step, pace.look(training.final_model().eval(), step, steps))
            network.train()
        late = time.monotonic() - saved > recipe.checkpoint_seconds
        if state is not None and (late or step == steps):
            counts = {"step": torch.tensor(step), "steps": torch.tensor(steps)}
            save_tensors(state, training.tensors() | counts)
            saved = time.monotonic()
    return training.final_model().eval()


def take_up(training: State[Network], path: Path, *, steps: int) -> tuple[int, int]:
    """Take up what was written last; the steps done and those in all.

    Args:
        training: is brought to where it was.
        path: of the checkpoint.
        steps: in all, where the checkpoint does not say it.

    Raises:
        EdgenasError: the file is damaged, or of another training.
    """
    tensors = load_tensors(path)
    if "step" not in tensors or not training.take(tensors, {}):
        raise EdgenasError(
            f"{path} is no checkpoint of this training", hint="remove it to start over"
        )
    return int(tensors["step"]), int(tensors.get("steps", steps))


def _step(
    network: Network,
    images: Images,
    lines: Tensor,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: tuple[int, int, int],
) -> float:
    """Gradients of one step, added up over its batches; the mean loss."""
    rng, total = np.random.default_rng(seed), 0.0
    parts = lines.split(recipe.batch)
    for part in parts:
        size = preprocessing.size(network.arch.resolution)
        pixels = augment_images(images.pixels[part], recipe=recipe, rng=rng, size=size)
        pixels, labels = mix_images(
            pixels, images.labels[part], recipe=recipe, classes=len(images.classes), rng=rng
        )
        inputs = preprocessing.prepare(pixels, resolution=network.arch.resolution)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = network(inputs)
        smooth = recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smooth) / len(parts)
        loss.backward()
        total += loss.item()
    return total
