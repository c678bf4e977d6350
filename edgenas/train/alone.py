"""Training of one network on its own: the labels alone, with the recipe's views and schedule.

All chance of a step comes from (seed, step), so a training that was cut off at any moment goes on
to bitwise the same weights, on the same machine with the same number of threads.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.data import Images, Preprocessing
from edgenas.errors import EdgenasError
from edgenas.files import wait_for_machine
from edgenas.network import Network
from edgenas.recipe import Recipe, learning_rate
from edgenas.train.augment import mixed, views
from edgenas.train.loop import indices_of, keep_memory
from edgenas.train.state import follow, optimiser_of
from edgenas.trained import load_tensors, save_tensors

Tell = Callable[[int, int, str], None]


def train_alone(
    network: Network,
    images: Images,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: int = 0,
    state: Path | None = None,
    tell: Tell = lambda done, total, words: None,
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
        tell: called with (steps done, steps in all, words).

    Returns:
        Another network, in evaluation mode; the statistics of its batch norms are to be computed
        anew, see ``calibrate``.

    Raises:
        EdgenasError: the training diverges, or the file is damaged.
    """
    keep_memory()
    network = copy.deepcopy(network).train().to(memory_format=torch.channels_last)
    recipe = dataclasses.replace(recipe, batch=min(recipe.batch, len(images)))
    step_images = min(recipe.batch * recipe.accumulate, len(images))
    steps_per_epoch = len(images) // step_images
    steps = recipe.epochs * steps_per_epoch
    optimiser = optimiser_of(network, recipe)
    average = {n: p.detach().clone() for n, p in network.named_parameters()} if recipe.ema else {}
    kept = None if state is None else _State(state, network, optimiser, average)
    saved = time.monotonic()
    for step in range(0 if kept is None else kept.load(), steps):
        saved += wait_for_machine()
        rate = learning_rate(step, steps, steps_per_epoch, recipe)
        for group in optimiser.param_groups:
            group["lr"] = rate
        lines = indices_of(images, recipe, step_images, seed, step)
        loss = _step(
            network, images, lines, recipe=recipe, preprocessing=preprocessing, seed=(seed, 1, step)
        )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        follow(average, network, decay=recipe.ema, step=step)
        if not math.isfinite(loss):
            raise EdgenasError(
                f"the training of {network.arch} diverged at step {step}: the loss is {loss}",
                hint="train with a smaller learning rate",
            )
        tell(step + 1, steps, f"loss {loss:.3f}")
        late = time.monotonic() - saved > recipe.checkpoint_seconds
        if kept is not None and (late or step + 1 == steps):
            kept.save(step + 1)
            saved = time.monotonic()
    with torch.no_grad():
        for name, value in average.items():
            network.get_parameter(name).copy_(value)
    return network.eval()


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
        pixels = views(images.pixels[part], recipe=recipe, rng=rng)
        pixels, labels = mixed(
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


class _State:
    """Where a training stands, in a file: weights, momenta, average and the step."""

    def __init__(
        self, path: Path, network: nn.Module, optimiser: torch.optim.SGD, average: dict[str, Tensor]
    ) -> None:
        self._path = path
        self._network = network
        self._optimiser = optimiser
        self._average = average

    def load(self) -> int:
        """Take up what was written last; the steps done."""
        if not self._path.exists():
            return 0
        tensors = load_tensors(self._path)
        groups = {
            kind: {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(kind)}
            for kind in ("model", "average", "momentum")
        }
        self._network.load_state_dict(groups["model"])
        for name, tensor in self._average.items():
            tensor.copy_(groups["average"][name])
        for name, parameter in self._network.named_parameters():
            if name in groups["momentum"]:
                buffer = torch.empty_like(parameter)
                buffer.copy_(groups["momentum"][name])
                self._optimiser.state[parameter]["momentum_buffer"] = buffer
        return int(tensors["step"])

    def save(self, step: int) -> None:
        """Write all after so many steps, atomically."""
        tensors = {f"model.{n}": t for n, t in self._network.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self._average.items()}
        for name, parameter in self._network.named_parameters():
            momentum = self._optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        save_tensors(self._path, tensors | {"step": torch.tensor(step)})
