"""Which networks a step trains beside the largest and the smallest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import macs_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.training.recipe import Recipe
from edgenas.training.step import TrainingBatch, autocast

_ALIKE = 1e-5  # losses that differ by less are those of equals
_POOL = 64  # networks drawn for each candidate: the nearest ones differ little in MACs


@dataclass(frozen=True, slots=True)
class Draw:
    """The networks of a step.

    Args:
        corners: trained in any case, the largest first.
        groups: candidates; one of each group is trained too, see ``select_attentively``.
        chance: what is left of the step's source of chance, for its images.
    """

    corners: list[Arch]
    groups: list[list[Arch]]
    chance: np.random.Generator


def draw_archs(space: Space, recipe: Recipe, *, seed: int, step: int) -> Draw:
    """The networks of a step.

    Args:
        space: the networks of this phase.
        recipe: how many, and how.
        seed: of the run.
        step: of the run; a step draws the same whenever it is made.
    """
    rng = np.random.default_rng((seed, 1, step))
    first, count = step * recipe.random_archs, recipe.random_archs
    if recipe.sampling in ("best-up", "worst-up"):
        candidates = [draw_similar(space, recipe.candidates, rng=rng) for _ in range(count)]
    elif recipe.sampling == "fair":
        candidates = draw_fairly(space, first, count, seed=seed)[:, None]
    else:
        candidates = space.sample(count, rng=rng, by="gene")[:, None]
    groups = [space.decode(rows) for rows in candidates]
    largest, smallest = space.largest(), space.smallest()
    if largest.stages == smallest.stages:  # nothing but the resolution is elastic yet
        return Draw([replace(largest, resolution=int(rng.choice(space.resolutions)))], [], rng)
    return Draw([largest, smallest], groups, rng)


def draw_fairly(space: Space, first: int, count: int, *, seed: int) -> Codes:
    """Rows number ``first`` to ``first + count`` of a sequence that uses choices equally often.

    Every gene goes through its choices in random order, then through them again in another, so
    that after any number of draws two choices of a gene differ by at most one in how often they
    were drawn (strict fairness, FairNAS, arXiv 1907.01845, section 3). Genes of blocks that a
    smaller depth leaves out are drawn and not used.

    Args:
        space: the space.
        first: number of the first row.
        count: of rows.
        seed: of the sequence.

    Returns:
        Canonical rows, shape (count, genes).
    """
    rows = np.empty((count, len(space.genes)), np.uint8)
    for column, gene in enumerate(space.genes):
        for place in range(count):
            cycle, position = divmod(first + place, len(gene.values))
            order = np.random.default_rng((seed, 5, column, cycle)).permutation(len(gene.values))
            rows[place, column] = 1 + order[position]
    return space.canonical(rows)


def draw_similar(space: Space, count: int, *, rng: np.random.Generator) -> Codes:
    """Different networks of nearly the same MACs: candidates of attentive sampling.

    How many MACs that are is left to chance, as a network drawn by gene has them (the prior of
    AttentiveNAS, arXiv 2011.09011, section 3.2); the others are its nearest ones in a pool.

    Args:
        space: the space.
        count: of rows; fewer, where the space is too small.
        rng: the source of chance.

    Returns:
        Canonical rows, shape (n, genes).
    """
    pool = space.sample(count * _POOL, rng=rng, by="gene")
    target = macs_table(space)(pool[:1])
    pool = np.unique(pool, axis=0)
    distance = np.abs(macs_table(space)(pool) - target)
    return pool[np.argsort(distance, kind="stable")[:count]]


def select_attentively(
    groups: Sequence[Sequence[Arch]],
    losses: Callable[[Sequence[Arch]], Sequence[float]],
    *,
    worst: bool,
) -> list[Arch]:
    """One network of each group: the best, or the worst.

    AttentiveNAS (arXiv 2011.09011, section 3.3): training the best up pushes the Pareto front of
    the best networks, the worst up that of the worst.

    Args:
        groups: candidates, each group of nearly the same MACs; the first one wins among equals.
        losses: says which is which.
        worst: which of them.
    """
    archs: list[Arch] = []
    for group in groups:
        values = np.array(losses(group)) if len(group) > 1 else np.zeros(1)
        values = -values if worst else values
        # Of those that differ by rounding alone the first, so that rounding decides nothing.
        archs.append(group[int(np.argmax(values <= values.min() + _ALIKE))])
    return archs


@torch.no_grad()
def measure_losses(
    archs: Sequence[Arch],
    *,
    supernet: Supernet,
    batch: TrainingBatch,
    recipe: Recipe,
    preprocessing: Preprocessing,
) -> list[float]:
    """Measure the losses of networks on the batch of a step, before the step is taken.

    Args:
        archs: the networks.
        supernet: the weights as they are.
        batch: of the step.
        recipe: its precision.
        preprocessing: how pixels become inputs.
    """
    supernet.train()
    losses: list[float] = []
    for arch in archs:
        inputs = preprocessing.prepare(batch.pixels, resolution=arch.resolution)
        with autocast(batch.pixels.device, recipe.precision):
            logits = supernet(inputs, arch)
        losses.append(F.cross_entropy(logits.float(), batch.labels).item())
    return losses
