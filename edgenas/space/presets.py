"""The spaces that ship, and spaces that users declare.

A space of one's own is a ``Space`` value in Python or the same fields in TOML::

    schema = "edgenas.space/1"
    name = "mine"
    resolutions = [96, 128]
    final = 256
    [[stages]]
    kind = "conv"
    widths = [16]
    stride = 2
    [[stages]]
    kind = "mbconv"
    widths = [24]
    depths = [1, 2, 3]
    kernels = [3, 5]
    expands = [3, 6]
    stride = 2
    [[stages]]
    kind = "mbconv"
    widths = [32]
    depths = [2]
    stride = 2
    blocks = ["none", "3x3", "3x3-hswish-se4", "fused:3x4", "uib:5+3x4"]
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import unknown_name
from edgenas.basics.files import check_schema, read_json, read_toml
from edgenas.space.backbones import NAMES, published
from edgenas.space.benchmarks import darts, darts_20, nas_bench_201, nas_bench_macro
from edgenas.space.space import NEWER, Space
from edgenas.space.stage import NEWER_OF_STAGES, StageSpace

SCHEMA = "edgenas.space/1"


def tiny() -> Space:
    """For tests: the whole pipeline in under a minute on a CPU."""
    return Space(
        name="tiny",
        resolutions=(12, 16),
        stages=(
            StageSpace(kind="conv", widths=(8,), activation="hswish"),
            StageSpace(
                kind="mbconv",
                widths=(8,),
                depths=(1, 2),
                kernels=(3, 5),
                expands=(2.0, 3.0),
                stride=2,
            ),
            StageSpace(
                kind="mbconv",
                widths=(16,),
                depths=(1, 2),
                kernels=(3, 5),
                expands=(2.0, 3.0),
                stride=2,
                squeeze=4,
                activation="hswish",
            ),
        ),
        final=32,
    )


def mbv3_cifar() -> Space:
    """For 32-pixel images, small enough to be trained on two CPU cores."""
    return _mbv3_small("mbv3-cifar", resolutions=(24, 28, 32), stride=1)


def mbv3_photo() -> Space:
    """For photos of 96 to 160 pixels; a few thousand of them train it on two cores in an hour.

    Its weights have the shapes of those of ``mbv3-cifar``, so a training can start from those.
    """
    return _mbv3_small("mbv3-photo", resolutions=(96, 112, 128), stride=2)


def _mbv3_small(name: str, *, resolutions: tuple[int, ...], stride: int) -> Space:
    """MobileNetV3's blocks (arXiv 1905.02244), few and narrow; ``stride`` of the first conv."""
    kernels, expands = (3, 5, 7), (2.0, 3.0, 4.0)
    return Space(
        name=name,
        resolutions=resolutions,
        stages=(
            StageSpace(kind="conv", widths=(16,), stride=stride, activation="hswish"),
            StageSpace(kind="mbconv", widths=(24,), stride=2),
            StageSpace(
                kind="mbconv", widths=(24,), depths=(1, 2), kernels=kernels, expands=expands
            ),
            StageSpace(
                kind="mbconv",
                widths=(48,),
                depths=(2, 3),
                kernels=kernels,
                expands=expands,
                stride=2,
                squeeze=4,
            ),
            StageSpace(
                kind="mbconv",
                widths=(80,),
                depths=(1, 2, 3, 4),
                kernels=kernels,
                expands=expands,
                stride=2,
                activation="hswish",
                squeeze=4,
            ),
        ),
        final=320,
    )


