"""The copy of a network that a proxy may change."""

import copy

from torch import Tensor, nn


def copy_for_scoring(network: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """Copy a network, in training mode so that batch norms use the batch; copy and weights."""
    copied = copy.deepcopy(network).train()
    kinds = (nn.Conv2d, nn.Linear)
    return copied, [part.weight for part in copied.modules() if isinstance(part, kinds)]
