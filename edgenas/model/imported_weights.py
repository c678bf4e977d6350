"""The weights of a published network as a supernet, key by key."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.model.naming import Naming
from edgenas.model.supernet import Supernet
from edgenas.space.space import Space


def fill_supernet(
    released: Mapping[str, Tensor],
    *,
    space: Space,
    namings: Sequence[Naming],
    path: Path,
) -> Supernet:
    """A supernet with the weights and batch-norm statistics of a published network.

    Args:
        released: the tensors of a file by their names.
        space: its largest arch is the published network.
        namings: what the file may call the tensors.
        path: of the file, for the errors.

    Returns:
        The supernet, in evaluation mode, float32; its original is the largest arch.

    Raises:
        EdgenasError: the tensors are not those of the network; names the first that differs.
    """
    naming = max(namings, key=lambda one: _count_known(one, released, space))
    supernet = Supernet(space)
    left, tensors = dict(released), dict[str, Tensor]()
    for key, wanted in supernet.state_dict().items():
        name = naming(space, key)
        if name not in left and key.endswith("num_batches_tracked"):
            tensors[key] = wanted  # a counter that nothing reads
            continue
        tensor = left.pop(name, None)
        if tensor is None:
            raise _misfit(path, space, f"the tensor {name} is missing")
        if tensor.shape != wanted.shape:
            words = f"{name} must have shape {_shape(wanted)}, found {_shape(tensor)}"
            raise _misfit(path, space, words)
        tensors[key] = tensor
    if left:
        raise _misfit(path, space, f"it has no place for the tensor {next(iter(left))}")
    supernet.load_state_dict(tensors)
    supernet.eval()
    supernet.original = space.largest()
    return supernet


def _count_known(naming: Naming, released: Mapping[str, Tensor], space: Space) -> int:
    """How many names of a file a naming knows; only those of the head and the stem are tried."""
    keys = ("stages.0.0.unit.conv.weight", "head.final.conv.weight", "head.classifier.weight")
    return sum(naming(space, key) in released for key in keys)


def _misfit(path: Path, space: Space, words: str) -> EdgenasError:
    return EdgenasError(
        f"{path} does not fit {space.name}: {words}",
        hint="is it of another network? see: edgenas list backbones",
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "()"
