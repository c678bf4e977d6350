"""Spaces from the literature on searches: NAS-Bench-Macro, NAS-Bench-201 and DARTS."""

import itertools

from edgenas.space.cells import CellSpace
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

_NODES = 4  # of a cell of DARTS


def nas_bench_macro() -> Space:
    """NAS-Bench-Macro (arXiv 2103.11922, section 4.1): 6,561 networks of MobileNetV2's blocks.

    A block is nothing, or has the kernel 3 and the expansion 3, or 5 and 6: the digits 0, 1 and 2
    of the benchmark, in the same order as the codes 1, 2 and 3 here.
    """
    stages = (
        StageSpace(
            kind="mbconv",
            widths=(width,),
            depths=(depth,),
            stride=2,
            blocks=("none", "3x3", "5x6"),
        )
        for width, depth in ((64, 2), (128, 3), (256, 3))
    )
    return Space(
        name="nas-bench-macro",
        resolutions=(32,),
        stages=(StageSpace(kind="conv", widths=(32,)), *stages),
        final=1280,
        activation="relu",
    )


def nas_bench_201() -> Space:
    """NAS-Bench-201 (arXiv 2001.00326) on CIFAR: 15,625 cells in one skeleton.

    The codes of a row are the benchmark's numbers of its operations, plus one, on the edges in its
    own order; the text of a cell is that of the benchmark's files.
    """
    operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    stages: list[StageSpace] = [StageSpace(kind="conv", widths=(16,), activation="none")]
    for width in (16, 32, 64):
        if width > 16:
            stages.append(StageSpace(kind="basic", widths=(width,), stride=2))
        stages.append(StageSpace(kind="cell", widths=(width,), depths=(5,)))
    return Space(
        name="nas-bench-201",
        resolutions=(32,),
        stages=tuple(stages),
        cells=(CellSpace(operations=operations, nodes=3),),
        head_norm=True,
        activation="relu",
    )


def darts(*, cells: int = 8, channels: int = 16, name: str = "darts") -> Space:
    """DARTS (arXiv 1806.09055, section 3) on CIFAR: one normal cell and one that reduces.

    Cell 0 of an arch is the normal one, cell 1 the one that reduces, after a third and two thirds
    of the network, where channels double. `edgenas.space.genotype` reads and writes both as a
    genotype. Without the auxiliary head and the drop path, which are for training alone.

    Args:
        cells: in all, at least 3; the paper searches with 8 and trains the result with 20.
        channels: of the nodes of the first cells: 16 and 36 in the paper.
        name: of the space.
    """
    operations = (
        *("none", "skip_connect", "max_pool_3x3", "avg_pool_3x3"),
        *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
    )
    stem = StageSpace(kind="conv", widths=(3 * channels,), activation="none")
    stages, width = [stem], _NODES * channels
    ends = (0, cells // 3 + 1, 2 * cells // 3 + 1, cells + 1)
    for begin, end in itertools.pairwise(ends):
        if begin:
            width *= 2
            stages.append(StageSpace(kind="cell", widths=(width,), stride=2, cell=1))
        if normal := end - begin - 1:
            stages.append(StageSpace(kind="cell", widths=(width,), depths=(normal,)))
    cell = CellSpace(operations=operations, nodes=_NODES, family="darts")
    return Space(
        name=name, resolutions=(32,), stages=tuple(stages), cells=(cell, cell), activation="relu"
    )


def darts_20() -> Space:
    """The 20 cells and 36 channels of the networks in DARTS' tables (section 3.3)."""
    return darts(cells=20, channels=36, name="darts-20")
