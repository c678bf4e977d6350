"""Virtual environments of their own, with packages that pip installs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def python_with(packages: tuple[str, ...], folder: Path, *, base: str = sys.executable) -> str:
    """The Python of a new environment with these packages; skips where they cannot be had.

    Args:
        packages: as pip takes them.
        folder: of the environment.
        base: the Python that makes it.
    """
    subprocess.run([base, "-m", "venv", str(folder)], check=True, timeout=300)
    python = str(folder / "bin/python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command = [*install, "--only-binary=:all:", *packages]
    # Constraints are for the environment that the tests run in. This one has other versions.
    free = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=free)
    if done.returncode:
        pytest.skip(f"packages cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return python
