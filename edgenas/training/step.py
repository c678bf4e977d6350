"""The losses and gradients of one step of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.training.recipe import Recipe

Precision = Literal["fp32", "bf16", "fp16"]

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(place: torch.device, precision: Precision) -> torch.autocast:
    """Half precision where that is safe (arXiv 1710.03740, 1905.12322); ``fp32`` turns it off."""
    half = _HALVES.get(precision, torch.bfloat16)
    return torch.autocast(place.type, half, enabled=precision in _HALVES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """The images of a step or of a part of one.

    Args:
        pixels: uint8, shape (n, 3, height, width), on the device of the supernet.
        labels: int64, shape (n,), or the share of every class, float32, shape (n, classes).
        answers: of a given teacher to these images, logits, shape (n, classes). None: there is no
            teacher.
    """

    pixels: Tensor
    labels: Tensor
    answers: Tensor | None = None


def sandwich_step(
    supernet: Supernet,
    archs: Sequence[Arch],
    batch: TrainingBatch,
    *,
    recipe: Recipe,
    preprocessing: Preprocessing,
    parts: int = 1,
    scaler: GradScaler | None = None,
) -> list[float]:
    """Add up the gradients of one step; the losses, one per arch.

    Without a given teacher the first arch learns the labels, and the others learn its answers
    (in-place distillation, arXiv 1903.05134, section 3.4). With a teacher, all archs learn both.

    Args:
        supernet: whose gradients grow.
        archs: the first is the largest.
        batch: what the archs learn from.
        recipe: its label smoothing, distillation, temperature and precision.
        preprocessing: how pixels become inputs.
        parts: how many such calls make one step. Losses and gradients are divided by it.
        scaler: of the gradients, see ``State``. None: they are not scaled.
    """
    supernet.train()
    losses: list[float] = []
    largest: Tensor | None = None
    labels, smoothing = batch.labels, recipe.label_smoothing
    for arch in archs:
        inputs = preprocessing.prepare(batch.pixels, resolution=arch.resolution)
        with autocast(batch.pixels.device, recipe.precision):
            logits = supernet(inputs, arch)
        logits = logits.to(next(supernet.parameters()).dtype)
        if batch.answers is not None:
            labelled = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            distilled = distillation_loss(logits, batch.answers, temperature=recipe.temperature)
            share = recipe.distillation
            loss = (1 - share) * labelled + share * distilled
        elif largest is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            largest = logits.detach()
        else:
            loss = distillation_loss(logits, largest, temperature=recipe.temperature)
        loss = loss / parts
        (loss if scaler is None else scaler.scale(loss)).backward()
        losses.append(loss.item())
    return losses


def distillation_loss(logits: Tensor, answers: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy with the softened answers of a teacher (arXiv 1503.02531, section 2).

    It is multiplied by the square of the temperature, so that its gradients keep their size.

    Args:
        logits: of the network that learns, shape (n, classes).
        answers: logits of the teacher, same shape, without gradients.
        temperature: that both are divided by; 1: none.
    """
    target = (answers / temperature).softmax(1)
    return F.cross_entropy(logits / temperature, target) * temperature**2
