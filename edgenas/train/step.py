"""One step of training."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgenas.arch import Arch
from edgenas.data import Preprocessing
from edgenas.supernet import Supernet


def sandwich_step(
    supernet: Supernet,
    archs: Sequence[Arch],
    pixels: Tensor,
    labels: Tensor,
    *,
    preprocessing: Preprocessing,
    label_smoothing: float,
    parts: int = 1,
    half: bool = False,
) -> list[float]:
    """Add up the gradients of one step; the losses, one per arch.

    Args:
        supernet: whose gradients grow.
        archs: the first, the teacher, learns the labels; the others learn its soft output.
        pixels: uint8, shape (n, 3, stored, stored), on the device of the supernet.
        labels: int64, shape (n,), or the share of every class, float32, shape (n, classes).
        preprocessing: how pixels become inputs.
        label_smoothing: of the labels.
        parts: how many such calls make one step: losses and gradients are divided by it.
        half: whether to compute in bfloat16 where that is safe (autocast).
    """
    supernet.train()
    losses: list[float] = []
    target: Tensor | None = None
    for arch in archs:
        inputs = preprocessing.prepare(pixels, resolution=arch.resolution)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=half):
            logits = supernet(inputs, arch)
        logits = logits.to(next(supernet.parameters()).dtype)
        if target is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            target = logits.detach().softmax(1)
        else:
            loss = F.cross_entropy(logits, target)
        loss = loss / parts
        loss.backward()
        losses.append(loss.item())
    return losses
