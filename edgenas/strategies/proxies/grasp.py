"""GraSP: what removing weights does to the norm of the gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients


def grasp(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Sum of -weight x (Hessian x gradient): what removing weights does to the gradient's norm.

    GraSP (Wang et al. 2020, arXiv 2002.07376, equation 8, here without its temperature), summed
    over all weights of convs and linears. Arguments as in ``snip``.
    """
    copied, weights = copy_for_scoring(network)
    for part in list(copied.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(part, name, _TwiceDifferentiable())
    loss = F.cross_entropy(copied(x), labels)
    gradients = take_gradients(loss, weights, again=True)
    norm = sum(((g * g.detach()).sum() for g in gradients), torch.zeros(()))
    products = take_gradients(norm, weights)
    return -sum(float((w * hg).detach().sum()) for w, hg in zip(weights, products, strict=True))


class _TwiceDifferentiable(nn.Module):
    """The hard sigmoid, in operators whose gradient torch can differentiate again."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6
