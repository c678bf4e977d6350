"""DARTS of second order (Liu et al. 2019; arXiv 1806.09055): logits for weights one step ahead.

The logits take the gradient of the search loss at the weights that one step of training under these
logits leads to (section 2.3, equation 7). Its second term is a Hessian-vector product, which two
gradients near the weights approximate (equation 8). Momentum has no part in that one step.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.strategies.gradient.darts import mix_softmax
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.step import GradientStep

_SHIFT = 0.01  # the norm by which the weights are moved for equation 8 (section 2.3, footnote 2)


def darts_v2(policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
    """The estimator of second-order DARTS; see ``Estimator``.

    Raises:
        EdgenasError: the weights are fixed.
    """
    trained = step.weights
    if trained is None:
        raise EdgenasError(
            "strategy darts-v2 looks one step of the weights ahead: they must be trained",
            hint="add --weights joint, or use --strategy darts-v1",
        )
    # What is lost by chance would drown the difference of two near losses.
    mixture = dataclasses.replace(mix_softmax(policy, step), skip_dropout=0.0)
    values: list[float] = []

    def train() -> Tensor:
        return trained.mixed_loss(mixture, step.number)

    def search() -> Tensor:
        loss = trained.search_loss(mixture, step)
        values.append(float(loss.detach()))
        return loss

    gradient = unrolled_gradient(
        policy.logits,
        [*trained.state.model.parameters()],
        train=train,
        search=search,
        rate=trained.rate(step.number),
    )
    pairs = zip(gradient, policy.logits, strict=True)
    return torch.stack([(g * logits).sum() for g, logits in pairs]).sum(), values[0]


def unrolled_gradient(
    logits: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    train: Callable[[], Tensor],
    search: Callable[[], Tensor],
    rate: float,
) -> list[Tensor]:
    """The gradient of the search loss in the logits, one step of the weights ahead (equation 7).

    Args:
        logits: of the choices.
        weights: of the supernet; moved, and put back to the bit.
        train: the training loss of both as they are, with gradients to both.
        search: the search loss, with gradients to both.
        rate: the learning rate of that step.

    Returns:
        One tensor for each of the logits.
    """
    kept = [tensor.detach().clone() for tensor in weights]
    downhill = _gradients(train(), weights)
    _shift(weights, downhill, -rate)
    both = _gradients(search(), [*logits, *weights])
    ahead, vector = both[: len(logits)], both[len(logits) :]
    _put_back(weights, kept)
    product = hessian_vector_product(logits, weights, train=train, vector=vector)
    return [g - rate * p for g, p in zip(ahead, product, strict=True)]


def hessian_vector_product(
    logits: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    train: Callable[[], Tensor],
    vector: Sequence[Tensor],
) -> list[Tensor]:
    """Mixed second derivatives of a loss in logits and weights, times a vector (equation 8).

    Args:
        logits: of the choices.
        weights: moved along the vector to both sides, and put back to the bit.
        train: the loss, with gradients to the logits.
        vector: of the shapes of the weights.

    Returns:
        One tensor for each of the logits.
    """
    kept = [tensor.detach().clone() for tensor in weights]
    norm = float(torch.stack([v.square().sum() for v in vector]).sum().sqrt())
    if norm == 0:
        return [torch.zeros_like(tensor) for tensor in logits]
    size = _SHIFT / norm
    _shift(weights, vector, size)
    above = _gradients(train(), logits)
    _put_back(weights, kept)
    _shift(weights, vector, -size)
    below = _gradients(train(), logits)
    _put_back(weights, kept)
    return [(a - b) / (2 * size) for a, b in zip(above, below, strict=True)]


def _gradients(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [*torch.autograd.grad(loss, tensors, retain_graph=True, materialize_grads=True)]


@torch.no_grad()
def _shift(weights: Sequence[Tensor], along: Sequence[Tensor], size: float) -> None:
    for tensor, direction in zip(weights, along, strict=True):
        tensor.add_(direction, alpha=size)


@torch.no_grad()
def _put_back(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for tensor, value in zip(weights, kept, strict=True):
        tensor.copy_(value)
