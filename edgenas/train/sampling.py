"""Which networks a step trains beside the largest and the smallest."""

from dataclasses import replace

import numpy as np

from edgenas.arch import Arch
from edgenas.recipe import Recipe
from edgenas.space import Codes, Space


def drawn(
    space: Space, recipe: Recipe, *, seed: int, step: int
) -> tuple[list[Arch], np.random.Generator]:
    """The networks of a step, the teacher first, and the source of chance for its images.

    Args:
        space: the networks of this phase.
        recipe: how many, and how.
        seed: of the run.
        step: of the run; a step draws the same whenever it is made.
    """
    rng = np.random.default_rng((seed, 1, step))
    first, count = step * recipe.random_archs, recipe.random_archs
    fairly = recipe.sampling == "fair"
    rows = (
        fair(space, first, count, seed=seed) if fairly else space.sample(count, rng=rng, by="gene")
    )
    archs = space.decode(rows)
    largest, smallest = space.largest(), space.smallest()
    if largest.stages == smallest.stages:  # nothing but the resolution is elastic yet
        return [replace(largest, resolution=int(rng.choice(space.resolutions)))], rng
    return [largest, smallest, *archs], rng


def fair(space: Space, first: int, count: int, *, seed: int) -> Codes:
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
