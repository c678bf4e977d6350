"""Quantisation-aware fine-tuning: a network learns to give its own answers in integers.

No label is asked. What the network answers in float is what its integers should answer, on the same
random view of an image (distillation, arXiv 1503.02531, section 2). All chance of a step comes from
(seed, step), so a training that was cut off goes on to bitwise the same weights on a CPU, on the
same machine with the same number of threads.
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

from edgenas.basics.files import wait_for_machine
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.fake_quantised import FakeQuantised
from edgenas.model.network import Network
from edgenas.model.saved import save_tensors
from edgenas.training.alone import DivergedError, count_steps, take_up
from edgenas.training.augment import augment_images
from edgenas.training.course import choose_indices
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe, learning_rate
from edgenas.training.state import State

_EPOCHS = 3.0  # at most, where nobody says it
_MACS = 5e11  # of the images of a fine-tuning: about as long on every network, minutes on a CPU
_LEAST = 1000  # images
_STEPS = 200  # that are worth smaller batches
_BATCHES = 16, 64
_RATE = 0.002
_TOO_LARGE = 1e15  # a weight whose square still is a number


def plan_quantised(
    recipe: Recipe, images: Images, *, macs: int, epochs: float | None = None
) -> tuple[Recipe, Images]:
    """How a network is fine-tuned for its integers: the recipe, and the images to learn from.

    Args:
        recipe: of its supernet; its views are taken.
        images: the training images.
        macs: of the network.
        epochs: passes over the images; None: as many as its size allows, 3 at most.
    """
    if epochs is None:
        count = min(_EPOCHS * len(images), max(_LEAST, _MACS / max(1, macs)))
    else:
        count = epochs * len(images)
    whole, lesson = max(1, round(count / len(images))), images
    if count < len(images):
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        lesson = images.take(chosen[: max(2, round(count))])
    least, most = _BATCHES
    batch = min(len(lesson), max(least, min(most, round(count / _STEPS))))
    return dataclasses.replace(
        recipe,
        epochs=whole,
        batch=batch,
        accumulate=1,
        learning_rate=_RATE,
        head_rate=1.0,
        warmup=0.1,
        weight_decay=0.0,
        mixup=0.0,
        cutmix=0.0,
        ema=0.0,
        precision="fp32",
    ), lesson


def fine_tune_quantised(
    network: Network,
    images: Images,
    *,
    int8: bytes,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress = no_progress,
) -> Network:
    """Fine-tune the weights of a network for the integers of its int8 graph.

    Args:
        network: calibrated; it stays as it is, and its answers are learnt.
        images: to learn from; their labels play no part.
        int8: the graph, in the form of the target. All that it rounds stays as it is.
        recipe: epochs, batch, rates and views.
        preprocessing: how images become inputs.
        seed: of the order and the views of images.
        state: a file where the training is kept, as of `edgenas.training.alone.train_alone`.
        progress: called with ("training", steps done, steps in all, words).

    Returns:
        Another network in evaluation mode, whose weights belong to its batch-norm statistics.

    Raises:
        DivergedError: the training diverges.
        EdgenasError: the file is damaged.
    """
    keep_memory()
    teacher = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
    learner = copy.deepcopy(teacher)
    learner.keeps_statistics = True
    quantised = FakeQuantised(learner, int8=int8)
    recipe = dataclasses.replace(recipe, batch=min(recipe.batch, len(images)))
    step_images, steps_per_epoch = count_steps(recipe, images=len(images))
    training = State.of(learner, recipe)
    step, steps = 0, recipe.epochs * steps_per_epoch
    if state is not None and state.exists():
        step, steps = take_up(training, state, steps=steps)
    saved = time.monotonic()
    while step < steps:
        saved += wait_for_machine()
        rng, loss = np.random.default_rng((seed, 1, step)), 0.0
        for lines in choose_indices(images, recipe, step_images, seed, step).split(recipe.batch):
            size = preprocessing.size(network.arch.resolution)
            pixels = augment_images(images.pixels[lines], recipe=recipe, rng=rng, size=size)
            inputs = preprocessing.prepare(pixels, resolution=network.arch.resolution)
            part = _distance(quantised, teacher, inputs) * (len(lines) / step_images)
            part.backward()
            loss += part.item()
        training.step(learning_rate(step, steps, steps_per_epoch, recipe))
        # Integers are bounded, and so is the loss: the weights themselves must be looked at.
        if not (math.isfinite(loss) and _is_finite(learner)):
            raise DivergedError(
                f"the fine-tuning of {network.arch} for integers diverged at step {step}: a "
                "weight is no finite number",
                hint="leave it out: --int8-epochs 0",
            )
        step += 1
        progress("training", step, steps, f"loss {loss:.4f}")
        late = time.monotonic() - saved > recipe.checkpoint_seconds
        if state is not None and (late or step == steps):
            counts = {"step": torch.tensor(step), "steps": torch.tensor(steps)}
            save_tensors(state, training.tensors() | counts)
            saved = time.monotonic()
    return learner.eval()


@torch.no_grad()
def _is_finite(network: Network) -> bool:
    """Whether all weights are finite numbers of a usual size."""
    largest = torch.stack([parameter.abs().max() for parameter in network.parameters()])
    return bool((largest < _TOO_LARGE).all())  # also of no number at all


def _distance(quantised: FakeQuantised, teacher: Network, inputs: Tensor) -> Tensor:
    """How far answers in integers are from those in float: the mean divergence of their shares."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher(inputs), 1)
    answers = F.log_softmax(quantised(inputs), 1)
    return F.kl_div(answers, wanted, reduction="batchmean", log_target=True)
