"""Which tokens a controller may write: those after which some network can still keep the limits.

A table is a sum over places. What is written already is known; of the rest each place adds its
least value. Where that bound is above a limit, no network that begins like this keeps it. Places
share choices, so the bound may be too low; what slips through is drawn again (``controller.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgenas.space.cost import Vector
from edgenas.space.genes import Codes, layout, rules
from edgenas.space.space import Space
from edgenas.strategies.gradient.policy import list_decisions
from edgenas.strategies.gradient.tilt import Ceiling

_ROOM = 1e-9  # of a limit, for the rounding of sums in another order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    """What places of a table add at least, by the choices that are known.

    Args:
        read: the columns that are known.
        absent: the least where the block is absent, whose choices are not known yet.
        present: where it is there, or where all is known.
        block: a column of this block; -1: there is none.
        decided: whether it is known if the block is there.
    """

    read: tuple[int, ...]
    absent: Vector
    present: Vector
    block: int
    decided: bool

    def least(self, rows: Codes, there: NDArray[np.bool_]) -> Vector:
        """What is added at least; rows of shape (n, size, genes) -> (n, size)."""
        codes = tuple(rows[:, :, c] for c in self.read)
        if self.block < 0:
            return self.present[codes]
        ends = self.absent[codes], self.present[codes]
        return (
            np.where(there[:, :, self.block], ends[1], ends[0])
            if self.decided
            else np.minimum(*ends)
        )


class Masks:
    """The tokens that may follow.

    Args:
        space: of the networks, whose choices are written in their order.
        ceilings: the limits.
    """

    def __init__(self, space: Space, ceilings: Sequence[Ceiling]) -> None:
        self._space, self._ceilings = space, ceilings
        self._choices = list_decisions(space)
        self._order = {c: i for i, choice in enumerate(self._choices) for c in choice.columns}
        self._bounds = [[self._reduce(c, at) for at in range(len(self._choices))] for c in ceilings]

    def present(self, at: int, rows: Codes) -> NDArray[np.bool_]:
        """Whether a choice exists in networks, whose earlier choices are known, shape (n,)."""
        return rules(self._space).present(rows)[:, self._choices[at].columns[0]]

    def allowed(self, at: int, rows: Codes) -> NDArray[np.bool_]:
        """Which alternatives of a choice may follow.

        Args:
            at: index of the choice.
            rows: the codes of all choices before it, shape (n, genes).

        Returns:
            Shape (n, size). At least one of each row: where none keeps the limits, the nearest.
        """
        choice = self._choices[at]
        tried = np.repeat(rows[:, None], choice.size, 1)
        for pick in range(choice.size):
            tried[:, pick, list(choice.columns)] = choice.codes(pick)
        flat = tried.reshape(-1, tried.shape[2])
        there = rules(self._space).present(flat).reshape(tried.shape)
        above = np.zeros((len(rows), choice.size))
        for ceiling, places in zip(self._ceilings, self._bounds, strict=True):
            total = np.full(above.shape, ceiling.tables.constant)
            for place in places[at]:
                total = total + place.least(tried, there)
            above = np.maximum(above, total / ceiling.limit - 1 - _ROOM)
        kept = above <= 0
        return kept | (~kept.any(1, keepdims=True) & (above <= above.min(1, keepdims=True)))

    def keeps(self, rows: Codes) -> NDArray[np.bool_]:
        """Whether networks keep all limits, shape (n,)."""
        kept = np.ones(len(rows), bool)
        for ceiling in self._ceilings:
            kept &= ceiling.tables(rows) <= ceiling.limit * (1 + _ROOM)
        return kept

    def _reduce(self, ceiling: Ceiling, at: int) -> list[_Place]:
        """The places of a table with the least over the choices behind one, by what is known."""
        known: dict[tuple[tuple[int, ...], int], list[Vector]] = {}
        genes, tables = self._space.genes, ceiling.tables
        for columns, values in zip(tables.columns, tables.values, strict=True):
            behind = tuple(i for i, c in enumerate(columns) if self._order[c] > at)
            block = [i for i in behind if genes[columns[i]].optional]  # of one block, if any
            values = np.where(np.isnan(values), np.inf, values)
            ends = [values, values]
            for i in block:
                # Code 0 alone, where the block is absent; all others, where it is there.
                ends[0] = ends[0].take([0], i)
                ends[1] = ends[1].take(range(1, values.shape[i]), i)
            read = tuple(c for c in columns if self._order[c] <= at)
            key = read, columns[block[0]] if block else -1
            sums = known.setdefault(key, [np.zeros(())] * 2)
            known[key] = [s + end.min(behind) for s, end in zip(sums, ends, strict=True)]
        depths = layout(self._space).depths
        return [
            _Place(
                read=read,
                absent=absent,
                present=present,
                block=block,
                decided=block >= 0 and self._order[depths[genes[block].stage]] <= at,
            )
            for (read, block), (absent, present) in known.items()
        ]
