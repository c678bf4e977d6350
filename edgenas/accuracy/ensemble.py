"""An ensemble of small perceptrons: where they disagree, they do not know.

Each member starts from other weights and learns from another draw of the networks (deep ensembles,
Lakshminarayanan et al. 2017, arXiv 1612.01474; bagging). A network that some members did not learn
from is predicted by these alone, so what is left out costs no further fit.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenas.accuracy.encoding import Encoding, Matrix
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes

_MEMBERS, _HIDDEN, _STEPS = 10, 64, 200
_RATE, _DECAY = 0.01, 0.01  # of AdamW
_KEPT = 0.8  # part of the networks that a member learns from


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ensemble:
    """Members that have learnt from different draws of the same networks.

    Args:
        say: rows to the scores that each member gives them, shape (members, n).
        own: what the members say about the networks of the fit, shape (members, n).
        learnt: which of those each has learnt from, shape (members, n).
        noise: variance that no member explains.
    """

    say: Callable[[Codes], Matrix]
    own: Matrix
    learnt: NDArray[np.bool_]
    noise: float

    def believe(self, rows: Codes) -> tuple[Vector, Vector]:
        """See `edgenas.accuracy.believing.ScoreModel`."""
        said = self.say(rows)
        return said.mean(0), np.sqrt(said.var(0, ddof=1) + self.noise)

    def left_out(self) -> tuple[Vector, Vector]:
        """See `edgenas.accuracy.believing.ScoreModel`."""
        without = ~self.learnt
        count = without.sum(0)
        mean = (self.own * without).sum(0) / np.maximum(count, 1)
        apart = np.square(self.own - mean) * without
        # Two members or three say little of their spread, so all networks share one.
        spread = float(apart.sum() / max((count - 1)[count > 1].sum(), 1))
        # A mean of few members varies more than that of all, which is asked later.
        more = 1 + 1 / np.maximum(count, 1) - 1 / len(self.own)
        variance = np.where(count > 0, spread * more, 1.0)  # of normal scores, where all know it
        return mean, np.sqrt(variance + self.noise)


def draw_bags(n: int, *, seed: int) -> NDArray[np.bool_]:
    """Which of n networks each member learns from, shape (members, n)."""
    rng, learnt = np.random.default_rng(seed), np.zeros((_MEMBERS, n), bool)
    for line in learnt:
        line[rng.permutation(n)[: int(_KEPT * n)]] = True
    return learnt


def join_members(
    say: Callable[[Codes], Matrix], rows: Codes, scores: Vector, *, learnt: NDArray[np.bool_]
) -> Ensemble:
    """An ensemble of members that were trained.

    Args:
        say: see ``Ensemble``.
        rows: of the fit, shape (n, genes).
        scores: theirs, shape (n,).
        learnt: see ``Ensemble``.
    """
    own = say(rows)
    off = np.where(learnt, np.nan, own - scores)
    noise = max(float(np.nanmean(off**2)) / 2, 1e-6)
    return Ensemble(say=say, own=own, learnt=learnt, noise=noise)


def fit_ensemble(
    encodings: tuple[Encoding, ...], *, seed: int = 0
) -> Callable[[Codes, Vector], Ensemble]:
    """How an ensemble of perceptrons over encodings is fitted, for ``fit_believer``."""

    def fit(rows: Codes, scores: Vector) -> Ensemble:
        inputs, learnt = _inputs(encodings, rows), draw_bags(len(rows), seed=seed)
        targets = torch.from_numpy(scores).float()
        members = tuple(
            _train(inputs[kept], targets[kept], seed=seed + i)
            for i, kept in enumerate(map(torch.from_numpy, learnt))
        )
        return join_members(
            lambda asked: _say(members, _inputs(encodings, asked)), rows, scores, learnt=learnt
        )

    return fit


def _inputs(encodings: Sequence[Encoding], rows: Codes) -> Tensor:
    return torch.from_numpy(np.hstack([encoding.of(rows) for encoding in encodings])).float()


def _train(inputs: Tensor, targets: Tensor, *, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    sizes = (inputs.shape[1], _HIDDEN, _HIDDEN, 1)
    layers = list[nn.Module]()
    for before, after in itertools.pairwise(sizes):
        # Not drawn from the generator of torch itself.
        layer: Any = nn.utils.skip_init(nn.Linear, before, after)
        with torch.no_grad():
            layer.weight.copy_(
                torch.randn(after, before, generator=generator) * (2 / before) ** 0.5
            )
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    member = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(member.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        (member(inputs)[:, 0] - targets).square().mean().backward()
        optimiser.step()
        schedule.step()
    return member.eval()


def _say(members: Sequence[nn.Module], inputs: Tensor) -> Matrix:
    with torch.inference_mode():
        return np.stack([member(inputs)[:, 0].double().numpy() for member in members])
