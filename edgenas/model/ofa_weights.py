"""Released weights: their files, and their names for the tensors of a supernet."""

from pathlib import Path

from torch import Tensor

from edgenas.basics.download import ADDRESSES
from edgenas.basics.errors import EdgenasError
from edgenas.model.supernet import Supernet
from edgenas.model.weights_file import read_weights
from edgenas.space.space import Space

# Parts of a block: ours -> released.
_PARTS = {
    "expand": "inverted_bottleneck",
    "depthwise": "depth_conv",
    "squeeze": "depth_conv.se.fc",
    "project": "point_linear",
    "reduce": "conv1",
    "spatial": "conv2",
    "restore": "conv3",
    "downsample": "downsample",
}


def import_supernet(path: Path, *, space: Space) -> Supernet:
    """A supernet with the weights and batch-norm statistics of a released file.

    Every naming of the releases is read: ``mobile_inverted_conv`` or ``conv``, with or without the
    doubled ``conv.conv`` and ``bn.bn`` of the dynamic wrappers, with or without the enclosing
    ``state_dict``.

    Args:
        path: the released file.
        space: the space it belongs to, e.g. ``load_space("ofa-mbv3-w1.2")``; the resolutions may
            differ from the released ones, the rest may not.

    Returns:
        The supernet, in evaluation mode, float32.

    Raises:
        EdgenasError: no file, no weights in it, or weights that do not fit the space; names the
            first tensor that is missing, misshapen or unknown.
    """
    released = released_tensors(path)
    supernet = Supernet(space)
    tensors: dict[str, Tensor] = {}
    for key, wanted in supernet.state_dict().items():
        name = released_name(space, key)
        if name not in released and key.endswith("num_batches_tracked"):
            tensors[key] = wanted  # files of old PyTorch versions have no such counter
            continue
        tensor = released.pop(name, None)
        if tensor is None:
            raise EdgenasError(
                f"{path} does not fit space {space.name}: the tensor {name} is missing",
                hint=_other_space(space),
            )
        if tensor.shape != wanted.shape:
            raise EdgenasError(
                f"{path} does not fit space {space.name}: {name} must have shape "
                f"{_shape(wanted)}, found {_shape(tensor)}",
                hint=_other_space(space),
            )
        tensors[key] = tensor
    if released:
        raise EdgenasError(
            f"{path} does not fit space {space.name}: it has no place for the tensor "
            f"{next(iter(released))}",
            hint=_other_space(space),
        )
    supernet.load_state_dict(tensors)
    return supernet.eval()


def released_name(space: Space, key: str) -> str:
    """The name of a tensor in a release, doubled parts written once.

    Args:
        space: one of the released spaces, or one made like them.
        key: a key of ``Supernet(space).state_dict()``, e.g. ``stages.2.0.expand.conv.weight``.
    """
    head, _, rest = key.partition(".")
    if head == "head":
        part, _, rest = rest.partition(".")
        if part == "classifier":
            return f"classifier.linear.{rest}"
        if part == "mix":
            return f"feature_mix_layer.conv.{rest}"
        # The conv before the pooling: MobileNetV3 has another one behind, ProxylessNAS has not.
        return f"{'final_expand_layer' if space.mix else 'feature_mix_layer'}.{rest}"
    stage, block, part, *last = rest.split(".")
    before = [i for i in range(int(stage)) if space.stages[i].kind != "conv"]
    number = sum(max(space.stages[i].depths) for i in before) + int(block)
    tail = ".".join(last)
    if space.stages[int(stage)].kind == "conv":
        if not _residual_stem(space):
            return f"first_conv.{tail}"
        position = int(block) if stage == "0" else int(stage) + max(space.stages[0].depths) - 1
        # The layer that can be skipped is wrapped with its shortcut.
        return _single(f"input_stem.{position}.{'conv.' if block != '0' else ''}{tail}")
    inside = f"blocks.{number}." + ("conv." if space.stages[int(stage)].kind == "mbconv" else "")
    if part.startswith("kernel_"):
        return f"{inside}depth_conv.conv.{part.removeprefix('kernel_')}_matrix"
    return f"{inside}{_PARTS[part]}.{tail}"


def _residual_stem(space: Space) -> bool:
    return sum(stage.kind == "conv" for stage in space.stages) > 1


def released_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, doubled parts written once.

    Raises:
        EdgenasError: as ``read_weights``, or a tensor is there twice.
    """
    tensors_by_name: dict[str, Tensor] = {}
    for key, tensor in read_weights(path).items():
        name = _single(key)
        if name in tensors_by_name:
            raise EdgenasError(f"{path} holds the tensor {name} twice")
        tensors_by_name[name] = tensor
    return tensors_by_name


def _single(key: str) -> str:
    """A released name in today's wording, with the wrappers' doubled parts written once."""
    key = key.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    parts = key.split(".")
    kept = [p for i, p in enumerate(parts) if i == 0 or p != parts[i - 1]]
    return ".".join(kept)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "()"


def _other_space(space: Space) -> str:
    others = ", ".join(name for name in ADDRESSES if name != space.name)
    return f"is it of another space ({others}), or of another number of classes?"
