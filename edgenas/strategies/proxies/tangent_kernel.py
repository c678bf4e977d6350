"""The neural tangent kernel: how evenly a network would learn from all images."""

import torch
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients


def kernel_condition(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Minus the condition number of the tangent kernel: the largest eigenvalue by the least.

    An entry of the kernel is the product of the gradients that two images give to all weights of
    convs and linears, each of the sum of its logits (TE-NAS, Chen et al. 2021, arXiv 2102.11535,
    section 3.1.1). Batch norms see the whole batch. Labels are not looked at. It takes a pass
    backwards for each image. Arguments as in ``snip``.
    """
    copied, weights = copy_for_scoring(network)
    sums = copied(x).sum(1)
    gradients = [
        torch.cat([g.flatten() for g in take_gradients(of, weights, keep=True)]) for of in sums
    ]
    rows = torch.stack(gradients)
    eigenvalues = torch.linalg.eigvalsh((rows @ rows.T).double())
    least, most = float(eigenvalues[0]), float(eigenvalues[-1])
    # Below the rounding of the products nothing is known of the least one.
    floor = most * torch.finfo(rows.dtype).eps
    return -most / max(least, floor) if most > 0 else -torch.inf
