"""``load``: what was made before, a bundle or a supernet, ready to be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.bundle import example, manifest
from edgenas.bundle.record import Record
from edgenas.bundle.write import load_bundle
from edgenas.model.saved import TrainedSupernet, load_supernet
from edgenas.space.arch import Arch

_SUPERNET = "supernet.json"


class BundleSession:
    """The model of a bundle, ready to run on image files.

    Args:
        folder: of the bundle.
        fields: of its manifest.
    """

    def __init__(self, folder: Path, *, fields: dict[str, Any]) -> None:
        self._answer = example.open_model(fields, folder)
        self._preprocessing: dict[str, Any] = fields["preprocessing"]

    def logits(self, images: Sequence[Path | str]) -> NDArray[np.float32]:
        """Logits of image files, shape (n, classes), preprocessed as the manifest says.

        Raises:
            EdgenasError: a file is no image that can be read.
        """
        return np.stack([self._answer(self._read(Path(path))) for path in images])

    def _read(self, path: Path) -> NDArray[np.float32]:
        try:
            return example.load_image(path, self._preprocessing)
        except (OSError, ValueError) as error:
            raise EdgenasError(
                f"{path} cannot be read as an image: {error}",
                hint=f"give a file in one of {', '.join(example.FORMATS)}",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose bytes are those that were written.

    Args:
        folder: of the bundle.
        arch: the network.
        record: its numbers, with their evidence.
        labels: of its classes, in the order of the logits.
        session: runs its model on image files.
    """

    folder: Path
    arch: Arch
    record: Record
    labels: tuple[str, ...]
    session: BundleSession

    def classify(self, image: Path | str) -> str:
        """The likeliest label of an image file. Raises EdgenasError where it cannot be read."""
        return self.labels[int(self.session.logits([image])[0].argmax())]


def load(folder: Path | str) -> Bundle | TrainedSupernet:
    """A bundle, or a supernet where the folder holds one.

    Raises:
        EdgenasError: the folder holds neither, or it is damaged.
    """
    folder = Path(folder)
    if (folder / _SUPERNET).exists():
        return load_supernet(folder)
    arch, record = load_bundle(folder)
    fields = manifest.read(folder)
    return Bundle(
        folder=folder,
        arch=arch,
        record=record,
        labels=tuple(fields["labels"]),
        session=BundleSession(folder, fields=fields),
    )
