"""A trained supernet on disk: a folder that ``specialize`` can work from.

- ``supernet.json``: space, class names, preprocessing and the record of its training;
- ``weights.safetensors``: the tensors of the supernet;
- ``calibration.safetensors`` (optional): synthetic uint8 images for batch-norm calibration;
- ``accuracy.safetensors`` (optional): the accuracy predictor.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from edgenas.basics.errors import EdgenasError, unknown
from edgenas.basics.files import (
    check_fields,
    read_json,
    sha256,
    write_json,
    writing,
)
from edgenas.images.data import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.presets import space_from_json, space_to_json

SCHEMA = "edgenas.supernet/1"
ACCURACY_FILE = "accuracy.safetensors"
CALIBRATION_FILE = "calibration.safetensors"
DIGEST = "digest"
_FIELDS = ("space", "classes", "preprocessing", "weights", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSupernet:
    """A supernet with all that is needed to use it.

    Args:
        supernet: in evaluation mode, float32.
        classes: names of the labels.
        preprocessing: from an image file to the input.
        training: the record of how it came about.
        folder: where it was loaded from; None before it is saved.
    """

    supernet: Supernet
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    training: Mapping[str, Any]
    folder: Path | None = None

    def calibration_images(self) -> Tensor:
        """The synthetic calibration images, uint8, shape (n, 3, height, width).

        Raises:
            EdgenasError: the folder has none, or they are damaged.
        """
        path = (self.folder or Path()) / CALIBRATION_FILE
        if self.folder is None or not path.exists():
            raise EdgenasError(
                f"the supernet {self.folder} carries no calibration images",
                hint="pass --data with the images it was trained on",
            )
        tensors = load_tensors(path)
        pixels = tensors.get("pixels", torch.empty(0))
        shape = (3, *self.preprocessing.kept)
        if len(tensors) != 1 or pixels.dtype != torch.uint8 or not len(pixels):
            raise EdgenasError(f"{path} must hold one uint8 tensor, pixels, found {[*tensors]}")
        if tuple(pixels.shape[1:]) != shape:
            raise EdgenasError(
                f"{path}: pixels must have shape (n, {', '.join(map(str, shape))}), "
                f"found {tuple(pixels.shape)}"
            )
        return pixels


def pretrained_folder() -> Path:
    """The folder of the supernets that ship with edgenas."""
    return Path(__file__).parent / "pretrained"


def list_supernets() -> list[str]:
    """Names of the supernets that ship with edgenas."""
    return sorted(p.parent.name for p in pretrained_folder().glob("*/supernet.json"))


def find_supernet(name: str) -> Path:
    """The folder of a shipped supernet by its name, or of one's own by its path.

    Raises:
        EdgenasError: there is none.
    """
    shipped = pretrained_folder() / name
    if "/" not in name and (shipped / "supernet.json").exists():
        return shipped
    if (Path(name) / "supernet.json").exists():
        return Path(name)
    if Path(name).is_dir():
        raise EdgenasError(
            f"{name} holds no supernet.json",
            hint="if its training was cut off, resume it: edgenas train ... --resume",
        )
    raise unknown("supernet", name, known=list_supernets(), listing="edgenas list supernets")


def save_supernet(folder: Path, trained: TrainedSupernet, *, dtype: torch.dtype) -> None:
    """Write the weights, then the JSON that vouches for them.

    Args:
        folder: made if it is not there.
        trained: what to write; statistics of batch norms are only kept where there are any.
        dtype: to store weights in: ``torch.float32`` or ``torch.float16``.

    Raises:
        EdgenasError: a weight is not finite in ``dtype``, or the disk is full.
    """
    tensors = {
        name: tensor.detach().to(dtype).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in trained.supernet.state_dict().items()
        if _kept(name, tensor)
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise EdgenasError(f"the tensor {name} has values that {dtype} cannot hold")
    save_tensors(folder / "weights.safetensors", tensors)
    write_json(
        folder / "supernet.json",
        {
            "schema": SCHEMA,
            "space": space_to_json(trained.supernet.space),
            "classes": list(trained.classes),
            "preprocessing": trained.preprocessing.to_json(),
            "weights": {"sha256": sha256(folder / "weights.safetensors")},
            "training": dict(trained.training),
        },
    )


def add_calibration(folder: Path, pixels: Tensor) -> None:
    """Put synthetic calibration images into the folder of a supernet.

    Args:
        folder: of a supernet that was saved before.
        pixels: uint8, shape (n, 3, height, width); images that may be given away.

    Raises:
        EdgenasError: there is no supernet in the folder, or the disk is full.
    """
    if not (folder / "supernet.json").exists():
        raise EdgenasError(f"{folder} holds no supernet.json")
    assert pixels.dtype == torch.uint8
    assert pixels.ndim == 4
    save_tensors(folder / CALIBRATION_FILE, {"pixels": pixels})


def load_supernet(folder: Path) -> TrainedSupernet:
    """Read a folder written by ``save_supernet``.

    Raises:
        EdgenasError: a file is missing, damaged or does not fit; nothing is guessed.
    """
    path = folder / "supernet.json"
    fields = read_json(path, schema=SCHEMA)
    check_fields(fields, required=_FIELDS, where=str(path))
    space = space_from_json(fields["space"], where=f"{path}: space")
    weights = folder / "weights.safetensors"
    tensors = load_tensors(weights)
    if fields["weights"] != {"sha256": sha256(weights)}:
        raise EdgenasError(
            f"{weights} is not the file that {path} vouches for",
            hint="restore both files from where they came from",
        )
    classes = fields["classes"]
    if not isinstance(classes, list) or len(classes) != space.classes:
        raise EdgenasError(
            f"{path}: classes must be {space.classes} names, as its space says, found {classes!r}"
        )
    steps = Preprocessing.from_json(fields["preprocessing"], where=f"{path}: preprocessing")
    largest = max(space.resolutions)
    if steps.size(largest) != space.input_size(largest):
        raise EdgenasError(
            f"{path}: preprocessing.stored must have the aspect {[*space.aspect]} of its space, "
            f"found {steps.stored}"
        )
    supernet = Supernet(space)
    wanted = supernet.state_dict()
    for name in tensors:
        if name not in wanted:
            raise EdgenasError(f"{weights}: unknown tensor {name}")
    for name, tensor in wanted.items():
        if name not in tensors:
            if _is_statistic(name):
                tensors[name] = tensor
                continue
            raise EdgenasError(f"{weights}: the tensor {name} is missing")
        if tensors[name].shape != tensor.shape:
            raise EdgenasError(
                f"{weights}: the tensor {name} must have shape {tuple(tensor.shape)}, "
                f"found {tuple(tensors[name].shape)}"
            )
    supernet.load_state_dict({name: t.float() for name, t in tensors.items()})
    return TrainedSupernet(
        supernet=supernet.eval(),
        classes=tuple(classes),
        preprocessing=steps,
        training=fields["training"],
        folder=folder,
    )


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors atomically, with their digest; metadata values become JSON."""
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    with writing(path) as temporary:
        # Not save_file: it hides a full disk in an error of its own.
        temporary.write_bytes(save(found, texts | {DIGEST: json.dumps(_digest(found, texts))}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors; where the file carries their digest, it must be right.

    Raises:
        EdgenasError: absent or damaged.
    """
    if not path.exists():
        raise EdgenasError(f"no file {path}")
    hint = "restore the file from where it came from"
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            texts: dict[str, str] = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise EdgenasError(f"{path} is damaged: {error}", hint=hint) from error
    digest = texts.pop(DIGEST, None)
    if digest is not None and digest != json.dumps(_digest(tensors, texts)):
        raise EdgenasError(f"{path} is damaged: its content has another digest", hint=hint)
    return tensors


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 over names, kinds, shapes and bytes: safetensors itself has no checksum."""
    digest = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _kept(name: str, tensor: Tensor) -> bool:
    # Training leaves the statistics at their start; an imported supernet brings real ones.
    if name.endswith("running_mean"):
        return bool(tensor.any())
    if name.endswith("running_var"):
        return bool((tensor != 1).any())
    return not name.endswith("num_batches_tracked")
