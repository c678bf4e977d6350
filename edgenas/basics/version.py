"""The version of this package."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path


def version() -> str:
    """The installed version; ``unreleased`` when run from a checkout that is not installed."""
    try:
        return importlib.metadata.version("edgenas")
    except importlib.metadata.PackageNotFoundError:
        return "unreleased"


@functools.cache
def name_build() -> str:
    """The version, and in a checkout also the digest of its sources: ``0.1.0+5f0c2a9be1``.

    Two checkouts may have the same version and generate different files. Builds of one name
    generate the same.
    """
    package = Path(__file__).parent.parent
    if not (package.parent / "pyproject.toml").is_file():  # it is installed from a wheel
        return version()
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{version()}+{digest.hexdigest()[:10]}"
