"""The covariance of Jacobians: how differently a network looks at images."""

import torch
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring, take_gradients

_LEAST = 1e-5  # added to eigenvalues, as the authors do


def jacobian_covariance(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Minus the sum of log(e) + 1/e over the eigenvalues e of the correlation of Jacobians.

    The Jacobian of an image is the derivative of the sum of its logits in its pixels (Mellor et al.
    2020, arXiv 2006.04647 version 1, section 3, equations 2 to 5). The closer the correlation of
    the images is to none, the higher. Labels are not looked at. Arguments as in ``snip``.
    """
    copied, _ = copy_for_scoring(network)
    pixels = x.detach().clone().requires_grad_()
    (jacobian,) = take_gradients(copied(pixels).sum(), [pixels])
    rows = jacobian.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        return -torch.inf  # nothing of an image reaches the logits
    rows = rows / norms
    eigenvalues = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0) + _LEAST
    return -float((eigenvalues.log() + 1 / eigenvalues).sum())
