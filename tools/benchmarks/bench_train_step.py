"""Images per second of one training step, against the dynamic network of the ``ofa`` package.

    python -m tools.benchmarks.bench_train_step [--space ofa-mbv3-w1.0] [--batch 16] [--turns 10]

A step is the same on both sides: the same images, the same archs (the largest, the smallest, and
--random random ones), the labels for the largest, its soft answers for the others, one step of SGD
with Nesterov's momentum. The reference network (PyPI package ``ofa``, MIT) runs as released, its
tensors with channels first, and once more with weights and images in channels-last order, which is
how edgenas trains; edgenas runs in both orders too, and once without its own gradients of depthwise
weights (``edgenas.model.depthwise``). All five take turns, so that a machine whose speed changes
changes it for all. The first turn of each warms up and is not counted.

Losses are compared as well: all five start from the same random weights and see the same images.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.basics.files import machine_lock
from edgenas.images.preprocessing import Preprocessing, choose_stored_size, sides
from edgenas.model.ofa_weights import import_supernet
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import total
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe
from edgenas.training.step import TrainingBatch, sandwich_step
from tools.benchmarks.bench_ofa import released_file, settings

ORDERS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def optimiser(module: nn.Module) -> torch.optim.SGD:
    """The optimiser of both sides."""
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, nesterov=True)


def reference_step(
    net: Any,
    sgd: torch.optim.SGD,
    *,
    space: Space,
    archs: Sequence[Arch],
    pixels: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
) -> list[float]:
    """The sandwich rule with in-place distillation on the reference's network."""
    net.train()
    losses: list[float] = []
    target: Tensor | None = None
    for arch in archs:
        net.set_active_subnet(**settings(space, arch))
        logits = net(preprocessing.prepare(pixels, resolution=arch.resolution))
        if target is None:
            loss = F.cross_entropy(logits, labels)
            target = logits.detach().softmax(1)
        else:
            loss = F.cross_entropy(logits, target)
        loss.backward()
        losses.append(loss.item())
    sgd.step()
    sgd.zero_grad(set_to_none=True)
    return losses


def own_step(
    supernet: Supernet,
    sgd: torch.optim.SGD,
    *,
    archs: Sequence[Arch],
    pixels: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
) -> list[float]:
    """The step of ``edgenas train``."""
    losses = sandwich_step(
        supernet,
        archs,
        TrainingBatch(pixels=pixels, labels=labels),
        recipe=Recipe(label_smoothing=0.0),
        preprocessing=preprocessing,
    )
    sgd.step()
    sgd.zero_grad(set_to_none=True)
    return losses


def with_torch_gradients(step: Callable[[], list[float]]) -> list[float]:
    """A step whose depthwise weights get their gradients from torch alone."""
    with patch("edgenas.model.depthwise.WIDEST", math.inf):
        return step()


class ChannelsFirst(Preprocessing):
    """Preprocessing whose inputs have torch's usual order in memory."""

    __slots__ = ()

    def prepare(self, pixels: Tensor, *, resolution: int) -> Tensor:
        """See ``Preprocessing``."""
        return Preprocessing.prepare(self, pixels, resolution=resolution).contiguous()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="ofa-mbv3-w1.0", help="a released space")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--random", type=int, default=2, help="archs beside the two corners")
    parser.add_argument("--resolutions", type=int, nargs="+", help="default: all of the space")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    keep_memory()
    space = load_space(given.space)
    if given.resolutions:
        space = space.restrict(resolution=given.resolutions)
    rows = space.sample(given.random, rng=np.random.default_rng(given.seed), by="gene")
    archs = [space.largest(), space.smallest(), *space.decode(rows)]
    generator = torch.Generator().manual_seed(given.seed)
    pixels = torch.randint(
        256,
        (given.batch, 3, *sides(choose_stored_size(space))),
        generator=generator,
        dtype=torch.uint8,
    )
    labels = torch.randint(space.classes, (given.batch,), generator=generator)
    steps: dict[str, Callable[[], list[float]]] = {}
    for name, order in ORDERS.items():
        with TemporaryDirectory() as folder:
            net, path = released_file(space.name, Path(folder), seed=given.seed)
            supernet = import_supernet(path, space=space)
        net.to(memory_format=order)
        supernet.to(memory_format=order)
        kind = Preprocessing if order is torch.channels_last else ChannelsFirst
        usual = kind(
            stored=choose_stored_size(space), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        steps[f"ofa, {name}"] = partial(
            reference_step,
            net,
            optimiser(net),
            space=space,
            archs=archs,
            pixels=pixels,
            labels=labels,
            preprocessing=usual,
        )
        own = partial(own_step, archs=archs, pixels=pixels, labels=labels, preprocessing=usual)
        steps[f"edgenas, {name}"] = partial(own, supernet, optimiser(supernet))
        if order is torch.channels_last:
            same = copy.deepcopy(supernet)
            of_torch = partial(own, same, optimiser(same))
            steps["edgenas, torch's gradients"] = partial(with_torch_gradients, of_torch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {}
    with machine_lock():
        for turn in range(given.turns + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                found = step()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
                else:
                    losses[name] = found
    macs = sum(total(space, arch).macs for arch in archs)
    print(
        f"{space.name}, {len(archs)} archs of {macs / 1e6:.0f}M MACs together, batch "
        f"{given.batch}, {torch.get_num_threads()} threads, {given.turns} turns"
    )
    print(f"{'':26} images/s   [p10, p90]     to the first one   losses of the first step")
    slow = statistics.median(seconds["ofa, channels first"])
    for name, times in seconds.items():
        p10, middle, p90 = np.quantile(times, (0.1, 0.5, 0.9))
        told = ", ".join(f"{loss:.4f}" for loss in losses[name])
        print(
            f"{name:26} {given.batch / middle:8.2f}   [{given.batch / p90:.2f}, "
            f"{given.batch / p10:.2f}]   {slow / middle:10.2f} times   {told}"
        )


if __name__ == "__main__":
    main()
