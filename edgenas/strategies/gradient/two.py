"""The loss of one network whose gradient compares a second alternative of every choice."""

from torch import Tensor

from edgenas.strategies.gradient.mixture import one_network
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Picks, Policy
from edgenas.strategies.gradient.step import GradientStep


def two_path_loss(
    policy: Policy,
    paths: Paths,
    step: GradientStep,
    pairs: list[tuple[int, int]],
    gates: list[Tensor],
) -> tuple[Tensor, float]:
    """A loss whose value is that of the first alternatives, with gradients to all gates.

    Args:
        policy: whose choices.
        paths: of the supernet.
        step: whose batch.
        pairs: the first and the second alternative of each choice; equal where there is only one.
        gates: of each choice, shape (2,), with values 1 and 0 whose sum has no gradient.

    Returns:
        The loss, and its value.
    """
    picks: Picks = [one for one, _ in pairs]
    others = {i: second for i, (one, second) in enumerate(pairs) if second != one}
    blocks = {i: other for i, other in others.items() if policy.choices[i].mixed}
    known = {i: gates[i] for i in blocks}
    pixels, labels = step.pixels, step.labels
    loss, inputs = paths.gated(picks, blocks, known, pixels=pixels, labels=labels)
    value, first = float(loss.detach()), one_network(picks)
    for i, other in others.items():
        if i not in blocks:
            # Two whole networks, mixed in their losses. The gates sum to 1, so only the difference
            # of the losses counts. It is taken first: a softmax in float32 would round it away.
            second = paths.exchanged(first, i, other, inputs, pixels=pixels, labels=labels)
            loss = loss + gates[i][1] * (second - value)
    return loss, value
