"""Elastic spaces around published ImageNet networks, each of which is one arch of its space.

The published network is the largest arch at the resolution that it was trained at: fewer blocks,
smaller kernels and fewer middle channels surround it. Weights for nothing else exist.
"""

from edgenas.space.space import Space
from edgenas.space.stage import StageSpace, make_divisible

# Blocks, kernel, stride, expand and width of each stage of EfficientNet-B0 (arXiv 1905.11946,
# table 1), which the Lite networks have too.
_EFFICIENTNET = (
    (1, 3, 1, 1.0, 16),
    (2, 3, 2, 6.0, 24),
    (2, 5, 2, 6.0, 40),
    (3, 3, 2, 6.0, 80),
    (3, 5, 1, 6.0, 112),
    (4, 5, 2, 6.0, 192),
    (1, 3, 1, 6.0, 320),
)


def lite0() -> Space:
    """Around EfficientNet-Lite0 (224 pixels)."""
    return _efficientnet_lite("lite0", width=1.0, depth=1.0, resolution=224)


def lite1() -> Space:
    """Around EfficientNet-Lite1 (240 pixels)."""
    return _efficientnet_lite("lite1", width=1.0, depth=1.1, resolution=240)


def lite2() -> Space:
    """Around EfficientNet-Lite2 (260 pixels)."""
    return _efficientnet_lite("lite2", width=1.1, depth=1.2, resolution=260)


def _efficientnet_lite(name: str, *, width: float, depth: float, resolution: int) -> Space:
    """EfficientNet-Lite, see ``models/official/efficientnet/lite`` in tensorflow/tpu.

    Depths and widths are scaled as in EfficientNet (arXiv 1905.11946, section 3.3), but not the
    stem, the head and the depths of the first and the last stage. There is no squeeze, and ReLU6
    everywhere.
    """
    last = len(_EFFICIENTNET) - 1
    stages = (
        StageSpace(
            kind="mbconv",
            widths=(make_divisible(channels * width),),
            depths=fewer(blocks if i in (0, last) else -int(-depth * blocks // 1)),
            kernels=(3, 5) if kernel == 5 else (3,),
            expands=(3.0, 4.0, 6.0) if expand == 6 else (1.0,),
            stride=stride,
            activation="relu6",
        )
        for i, (blocks, kernel, stride, expand, channels) in enumerate(_EFFICIENTNET)
    )
    return Space(
        name=name,
        resolutions=resolutions(resolution),
        stages=(StageSpace(kind="conv", widths=(32,), stride=2, activation="relu6"), *stages),
        final=1280,
        activation="relu6",
        classes=1000,
        kernel_transform="crop",
        epsilon=1e-3,
        padding="same",
    )


def fewer(blocks: int) -> tuple[int, ...]:
    """From half the blocks of a stage to all of them."""
    return tuple(range(max(1, blocks // 2), blocks + 1))


def resolutions(largest: int) -> tuple[int, ...]:
    """From 64 pixels in steps of 16 to the resolution of the published network."""
    return (*range(64, largest, 16), largest)
