"""A board on 127.0.0.1 whose processor is an emulated ARM one.

qemu runs Debian's arm64 Python with aarch64 wheels. All of it is unpacked into one folder, so that
no rights of an administrator are needed and nothing of the machine changes. apt checks signatures,
and pip the hashes of its index.

The folder is named by ``EDGENAS_TEST_ARM`` and kept, or else made anew for a run of the tests.
"""

import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from loopback import Loopback, board_or_skip

KEPT = "EDGENAS_TEST_ARM"
SUITE, PYTHON = "bookworm", "3.11"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PROGRAMS = ("apt-get", "apt-config", "dpkg-deb")
_PACKAGES = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6", "libgomp1")
_WHEELS = ("numpy", "onnxruntime", "ncnn", "ai-edge-litert", "pillow")
_GLIBC = ("2_28", "2_27", "2_17")  # pip takes the very platforms that it is told
# LiteRT crashes on 7.2, which Debian's release has, and so do newer versions of ONNX Runtime.
_LEAST_QEMU = 10


class NoBoardError(Exception):
    """Why there can be no such board here."""


def _run(*command: str, what: str, config: Path | None = None) -> str:
    # Constraints are given by name; those of the variable are of the environment of the tests.
    known = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    variables = known | ({"APT_CONFIG": str(config)} if config else {})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=400, env=variables, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        raise NoBoardError(f"{what}: no end after 400 s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NoBoardError(f"{what}: {said[-1] if said else f'code {done.returncode}'}")
    return done.stdout


def _mirror() -> str:
    """Where this machine gets its own release of Debian from."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise NoBoardError(f"this is {release.get('ID')}, and not Debian")
    form = ("--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    for line in _run("apt-get", "indextargets", *form, what="apt's sources").splitlines():
        address, suite, component = line.split()
        if (suite, component) == (release.get("VERSION_CODENAME"), "main"):
            return address
    raise NoBoardError("apt has no source of Debian's own packages")


def _configure_apt(folder: Path) -> Path:
    """A configuration of apt that keeps all it knows in a folder."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    mirror, key = _mirror(), f"signed-by={_KEYS}"
    (folder / "sources.list").write_text(
        f"deb [arch=arm64 {key}] {mirror} {SUITE} main\n"
        f"deb [arch=amd64 {key}] {mirror} {SUITE}-backports main\n"
    )
    # How the machine fetches, for example its proxy; not what else it does after an update.
    own = _run("apt-config", "dump", "Acquire", what="apt's configuration").splitlines()
    kept = [line for line in own if not line.startswith("Acquire::IndexTargets")]
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::parts": "-",
        "Dir::Etc::main": "-",
        "APT::Architecture": "arm64",
        "APT::Sandbox::User": "root",  # another user cannot read a folder of the tests
    }
    kept += [f'{name} "{value}";' for name, value in settings.items()]
    kept.append('APT::Architectures { "arm64"; "amd64"; };')
    config = folder / "apt.conf"
    config.write_text("\n".join(kept) + "\n")
    return config


def _build(root: Path) -> None:
    """Fill an empty folder with qemu, Python and the wheels."""
    apt = root.with_name(f"{root.name}-apt")
    shutil.rmtree(apt, ignore_errors=True)
    config = _configure_apt(apt)
    quiet = ("apt-get", "-qq", "-o", "APT::Get::Assume-Yes=true")
    _run(*quiet, "-o", "APT::Update::Error-Mode=any", "update", what="apt's lists", config=config)
    fetch = (*quiet, "install", "--download-only", "--no-install-recommends")
    arm = [f"{name}:arm64" for name in _PACKAGES]
    _run(*fetch, *arm, what="Debian's arm64 packages", config=config)
    archives = list((apt / "cache/archives").glob("*_arm64.deb"))
    _run(*fetch, "qemu-user:amd64", what=f"qemu of {SUITE}-backports", config=config)
    archives += (apt / "cache/archives").glob("qemu-user_*_amd64.deb")
    for archive in archives:
        _run("dpkg-deb", "-x", str(archive), str(root), what=archive.name)
    shutil.rmtree(apt)
    said = _run(str(root / "usr/bin/qemu-aarch64"), "--version", what="qemu")
    found = re.search(r"version (\d+)", said)
    if found is None or int(found[1]) < _LEAST_QEMU:
        raise NoBoardError(f"qemu {_LEAST_QEMU} or newer is needed, found {said.splitlines()[0]}")
    target = root / f"usr/local/lib/python{PYTHON}/dist-packages"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    where = ("--target", str(target), *(f"--platform=manylinux_{one}_aarch64" for one in _GLIBC))
    what = ("--python-version", PYTHON, "--only-binary=:all:", "--no-deps")
    pins = ("-c", str(ROOT / ".ci/constraints.txt"))
    _run(*pip, *where, *what, *pins, *_WHEELS, what="wheels for aarch64")


def root_or_skip(temporary: Path) -> Path:
    """The folder of the emulated system; skips, with the reason, where it cannot be had.

    Args:
        temporary: where it is made unless the user names a place; all processes of the tests share
            it.
    """
    if platform.machine() != "x86_64":
        pytest.skip(f"no emulated ARM: this machine is {platform.machine()}, and not x86-64")
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    missing += [] if _KEYS.exists() else [str(_KEYS)]
    if missing:
        pytest.skip(f"no emulated ARM: there is no {missing[0]}, which Debian has")
    root = Path(os.environ.get(KEPT) or temporary / "emulated-arm").resolve()
    root.parent.mkdir(parents=True, exist_ok=True)
    done, failed = root.with_name(f"{root.name}-done"), root.with_name(f"{root.name}-failed")
    with root.with_name(f"{root.name}-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes it, the others wait
        try:
            # A failure counts for this run of the tests alone.
            if failed.exists() and not os.environ.get(KEPT):
                raise NoBoardError(failed.read_text())
            if not done.exists():
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
                _build(root)
                done.touch()
        except NoBoardError as error:
            failed.write_text(str(error))
            pytest.skip(f"no emulated ARM: {error}")
    return root


@contextmanager
def arm_board(folder: Path, root: Path, *, processor: str) -> Iterator[Loopback]:
    """The board of `loopback`, whose ``python3`` runs on an emulated processor.

    Args:
        folder: an empty folder for all of it.
        root: of `root_or_skip`.
        processor: in qemu's words, such as ``cortex-a72``.
    """
    with board_or_skip(folder) as there:
        python = Path(there.python(runtime=True))
        command = [str(root / "usr/bin/qemu-aarch64"), "-cpu", processor, "-L", str(root)]
        command.append(str(root / f"usr/bin/python{PYTHON}"))
        python.unlink()
        python.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        python.chmod(0o755)
        yield there
