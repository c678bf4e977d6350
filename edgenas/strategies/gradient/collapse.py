"""Collapse: skip connections take over, and the loss becomes sharp in the logits.

RobustDARTS (Zela et al. 2020; arXiv 1909.09656) shows that the dominant eigenvalue of the Hessian
of the search loss in the logits grows before a search ends in skip connections (section 4), and
that stopping when it grows keeps the better network (section 4.3).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edgenas.space.arch import Block
from edgenas.strategies.gradient.policy import Decision, Policy, list_values

SKIPS, EIGENVALUE = "skips", "eigenvalue"  # columns of the history
_ITERATIONS = 6
_SHIFT = 0.01  # of the logits, along a vector of length 1
_WINDOW = 3  # measurements that are averaged
_GROWN = 0.75  # DARTS-ES (section 4.3): an average below this part of the next but some
_MANY = 0.5  # share of skips above which it is told
_SOME = 1 / 3  # where the eigenvalue has grown: it also grows while new weights learn to do more


def find_skips(policy: Policy) -> dict[int, int]:
    """By choice that has one, the alternative that passes its input on as it is."""
    skips: dict[int, int] = {}
    for i, choice in enumerate(policy.choices):
        for pick, values in enumerate(list_values(policy.space, choice)):
            if len(values) == 1 and _is_skip(policy, choice, values[0]):
                skips[i] = pick
    return skips


def _is_skip(policy: Policy, choice: Decision, value: object) -> bool:
    if choice.cell >= 0:
        return value == "skip_connect"
    if choice.field != "block":
        return False
    stage = policy.space.stages[choice.stage]
    widths = {*stage.widths, *policy.space.stages[choice.stage - 1].widths}
    keeps = choice.block > 0 or (stage.stride == 1 and len(widths) == 1 and choice.stage > 0)
    return isinstance(value, Block) and value.kind == "none" and keeps


def share_of_skips(policy: Policy) -> float:
    """Of the choices that have a skip connection, the part that prefers it to all else."""
    skips, ranks = find_skips(policy), policy.ranks()
    taken = [int(ranks[i].argmax()) == pick for i, pick in skips.items()]
    # At the start all are equal; nothing is preferred yet.
    flat = [float(np.ptp(policy.logits[i].detach().numpy())) == 0 for i in skips]
    return sum(t and not f for t, f in zip(taken, flat, strict=True)) / max(len(skips), 1)


def dominant_eigenvalue(
    loss: Callable[[], Tensor], logits: Sequence[Tensor], *, vector: Tensor
) -> float:
    """The eigenvalue of largest size of the Hessian of a loss in logits, by power iteration.

    Products with the Hessian are differences of gradients: some activations have no second
    derivative in PyTorch.

    Args:
        loss: of the logits as they are.
        logits: with gradients.
        vector: where the iteration starts, shape (of all logits,); left where it ends, so that the
            next measurement starts near.
    """
    value = 0.0
    for _ in range(_ITERATIONS):
        ends = [_slope(loss, logits, vector * shift) for shift in (_SHIFT, -_SHIFT)]
        image = (ends[0] - ends[1]) / (2 * _SHIFT)
        value = float(vector @ image)  # Rayleigh's quotient
        length = float(image.norm())
        if length == 0:
            return 0.0
        vector.copy_(image / length)
    return value


def _slope(loss: Callable[[], Tensor], logits: Sequence[Tensor], shift: Tensor) -> Tensor:
    """The gradient at logits that are moved, in a row; the logits are put back to the bit."""
    kept = [tensor.detach().clone() for tensor in logits]
    parts = shift.split([len(tensor) for tensor in logits])
    with torch.no_grad():
        for tensor, part in zip(logits, parts, strict=True):
            tensor.add_(part)
    value = loss()
    gradients = [torch.zeros_like(tensor) for tensor in logits]
    if value.requires_grad:
        gradients = torch.autograd.grad(value, logits, materialize_grads=True)
    with torch.no_grad():
        for tensor, before in zip(logits, kept, strict=True):
            tensor.copy_(before)
    return torch.cat([gradient.detach() for gradient in gradients]).to(shift.dtype)


def has_grown(history: Sequence[Mapping[str, float]], every: int) -> bool:
    """Whether the dominant eigenvalue has grown so much that DARTS-ES stops (section 4.3).

    Args:
        history: of the steps.
        every: steps between measurements; 0: it is not measured.
    """
    values = measured_eigenvalues(history, every)
    if len(values) < 2 * _WINDOW:
        return False
    now, before = np.mean(values[-_WINDOW:]), np.mean(values[-2 * _WINDOW : -_WINDOW])
    return bool(now > 0 and before / now < _GROWN)


def measured_eigenvalues(history: Sequence[Mapping[str, float]], every: int) -> list[float]:
    """The dominant eigenvalues at the steps where they were measured."""
    return [abs(line[EIGENVALUE]) for line in history[:: every or 1]] if every else []


def steps_back(every: int) -> int:
    """How many steps before the stop the logits are taken from: where the growth began."""
    return _WINDOW * every


def describe_collapse(
    history: Sequence[Mapping[str, float]], policy: Policy, *, every: int
) -> tuple[str, ...]:
    """One plain line about a collapse; none where there is no sign of one.

    Args:
        history: of the steps.
        policy: what was learnt.
        every: steps between measurements of the eigenvalue; 0: it was not measured.
    """
    skips, share = find_skips(policy), share_of_skips(policy)
    grown = has_grown(history, every)
    if not skips or share < _SOME or (share <= _MANY and not grown):
        return ()
    count = round(share * len(skips))
    signs = [f"skip connections are preferred at {count} of {len(skips)} places"]
    if grown:
        first, last = (measured_eigenvalues(history, every)[i] for i in (0, -1))
        signs.append(f"the dominant eigenvalue went from {first:.2g} to {last:.2g}")
    return (
        f"the search shows signs of collapse: {' and '.join(signs)}; remedies: --skip-dropout, "
        "--logit-decay, --early-stop",
    )
