"""``import-ofa``: a released once-for-all supernet, read into a supernet folder."""

from dataclasses import dataclass
from pathlib import Path

import torch

from edgenas.basics.download import address_of, download
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, check_absent, new_folder, sha256
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.preprocessing import Preprocessing, choose_stored_size
from edgenas.model.ofa_weights import import_supernet
from edgenas.model.request import ImportOfaRequest
from edgenas.model.saved import TrainedSupernet, save_supernet
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
        preprocessing=Preprocessing(stored=choose_stored_size(space), mean=_MEAN, std=_STD),
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
