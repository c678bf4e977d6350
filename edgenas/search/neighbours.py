"""All networks that differ from one network in one gene or in two."""

import itertools

import numpy as np
from numpy.typing import NDArray

from edgenas.space import Codes, Space


def neighbours(space: Space, row: Codes) -> Codes:
    """The networks one or two genes away, without the network itself, each once.

    A block that a deeper stage adds comes with its smallest values, its largest, or those of the
    block before it; as with any other gene, the second change may be one of these.

    Args:
        space: of the row.
        row: one canonical row, shape (1, genes).

    Returns:
        Canonical rows, shape (n, genes).
    """
    if not space.genes:
        return row[:0]
    columns, codes = _changes(space)
    first, second = (np.array(side) for side in _pairs(len(columns)))
    apart = (columns[first] != columns[second]) | (first == second)
    first, second = first[apart], second[apart]
    found: list[Codes] = []
    for base in _filled(space, row[0]):
        changed = np.repeat(base[None], len(first), 0)
        lines = np.arange(len(first))
        changed[lines, columns[second]] = codes[second]
        changed[lines, columns[first]] = codes[first]
        found.append(changed)
    rows = unique(space.canonical(np.concatenate(found)))
    return rows[(rows != row).any(1)]


def unique(rows: Codes) -> Codes:
    """Each row once, in lexical order."""
    if not rows.size:
        return rows[:1]
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1])))
    kept = np.unique(packed.ravel())
    return kept.view(np.uint8).reshape(-1, rows.shape[1])


def _changes(space: Space) -> tuple[NDArray[np.intp], Codes]:
    """Every (column, code)."""
    pairs = [(c, 1 + v) for c, gene in enumerate(space.genes) for v in range(len(gene.values))]
    columns, codes = np.array(pairs, np.intp).reshape(-1, 2).T
    return columns, codes.astype(np.uint8)


def _pairs(count: int) -> tuple[list[int], list[int]]:
    both = list(itertools.combinations_with_replacement(range(count), 2))
    return [a for a, _ in both], [b for _, b in both]


def _filled(space: Space, row: Codes) -> list[Codes]:
    """The row with genes for its absent blocks: the smallest, the largest, those before them."""
    if row.all():
        return [row]
    largest = np.array([len(gene.values) for gene in space.genes], np.uint8)
    absent = row == 0
    before = row.copy()
    for column, gene in enumerate(space.genes):
        if before[column]:
            continue
        name = gene.name.replace(f"blocks[{gene.block}]", f"blocks[{gene.block - 1}]")
        same = [c for c in range(column) if space.genes[c].name == name]
        before[column] = before[same[0]] if same else 1
    return [np.where(absent, 1, row).astype(np.uint8), np.where(absent, largest, row), before]
