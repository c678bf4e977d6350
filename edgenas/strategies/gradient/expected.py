"""The expectation of compiled tables under probabilities of the choices, exactly, with gradients.

Latency as a differentiable term (ProxylessNAS, arXiv 1812.00332, section 3.3.1): a table is a sum
over places, a place reads a few genes, and what networks are drawn by is independent, so its
expectation is a sum of products of probabilities. A place whose block is absent counts nothing.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import layout
from edgenas.space.space import Space
from edgenas.strategies.gradient.policy import Decision, list_decisions


class Expected:
    """The expectation of tables.

    Args:
        space: of their rows.
        tables: sums over places, of latency, MACs, parameters ...
        parts: the independent decisions; None: one for each gene, as ``list_decisions`` has them.
    """

    def __init__(
        self, space: Space, tables: Tables, parts: Sequence[Decision] | None = None
    ) -> None:
        assert tables.reduce == "sum", "a maximum is no sum of products"
        parts = list_decisions(space) if parts is None else parts
        # Cells of one number read the same genes; they are added up before anything is expanded.
        places: dict[tuple[int, ...], Vector] = {}
        for columns, values in zip(tables.columns, tables.values, strict=True):
            places[columns] = places.get(columns, 0.0) + values
        sums: dict[tuple[int, ...], float] = {}
        for columns, values in places.items():
            for codes in np.argwhere(~np.isnan(values)).tolist():
                value = float(values[tuple(codes)])
                if value:
                    read = dict(zip(columns, codes, strict=True))
                    for factors in _factors(space, parts, read):
                        sums[factors] = sums.get(factors, 0.0) + value
        terms = [(value, factors) for factors, value in sums.items()]
        longest = max((len(factors) for _, factors in terms), default=0)
        one = sum(part.size for part in parts)  # the place of the number 1
        padded = [(*factors, *[one] * (longest - len(factors))) for _, factors in terms]
        self._index = torch.tensor(padded, dtype=torch.long).reshape(len(terms), longest)
        self._values = torch.tensor([value for value, _ in terms], dtype=torch.double)
        self._constant = tables.constant

    def __call__(self, probabilities: Sequence[Tensor]) -> Tensor:
        """The expectation, a scalar in double precision.

        Args:
            probabilities: of the alternatives of each part, as ``Policy.join`` gives them.
        """
        flat = torch.cat([*(p.double() for p in probabilities), torch.ones(1).double()])
        return (self._values * flat[self._index].prod(1)).sum() + self._constant


def _factors(
    space: Space, parts: Sequence[Decision], read: dict[int, int]
) -> list[tuple[int, ...]]:
    """The products of probabilities whose sum is that of reading these codes.

    Args:
        space: of the rows.
        parts: the independent decisions.
        read: codes by column; 0 where a block is absent.

    Returns:
        Of each product its places in the probabilities of all parts, one behind the other.
    """
    depths, genes = layout(space).depths, space.genes
    optional = {c: genes[c] for c in read if genes[c].optional}
    # Whether a block is there is decided by the depth of its stage, read here or not.
    hidden = sorted({depths[g.stage] for g in optional.values()} - set(read))
    found: list[tuple[int, ...]] = []
    for codes in itertools.product(*(range(1, 1 + len(genes[c].values)) for c in hidden)):
        known = read | dict(zip(hidden, codes, strict=True))
        agree = all(
            (known[c] > 0) == (space.stages[g.stage].depths[known[depths[g.stage]] - 1] > g.block)
            for c, g in optional.items()
        )
        if agree:
            found += _products(parts, known)
    return found


def _products(parts: Sequence[Decision], known: dict[int, int]) -> list[tuple[int, ...]]:
    """The products for known codes; of what a part decides besides, every alternative counts."""
    start, factors = 0, list[list[int]]()
    for part in parts:
        asked = tuple(known.get(c, 0) for c in part.columns)
        if any(asked):
            places = np.arange(start, start + part.size).reshape(part.shape)
            fitting = places[tuple(code - 1 if code else slice(None) for code in asked)].ravel()
            if len(fitting) < part.size:
                factors.append(fitting.tolist())
        start += part.size
    return list(itertools.product(*factors))
