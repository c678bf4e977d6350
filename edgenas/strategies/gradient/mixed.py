"""The loss of a mixture, with gradients to all of its gates."""

from torch import Tensor

from edgenas.strategies.gradient.mixture import Mixture
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.step import GradientStep


def mixed_loss(paths: Paths, step: GradientStep, mixture: Mixture) -> tuple[Tensor, float]:
    """A loss whose value is that of the mixture, with gradients to all gates.

    Args:
        paths: of the supernet.
        step: whose batch.
        mixture: what runs.

    Returns:
        The loss, and its value.
    """
    pixels, labels = step.pixels, step.labels
    loss, inputs = paths.mixed(mixture, pixels=pixels, labels=labels)
    value = float(loss.detach())
    for place, (other, gates) in mixture.others.items():
        second = paths.exchanged(mixture, place, other, inputs, pixels=pixels, labels=labels)
        # Two whole mixtures, mixed in their losses; see ``two_path_loss``.
        loss = loss + gates[1] * (second - value)
    return loss, value
