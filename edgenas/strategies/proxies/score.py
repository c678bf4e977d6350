"""All proxies by name, and a proxy as a function of rows."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.model.network import Network, initialise
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.proxies.batch import ProxyBatch
from edgenas.strategies.proxies.gradient_norm import gradient_norm
from edgenas.strategies.proxies.grasp import grasp
from edgenas.strategies.proxies.jacobian import jacobian_covariance
from edgenas.strategies.proxies.naswot import naswot
from edgenas.strategies.proxies.snip import snip
from edgenas.strategies.proxies.synflow import logsynflow, synflow
from edgenas.strategies.proxies.tangent_kernel import kernel_condition
from edgenas.strategies.proxies.zico import zico

PROXIES: Mapping[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "naswot": naswot,
    "logsynflow": logsynflow,
    "gradient-norm": gradient_norm,
    "jacobian": jacobian_covariance,
    "kernel": kernel_condition,
    "zico": zico,
}

_FEWEST = {"zico": 4}  # images: its two batches need two each, for batch norms


class ProxyScore:
    """A proxy as a function of rows, for ``search(maximize=...)`` or ``prescreen``.

    Every network gets fresh weights from the same seed. What was scored once is remembered.

    Args:
        space: of the rows.
        proxy: one of ``PROXIES``.
        batch: the images it looks at.
        seed: of the weights.

    Raises:
        EdgenasError: an unknown proxy, or too few images.
    """

    def __init__(self, space: Space, *, proxy: str, batch: ProxyBatch, seed: int = 0) -> None:
        if proxy not in PROXIES:
            raise unknown_name("proxy", proxy, names=PROXIES, listing="edgenas proxies --help")
        fewest = _FEWEST.get(proxy, 2)
        if len(batch.pixels) < fewest:
            raise EdgenasError(
                f"{proxy} must see at least {fewest} images, found {len(batch.pixels)}",
                hint="give more with --images",
            )
        self.space, self.proxy, self.batch, self.seed = space, proxy, batch, seed
        self._scores: dict[bytes, float] = {}

    def __call__(self, rows: Codes) -> Vector:
        """Scores of canonical rows, shape (n, genes) -> (n,); the higher, the better."""
        keys = [row.tobytes() for row in rows]
        for key, arch in zip(keys, self.space.decode(rows), strict=True):
            if key in self._scores:
                continue
            network = Network(self.space, arch)
            initialise(network, generator=torch.Generator().manual_seed(self.seed))
            x = self.batch.preprocessing.prepare(self.batch.pixels, resolution=arch.resolution)
            self._scores[key] = PROXIES[self.proxy](network, x, self.batch.labels)
        return np.array([self._scores[key] for key in keys])
