"""The network of a space with the least value of compiled tables, exactly and at once.

Tables are sums (or maxima) of functions of a few genes each, so the minimum comes from
eliminating one gene after the other (dynamic programming; Bertele & Brioschi, "Nonserial Dynamic
Programming", 1972). Genes shared by many places (resolution, widths, depths) are eliminated last.
"""

import numpy as np
from numpy.typing import NDArray

from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes, layout
from edgenas.space.space import Space

Scope = tuple[int, ...]
Factor = tuple[Scope, Vector]


def find_least(space: Space, tables: Tables) -> Codes:
    """The canonical row with the least value, shape (1, genes); of equals the first found."""
    factors: list[Factor] = [*_places(tables), *_rules(space)]
    chosen: list[tuple[int, Scope, NDArray[np.intp]]] = []
    # Which columns stand in a factor together with each: the scope of what its elimination makes.
    near = {column: {column} for column in range(len(space.genes))}
    for read, _ in factors:
        for column in read:
            near[column].update(read)
    while near:
        column = min(near, key=lambda c: len(near[c]))
        scope = tuple(sorted(near.pop(column)))
        joined = np.zeros(())
        for part in (f for f in factors if column in f[0]):
            spread = _spread(part, scope)
            joined = joined + spread if tables.reduce == "sum" else np.maximum(joined, spread)
        axis = scope.index(column)
        rest = tuple(c for c in scope if c != column)
        shape = tuple(1 + len(space.genes[c].values) for c in scope)
        joined = np.broadcast_to(joined, shape)
        chosen.append((column, rest, joined.argmin(axis)))
        factors = [f for f in factors if column not in f[0]]
        factors.append((rest, joined.min(axis)))
        for other in rest:
            near[other].update(rest)
            near[other].remove(column)
    row = np.zeros((1, len(space.genes)), np.uint8)
    for column, rest, best in reversed(chosen):
        row[0, column] = best[tuple(row[0, c] for c in rest)]
    return space.canonical(row)


def _places(tables: Tables) -> list[Factor]:
    """The tables as factors; codes that cannot occur cost infinitely much."""
    pairs = zip(tables.columns, tables.values, strict=True)
    return [(read, np.where(np.isnan(values), np.inf, values)) for read, values in pairs]


def _rules(space: Space) -> list[Factor]:
    """Zero for canonical rows: code 0 exactly in the genes of absent blocks; else infinity."""
    depths, rules = layout(space).depths, list[Factor]()
    for column, gene in enumerate(space.genes):
        alone = np.zeros(1 + len(gene.values))
        if not gene.optional:
            alone[0] = np.inf
            rules.append(((column,), alone))
            continue
        options = space.stages[gene.stage].depths
        both = np.full((1 + len(options), len(alone)), np.inf)
        for code, depth in enumerate(options, start=1):
            if depth > gene.block:
                both[code, 1:] = 0
            else:
                both[code, 0] = 0
        rules.append(((depths[gene.stage], column), both))
    return rules


def _spread(factor: Factor, scope: Scope) -> Vector:
    """A factor as an array with one axis per column of a scope; length 1 where it reads none."""
    read, values = factor
    order = sorted(range(len(read)), key=lambda axis: read[axis])
    sizes = iter([values.shape[axis] for axis in order])
    shape = [next(sizes) if column in read else 1 for column in scope]
    return values.transpose(order).reshape(shape)
