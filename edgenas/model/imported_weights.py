"""The weights of a published network as a supernet, key by key."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.model.naming import Naming, Position, positions
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.backbones import Published
from edgenas.space.space import Space

CLASSIFIER = "head.classifier.weight"


def fit_classes(
    published: Published,
    released: Mapping[str, Tensor],
    *,
    namings: Sequence[Naming],
    path: Path,
) -> tuple[Published, Naming]:
    """Choose the naming of a file, and give the space as many classes as the file has.

    Args:
        published: the network and its space.
        released: the tensors of a file by their names.
        namings: what the file may call the tensors.
        path: of the file, for the errors.

    Raises:
        EdgenasError: the file has no classifier; names the tensor.
    """

    def count_known(naming: Naming) -> int:
        return sum(name in released for name in _names(published, naming).values())

    naming = max(namings, key=count_known)
    name = _names(published, naming)[CLASSIFIER]
    classifier = released.get(name)
    if classifier is None or classifier.ndim != 2 or len(classifier) < 2:
        name = next((n for n in _names(published, naming).values() if n not in released), name)
        raise _misfit(path, published.space, f"the tensor {name} is missing")
    space = published.space.with_classes(len(classifier))
    return dataclasses.replace(published, space=space), naming


def fill_supernet(
    published: Published, released: Mapping[str, Tensor], *, naming: Naming, path: Path
) -> Supernet:
    """A supernet with the weights and batch-norm statistics of a published network.

    What the space has more than the network starts so that it changes nothing: larger kernels have
    zeros around the published ones, and the projection ignores additional middle channels.

    Args:
        published: the network and its space.
        released: the tensors of a file by their names.
        naming: what the file calls the tensors.
        path: of the file, for the errors.

    Returns:
        The supernet, in evaluation mode, float32.

    Raises:
        EdgenasError: the tensors are not those of the network; names the first that differs.
    """
    with torch.device("meta"):
        network = Network(published.space, published.original)
    left, names = dict(released), _names(published, naming)
    supernet = Supernet(published.space)
    largest = supernet.state_dict()
    shapes = network.state_dict()
    for key, name in names.items():
        wanted = shapes[key]
        if name not in left and key.endswith("num_batches_tracked"):
            continue  # a counter that nothing reads
        tensor = left.pop(name, None)
        if tensor is None:
            raise _misfit(path, published.space, f"the tensor {name} is missing")
        if wanted.ndim == 4 and tensor.ndim == 2:
            tensor = tensor[..., None, None]  # a linear behind the pooling is a 1x1 conv
        if tensor.shape != wanted.shape:
            words = f"{name} must have shape {_shape(wanted)}, found {_shape(tensor)}"
            raise _misfit(path, published.space, words)
        if key.endswith(_READERS):
            largest[key][:, tensor.shape[1] :] = 0
        _embed(largest[key], tensor)
    if left:
        raise _misfit(path, published.space, f"it has no place for the tensor {next(iter(left))}")
    supernet.eval()
    supernet.original = published.original
    return supernet


# The convs that read middle channels. What is new there they ignore, so that it changes nothing;
# the convs that make it have random weights, so that it can learn.
_READERS = ("project.conv.weight", "squeeze.reduce.weight", "squeeze.expand.weight")


def _embed(larger: Tensor, tensor: Tensor) -> None:
    """Put a tensor into a larger one, in place: the first channels, the centre of the kernel."""
    inside = larger[tuple(slice(n) for n in tensor.shape[:2])]
    if tensor.ndim == 4 and tensor.shape[-1] < larger.shape[-1]:
        inside.zero_()
        margin = (larger.shape[-1] - tensor.shape[-1]) // 2
        inside = inside[:, :, margin:-margin, margin:-margin]
    inside.copy_(tensor)


def _names(published: Published, naming: Naming) -> dict[str, str]:
    """The names of a file by the keys of the network."""
    with torch.device("meta"):
        network = Network(published.space, published.original)
    by_layer, names = positions(published), dict[str, str]()
    # From the stem to the head, so that the first misfit is the first that a reader meets.
    for key in sorted(network.state_dict(), key=lambda key: key.startswith("head.")):
        path, _, tail = key.rpartition(".")
        depth = 3 if path.startswith("stages.") else 1
        words = path.split(".")
        position: Position = by_layer[".".join(words[:depth])]
        part = ".".join(words[depth:])
        names[key] = f"{naming(dataclasses.replace(position, part=part))}.{tail}"
    return names


def _misfit(path: Path, space: Space, words: str) -> EdgenasError:
    return EdgenasError(
        f"{path} does not fit {space.name}: {words}",
        hint="is it of another network? see: edgenas list backbones",
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "()"
