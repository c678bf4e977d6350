"""Elastic spaces around published ImageNet networks, each of which is one arch of its space.

A network is a table of its blocks, as its authors print it. Blocks in a row that are alike become a
stage, in which there may be fewer blocks, smaller kernels and fewer middle channels. Where blocks
of a stage differ in kernel or channels, the largest arch is a little larger than the published one.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgenas.space.arch import Arch, Block, Stage
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace, make_divisible, middle_channels

# Ratios that are so close together are choices of one stage.
_ALIKE = 1.25


@dataclass(frozen=True, slots=True)
class Published:
    """A published network as one arch of the elastic space around it."""

    space: Space
    original: Arch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One block of a published network: kernel, stride, middle and output channels."""

    kernel: int
    stride: int
    mid: int
    width: int
    squeeze: bool = False
    activation: str = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What all blocks of a published network have in common."""

    stem: int
    final: int
    activation: str
    resolution: int = 224
    mix: int = 0
    epsilon: float = 1e-5
    padding: Literal["symmetric", "same"] = "symmetric"
    squeeze_of: Literal["middle", "inputs"] = "middle"
    squeeze_activation: Literal["relu", "silu"] = "relu"
    gate: Literal["hsigmoid", "sigmoid"] = "hsigmoid"


def _publish(name: str, rows: Sequence[_Row], rules: _Rules) -> Published:
    """The space around a network, and the network as an arch of it."""
    stem = StageSpace(kind="conv", widths=(rules.stem,), stride=2, activation=rules.activation)
    stages, archs = [stem], [Stage(rules.stem, (Block(3, 1.0),))]
    inputs = [rules.stem, *(row.width for row in rows)]
    for run in _runs(list(zip(rows, inputs, strict=False))):
        first = run[0][0]
        blocks = tuple(Block(row.kernel, _ratio(row.mid, before)) for row, before in run)
        kernels = {block.kernel for block in blocks}
        stages.append(
            StageSpace(
                kind="mbconv",
                widths=(first.width,),
                depths=tuple(range(max(1, len(run) // 2), len(run) + 1)),
                kernels=tuple(sorted(kernels | {3})),
                expands=_smaller_too({b.expand for b in blocks}, bases=(run[0][1], first.width)),
                stride=first.stride,
                activation=first.activation,
                squeeze=4 if first.squeeze else 0,
                squeeze_of=rules.squeeze_of if first.squeeze else "middle",
                squeeze_activation=rules.squeeze_activation if first.squeeze else "relu",
                gate=rules.gate if first.squeeze else "hsigmoid",
            )
        )
        archs.append(Stage(first.width, blocks))
    space = Space(
        name=name,
        resolutions=(*range(64, rules.resolution, 16), rules.resolution),
        stages=tuple(stages),
        final=rules.final,
        mix=rules.mix,
        activation=rules.activation,
        classes=1000,
        kernel_transform="crop",
        epsilon=rules.epsilon,
        padding=rules.padding,
        mix_bias=rules.mix > 0,
    )
    return Published(space, Arch(rules.resolution, tuple(archs)))


def _runs(rows: Sequence[tuple[_Row, int]]) -> list[list[tuple[_Row, int]]]:
    """Blocks, with their inputs, in a row that are alike."""
    runs: list[list[tuple[_Row, int]]] = []
    for row, before in rows:
        last = runs[-1] if runs else []
        if last and _alike([*last, (row, before)]):
            last.append((row, before))
        else:
            runs.append([(row, before)])
    return runs


def _alike(run: Sequence[tuple[_Row, int]]) -> bool:
    """Whether blocks can be one stage."""
    kinds = {(row.width, row.squeeze, row.activation) for row, _ in run}
    ratios = [_ratio(row.mid, before) for row, before in run]
    within = max(ratios) <= _ALIKE * min(ratios) and (min(ratios) > 1 or max(ratios) == 1)
    return len(kinds) == 1 and within and all(row.stride == 1 for row, _ in run[1:])


def _ratio(mid: int, inputs: int) -> float:
    """The ratio by which ``middle_channels`` gives so many."""
    ratio = round(mid / inputs, 2)
    assert middle_channels(inputs, ratio) == mid, f"{mid} middle channels of {inputs}"
    return ratio


def _smaller_too(ratios: set[float], *, bases: tuple[int, int]) -> tuple[float, ...]:
    """The ratios of a stage, with two thirds and one half of the largest where they differ.

    Args:
        ratios: of the published blocks.
        bases: channels that are expanded; no two ratios may give them the same middle channels.
    """
    every = set(ratios)
    for ratio in (round(max(ratios) * part, 2) for part in (2 / 3, 1 / 2)):
        distinct = all(
            len({middle_channels(base, one) for one in (*every, ratio)}) > len(every)
            for base in bases
        )
        if 1 < ratio < 0.9 * min(ratios) and distinct:
            every.add(ratio)
    return tuple(sorted(every))


def _same(
    rows: Iterable[tuple[int, int, float, int, int]], *, stem: int, activation: str, squeeze: bool
) -> list[_Row]:
    """Blocks of stages whose blocks are the same: kernel, stride, ratio, width and blocks."""
    blocks: list[_Row] = []
    before = stem
    for kernel, stride, ratio, width, count in rows:
        for i in range(count):
            blocks.append(
                _Row(
                    kernel=kernel,
                    stride=stride if i == 0 else 1,
                    mid=round(before * ratio),
                    width=width,
                    squeeze=squeeze,
                    activation=activation,
                )
            )
            before = width
    return blocks


def _efficientnet_lite(name: str, *, width: float, depth: float, resolution: int) -> Published:
    """EfficientNet-Lite, see ``models/official/efficientnet/lite`` in tensorflow/tpu.

    Depths and widths are scaled as in EfficientNet (arXiv 1905.11946, section 3.3), but not the
    stem, the head and the depths of the first and the last stage. There is no squeeze, and ReLU6
    everywhere.
    """
    last = len(_EFFICIENTNET) - 1
    scaled = (
        (
            kernel,
            stride,
            ratio,
            make_divisible(channels * width),
            count if i in (0, last) else math.ceil(depth * count),
        )
        for i, (kernel, stride, ratio, channels, count) in enumerate(_EFFICIENTNET)
    )
    rules = _Rules(
        stem=32,
        final=1280,
        activation="relu6",
        resolution=resolution,
        epsilon=1e-3,
        padding="same",
    )
    return _publish(name, _same(scaled, stem=32, activation="relu6", squeeze=False), rules)


def _efficientnet_lite_symmetric() -> Published:
    """EfficientNet-Lite0 as timm trained it (``efficientnet_lite0.ra_in1k``)."""
    rules = _Rules(stem=32, final=1280, activation="relu6")
    rows = _same(_EFFICIENTNET, stem=32, activation="relu6", squeeze=False)
    return _publish("efficientnet_lite0", rows, rules)


def _efficientnet_b0() -> Published:
    """EfficientNet-B0 (arXiv 1905.11946, table 1)."""
    rules = _Rules(
        stem=32,
        final=1280,
        activation="silu",
        squeeze_of="inputs",
        squeeze_activation="silu",
        gate="sigmoid",
    )
    rows = _same(_EFFICIENTNET, stem=32, activation="silu", squeeze=True)
    return _publish("efficientnet_b0", rows, rules)


def _mobilenet_v2() -> Published:
    """MobileNetV2 (arXiv 1801.04381, table 2)."""
    rows = (
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 2),
        (3, 2, 6, 32, 3),
        (3, 2, 6, 64, 4),
        (3, 1, 6, 96, 3),
        (3, 2, 6, 160, 3),
        (3, 1, 6, 320, 1),
    )
    rules = _Rules(stem=32, final=1280, activation="relu6")
    blocks = _same(rows, stem=32, activation="relu6", squeeze=False)
    return _publish("mobilenet_v2", blocks, rules)


def _mnasnet(name: str, alpha: float) -> Published:
    """MnasNet-B1 (arXiv 1807.11626, figure 7 without squeeze), its widths times ``alpha``."""
    stem, *widths = (make_divisible(w * alpha) for w in (32, 16, 24, 40, 80, 96, 192, 320))
    shapes = ((3, 1, 1, 1), (3, 2, 3, 3), (5, 2, 3, 3), (5, 2, 6, 3), (3, 1, 6, 2), (5, 2, 6, 4))
    rows = [
        (kernel, stride, ratio, width, count)
        for (kernel, stride, ratio, count), width in zip(
            (*shapes, (3, 1, 6, 1)), widths, strict=True
        )
    ]
    rules = _Rules(stem=stem, final=1280, activation="relu")
    return _publish(name, _same(rows, stem=stem, activation="relu", squeeze=False), rules)


def _mobilenet_v3(name: str, table: str, *, final: int, mix: int, epsilon: float) -> Published:
    """MobileNetV3 (arXiv 1905.02244, tables 1 and 2) or a network of its kind."""
    rules = _Rules(stem=16, final=final, mix=mix, activation="hswish", epsilon=epsilon)
    return _publish(name, _read_table(table), rules)


def _hardcorenas(name: str, table: str) -> Published:
    """HardCoRe-NAS (arXiv 2102.11646, appendix), see ``hardcorenas.py`` in timm."""
    rules = _Rules(stem=32, final=960, mix=1280, activation="hswish")
    return _publish(name, _read_table("16: 3/32" + table), rules)


def _read_table(table: str) -> list[_Row]:
    """Blocks as text: a line for a stage, ``width: kernel/middle ...``.

    ``2`` behind the width says that its first block has a stride of 2, ``h`` that it has hard
    swishes and not ReLUs; ``+`` behind a block that it has a squeeze.
    """
    rows: list[_Row] = []
    for line in table.strip().splitlines():
        head, _, blocks = line.partition(":")
        width, *marks = head.split()
        for i, block in enumerate(blocks.split()):
            kernel, _, mid = block.rstrip("+").partition("/")
            rows.append(
                _Row(
                    kernel=int(kernel),
                    stride=2 if i == 0 and "2" in marks else 1,
                    mid=int(mid),
                    width=int(width),
                    squeeze=block.endswith("+"),
                    activation="hswish" if "h" in marks else "relu",
                )
            )
    return rows


# Kernel, stride, ratio, width and blocks of each stage of EfficientNet-B0, and of Lite0.
_EFFICIENTNET = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

_V3_LARGE = """
16: 3/16
24 2: 3/64 3/72
40 2: 5/72+ 5/120+ 5/120+
80 2 h: 3/240 3/200 3/184 3/184
112 h: 3/480+ 3/672+
160 2 h: 5/672+ 5/960+ 5/960+
"""

_V3_SMALL = """
16 2: 3/16+
24 2: 3/72 3/88
40 2 h: 5/96+ 5/240+ 5/240+
48 h: 5/120+ 5/144+
96 2 h: 5/288+ 5/576+ 5/576+
"""

_HARDCORENAS = {
    "hardcorenas_a": """
