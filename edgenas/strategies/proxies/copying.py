"""The copy of a network that a proxy may change, and the gradients of its weights."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def copy_for_scoring(network: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """Copy a network, in training mode so that batch norms use the batch; copy and weights."""
    copied = copy.deepcopy(network).train()
    kinds = (nn.Conv2d, nn.Linear)
    return copied, [part.weight for part in copied.modules() if isinstance(part, kinds)]


def take_gradients(
    of: Tensor, weights: Sequence[Tensor], *, again: bool = False, keep: bool = False
) -> list[Tensor]:
    """The gradients of a number in weights; zeros where it does not depend on them.

    A cell may hold operations that nobody reads.

    Args:
        of: the number, a tensor without dimensions.
        weights: what it is differentiated in.
        again: whether the gradients will be differentiated themselves.
        keep: whether other numbers of the same pass follow.
    """
    if not of.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    gradients = torch.autograd.grad(
        of, weights, create_graph=again, retain_graph=keep or again, allow_unused=True
    )
    pairs = zip(weights, gradients, strict=True)
    return [torch.zeros_like(w) if g is None else g for w, g in pairs]
