"""Training of one network on its own: the labels alone, with the recipe's views and schedule.

All chance of a step comes from (seed, step), so a training that was cut off at any moment goes on
to bitwise the same weights on a CPU, on the same machine with the same number of threads.
"""

import copy
import dataclasses
import math
import time
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


def train_alone(
    network: Network,
    images: Images,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress = no_progress,
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

    Returns:
        Another network, in evaluation mode; the statistics of its batch norms are to be computed
        anew, see ``calibrate``.

    Raises:
        EdgenasError: the training diverges, or the file is damaged.
    """
    keep_memory()
    network = copy.deepcopy(network).train().to(memory_format=torch.channels_last)
    # Networks are trained on the processor, which has no fp16.
    precision = "fp32" if recipe.precision == "fp16" else recipe.precision
    recipe = dataclasses.replace(recipe, batch=min(recipe.batch, len(images)), precision=precision)
    step_images = min(recipe.batch * recipe.accumulate, len(images))
    steps_per_epoch = len(images) // step_images
    steps = recipe.epochs * steps_per_epoch
    training = State.of(network, recipe)
    start = _loaded(training, state) if state is not None and state.exists() else 0
    saved = time.monotonic()
    for step in range(start, steps):
        saved += wait_for_machine()
        lines = choose_indices(images, recipe, step_images, seed, step)
        loss = _step(
            network, images, lines, recipe=recipe, preprocessing=preprocessing, seed=(seed, 1, step)
        )
        training.step(learning_rate(step, steps, steps_per_epoch, recipe))
        training.follow(decay=recipe.ema, step=step)
        if not math.isfinite(loss):
            raise EdgenasError(
                f"the training of {network.arch} diverged at step {step}: the loss is {loss}",
                hint="train with a smaller learning rate",
            )
        progress("training", step + 1, steps, f"loss {loss:.3f}")
        late = time.monotonic() - saved > recipe.checkpoint_seconds
        if state is not None and (late or step + 1 == steps):
            save_tensors(state, training.tensors() | {"step": torch.tensor(step + 1)})
            saved = time.monotonic()
    return training.final_model().eval()


def _loaded(training: State[Network], path: Path) -> int:
    """Take up what was written last; the steps done."""
    tensors = load_tensors(path)
    if "step" not in tensors or not training.take(tensors, {}):
        raise EdgenasError(
            f"{path} is no checkpoint of this training", hint="remove it to start over"
        )
    return int(tensors["step"])


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
        pixels = augment_images(images.pixels[part], recipe=recipe, rng=rng)
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
