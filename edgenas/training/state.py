"""What a training changes, and a checkpoint holds."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from edgenas.training.guide import Guide
from edgenas.training.recipe import Recipe

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Generic[Model]):
    """What a training changes, step by step, in place.

    Args:
        model: the weights, of a supernet or of one network.
        optimiser: its momenta.
        average: a moving average of the weights, by name; empty: none.
        scaler: scales gradients in fp16, where small ones would vanish (arXiv 1710.03740, section
            3.2), and leaves a step out in which they overflow; else it does nothing.
        guide: of attentive sampling; None: there is none.
    """

    model: Model
    optimiser: torch.optim.SGD
    average: dict[str, Tensor]
    scaler: GradScaler
    guide: Guide | None = None

    @staticmethod
    def of(model: Model, recipe: Recipe, *, guide: Guide | None = None) -> "State[Model]":
        """The start of a training from given weights."""
        named, place = model.named_parameters, next(model.parameters()).device
        return State(
            model=model,
            optimiser=_optimiser(model, recipe),
            average={n: p.detach().clone() for n, p in named()} if recipe.ema else {},
            scaler=GradScaler(place.type, enabled=recipe.precision == "fp16"),
            guide=guide,
        )

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        return {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name."""
        by_name = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        by_name |= {f"average.{n}": t for n, t in self.average.items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                by_name[f"momentum.{name}"] = momentum
        return by_name | ({} if self.guide is None else self.guide.tensors())

    def take(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bool:
        """Take up a checkpoint; False, and nothing changed, if it is of another training."""
        state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        shapes = {n: t.shape for n, t in state.items()}
        wanted = {n: t.shape for n, t in self.model.state_dict().items()}
        guide = {} if self.guide is None else self.guide.tensors()
        known = tensors.keys() >= {*guide, *(f"average.{name}" for name in self.average)}
        if shapes != wanted or not known or not metadata.keys() >= self.metadata().keys():
            return False
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(metadata["scaler"])
        self.model.load_state_dict(state)
        for name, tensor in self.average.items():
            tensor.copy_(tensors[f"average.{name}"])
        for name, tensor in guide.items():
            tensor.copy_(tensors[name])
        for name, parameter in self.model.named_parameters():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(parameter)
                buffer.copy_(tensors[f"momentum.{name}"])
                self.optimiser.state[parameter]["momentum_buffer"] = buffer
        return True

    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, which are forgotten."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

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
        for name, mean in self.average.items():
            mean.lerp_(self.model.get_parameter(name), weight)

    def final_model(self) -> Model:
        """The model to evaluate and save: this one, or a copy of it with the averaged weights."""
        if not self.average:
            return self.model
        copied = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in copied.named_parameters():
                parameter.copy_(self.average[name])
        return copied


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The optimiser of a recipe: no weight decay on biases, norms and kernel transforms."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        decays = parameter.ndim > 1 and "kernel_" not in name
        factor = recipe.head_rate if name.startswith("head.classifier") else 1.0
        key = recipe.weight_decay if decays else 0.0, factor
        groups.setdefault(key, []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,  # which torch demands
    )
