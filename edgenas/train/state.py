"""What a training changes, and a checkpoint holds."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from edgenas.recipe import Recipe
from edgenas.supernet import Supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a training changes, step by step, in place.

    Args:
        supernet: the weights.
        optimiser: its momenta.
        average: a moving average of the weights, by name; empty: none.
    """

    supernet: Supernet
    optimiser: torch.optim.SGD
    average: dict[str, Tensor]

    @staticmethod
    def of(supernet: Supernet, recipe: Recipe) -> "State":
        """The start of a training from given weights."""
        named = supernet.named_parameters
        return State(
            supernet=supernet,
            optimiser=_optimiser(supernet, recipe),
            average={n: p.detach().clone() for n, p in named()} if recipe.ema else {},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name: what a checkpoint holds."""
        found = {f"model.{n}": t for n, t in self.supernet.state_dict().items()}
        found |= {f"average.{n}": t for n, t in self.average.items()}
        for name, parameter in self.supernet.named_parameters():
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum.{name}"] = momentum
        return found

    def take(self, tensors: dict[str, Tensor]) -> bool:
        """Take up what ``tensors`` gave; False, and nothing changed, if it was another training."""
        state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        shapes = {n: t.shape for n, t in state.items()}
        wanted = {n: t.shape for n, t in self.supernet.state_dict().items()}
        if shapes != wanted or not all(f"average.{name}" in tensors for name in self.average):
            return False
        self.supernet.load_state_dict(state)
        for name, tensor in self.average.items():
            tensor.copy_(tensors[f"average.{name}"])
        for name, parameter in self.supernet.named_parameters():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(parameter)
                buffer.copy_(tensors[f"momentum.{name}"])
                self.optimiser.state[parameter]["momentum_buffer"] = buffer
        return True

    @torch.no_grad()
    def follow(self, *, decay: float, step: int) -> None:
        """Move the average of the weights, where there is one.

        The decay grows to its value, so that the start is soon forgotten: min(decay, (1 + step) /
        (10 + step)), as TensorFlow's ExponentialMovingAverage has it.

        Args:
            decay: of a step.
            step: steps done before this one.
        """
        weight = 1 - min(decay, (1 + step) / (10 + step))
        if self.average:
            for name, parameter in self.supernet.named_parameters():
                self.average[name].lerp_(parameter, weight)

    def judged(self) -> Supernet:
        """What is evaluated and saved: the supernet, or a copy of it with the averaged weights."""
        if not self.average:
            return self.supernet
        copied = copy.deepcopy(self.supernet)
        with torch.no_grad():
            for name, parameter in copied.named_parameters():
                parameter.copy_(self.average[name])
        return copied


def _optimiser(supernet: Supernet, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for n, p in supernet.named_parameters() if p.ndim > 1 and "kernel_" not in n]
    others = [p for n, p in supernet.named_parameters() if not (p.ndim > 1 and "kernel_" not in n)]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
    )
