"""Maps by which predictors and tables of a space read the rows of a narrower space.

``space.restrict`` drops values of genes, and drops a gene if only one of its values is left.
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
    """Map each column of a space to a column of a narrower space.

    Returns:
        For each column of the space, its column in the narrower space, and the codes in the space
        of the codes there. A column of -1 means that only one code is left; it is in the array.

    Raises:
        EdgenasError: the second space is not a narrower one.
    """
    if narrow == space:
        whole = (np.arange(len(gene.values) + 1) for gene in space.genes)
        return tuple(enumerate(whole))
    if narrow.aspect != space.aspect:
        raise EdgenasError(
            f"space {narrow.name} must have the aspect {[*space.aspect]} of space {space.name}, "
            f"found {[*narrow.aspect]}"
        )
    if narrow.padding != space.padding:
        raise EdgenasError(
            f"space {narrow.name} must have the {space.padding} padding of space {space.name}, "
            f"found {narrow.padding}"
        )
    try:
        decided = space.encode([narrow.largest()])[0]
    except EdgenasError as error:
        raise EdgenasError(
            f"space {narrow.name} must be space {space.name} or a narrower one: {error.message}"
        ) from error
    columns = {gene.name: i for i, gene in enumerate(narrow.genes)}
    maps: list[tuple[int, Indices]] = []
    for code, gene in zip(decided, space.genes, strict=True):
        column = columns.pop(gene.name, -1)
        if column < 0:
            maps.append((-1, np.array([code], np.intp)))
            continue
        values = narrow.genes[column].values
        if not set(values) <= set(gene.values):
            raise EdgenasError(
                f"space {narrow.name} must be space {space.name} or a narrower one: "
                f"{gene.name} may be {values}"
            )
        maps.append((column, np.array([0, *(1 + gene.values.index(v) for v in values)], np.intp)))
    if columns:
        raise EdgenasError(
            f"space {narrow.name} must be space {space.name} or a narrower one: it has "
            f"{next(iter(columns))}"
        )
    return tuple(maps)


def narrow_tables(tables: Tables, *, space: Space, narrow: Space) -> Tables:
    """Convert tables that were compiled over a space to rows of a narrower space.

    Raises:
        EdgenasError: the second space is not a narrower one.
    """
    if narrow == space:
        return tables
    maps = map_codes(space, narrow)
    columns: list[tuple[int, ...]] = []
    values: list[NDArray[np.float64]] = []
    for read, table in zip(tables.columns, tables.values, strict=True):
        taken = table[np.ix_(*(maps[column][1] for column in read))] if read else table
        axes = [axis for axis, column in enumerate(read) if maps[column][0] >= 0]
        columns.append(tuple(maps[read[axis]][0] for axis in axes))
        values.append(taken.reshape([taken.shape[axis] for axis in axes]))
    return Tables(tuple(columns), tuple(values), tables.reduce, tables.constant)


def narrow_inputs(
    columns: Indices, codes: Indices, *, space: Space, narrow: Space
) -> tuple[Indices, Indices]:
    """Convert inputs of a predictor to rows of a narrower space.

    An input is 1 where a column of a row holds a code, else 0.

    Args:
        columns: the column of each input, shape (inputs,); -1: the input is always its code.
        codes: the code of each input, shape (inputs,).
        space: the space of these columns and codes.
        narrow: the space of the rows that will be scored.

    Returns:
        Columns and codes for the narrower space.
    """
    maps = map_codes(space, narrow)
    new_columns, new_codes = columns.copy(), codes.copy()
    for i, (column, code) in enumerate(zip(columns, codes, strict=True)):
        if column < 0:
            continue
        new, old_codes = maps[int(column)]
        at = np.flatnonzero(old_codes == code)
        if new < 0 or not at.size:
            new_columns[i], new_codes[i] = -1, int(new < 0 and at.size > 0)
        else:
            new_columns[i], new_codes[i] = new, at[0]
    return new_columns, new_codes