24 2: 5/48 5/72+
40 2: 5/72 5/240+
80 2 h: 5/240+ 5/480+
112 h: 5/480+ 5/672+
192 2 h: 5/672+ 5/1152+
""",
    "hardcorenas_b": """
24 2: 5/48 5/72+ 3/72
40 2: 5/72 5/120 5/120
80 2 h: 5/120 5/240 3/240 3/240
112 h: 5/240 3/336 3/336 3/336
192 2 h: 5/672+ 5/1152+ 3/576+
""",
    "hardcorenas_c": """
24 2: 5/48 5/72+
40 2: 5/72 5/120 5/120 5/120
80 2 h: 5/160 5/480+ 3/240 3/240
112 h: 5/480+ 3/336 3/336 3/336
192 2 h: 5/672+ 5/1152+ 3/576+
""",
    "hardcorenas_d": """
24 2: 5/48+ 5/72+
40 2: 5/72+ 5/160+ 3/120+
80 2 h: 5/160+ 3/240+ 3/240+ 3/240+
112 h: 3/320+ 5/448+ 3/336+ 5/336+
192 2 h: 5/672+ 5/1152+ 5/1152+ 3/1152+
""",
    "hardcorenas_e": """
24 2: 5/48+ 5/72+
40 2: 5/144+ 5/160+ 5/160+ 3/120+
80 2 h: 5/160+ 3/480+
112 h: 5/480+ 5/672+ 5/672+ 5/336+
192 2 h: 5/672+ 5/1152+ 5/1152+ 3/1152+
""",
    "hardcorenas_f": """
