"""The guide of attentive sampling: which networks the losses of past steps speak for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgenas.accuracy.gaussian import inputs_of
from edgenas.accuracy.mlp import one_hot
from edgenas.space.arch import Arch
from edgenas.space.space import Space

_KEPT = 1 - 1 / 2000  # of what is known, from one network to the next: weights change
_RIDGE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """Predicts losses of networks, less that of the smallest one on the same images.

    Ridge regression on the choices of all genes, fitted anew in every step to the random networks
    trained so far. AttentiveNAS (arXiv 2011.09011, section 3.3) fits a predictor of accuracies
    once, to networks evaluated after some epochs; losses are at hand anyway and follow the
    training. That of the smallest network, which every step trains, says how hard its images were.

    Args:
        space: of all networks.
        moments: weighted sums of x x', float64, shape (d, d), changed in place.
        sums: weighted sums of x y, float64, shape (d,), changed in place.
    """

    space: Space
    moments: Tensor
    sums: Tensor

    @staticmethod
    def of(space: Space) -> "Guide":
        """One that knows nothing: to it all networks are alike."""
        d = 1 + len(inputs_of(space)[0])
        return Guide(space, torch.zeros(d, d).double(), torch.zeros(d).double())

    def learn(self, archs: Sequence[Arch], losses: Sequence[float], *, smallest: float) -> None:
        """Take up the losses of a step.

        Args:
            archs: the random networks.
            losses: theirs.
            smallest: that of the smallest network.
        """
        for x, loss in zip(self._inputs(archs), losses, strict=True):
            self.moments.mul_(_KEPT).add_(torch.outer(x, x))
            self.sums.mul_(_KEPT).add_(x, alpha=loss - smallest)

    def predict(self, archs: Sequence[Arch]) -> list[float]:
        """Losses, less that of the smallest network."""
        ridge = _RIDGE * torch.eye(len(self.sums), dtype=torch.float64)
        weights = torch.linalg.solve(self.moments + ridge, self.sums)
        return (self._inputs(archs) @ weights).tolist()

    def tensors(self) -> dict[str, Tensor]:
        """What it knows, for a checkpoint."""
        return {"guide.moments": self.moments, "guide.sums": self.sums}

    def _inputs(self, archs: Sequence[Arch]) -> Tensor:
        """1, and whether each gene has each choice: float64, shape (n, d)."""
        inputs = one_hot(self.space.encode(archs), *inputs_of(self.space))
        return torch.from_numpy(np.insert(inputs.astype(np.float64), 0, 1.0, axis=1))