def mbv3_choices() -> Space:
    """Blocks of MobileNetV3 whose activation and squeeze are choices, for 32-pixel images.

    On some devices a hard swish or a squeeze takes much of what integers save, on others not: the
    search decides by the latency table of the target. Outside the listed blocks all is ReLU6, so
    there are networks without any hard swish.
    """
    plain = [f"{kernel}x{expand}-relu6" for expand in (2, 4) for kernel in (3, 5)]
    swish = [text.replace("relu6", "hswish") for text in plain]
    squeezed = [f"{text}-se4" for text in (*plain, *swish)]

    def stage(width: int, depths: tuple[int, ...], blocks: list[str], stride: int) -> StageSpace:
        return StageSpace(
            kind="mbconv", widths=(width,), depths=depths, blocks=tuple(blocks), stride=stride
        )

    return Space(
        name="mbv3-choices",
        resolutions=(24, 32),
        stages=(
            StageSpace(kind="conv", widths=(16,), activation="relu6"),
            StageSpace(kind="mbconv", widths=(24,), stride=2, activation="relu6"),
            stage(24, (1, 2), [*plain, *swish], 1),
            stage(48, (2, 3), [*plain, *swish, *squeezed], 2),
            stage(80, (1, 2, 3, 4), [*plain, *swish, *squeezed], 2),
        ),
        final=320,
        activation="relu6",
    )


def ofa_mbv3_w10() -> Space:
    """The released once-for-all MobileNetV3 of width 1.0 (arXiv 1908.09791, section 4.1)."""
    return _ofa_mbv3(
        "ofa-mbv3-w1.0",
        resolutions=tuple(range(128, 225, 16)),
        widths=(16, 24, 40, 80, 112, 160),
        final=960,
        mix=1280,
    )


def ofa_mbv3_w12() -> Space:
    """The released once-for-all MobileNetV3 of width 1.2."""
    return _ofa_mbv3(
        "ofa-mbv3-w1.2",
        resolutions=tuple(range(160, 225, 16)),
        widths=(24, 32, 48, 96, 136, 192),
        final=1152,
        mix=1536,
    )


def _ofa_mbv3(
    name: str, *, resolutions: tuple[int, ...], widths: tuple[int, ...], final: int, mix: int
) -> Space:
    first, *others = widths
    stages = (
        StageSpace(
            kind="mbconv",
            widths=(width,),
            depths=(2, 3, 4),
            kernels=(3, 5, 7),
            expands=(3.0, 4.0, 6.0),
            stride=stride,
            squeeze=squeeze,
            activation=activation,
        )
        for width, stride, squeeze, activation in zip(
            others,
            (2, 2, 2, 1, 2),
            (0, 4, 0, 4, 4),
            ("relu", "relu", "hswish", "hswish", "hswish"),
            strict=True,
        )
    )
    return Space(
        name=name,
        resolutions=resolutions,
        stages=(
            StageSpace(kind="conv", widths=(first,), stride=2, activation="hswish"),
            StageSpace(kind="mbconv", widths=(first,)),
            *stages,
        ),
        final=final,
        mix=mix,
        classes=1000,
    )


def ofa_proxyless_w13() -> Space:
    """The released once-for-all ProxylessNAS of width 1.3: ReLU6 everywhere, BN epsilon 1e-3."""
    stages = (
        StageSpace(
            kind="mbconv",
            widths=(width,),
            depths=depths,
            kernels=(3, 5, 7),
            expands=(3.0, 4.0, 6.0),
            stride=stride,
            activation="relu6",
        )
        for width, depths, stride in (
            (32, (2, 3, 4), 2),
            (56, (2, 3, 4), 2),
            (104, (2, 3, 4), 2),
            (128, (2, 3, 4), 1),
            (248, (2, 3, 4), 2),
            (416, (1,), 1),
        )
    )
    return Space(
        name="ofa-proxyless-w1.3",
        resolutions=tuple(range(128, 225, 16)),
        stages=(
            StageSpace(kind="conv", widths=(40,), stride=2, activation="relu6"),
            StageSpace(kind="mbconv", widths=(24,), activation="relu6"),
            *stages,
        ),
        final=1664,
        activation="relu6",
        classes=1000,
        epsilon=1e-3,
    )


