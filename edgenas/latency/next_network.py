"""Which network of a space to time next on a board, so that its estimates gain the most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.latency.relatives import Measured, Relatives, suggest
from edgenas.space.arch import Arch
from edgenas.space.plan import plan
from edgenas.space.primitives import primitives
from edgenas.space.space import Space

_SAMPLED = 100


@dataclass(frozen=True, slots=True)
class NextNetwork:
    """A network to time next.

    Args:
        arch: of the space.
        factor: half width, as a factor, of the 90% intervals of the space's networks after it and
            the ones before it were timed.
    """

    arch: Arch
    factor: float


def next_networks(
    relatives: Relatives,
    measured: Sequence[Measured],
    space: Space,
    *,
    threads: int = 1,
    many: int = 2,
) -> tuple[float, list[NextNetwork]]:
    """The networks of a space whose times narrow the intervals of the space's networks the most.

    Args:
        relatives: of the runtime.
        measured: so far; those of the family ``space.name`` are of the space.
        space: whose networks are going to be estimated: its smallest, its largest and 100 random
            ones stand for all.
        threads: of the board's use.
        many: how many networks to name.

    Returns:
        Half width of the 90% intervals now, as a factor, and the networks in order.
    """
    rows = space.sample(_SAMPLED, rng=np.random.default_rng(0))
    archs = [space.smallest(), space.largest(), *space.decode(rows)]
    operators = [
        [part for _, layer in plan(space, arch) for part in primitives(layer)] for arch in archs
    ]
    now, chosen = suggest(
        relatives, measured, operators, family=space.name, threads=threads, many=many
    )
    return now, [NextNetwork(archs[each.index], each.factor) for each in chosen]
