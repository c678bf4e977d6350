"""GraSP: what removing weights does to the norm of the gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring


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
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    norm = sum(((g * g.detach()).sum() for g in gradients), torch.zeros(()))
    products = torch.autograd.grad(norm, weights, allow_unused=True)
    pairs = zip(weights, products, strict=True)
    return -sum(float((w * hg).detach().sum()) for w, hg in pairs if hg is not None)


class _TwiceDifferentiable(nn.Module):
    """The hard sigmoid, in operators whose gradient torch can differentiate again."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6
