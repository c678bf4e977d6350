"""Spaces all of whose networks others have trained one by one: oracles for searches."""

from edgenas.space.cells import CellSpace
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace


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
