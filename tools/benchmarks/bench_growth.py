"""What a training step costs as its space grows, from one network to very many.

    python -m tools.benchmarks.bench_growth [--space mbv3-cifar] [--batch 128] [--turns 20]

The first space has one network, the largest of --space; then one dimension after the other becomes
elastic: kernels, depths, expands, resolutions, then what --space has fixed: output channels of all
stages, and at last choices between those that are there. Each space contains the one before it and
all have the same largest network, so what differs is how many networks there are, and how small
the smallest is.

A step is that of ``edgenas train``: its networks are drawn (the largest, the smallest and two
random ones, others in every turn), the largest learns the labels, the others its answers, SGD
moves the weights. Beside it stands a step of the largest network alone. All steps of all spaces
take turns, so that a machine whose speed changes changes it for all. The first turn warms up and
is not counted. Images are random numbers.
"""

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import total
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace
from edgenas.training.memory import keep_memory
from edgenas.training.recipe import Recipe
from edgenas.training.sampling import Draw, draw_archs
from tools.benchmarks.bench_train_step import optimiser, own_step

_NARROW = 0.7  # the narrower of two output widths, to the other


def grown(space: Space) -> dict[str, Space]:
    """Spaces of the same largest network, each containing the one before, by what was added.

    Args:
        space: whose choices are given back to its largest network one dimension after the other.
    """
    stages = tuple(
        replace(
            stage,
            widths=stage.widths[-1:],
            depths=stage.depths[-1:],
            kernels=stage.kernels[-1:],
            expands=stage.expands[-1:],
        )
        for stage in space.stages
    )
    now = replace(space, resolutions=space.resolutions[-1:], stages=stages)
    found = {"one network": now}
    for name in ("kernels", "depths", "expands"):
        pairs = zip(now.stages, space.stages, strict=True)
        now = replace(
            now, stages=tuple(replace(s, **{name: getattr(full, name)}) for s, full in pairs)
        )
        found[f"+ {name}"] = now
    found["+ resolutions"] = now = replace(now, resolutions=space.resolutions)
    pairs = zip(now.stages, space.stages, strict=True)
    wider = tuple(replace(stage, widths=_two_widths(full)) for stage, full in pairs)
    found["+ widths"] = now = replace(now, stages=wider)
    sizes = range(min(space.resolutions), max(space.resolutions) + 1, 2)
    resolutions = tuple(sorted({*space.resolutions, *sizes}))
    found["+ choices between"] = _finer(replace(now, resolutions=resolutions))
    counts = [one.size for one in found.values()]
    more = [True, *(a < b for a, b in itertools.pairwise(counts))]
    return dict(itertools.compress(found.items(), more))


def _two_widths(stage: StageSpace) -> tuple[int, ...]:
    """The widths of a stage and, where there is only one, a narrower one."""
    narrow = max(8, int(_NARROW * stage.widths[-1]) // 8 * 8)
    return stage.widths if len(stage.widths) > 1 else tuple(sorted({narrow, *stage.widths}))


def _finer(space: Space) -> Space:
    """More ratios of middle channels, in the stages where they give other channels."""
    for i, stage in enumerate(space.stages):
        stages = list(space.stages)
        stages[i] = replace(stage, expands=_between(stage.expands))
        with contextlib.suppress(EdgenasError):
            space = replace(space, stages=tuple(stages))
    return space


def _between(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values and the middle of any two neighbours."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    return tuple(sorted({*values, *middles}))


def networks_of(draw: Draw) -> list[Arch]:
    """Those that a step trains, of uniform or fair sampling."""
    return [*draw.corners, *(group[0] for group in draw.groups)]


@dataclass(slots=True)
class Runner:
    """Steps of one space.

    Args:
        space: the space.
        supernet: its weights.
        sgd: moves them.
        macs: of the networks of each counted step together, of one image at their resolutions.
        steps: seconds of each counted step.
        alone: seconds of each counted step of the largest network.
    """

    space: Space
    supernet: Supernet
    sgd: torch.optim.SGD
    macs: list[int]
    steps: list[float]
    alone: list[float]

    @staticmethod
    def of(space: Space) -> "Runner":
        """The start, from random weights."""
        supernet = Supernet(space, seed=0).to(memory_format=torch.channels_last)
        return Runner(space, supernet, optimiser(supernet), [], [], [])

    def networks(self, turn: int) -> list[Arch]:
        """Those of a step, as ``edgenas train`` draws them."""
        return networks_of(draw_archs(self.space, Recipe(), seed=0, step=turn))

    def turn(
        self, turn: int, *, pixels: Tensor, labels: Tensor, preprocessing: Preprocessing
    ) -> None:
        """One step of each kind; turn 0 is not counted."""
        given = {"pixels": pixels, "labels": labels, "preprocessing": preprocessing}

        def step() -> int:
            archs = self.networks(turn)
            own_step(self.supernet, self.sgd, archs=archs, **given)
            return sum(total(self.space, arch).macs for arch in archs)

        def alone() -> int:
            own_step(self.supernet, self.sgd, archs=[self.space.largest()], **given)
            return 0

        macs, seconds = _timed(step)
        _, largest = _timed(alone)
        if turn:
            self.macs.append(macs)
            self.steps.append(seconds)
            self.alone.append(largest)


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    begun = time.perf_counter()
    found = work()
    return found, time.perf_counter() - begun


def number(count: int) -> str:
    """An exact number if it is short, else its power of ten."""
    return f"{count:,}" if count < 10**9 else f"{count:.1e}"


def tell(runners: dict[str, Runner], *, batch: int) -> None:
    """Print the table."""
    print(
        f"{'':18} {'networks':>13} {'MACs/step':>9}  step, ms/image [p10, p90] {'images/s':>9} "
        f"{'largest alone':>14} {'step/largest':>13}"
    )
    for name, runner in runners.items():
        p10, middle, p90 = 1000 * np.quantile(runner.steps, (0.1, 0.5, 0.9)) / batch
        alone = 1000 * float(np.median(runner.alone)) / batch
        ratio = float(np.median(np.array(runner.steps) / np.array(runner.alone)))
        print(
            f"{name:18} {number(runner.space.size):>13} {np.mean(runner.macs) / 1e6:8.1f}M  "
            f"{middle:7.3f} [{p10:.3f}, {p90:.3f}] {'':3} {1000 / middle:9.1f} {alone:11.3f} ms "
            f"{ratio:13.2f}"
        )


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=20)
    given = parser.parse_args()
    keep_memory()
    space = load_space(given.space)
    runners = {name: Runner.of(one) for name, one in grown(space).items()}
    side = max(space.resolutions)
    generator = torch.Generator().manual_seed(0)
    shape = (given.batch, 3, side, side)
    images = {
        "pixels": torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        "labels": torch.randint(space.classes, (given.batch,), generator=generator),
        "preprocessing": Preprocessing(stored=side, mean=(0.5,) * 3, std=(0.25,) * 3),
    }
    for turn in range(given.turns + 1):
        for runner in runners.values():
            runner.turn(turn, **images)
    print(
        f"{space.name}, batch {given.batch}, {torch.get_num_threads()} threads, {given.turns} turns"
    )
    tell(runners, batch=given.batch)


if __name__ == "__main__":
    main()