def ofa_resnet50() -> Space:
    """The released once-for-all ResNet50-D: elastic widths, and a stem layer that can be skipped.

    The two narrow stems of the release both have 24 channels; here they are one value.
    """
    stages = (
        StageSpace(
            kind="bottleneck",
            widths=widths,
            depths=(depth, depth + 1, depth + 2),
            expands=(0.2, 0.25, 0.35),
            stride=stride,
        )
        for widths, depth, stride in (
            ((168, 208, 256), 2, 1),
            ((336, 408, 512), 2, 2),
            ((664, 816, 1024), 4, 2),
            ((1328, 1640, 2048), 2, 2),
        )
    )
    return Space(
        name="ofa-resnet50",
        # Those of the released accuracy predictor: 208 is not among them.
        resolutions=(128, 144, 160, 176, 192, 224, 240, 256),
        stages=(
            StageSpace(kind="conv", widths=(24, 32), depths=(1, 2), stride=2),
            StageSpace(kind="conv", widths=(40, 48, 64), pool=2),
            *stages,
        ),
        activation="relu",
        classes=1000,
    )


def lite_photo() -> Space:
    """The networks around EfficientNet-Lite0 for photos of 64 to 128 pixels.

    A supernet of them ships. The published network, at 224 pixels, is in the space ``lite0``.
    """
    around = published("lite0").space
    return dataclasses.replace(around, name="lite-photo", resolutions=(64, 80, 96, 112, 128))


PRESETS: dict[str, Callable[[], Space]] = {
    "tiny": tiny,
    "mbv3-cifar": mbv3_cifar,
    "mbv3-photo": mbv3_photo,
    "mbv3-choices": mbv3_choices,
    "ofa-mbv3-w1.0": ofa_mbv3_w10,
    "ofa-mbv3-w1.2": ofa_mbv3_w12,
    "ofa-proxyless-w1.3": ofa_proxyless_w13,
    "ofa-resnet50": ofa_resnet50,
    "nas-bench-macro": nas_bench_macro,
    "nas-bench-201": nas_bench_201,
    "darts": darts,
}
# Presets that others contain but for their size: with more blocks, as papers train the results of
# their searches, or with other resolutions.
LARGER: dict[str, Callable[[], Space]] = {"darts-20": darts_20, "lite-photo": lite_photo}


def load_space(name: str) -> Space:
    """A space by its name, or a declared one by the path of its TOML or JSON file.

    Names are those of ``PRESETS`` and ``LARGER``, and of published networks
    (`edgenas.space.backbones`).

    Raises:
        EdgenasError: no such name or file, or the file does not describe a space.
    """
    if made := (PRESETS | LARGER).get(name):
        return made()
    if name in NAMES:
        return published(name).space
    path = Path(name)
    if path.suffix == ".toml":
        return space_from_json({"schema": SCHEMA, **read_toml(path, schema=SCHEMA)}, where=name)
    if path.suffix == ".json":
        return space_from_json({"schema": SCHEMA, **read_json(path, schema=SCHEMA)}, where=name)
    raise unknown_name(
        "space", name, names=(*PRESETS, *LARGER, *NAMES), listing="edgenas list spaces"
    )


def space_to_json(space: Space) -> dict[str, Any]:
    """The JSON object of a space, schema first; newer fields only where they say something."""
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        **dataclasses.asdict(space),
        "framing": space.framing.to_json(),
    }
    for field, usual in (("kept_in_float", ()), *NEWER.items()):
        if getattr(space, field) == usual:
            del fields[field]
    for stage in fields["stages"]:
        for field, usual in NEWER_OF_STAGES.items():
            if stage[field] == usual:
                del stage[field]
    return fields


def space_from_json(value: Any, *, where: str = "space") -> Space:
    """The space of a JSON or TOML object.

    Raises:
        EdgenasError: a field is missing, unknown or illegal; names its path.
    """
    return decode(Space, check_schema(value, schema=SCHEMA, where=where), where=where)
