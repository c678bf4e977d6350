"""A trained supernet on disk: a folder that ``specialize`` can work from.

- ``supernet.json``: space, class names, preprocessing and the record of its training, and of
  an imported network its arch (``original``);
- ``weights.safetensors``: the tensors of the supernet;
- ``calibration.safetensors`` (optional): synthetic uint8 images for batch-norm calibration;
- ``accuracy.safetensors`` (optional): the accuracy predictor;
- ``learnt.safetensors`` (optional): sketches of the images learnt from (``images.copies``).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, quote, unknown_name
from edgenas.basics.files import (
    check_regular,
    new_file,
    read_json,
    sha256,
    write_json,
)
from edgenas.basics.ranges import Length, Name, Seed
from edgenas.images.copies import LEARNT_FILE, LearntImages, load_learnt, save_learnt
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.presets import space_from_json, space_to_json
from edgenas.space.space import Space

SCHEMA = "edgenas.supernet/1"
ACCURACY_FILE = "accuracy.safetensors"
CALIBRATION_FILE = "calibration.safetensors"
DIGEST = "digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class _WeightsFile:
    """The file of the weights."""

    sha256: Annotated[str, Length(64, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingFacts:
    """What later steps read of the record of a training; see `edgenas.training`."""

    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: Seed = 0
    split_seed: Seed | None = None

    def __post_init__(self) -> None:
        part = self.recipe.get("validation", 0.0)
        if not isinstance(part, (int, float)):
            raise EdgenasError(f"recipe.validation must be a number, found {quote(part)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetFile:
    """``supernet.json``, see ``TrainedSupernet``."""

    space: Any
    classes: tuple[Name, ...]
    preprocessing: Any
    weights: _WeightsFile
    training: Mapping[str, Any]
    original: Any = None

    def __post_init__(self) -> None:
        names = [f.name for f in fields(_TrainingFacts) if f.name in self.training]
        facts = {name: self.training[name] for name in names}
        decode(_TrainingFacts, facts, where="training")


_PHOTOGRAPHS = "ImageNet's photographs taught it, and they are for non-commercial research"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSupernet:
    """A supernet with all that is needed to use it.

    Args:
        supernet: in evaluation mode, float32.
        classes: names of the labels.
        preprocessing: from an image file to the input.
        training: the record of how it came about.
        folder: where it was loaded from; None before it is saved.
        learnt: the images that its weights have learnt from; None: there is no record of them.
    """

    supernet: Supernet
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    training: Mapping[str, Any]
    folder: Path | None = None
    learnt: LearntImages | None = None

    def require_folder(self) -> Path:
        """The folder of a supernet that was loaded or saved."""
        assert self.folder is not None
        return self.folder

    @property
    def weights_path(self) -> Path:
        """The file of its weights."""
        return self.require_folder() / "weights.safetensors"

    @property
    def origin(self) -> str:
        """Where the weights began: whose they were, and their license. Empty: nowhere else."""
        if "origin" in self.training:
            return str(self.training["origin"])
        imported = self.training.get("imported")
        if not isinstance(imported, Mapping) or not imported.get("license"):
            return ""
        return f"{imported['backbone']} ({imported['license']}); {_PHOTOGRAPHS}"

    @property
    def teacher(self) -> str | None:
        """See `name_teacher`."""
        return name_teacher(self.training)

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


def name_teacher(training: Mapping[str, Any]) -> str | None:
    """The network whose answers were the labels of a training. None: people gave the labels.

    Args:
        training: the record of the training.
    """
    data, teacher = training.get("data"), training.get("teacher")
    if not isinstance(data, Mapping) or "labels" not in data or not isinstance(teacher, Mapping):
        return None
    name, size = str(teacher.get("file")).partition(",")[0], teacher.get("size")
    return f"{name} at {max(size)} px" if isinstance(size, list) and size else name


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
    raise unknown_name("supernet", name, names=list_supernets(), listing="edgenas list supernets")


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
    (folder / LEARNT_FILE).unlink(missing_ok=True)
    if trained.learnt is not None:
        save_learnt(folder, trained.learnt)
    fields = {
        "schema": SCHEMA,
        "space": space_to_json(trained.supernet.space),
        "classes": list(trained.classes),
        "preprocessing": trained.preprocessing.to_json(),
        "weights": {"sha256": sha256(folder / "weights.safetensors")},
        "training": dict(trained.training),
    }
    if trained.supernet.original is not None:
        fields["original"] = trained.supernet.original.to_json()
    write_json(folder / "supernet.json", fields)


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


def read_supernet_file(path: Path) -> SupernetFile:
    """``supernet.json`` without the files beside it.

    Raises:
        EdgenasError: absent, damaged, or a field is missing, unknown or outside its range.
    """
    return decode(SupernetFile, read_json(path, schema=SCHEMA), where=str(path))


def load_supernet(folder: Path) -> TrainedSupernet:
    """Read a folder written by ``save_supernet``.

    Raises:
        EdgenasError: a file is missing, damaged or does not fit; nothing is guessed.
    """
    path = folder / "supernet.json"
    file = read_supernet_file(path)
    space = space_from_json(file.space, where=f"{path}: space")
    weights = folder / "weights.safetensors"
    tensors = load_tensors(weights)
    if file.weights.sha256 != sha256(weights):
        raise EdgenasError(
            f"{weights} is not the file that {path} vouches for",
            hint="restore both files from where they came from",
        )
    if len(file.classes) != space.classes:
        raise EdgenasError(
            f"{path}: classes must be {space.classes} names, as its space says, "
            f"found {len(file.classes)}: {quote(file.classes)}"
        )
    steps = Preprocessing.from_json(file.preprocessing, where=f"{path}: preprocessing")
    largest = max(space.resolutions)
    if steps.size(largest) != space.input_size(largest):
        raise EdgenasError(
            f"{path}: preprocessing.stored must have the aspect {[*space.aspect]} of its space, "
            f"found {steps.stored}"
        )
    _check_tensors(tensors, space=space, weights=weights)
    supernet = Supernet(space)
    usual = supernet.state_dict()  # of statistics that are not in the file
    supernet.load_state_dict({name: t.float() for name, t in {**usual, **tensors}.items()})
    supernet.original = _read_original(file, space=space, where=f"{path}: original")
    return TrainedSupernet(
        supernet=supernet.eval(),
        classes=file.classes,
        preprocessing=steps,
        training=file.training,
        folder=folder,
        learnt=load_learnt(folder),
    )


def _read_original(file: SupernetFile, *, space: Space, where: str) -> Arch | None:
    if file.original is None:
        return None
    original = Arch.from_json(file.original, where=where)
    try:
        space.check(original)
    except EdgenasError as error:
        raise EdgenasError(f"{where}: {error.message}") from error
    return original


def _check_tensors(tensors: Mapping[str, Tensor], *, space: Space, weights: Path) -> None:
    """Refuse tensors that are not those of a space, before memory is taken for its supernet."""
    with torch.device("meta"):
        wanted = Supernet(space).state_dict()
    for name, tensor in tensors.items():
        if name not in wanted:
            raise EdgenasError(f"{weights}: unknown tensor {quote(name)}")
        if tensor.is_complex() or not tensor.isfinite().all():
            raise EdgenasError(f"{weights}: the tensor {name} must have finite real values")
    for name, tensor in wanted.items():
        if name not in tensors:
            if not _is_statistic(name):
                raise EdgenasError(f"{weights}: the tensor {name} is missing")
        elif tensors[name].shape != tensor.shape:
            raise EdgenasError(
                f"{weights}: the tensor {name} must have shape {tuple(tensor.shape)}, "
                f"found {tuple(tensors[name].shape)}"
            )


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors atomically, with their digest; metadata values become JSON."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    with new_file(path) as temporary:
        # Not save_file: it hides a full disk in an error of its own.
        temporary.write_bytes(save(stored, texts | {DIGEST: json.dumps(_digest(stored, texts))}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors; where the file carries their digest, it must be right.

    Raises:
        EdgenasError: absent or damaged.
    """
    check_regular(path)
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
