"""One step of training."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch

Precision = Literal["fp32", "bf16", "fp16"]

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(place: torch.device, precision: Precision) -> torch.autocast:
    """Half precision where that is safe (arXiv 1710.03740, 1905.12322); in ``fp32`` nowhere."""
    half = _HALVES.get(precision, torch.bfloat16)
    return torch.autocast(place.type, half, enabled=precision in _HALVES)


def sandwich_step(
    supernet: Supernet,
    archs: Sequence[Arch],
    pixels: Tensor,
    labels: Tensor,
    *,
    preprocessing: Preprocessing,
    label_smoothing: float,
    answers: Tensor | None = None,
    distillation: float = 0.5,
    temperature: float = 1.0,
    parts: int = 1,
    precision: Precision = "fp32",
    scaler: GradScaler | None = None,
) -> list[float]:
    """Add up the gradients of one step; the losses, one per arch.

    Without a given teacher the first arch learns the labels, and the others its answers (in-place
    distillation, arXiv 1903.05134, section 3.4). With one, all archs learn both.

    Args:
        supernet: whose gradients grow.
        archs: the first is the largest.
        pixels: uint8, shape (n, 3, height, width), on the device of the supernet.
        labels: int64, shape (n,), or the share of every class, float32, shape (n, classes).
        preprocessing: how pixels become inputs.
        label_smoothing: of the labels.
        answers: of a given teacher to these images, logits, shape (n, classes); None: no teacher.
        distillation: the part of the loss that is for them; the rest is for the labels.
        temperature: of all distillation.
        parts: how many such calls make one step: losses and gradients are divided by it.
        precision: see ``Recipe``.
        scaler: of the gradients, see ``State``; None: they are not scaled.
    """
    supernet.train()
    losses: list[float] = []
    largest: Tensor | None = None
    for arch in archs:
        inputs = preprocessing.prepare(pixels, resolution=arch.resolution)
        with autocast(pixels.device, precision):
            logits = supernet(inputs, arch)
        logits = logits.to(next(supernet.parameters()).dtype)
        if answers is not None:
            learnt = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            distilled = distillation_loss(logits, answers, temperature=temperature)
            loss = (1 - distillation) * learnt + distillation * distilled
        elif largest is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            largest = logits.detach()
        else:
            loss = distillation_loss(logits, largest, temperature=temperature)
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
