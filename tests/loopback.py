"""A board on 127.0.0.1: a real sshd with its own keys, and a Python with only the runtime."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from trtexec_board import left_over, stay

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MARK = "EDGENAS_TEST_BOARD"  # the variable by which programs on a board are known


def why_not() -> str:
    """Why there can be no such board here, or an empty string."""
    if SSHD is None:
        return "no sshd here (apt install openssh-server)"
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    return f"no {missing[0]} here (apt install openssh-client)" if missing else ""


class NotLetInError(Exception):
    """An sshd runs, but this user may not log in with it: no shell, a locked account, a jail."""


def running_with(variable: str) -> list[int]:
    """Processes that have a text among the variables of their environment."""
    mark, found = variable.encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@dataclass(frozen=True)
class Loopback:
    """What a test may know of the board.

    Names of the ssh config: ``loop``; ``changed`` (another host key is known), ``unknown`` (none
    is), ``stranger`` (a key that is not let in), ``closed`` (nobody listens).
    """

    folder: Path
    server: subprocess.Popen[bytes]
    mark: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def python(self, *, runtime: bool) -> str:
        """The Python of the board, or one without numpy and the runtime."""
        return str(self.folder / ("venv" if runtime else "bare") / "bin" / "python3")

    def left(self) -> list[str]:
        """Files on the board's home and temporary folder, beyond what the test put there."""
        found = [*self.home.rglob("*"), *(self.folder / "tmp").rglob("*")]
        return [str(path) for path in found if path.name != ".bashrc"]

    def workers(self) -> list[int]:
        """Processes that run on the board."""
        return running_with(self.mark)

    def quiet(self, *, seconds: float = 10.0) -> bool:
        """Whether nothing runs on the board any more, or soon."""
        end = time.monotonic() + seconds
        while self.workers() and time.monotonic() < end:
            time.sleep(0.05)
        return not self.workers()

    def cut(self) -> int:
        """Cut every link: kill the processes of sshd that serve one."""
        links = children(self.server.pid)
        for pid in links:
            os.kill(pid, signal.SIGKILL)
        return len(links)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Meanwhile nothing listens at its address."""
        config = self.folder / "ssh_config"
        kept = config.read_text()
        config.write_text(re.sub(r"Port \d+", f"Port {_free_port()}", kept))
        try:
            yield
        finally:
            config.write_text(kept)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """One board for all tests of a module, which takes it as ``running = loopback.running``."""
    with board_or_skip(tmp_path_factory.mktemp("board")) as board:
        yield board


@contextmanager
def reached(running: Loopback, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    """Meanwhile ssh knows the board, and edgenas has a cache; afterwards nothing is left on it."""
    monkeypatch.setenv("PATH", f"{running.folder / 'client'}:{os.environ['PATH']}")
    monkeypatch.setenv("EDGENAS_CACHE", str(cache))
    yield
    assert running.quiet()
    assert running.left() == []


@pytest.fixture
def there(running, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Loopback]:
    """The board as a test needs it, taken as ``there = loopback.there``."""
    with reached(running, monkeypatch, tmp_path / "cache"):
        yield running


@pytest.fixture
def there_with_tensorrt(running, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Loopback]:
    """As ``there``; afterwards no folder of the clock for engines is left either."""
    before = set(left_over())
    with reached(running, monkeypatch, tmp_path / "cache"):
        yield running
    assert not stay(before)


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found += [int(entry.name), *children(int(entry.name))]
    return [pid for pid in found if b"sshd" in command_of(pid)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _venv(folder: Path, *packages: str) -> None:
    """A clean virtual environment that sees some packages of this one and nothing else."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, timeout=60)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in packages:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        real = Path(spec.origin).parent
        # numpy keeps its shared libraries beside itself.
        for path in (real, real.with_name(f"{real.name}.libs")):
            if path.exists():
                (site / path.name).symlink_to(path)


def _key(path: Path) -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.with_name(path.name + ".pub").read_text().rpartition(" ")[0]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def board_or_skip(folder: Path, **variables: str) -> Iterator[Loopback]:
    """The board of `loopback`; the test is skipped, with the reason, where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    folder.mkdir(exist_ok=True)
    try:
        with loopback(folder, **variables) as there:
            yield there
    except NotLetInError as error:
        pytest.skip(f"sshd does not let this user in: {error}")


@contextmanager
def loopback(folder: Path, **variables: str) -> Iterator[Loopback]:
    """Such a board; its ssh client, which knows the names above, is in ``folder/client``.

    Args:
        folder: an empty folder for all of it.
        variables: further variables of the environment that programs on the board have.
    """
    mark = uuid.uuid4().hex
    for name in ("home", "tmp", "client"):
        (folder / name).mkdir()
    optional = [name for name in ("ncnn", "ai_edge_litert") if find_spec(name) is not None]
    _venv(folder / "venv", "numpy", "onnxruntime", *optional)
    _venv(folder / "bare")
    host, other = _key(folder / "host"), _key(folder / "other")
    (folder / "authorized").write_text(_key(folder / "mine") + "\n")
    _key(folder / "unwelcome")
    port, closed = _free_port(), _free_port()
    environment = {
        "PATH": f"{folder}/venv/bin:/usr/bin:/bin",
        "HOME": f"{folder}/home",
        "TMPDIR": f"{folder}/tmp",
        MARK: mark,
        **variables,
    }
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": f'"{folder}/host"',
        "AuthorizedKeysFile": f'"{folder}/authorized"',
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "SetEnv": " ".join(f'"{name}={value}"' for name, value in environment.items()),
    }
    lines = [f"{name} {value}\n" for name, value in settings.items()]
    (folder / "sshd_config").write_text("".join(lines))
    for name, key in (("known", host), ("changed", other)):
        (folder / name).write_text(f"[127.0.0.1]:{port} {key}\n")
    (folder / "none").touch()
    ports = {"closed": closed}
    keys = {"stranger": folder / "unwelcome"}
    known = {"changed": folder / "changed", "unknown": folder / "none"}
    config = ""
    for name in ("loop", "changed", "unknown", "stranger", "closed"):
        config += (
            f"Host {name}\n HostName 127.0.0.1\n Port {ports.get(name, port)}\n"
            f' IdentityFile "{keys.get(name, folder / "mine")}"\n IdentitiesOnly yes\n'
            f' UserKnownHostsFile "{known.get(name, folder / "known")}"\n'
            " GlobalKnownHostsFile none\n"
        )
    # ssh reads no file twice and never $HOME: the user's config is kept out by naming another.
    (folder / "ssh_config").write_text(config)
    client = folder / "client" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{folder}/ssh_config" "$@"\n')
    client.chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a privileged sshd locks itself in
    assert SSHD is not None
    command = [SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")]
    with subprocess.Popen(command) as server:
        board = Loopback(folder, server, f"{MARK}={mark}")
        try:
            for _ in range(100):
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            login = subprocess.run([client, "loop", "true"], capture_output=True, timeout=60)
            if login.returncode:
                said = (folder / "log").read_text().splitlines()
                raise NotLetInError(said[-1] if said else login.stderr.decode())
            yield board
        finally:
            board.cut()
            server.terminate()
