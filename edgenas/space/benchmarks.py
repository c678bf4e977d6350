"""Spaces all of whose networks others have trained one by one: oracles for searches."""

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
