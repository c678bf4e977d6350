"""Weights that are trained beside the logits, in alternate steps (ProxylessNAS, 1812.00332, 3.2.1).

A step of the weights draws a network as the policy would and trains it on training images, with
the logits left alone; then comes a step of the logits on search images, with the weights left
alone. Strategies that mix alternatives train the weights of a mixture (DARTS, 1806.09055, 2.3). All
chance of a step of the weights comes from (seed, step).
"""

import copy
import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.mixture import Mixture
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep
from edgenas.training.augment import augment_images, mix_images
from edgenas.training.course import choose_indices
from edgenas.training.recipe import Recipe, learning_rate
from edgenas.training.state import State
from edgenas.training.step import TrainingBatch, autocast, sandwich_step

_LONGEST = 5.0  # the norm that gradients of a mixture are cut to


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTraining:
    """What weights are trained on, and how.

    Args:
        images: to learn from: none of those that the logits learn from.
        recipe: how; one network a step, so what it says of networks, distillation and several
            batches a step plays no part, nor do its epochs: there are as many steps as of logits.
    """

    images: Images
    recipe: Recipe


class Weights:
    """A copy of a supernet whose weights are trained.

    Args:
        supernet: to start from; it stays as it is.
        training: images and recipe.
        preprocessing: how images become inputs.
        policy: of the choices.
        seed: of the order and the views of images.
        steps: in all.
    """

    def __init__(
        self,
        supernet: Supernet,
        training: WeightTraining,
        *,
        preprocessing: Preprocessing,
        policy: Policy,
        seed: int,
        steps: int,
    ) -> None:
        recipe, self._images = training.recipe, training.images
        # Trained on the processor, which has no fp16.
        precision = "fp32" if recipe.precision == "fp16" else recipe.precision
        batch = min(recipe.batch, len(self._images))
        self._recipe = dataclasses.replace(recipe, batch=batch, precision=precision)
        self._preprocessing, self._seed, self._steps = preprocessing, seed, steps
        copied = copy.deepcopy(supernet).to(memory_format=torch.channels_last)
        copied.original = None  # what is trained further is no longer the published network
        self.state = State.of(copied, self._recipe)
        self._paths = Paths(copied, policy, preprocessing=preprocessing, weights="free")

    def step(self, arch: Arch, step: int) -> float:
        """Train one network on a batch.

        Args:
            arch: which.
            step: its number.

        Returns:
            The loss on the batch.

        Raises:
            EdgenasError: the training diverges.
        """
        pixels, labels = self._batch(step)
        self.state.model.train()
        (loss,) = sandwich_step(
            self.state.model,
            [arch],
            TrainingBatch(pixels=pixels, labels=labels),
            recipe=self._recipe,
            preprocessing=self._preprocessing,
        )
        self._finish(loss, step)
        return loss

    def mix(self, mixture: Mixture, step: int) -> float:
        """Train a mixture on a batch.

        Args:
            mixture: what runs.
            step: its number.

        Returns:
            The loss on the batch.

        Raises:
            EdgenasError: the training diverges.
        """
        loss = self.mixed_loss(mixture, step)
        loss.backward()
        parameters = self.state.model.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, _LONGEST)  # as the code of DARTS does
        value = float(loss.detach())
        self._finish(value, step)
        return value

    def mixed_loss(self, mixture: Mixture, step: int) -> Tensor:
        """Cross entropy of a mixture on the batch of a step, with gradients to the weights."""
        pixels, labels = self._batch(step)
        with autocast(pixels.device, self._recipe.precision):
            return self._paths.mixed(mixture, pixels=pixels, labels=labels)[0]

    def search_loss(self, mixture: Mixture, step: GradientStep) -> Tensor:
        """Cross entropy of a mixture on the search images, with gradients to the weights."""
        return mixed_loss(self._paths, step, mixture)[0]

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        per_epoch = len(self._images) // self._recipe.batch
        return learning_rate(step, self._steps, per_epoch, self._recipe)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The views of a step, and their labels or shares of classes."""
        recipe, images = self._recipe, self._images
        rng = np.random.default_rng((self._seed, 1, step))
        lines = choose_indices(images, recipe, recipe.batch, self._seed, step)
        pixels = augment_images(images.pixels[lines], recipe=recipe, rng=rng)
        classes = len(images.classes)
        return mix_images(pixels, images.labels[lines], recipe=recipe, classes=classes, rng=rng)

    def _finish(self, loss: float, step: int) -> None:
        """Move the weights along their gradients."""
        if not math.isfinite(loss):
            raise EdgenasError(
                f"the training of the weights diverged at step {step}: the loss is {loss}",
                hint="leave the weights fixed, or train the supernet longer",
            )
        self.state.step(self.rate(step))
        self.state.follow(decay=self._recipe.ema, step=step)
