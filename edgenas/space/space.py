"""A family of networks, declared as one immutable value.

A space is a chain of stages and a head. Search never sees networks, only rows of small integers,
one column a gene. Code 0 is reserved for "this block is absent"; code c >= 1 is the c-th value of
the gene. A row is canonical when exactly the absent blocks carry 0.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.ranges import (
    Channels,
    ChannelsOrNone,
    Classes,
    Deviation,
    Fraction,
    Id,
    Length,
    Name,
    Pixels,
    Range,
)
from edgenas.space.arch import Arch, Block, Stage
from edgenas.space.cells import CellSpace, check_cell
from edgenas.space.check import check_space
from edgenas.space.framing import USUAL_FRAMING, Framing
from edgenas.space.genes import Codes, Gene, clear_absent, layout, rules
from edgenas.space.stage import (
    StageSpace,
    corner_block,
    has_usual,
    narrow_blocks,
    narrow_choice,
    require_block,
    require_choice,
)

# Fields that spaces of older versions lack. Files and digests have them only where they are not as
# here, so that those of older versions stay what they are.
NEWER: Mapping[str, object] = {
    "aspect": (1, 1),
    "padding": "symmetric",
    "framing": USUAL_FRAMING,
    "mean": None,
    "std": None,
    "mix_bias": False,
    "mix_norm": False,
    "head_norm": False,
    "cells": (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A family of networks.

    Args:
        name: for people and for the headers of files.
        resolutions: heights of the input to choose from, in pixels; ``aspect`` gives the widths.
        stages: the stem and the stages, in order.
        final: channels of the 1x1 conv-BN-activation before global pooling; 0: none.
        mix: channels of the 1x1 conv-activation behind it (no BN, unless ``mix_norm``); 0: none.
        activation: of the head.
        classes: outputs of the classifier.
        inputs: channels of the input.
        kernel_transform: how a small kernel comes out of the largest: ``linear`` (centre crop and
            a learnt matrix, once-for-all, arXiv 1908.09791, section 3.3) or ``crop``.
        epsilon: of every batch norm.
        kept_in_float: parts of the networks, of `edgenas.space.check.PARTS`, that stay in float
            when the rest is int8. The space fixes them, so that latency tables and models agree.
        aspect: height to width of the inputs, in lowest terms: (3, 5) for 96x160.
        padding: of convs with a stride: ``symmetric`` (half the kernel on both sides) or ``same``
            (TensorFlow's rule, which EfficientNet-Lite and others were trained with).
        framing: how pictures get the shape of the inputs, unless a training says otherwise.
        mean: of the inputs, per channel (R, G, B), of values in [0, 1]: what the weights to start
            from were trained with. None: a training takes that of its images.
        std: standard deviation of the inputs, as ``mean``. Both are given, or none.
        mix_bias: whether ``mix`` has a bias.
        mix_norm: whether ``mix`` has a batch norm.
        head_norm: whether the head begins with a batch norm and an activation of its own.
        cells: the cells that stages of kind ``cell`` repeat.

    Raises:
        EdgenasError: a choice is illegal, or two choices would give the same network.
    """

    name: Name
    resolutions: tuple[Pixels, ...]
    stages: Annotated[tuple[StageSpace, ...], Length(1, 100)]
    final: ChannelsOrNone = 0
    mix: ChannelsOrNone = 0
    activation: Id = "hswish"
    classes: Classes = 10
    inputs: Channels = 3
    kernel_transform: Literal["linear", "crop"] = "linear"
    epsilon: Annotated[float, Range(0, 1, "number", above=True)] = 1e-5
    kept_in_float: tuple[Id, ...] = ()
    aspect: tuple[Pixels, Pixels] = (1, 1)
    padding: Literal["symmetric", "same"] = "symmetric"
    framing: Framing = USUAL_FRAMING
    mean: tuple[Fraction, Fraction, Fraction] | None = None
    std: tuple[Deviation, Deviation, Deviation] | None = None
    mix_bias: bool = False
    mix_norm: bool = False
    head_norm: bool = False
    cells: Annotated[tuple[CellSpace, ...], Length(0, 100)] = ()

    def __post_init__(self) -> None:
        check_space(self)

    def __repr__(self) -> str:
        """As of any dataclass, without newer fields at their default: old digests contain it."""
        names = [f.name for f in fields(self) if not has_usual(self, f.name, NEWER)]
        return f"Space({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of the inputs; None: the space states none."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    @property
    def filed_as(self) -> str:
        """The name of the space in latency tables: with the aspect, unless inputs are square."""
        return self.name + ("" if self.aspect == (1, 1) else " {}:{}".format(*self.aspect))

    @property
    def genes(self) -> tuple[Gene, ...]:
        """The genes, one for each column. A gene with a single code has no column."""
        return layout(self).genes

    @property
    def size(self) -> int:
        """The number of different archs, exactly."""
        stages = (len(s.widths) * sum(len(s.options) ** d for d in s.depths) for s in self.stages)
        cells = (len(choice.values) for cell in self.cells for choice in cell.choices)
        return len(self.resolutions) * math.prod(stages) * math.prod(cells)

    def sample(
        self,
        n: int,
        *,
        rng: np.random.Generator,
        by: Literal["arch", "gene"] = "arch",
    ) -> Codes:
        """Sample canonical rows, shape (n, genes).

        Args:
            n: how many.
            rng: the source of chance.
            by: ``arch``: every arch is equally likely (so deep ones prevail); ``gene``: every
                choice of a gene is equally likely (so every depth is).
        """
        genes, depth_columns = self.genes, layout(self).depths
        rows = np.empty((n, len(genes)), np.uint8)
        for column, gene in enumerate(genes):
            choices = len(gene.values)
            if by == "gene" or column not in depth_columns.values():
                rows[:, column] = 1 + rng.integers(choices, size=n)
                continue
            stage = self.stages[gene.stage]
            # In logarithms: (choices per block) ** depth may pass what a float can hold.
            logs = np.array(stage.depths) * math.log(len(stage.options))
            weights = np.exp(logs - logs.max())
            rows[:, column] = 1 + rng.choice(choices, size=n, p=weights / weights.sum())
        return clear_absent(self, rows)

    def mutate(self, rows: Codes, *, rng: np.random.Generator, probability: float = 0.1) -> Codes:
        """Draw each gene again with a probability; genes of blocks that appear are always drawn.

        Args:
            rows: canonical rows, shape (n, genes); they are not changed.
            rng: the source of chance.
            probability: that a gene is drawn again.
        """
        fresh = self.sample(len(rows), rng=rng, by="gene")
        for column, gene in enumerate(self.genes):
            if gene.optional:
                fresh[:, column] = 1 + rng.integers(len(gene.values), size=len(rows))
        take = (rng.random(rows.shape) < probability) | (rows == 0)
        return clear_absent(self, np.where(take, fresh, rows))

    def crossover(self, first: Codes, second: Codes, *, rng: np.random.Generator) -> Codes:
        """Take each gene from one of two parents; if only one has the block, from that one.

        Args:
            first: canonical rows, shape (n, genes).
            second: canonical rows, same shape.
            rng: the source of chance.
        """
        take = (rng.random(first.shape) < 0.5) & (second != 0) | (first == 0)
        return clear_absent(self, np.where(take, second, first))

    def canonical(self, rows: Codes) -> Codes:
        """Set the genes of absent blocks to 0.

        Raises:
            EdgenasError: a code is out of range, or a block that exists carries 0.
        """
        rows, genes = np.asarray(rows), rules(self)
        limits = genes.choices
        if rows.ndim != 2 or rows.shape[1] != len(limits):
            raise EdgenasError(
                f"rows must have shape (n, {len(limits)}), found {tuple(rows.shape)}"
            )
        present = genes.present(rows)
        result = np.where(present, rows, np.zeros((), rows.dtype))
        bad = (result > limits) | (present & (result < 1))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise EdgenasError(
                f"rows[{row}]: {self.genes[column].name} must be a code from 1 to "
                f"{limits[column]}, found {rows[row, column]}"
            )
        return result.astype(np.uint8)

    def encode(self, archs: Iterable[Arch]) -> Codes:
        """Write archs as canonical rows, shape (n, genes).

        Raises:
            EdgenasError: an arch is not in this space; names the path.
        """
        lay = layout(self)
        rows: list[list[int]] = []
        for arch in archs:
            self.check(arch)
            cells = [c.values(text) for c, text in zip(self.cells, arch.cells, strict=True)]
            row = [gene.code(arch, cells) for gene in lay.genes]
            rows.append(row)
        return np.array(rows, np.uint8).reshape(len(rows), len(lay.genes))

    def decode(self, rows: Codes) -> list[Arch]:
        """Read the archs of rows, shape (n, genes). Raises EdgenasError as ``canonical``."""
        lay, archs = layout(self), list[Arch]()
        for row in self.canonical(rows).tolist():

            def value(column: int | None, values: Sequence[Any], row: list[int] = row) -> Any:
                return values[0] if column is None else values[row[column] - 1]

            stages: list[Stage] = []
            for i, stage in enumerate(self.stages):
                depth = int(value(lay.depths.get(i), stage.depths))
                blocks = tuple(
                    value(lay.blocks.get((i, j)), stage.options)
                    if stage.lists_blocks
                    else Block(
                        int(value(lay.kernels.get((i, j)), stage.kernels)),
                        value(lay.expands.get((i, j)), stage.expands),
                    )
                    for j in range(depth)
                )
                stages.append(Stage(int(value(lay.widths.get(i), stage.widths)), blocks))
            cells = (
                c.text([value(lay.cells.get((i, k)), x.values) for k, x in enumerate(c.choices)])
                for i, c in enumerate(self.cells)
            )
            resolution = int(value(lay.resolution, self.resolutions))
            archs.append(Arch(resolution, tuple(stages), tuple(cells)))
        return archs

    def check(self, arch: Arch) -> None:
        """Refuse an arch that is not in this space.

        Raises:
            EdgenasError: names the first part that does not fit.
        """
        require_choice(arch.resolution, self.resolutions, "resolution", self.name)
        if len(arch.stages) != len(self.stages):
            raise EdgenasError(
                f"stages must be {len(self.stages)} in space {self.name}, found {len(arch.stages)}"
            )
        if len(arch.cells) != len(self.cells):
            raise EdgenasError(
                f"cells must be {len(self.cells)} in space {self.name}, found {len(arch.cells)}"
            )
        for i, (text, cell) in enumerate(zip(arch.cells, self.cells, strict=True)):
            check_cell(text, cell, f"cells[{i}]", self.name)
        for i, (chosen, stage) in enumerate(zip(arch.stages, self.stages, strict=True)):
            path = f"stages[{i}]"
            require_choice(chosen.width, stage.widths, f"{path}.width", self.name)
            require_choice(len(chosen.blocks), stage.depths, f"{path}.depth", self.name)
            for j, block in enumerate(chosen.blocks):
                require_block(block, stage, f"{path}.blocks[{j}]", self.name)

    def contains(self, arch: Arch) -> bool:
        """Whether an arch is in this space."""
        try:
            self.check(arch)
        except EdgenasError:
            return False
        return True

    def largest(self) -> Arch:
        """The arch with the largest value of every choice."""
        return self._corner(max)

    def smallest(self) -> Arch:
        """The arch with the smallest value of every choice."""
        return self._corner(min)

    def _corner(self, pick: Callable[[Sequence[float]], float]) -> Arch:
        stages = (
            Stage(
                int(pick(s.widths)),
                (corner_block(s, pick),) * int(pick(s.depths)),
            )
            for s in self.stages
        )
        cells = tuple(cell.corner(pick) for cell in self.cells)
        return Arch(int(pick(self.resolutions)), tuple(stages), cells)

    def restrict(
        self,
        *,
        resolution: Iterable[int] | None = None,
        depth: Iterable[int] | None = None,
        kernel: Iterable[int] | None = None,
        expand: Iterable[float] | None = None,
    ) -> "Space":
        """Narrow the space to some values. A choice of one value is left as it is.

        Raises:
            EdgenasError: no value of a choice would be left.
        """
        stages = tuple(
            replace(
                stage,
                depths=narrow_choice(stage.depths, depth, f"stages[{i}].depths"),
                kernels=narrow_choice(stage.kernels, kernel, f"stages[{i}].kernels"),
                expands=narrow_choice(stage.expands, expand, f"stages[{i}].expands"),
                blocks=narrow_blocks(stage, kernel, expand, f"stages[{i}].blocks"),
            )
            for i, stage in enumerate(self.stages)
        )
        resolutions = narrow_choice(self.resolutions, resolution, "resolutions")
        return replace(self, resolutions=resolutions, stages=stages)

    def input_size(self, resolution: int) -> tuple[int, int]:
        """Height and width of the inputs of a resolution."""
        return resolution, resolution * self.aspect[1] // self.aspect[0]

    def with_classes(self, classes: int) -> "Space":
        """The same space with another number of classes."""
        return replace(self, classes=classes)
