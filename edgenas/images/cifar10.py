"""CIFAR-10 from its binary archive, whose size and hash are known."""

import tarfile

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.download import download_known
from edgenas.basics.files import cache_folder
from edgenas.images.pictures import Pixels

# https://www.cs.toronto.edu/~kriz/cifar.html, the binary version
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_BYTES = 170_052_171
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


def load_cifar10(source: str) -> tuple[Pixels, NDArray[np.int64], list[str]]:
    """Read CIFAR-10; its archive is fetched once.

    Args:
        source: ``cifar10`` for the 50,000 training images, ``cifar10-test`` for the 10,000 others.

    Returns:
        Pixels, uint8, shape (n, 32, 32, 3); labels, shape (n,); and the names of the classes.

    Raises:
        EdgenasError: the archive is not here and cannot be fetched.
    """
    archive = download_known(
        CIFAR10_URL,
        cache_folder() / "downloads" / "cifar-10-binary.tar.gz",
        size=CIFAR10_BYTES,
        sha256=CIFAR10_SHA256,
    )
    wanted = ["test_batch"] if source.endswith("test") else [f"data_batch_{i}" for i in range(1, 6)]
    parts: list[Pixels] = []
    names: list[str] = []
    with tarfile.open(archive) as tar:
        for name in (*wanted, "batches.meta"):
            suffix = ".txt" if name == "batches.meta" else ".bin"
            stream = tar.extractfile(f"cifar-10-batches-bin/{name}{suffix}")
            assert stream is not None  # the archive's hash is known
            if suffix == ".txt":
                names = stream.read().decode().split()
            else:
                parts.append(np.frombuffer(stream.read(), np.uint8).reshape(-1, 3073))
    records = np.concatenate(parts)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, 0].astype(np.int64), names
