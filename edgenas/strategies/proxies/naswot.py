"""NASWOT: how differently images switch the rectifiers of a network."""

import torch
from torch import Tensor, nn

from edgenas.strategies.proxies.copying import copy_for_scoring

_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish)


def naswot(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Log-determinant of how alike the patterns of active units are that images give.

    NASWOT (Mellor et al. 2021, arXiv 2006.04647, section 3): with c_i the signs at the rectifiers
    for image i, the kernel is the number of units where c_i and c_j agree. A hard swish counts as
    a rectifier of its input. Labels are not looked at. Arguments as in ``snip``.
    """
    copied, _ = copy_for_scoring(network)
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        code = (inputs[0] > 0).flatten(1).float()
        kernel.add_((code @ code.T + (1 - code) @ (1 - code).T).double())

    for part in copied.modules():
        if isinstance(part, _RECTIFIERS):
            part.inplace = False
            part.register_forward_hook(look)
    with torch.inference_mode():
        copied(x)
    return float(torch.linalg.slogdet(kernel).logabsdet)
