"""All networks of a space, and all near one network."""

import functools
import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgenas.space.genes import Codes, layout
from edgenas.space.space import Space

Indices = NDArray[np.intp]


def list_all(space: Space) -> Codes:
    """All networks of a space, canonical rows, shape (space.size, genes)."""
    columns = layout(space).depths
    rows = np.zeros((1, len(space.genes)), np.uint8)
    for column, gene in enumerate(space.genes):
        present = np.ones(len(rows), bool)
        if gene.optional:
            depths = np.array((0, *space.stages[gene.stage].depths))
            present = depths[rows[:, columns[gene.stage]]] > gene.block
        codes = np.arange(1, 1 + len(gene.values), dtype=np.uint8)
        grown = np.repeat(rows[present], len(codes), 0)
        grown[:, column] = np.tile(codes, int(present.sum()))
        rows = np.concatenate([rows[~present], grown])
    return rows


def list_neighbours(space: Space, row: Codes, *, genes: Literal[1, 2] = 2) -> Codes:
    """The networks one gene away, or one or two, without the network itself; some of them twice.

    A block that a deeper stage adds comes with the values of the block before it, its smallest or
    its largest; as with any other gene, the second change may be one of these.

    Args:
        space: of the row.
        row: one canonical row, shape (1, genes).
        genes: how many may change.

    Returns:
        Canonical rows, shape (n, genes).
    """
    if not space.genes:
        return row[:0]
    columns, codes, first, second, deeper = _changes(space)
    parts: list[Codes] = []
    for i, base in enumerate(_filled(space, row[0])):
        # Which values an absent block would have matters only where a depth changes.
        meant = np.ones(len(first), bool) if i == 0 else deeper
        if genes == 1:
            meant = meant & (first == second)
        one, other = first[meant], second[meant]
        changed = np.repeat(base[None], len(one), 0)
        lines = np.arange(len(one))
        changed[lines, columns[other]] = codes[other]
        changed[lines, columns[one]] = codes[one]
        parts.append(changed)
    rows = space.canonical(np.concatenate(parts))
    return rows[(rows != row).any(1)]


def drop_repeats(rows: Codes) -> Codes:
    """Each row once, in order of first appearance."""
    _, first = np.unique(hash_rows(rows), return_index=True)
    return rows[np.sort(first)]


def hash_rows(rows: Codes) -> NDArray[np.uint64]:
    """A 64-bit hash of each row, the same in every run; two of a million rows never share one."""
    return rows.astype(np.uint64) @ _multipliers(rows.shape[1])


@functools.lru_cache(maxsize=64)
def _multipliers(genes: int) -> NDArray[np.uint64]:
    chance = np.random.default_rng(0x5EED)
    return chance.integers(0, 2**63, genes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@functools.lru_cache(maxsize=16)
def _changes(space: Space) -> tuple[Indices, Codes, Indices, Indices, NDArray[np.bool_]]:
    """Every (column, code), and the pairs of them.

    Returns:
        Columns and codes of the changes, shape (c,); both changes of each pair, shape (p,): the
        same one twice is a single change; whether a pair changes a depth, shape (p,).
    """
    pairs = [(c, 1 + v) for c, gene in enumerate(space.genes) for v in range(len(gene.values))]
    columns, codes = np.array(pairs, np.intp).reshape(-1, 2).T
    both = list(itertools.combinations_with_replacement(range(len(columns)), 2))
    first, second = np.array(both, np.intp).reshape(-1, 2).T
    apart = (columns[first] != columns[second]) | (first == second)
    first, second = first[apart], second[apart]
    depths = np.isin(columns, list(layout(space).depths.values()))
    return columns, codes.astype(np.uint8), first, second, depths[first] | depths[second]


def _filled(space: Space, row: Codes) -> list[Codes]:
    """The row with genes for its absent blocks: of the block before, the smallest, the largest."""
    if row.all():
        return [row]
    genes = space.genes
    largest = np.array([len(gene.values) for gene in genes], np.uint8)
    names = {gene.name: column for column, gene in enumerate(genes)}
    before = row.copy()
    for column in np.flatnonzero(row == 0):
        gene = genes[column]
        name = gene.name.replace(f"blocks[{gene.block}]", f"blocks[{gene.block - 1}]")
        before[column] = before[names[name]] if name in names else 1
    return [before, np.where(row == 0, 1, row).astype(np.uint8), np.where(row == 0, largest, row)]