24 2: 5/48+ 5/72+
40 2: 5/144+ 5/240+
80 2 h: 5/240+ 5/480+ 3/240+ 3/240+
112 h: 3/480+ 5/672+ 5/672+ 3/336+
192 2 h: 5/672+ 5/1152+ 3/1152+ 3/1152+
""",
}

_MAKERS: Mapping[str, Callable[[], Published]] = {
    "lite0": lambda: _efficientnet_lite("lite0", width=1.0, depth=1.0, resolution=224),
    "lite1": lambda: _efficientnet_lite("lite1", width=1.0, depth=1.1, resolution=240),
    "lite2": lambda: _efficientnet_lite("lite2", width=1.1, depth=1.2, resolution=260),
    "efficientnet_lite0": _efficientnet_lite_symmetric,
    "efficientnet_b0": _efficientnet_b0,
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_small": lambda: _mobilenet_v3(
        "mobilenet_v3_small", _V3_SMALL, final=576, mix=1024, epsilon=1e-3
    ),
    "mobilenet_v3_large": lambda: _mobilenet_v3(
        "mobilenet_v3_large", _V3_LARGE, final=960, mix=1280, epsilon=1e-3
    ),
    "mobilenetv3_small_100": lambda: _mobilenet_v3(
        "mobilenetv3_small_100", _V3_SMALL, final=576, mix=1024, epsilon=1e-5
    ),
    "mobilenetv3_large_100": lambda: _mobilenet_v3(
        "mobilenetv3_large_100", _V3_LARGE, final=960, mix=1280, epsilon=1e-5
    ),
    "mnasnet0_5": lambda: _mnasnet("mnasnet0_5", 0.5),
    "mnasnet0_75": lambda: _mnasnet("mnasnet0_75", 0.75),
    "mnasnet1_0": lambda: _mnasnet("mnasnet1_0", 1.0),
    "mnasnet1_3": lambda: _mnasnet("mnasnet1_3", 1.3),
    **{name: functools.partial(_hardcorenas, name, table) for name, table in _HARDCORENAS.items()},
}

NAMES = tuple(_MAKERS)


@functools.cache
def published(name: str) -> Published:
    """The published network of a name in ``NAMES``, and the space around it."""
    return _MAKERS[name]()
