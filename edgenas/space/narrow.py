"""One predictor for a space and everything it is narrowed to.

``space.restrict`` drops values of genes, and whole genes of which one value is left. What was
fitted or compiled on the wide space then reads the narrow rows through these maps.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Tables
from edgenas.space.space import Space

Indices = NDArray[np.intp]


@functools.lru_cache(maxsize=32)
def map_codes(space: Space, narrow: Space) -> tuple[tuple[int, Indices], ...]:
    """For each column of a space: the column of a narrower one, and its codes in the space's.

    A column of -1 stands for a gene that is decided: its one code is in the array.

    Raises:
        EdgenasError: the second space is no narrower one.
    """
    if narrow == space:
        whole = (np.arange(len(gene.values) + 1) for gene in space.genes)
        return tuple(enumerate(whole))
    if narrow.aspect != space.aspect:
        raise EdgenasError(
            f"space {narrow.name} must have the aspect {[*space.aspect]} of space {space.name}, "
            f"found {[*narrow.aspect]}"
        )
    try:
        decided = space.encode([narrow.largest()])[0]
    except EdgenasError as error:
        raise EdgenasError(
            f"space {narrow.name} must be space {space.name} or a narrower one: {error.message}"
        ) from error
    columns = {gene.name: i for i, gene in enumerate(narrow.genes)}
    found: list[tuple[int, Indices]] = []
    for code, gene in zip(decided, space.genes, strict=True):
        column = columns.pop(gene.name, -1)
        if column < 0:
            found.append((-1, np.array([code], np.intp)))
            continue
        values = narrow.genes[column].values
        if not set(values) <= set(gene.values):
            raise EdgenasError(
                f"space {narrow.name} must be space {space.name} or a narrower one: "
                f"{gene.name} may be {values}"
            )
        found.append((column, np.array([0, *(1 + gene.values.index(v) for v in values)], np.intp)))
    if columns:
        raise EdgenasError(
            f"space {narrow.name} must be space {space.name} or a narrower one: it has "
            f"{next(iter(columns))}"
        )
    return tuple(found)


def narrow_tables(tables: Tables, *, space: Space, narrow: Space) -> Tables:
    """Tables compiled over a space, for rows of a narrower one.

    Raises:
        EdgenasError: the second space is no narrower one.
    """
    if narrow == space:
        return tables
    maps = map_codes(space, narrow)
    columns: list[tuple[int, ...]] = []
    values: list[NDArray[np.float64]] = []
    for read, table in zip(tables.columns, tables.values, strict=True):
        taken = table[np.ix_(*(maps[column][1] for column in read))] if read else table
        kept = [axis for axis, column in enumerate(read) if maps[column][0] >= 0]
        columns.append(tuple(maps[read[axis]][0] for axis in kept))
        values.append(taken.reshape([taken.shape[axis] for axis in kept]))
    return Tables(tuple(columns), tuple(values), tables.reduce, tables.constant)


def narrow_inputs(
    columns: Indices, codes: Indices, *, space: Space, narrow: Space
) -> tuple[Indices, Indices]:
    """Inputs that are 1 where a column holds a code, for rows of a narrower space.

    Args:
        columns: shape (inputs,); -1: the input is always its code, 0 or 1.
        codes: shape (inputs,).
        space: whose columns they are.
        narrow: whose rows will be scored.
    """
    maps = map_codes(space, narrow)
    new_columns, new_codes = columns.copy(), codes.copy()
    for i, (column, code) in enumerate(zip(columns, codes, strict=True)):
        if column < 0:
            continue
        new, known = maps[int(column)]
        at = np.flatnonzero(known == code)
        if new < 0 or not at.size:
            new_columns[i], new_codes[i] = -1, int(new < 0 and at.size > 0)
        else:
            new_columns[i], new_codes[i] = new, at[0]
    return new_columns, new_codes
