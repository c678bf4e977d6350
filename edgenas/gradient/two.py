"""The loss of one network with gates on a second alternative of every choice."""

import torch
from torch import Tensor

from edgenas.gradient.paths import Paths
from edgenas.gradient.policy import Picks, Policy


def two_path_loss(
    policy: Policy,
    paths: Paths,
    pairs: list[tuple[int, int]],
    gates: list[Tensor],
    *,
    pixels: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Picks, float]:
    """A loss whose value is that of the first alternatives, with gradients to all gates.

    Args:
        policy: whose choices.
        paths: of the supernet.
        pairs: the first and the second alternative of each choice; equal where there is only one.
        gates: of each choice, shape (2,), with values 1 and 0.
        pixels: stored images, uint8, shape (n, 3, stored, stored).
        labels: shape (n,).

    Returns:
        The loss, the first alternatives, and the value of their loss.
    """
    picks = [first for first, _ in pairs]
    places = {i: second for i, (first, second) in enumerate(pairs) if second != first}
    inside = {i: other for i, other in places.items() if paths.inside(policy.choices[i])}
    known = {i: gates[i] for i in inside}
    loss = paths.gated(picks, inside, known, pixels=pixels, labels=labels)
    value = float(loss.detach())
    for i, other in places.items():
        if i not in inside:
            # Two whole networks, mixed in their losses.
            changed = [*picks[:i], other, *picks[i + 1 :]]
            second = paths.loss(changed, pixels=pixels, labels=labels)
            both = torch.stack([torch.tensor(value), second])
            loss = loss + (gates[i] * both).sum() - value
    return loss, picks, value
