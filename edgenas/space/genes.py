"""The columns of the rows that stand for the networks of a space, and the rules of these rows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgenas.space.arch import Arch

if TYPE_CHECKING:  # whose rows are read by these
    from edgenas.space.space import Space

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One column of the rows.

    Args:
        name: the path in an arch, e.g. ``stages[2].blocks[1].kernel``.
        values: what codes 1, 2, ... stand for: numbers, or whole blocks.
        optional: whether code 0 (absent) may occur.
        stage: index of its stage; -1 for the resolution and for cells.
        block: index of its block; -1 for a gene of the stage.
        cell: index of its cell, a choice of which it is; -1 outside of cells.
        choice: index of this choice.
    """

    name: str
    values: tuple[Any, ...]
    optional: bool = False
    stage: int = -1
    block: int = -1
    cell: int = -1
    choice: int = -1

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values as numbers; the places of those that are none."""
        if isinstance(self.values[0], (int, float)):
            return self.values
        return tuple(range(len(self.values)))

    def code(self, arch: Arch, cells: Sequence[Sequence[Any]]) -> int:
        """Find the code of this gene in an arch of the space.

        Args:
            arch: the arch.
            cells: the values of all choices of its cells.
        """
        if self.cell >= 0:
            return 1 + self.values.index(cells[self.cell][self.choice])
        if self.stage < 0:
            return 1 + self.values.index(arch.resolution)
        stage = arch.stages[self.stage]
        field = self.name.rpartition(".")[2]
        if self.block < 0:
            return 1 + self.values.index(stage.width if field == "width" else len(stage.blocks))
        if self.block >= len(stage.blocks):
            return 0
        block = stage.blocks[self.block]
        if field == f"blocks[{self.block}]":
            return 1 + self.values.index(block)
        return 1 + self.values.index(block.kernel if field == "kernel" else block.expand)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which gene each column holds. A gene with one value that is always present has no column.

    ``widths`` and ``depths`` are keyed by stage, ``kernels`` and ``expands`` by (stage, block), and
    so are ``blocks``: in stages that list whole blocks. ``cells`` are keyed by (cell, choice).
    """

    genes: tuple[Gene, ...]
    resolution: int | None
    widths: dict[int, int]
    depths: dict[int, int]
    kernels: dict[tuple[int, int], int]
    expands: dict[tuple[int, int], int]
    blocks: dict[tuple[int, int], int]
    cells: dict[tuple[int, int], int]


@functools.lru_cache(maxsize=64)
def layout(space: "Space") -> Layout:
    """The columns of a space's rows."""
    genes: list[Gene] = []
    lay = Layout((), 0 if len(space.resolutions) > 1 else None, {}, {}, {}, {}, {}, {})
    if lay.resolution is not None:
        genes.append(Gene(name="resolution", values=space.resolutions))
    for i, cell in enumerate(space.cells):
        for k, choice in enumerate(cell.choices):
            if len(choice.values) > 1:
                lay.cells[i, k] = len(genes)
                path = f"cells[{i}].{choice.name}"
                genes.append(Gene(name=path, values=choice.values, cell=i, choice=k))
    for i, stage in enumerate(space.stages):
        for name, columns, values in (
            ("width", lay.widths, stage.widths),
            ("depth", lay.depths, stage.depths),
        ):
            if len(values) > 1:
                columns[i] = len(genes)
                genes.append(Gene(name=f"stages[{i}].{name}", values=values, stage=i))
        for j in range(max(stage.depths)):
            optional = j >= min(stage.depths)
            independent = (
                (".kernel", lay.kernels, stage.kernels),
                (".expand", lay.expands, stage.expands),
            )
            whole = (("", lay.blocks, stage.options),)
            for name, columns, values in whole if stage.lists_blocks else independent:
                if len(values) > 1 or optional:
                    columns[i, j] = len(genes)
                    path = f"stages[{i}].blocks[{j}]{name}"
                    genes.append(
                        Gene(name=path, values=values, optional=optional, stage=i, block=j)
                    )
    return replace(lay, genes=tuple(genes))


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The rules by which genes exist, as arrays of shape (genes,).

    Args:
        depths: the column of the depth that decides whether a gene exists.
        least: the smallest code in that column with which the gene exists.
        choices: the number of values of the gene.
    """

    depths: NDArray[np.intp]
    least: Codes
    choices: Codes

    def present(self, rows: Codes) -> NDArray[np.bool_]:
        """Find which genes of rows exist, shape (n, genes)."""
        return rows.take(self.depths, 1) >= self.least

    def complete(self, rows: Codes, *, rng: np.random.Generator) -> Codes:
        """Make rows canonical: set genes of absent blocks to 0, draw those of new blocks.

        Args:
            rows: codes in range, shape (n, genes); 0 where no parent had the block.
            rng: the source of chance.
        """
        present = self.present(rows).view(np.uint8)
        result = rows * present
        missing = np.flatnonzero(rows < present)
        drawn = rng.random(len(missing)) * self.choices[missing % max(len(self.choices), 1)]
        result.ravel()[missing] = 1 + drawn.astype(np.uint8)
        return result


@functools.lru_cache(maxsize=64)
def rules(space: "Space") -> Rules:
    """The rules of a space's rows."""
    genes, columns = space.genes, layout(space).depths
    depths = np.zeros(len(genes), np.intp)
    least = np.zeros(len(genes), np.uint8)  # 0: the gene exists whatever column 0 holds
    for column, gene in enumerate(genes):
        if gene.optional:
            depths[column] = columns[gene.stage]
            # Depths ascend, so a larger code stands for a deeper stage.
            shallow = sum(depth <= gene.block for depth in space.stages[gene.stage].depths)
            least[column] = 1 + shallow
    return Rules(depths, least, np.array([len(gene.values) for gene in genes], np.uint8))


def clear_absent(space: "Space", rows: Codes) -> Codes:
    """Set the genes of absent blocks to 0, for rows of shape (n, genes)."""
    return np.where(rules(space).present(rows), rows, np.zeros((), rows.dtype))
