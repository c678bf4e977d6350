"""The version that is installed."""

import importlib.metadata


def version() -> str:
    """The installed version; ``unreleased`` when run from a checkout that is not installed."""
    try:
        return importlib.metadata.version("edgenas")
    except importlib.metadata.PackageNotFoundError:
        return "unreleased"
