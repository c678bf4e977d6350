"""Who made a bundle: signatures by ssh-keygen, of every kind of key and of every kind of wrong."""

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from test_bundle import REQUEST, resign, write

from edgenas.basics.errors import EdgenasError
from edgenas.bundle import manifest, signing
from edgenas.bundle.signing import check_key, check_signature, sign
from edgenas.bundle.verify import verify_bundle
from edgenas.bundle.write import check_output

pytestmark = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="no ssh-keygen here (apt install openssh-client)"
)


@pytest.fixture(autouse=True)
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    check_key.cache_clear()


def make_key(folder: Path, name: str = "key", *, passphrase: str = "") -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name]
    subprocess.run([*command, "-f", str(folder / name)], check=True, timeout=60)
    return folder / name


def allowed(folder: Path, key: Path, *, who: str = "ada@example.org", options: str = "") -> Path:
    path = folder / "signers"
    public = key.with_name(f"{key.name}.pub").read_text()
    path.write_text(f"{who} {options} {public}")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write(folder)
    return folder


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path)


# What a signature says


def test_an_allowed_signer_is_named(bundle, key, tmp_path):
    fingerprint = check_key(str(key))
    assert sign(bundle, key=str(key)).name == "manifest.json.sig"
    signers = allowed(tmp_path, key, options='namespaces="edgenas-bundle"')
    found = check_signature(bundle, signers=signers)
    assert (found.state, found.principal, found.key) == ("good", "ada@example.org", fingerprint)
    checks = verify_bundle(bundle, signers=signers)
    assert all(check.passed for check in checks)
    assert f"good, by ada@example.org with the key {fingerprint}" in str(checks[1])


def test_the_signature_is_one_that_ssh_keygen_itself_accepts(bundle, key, tmp_path):
    sign(bundle, key=str(key))
    signers = allowed(tmp_path, key)
    command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "ada@example.org"]
    command += ["-n", "edgenas-bundle", "-s", bundle / "manifest.json.sig"]
    with (bundle / "manifest.json").open("rb") as stream:
        done = subprocess.run(command, stdin=stream, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_nobody_asked_for_is_said_not_to_be_checked(bundle, key):
    assert check_signature(bundle).state == "absent"
    sign(bundle, key=str(key))
    found = check_signature(bundle)
    assert found.state == "not checked"
    assert found.key == check_key(str(key))
    assert "trusted was not checked: --signers FILE" in found.detail
    assert all(check.passed for check in verify_bundle(bundle))


def expired(folder: Path, key: Path) -> Path:
    return allowed(folder, key, options='valid-before="20200101"')


@pytest.mark.parametrize(
    ("signers", "words"),
    [
        (expired, "does not allow (signers:1: key has expired"),
        (
            lambda folder, key: allowed(folder, key, options='valid-after="20990101"'),
            "key is not yet valid",
        ),
        (
            lambda folder, key: allowed(folder, key, options='namespaces="git"'),
            "not to be trusted (signers:1: key is not permitted for use in signature namespace",
        ),
        (lambda folder, key: allowed(folder, make_key(folder, "another")), "does not allow"),
        (lambda folder, key: folder / "key.pub", "does not allow"),
    ],
)
def test_a_signature_that_the_signers_do_not_allow_fails(
    bundle, key, tmp_path, monkeypatch, signers, words
):
    monkeypatch.chdir(tmp_path)
    sign(bundle, key=str(key))
    path = Path(signers(tmp_path, key).name)
    found = check_signature(bundle, signers=path)
    assert found.state == "wrong"
    assert words in found.detail
    assert found.key == check_key(str(key))
    assert [check.passed for check in verify_bundle(bundle, signers=path)] == [True, False]


def test_a_revoked_key_is_not_trusted(bundle, key, tmp_path):
    sign(bundle, key=str(key))
    signers, other = allowed(tmp_path, key), make_key(tmp_path, "another")
    public = key.with_name("key.pub")
    assert check_signature(bundle, signers=signers, revoked=Path(f"{other}.pub")).state == "good"
    found = check_signature(bundle, signers=signers, revoked=public)
    assert found.state == "wrong"
    assert f"{public} revokes it" in found.detail


def test_an_unsigned_bundle_is_no_bundle_of_an_allowed_signer(bundle, key, tmp_path):
    found = check_signature(bundle, signers=allowed(tmp_path, key))
    assert (found.state, found.detail) == ("wrong", "there is none: manifest.json.sig is missing")


def test_a_bundle_that_is_changed_after_signing_fails_whoever_asks(bundle, key, tmp_path):
    sign(bundle, key=str(key))
    labels = manifest.read(bundle)["labels"]
    resign(bundle, labels=labels[::-1])  # with all hashes right again
    for signers in (None, allowed(tmp_path, key)):
        found = check_signature(bundle, signers=signers)
        assert found.state == "wrong"
        assert "changed after signing" in found.detail
        assert not verify_bundle(bundle, signers=signers)[-1].passed


@pytest.mark.parametrize("damage", [b"", b"junk", b"-----BEGIN SSH SIGNATURE-----\n\x1b[2Jx\n"])
def test_a_damaged_signature_fails(bundle, key, tmp_path, damage):
    (bundle / signing.NAME).write_bytes(damage)
    for signers in (None, allowed(tmp_path, key)):
        found = check_signature(bundle, signers=signers)
        assert found.state == "wrong"
        assert found.detail.isprintable()


def test_a_signature_of_something_else_fails(bundle, key, tmp_path):
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "file"]
    subprocess.run([*command, bundle / "manifest.json"], check=True, timeout=60)
    found = check_signature(bundle, signers=allowed(tmp_path, key))
    assert found.state == "wrong"
    assert "namespace does not match" in found.detail


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_not_opened(bundle, key, tmp_path, kind):
    place = bundle / signing.NAME
    if kind == "link":
        place.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    assert check_signature(bundle, signers=allowed(tmp_path, key)).state == "wrong"


def test_signers_that_are_not_there_are_an_error(bundle, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
        with pytest.raises(EdgenasError, match=r"--signers .* is no file"):
            check_signature(bundle, signers=path)
    with pytest.raises(EdgenasError, match=r"--revoked .* is no file"):
        check_signature(bundle, signers=bundle / "arch.json", revoked=tmp_path / "absent")


def test_a_signed_bundle_is_one_that_is_there(bundle, key):
    sign(bundle, key=str(key))
    assert check_output(bundle, request=REQUEST)
    assert check_output(bundle, request=REQUEST, force=True) is None


# Keys


def test_a_key_in_the_agent_signs_by_its_public_part(bundle, tmp_path, monkeypatch):
    if shutil.which("ssh-agent") is None or shutil.which("ssh-add") is None:
        pytest.skip("no ssh-agent here")
    key = make_key(tmp_path)
    signers, public = allowed(tmp_path, key), tmp_path / "key.pub"
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    socket = "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as agent:
        try:
            while not os.path.exists(socket):
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
            subprocess.run(["ssh-add", "-q", key], check=True, timeout=60)
            key.unlink()
            check_key(str(public))
            sign(bundle, key=str(public))
        finally:
            agent.terminate()
    assert check_signature(bundle, signers=signers).state == "good"


def test_a_public_key_without_its_private_part_is_refused(key, tmp_path):
    key.unlink()
    with pytest.raises(EdgenasError, match=r"cannot sign: No private key found") as caught:
        check_key(str(tmp_path / "key.pub"))
    assert "ssh-keygen -Y sign" in caught.value.hint


def test_a_passphrase_without_a_terminal_is_one_line(bundle, tmp_path):
    key = make_key(tmp_path, passphrase="secret")
    for attempt in (lambda: check_key(str(key)), lambda: sign(bundle, key=str(key))):
        with pytest.raises(EdgenasError, match="has a passphrase, and there is no term") as caught:
            attempt()
        assert caught.value.hint == f"put it into the agent first: ssh-add {key}"
    assert not (bundle / signing.NAME).exists()


def test_a_program_that_the_user_named_may_know_the_passphrase(bundle, tmp_path, monkeypatch):
    key = make_key(tmp_path, passphrase="secret")
    (tmp_path / "ask").write_text("#!/bin/sh\necho secret\n")
    (tmp_path / "ask").chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(tmp_path / "ask"))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    check_key(str(key))
    sign(bundle, key=str(key))
    assert check_signature(bundle, signers=allowed(tmp_path, key)).state == "good"


def test_at_a_terminal_the_passphrase_is_asked_for(bundle, tmp_path):
    key = make_key(tmp_path, passphrase="secret")
    code = "import sys; from pathlib import Path; from edgenas.bundle.signing import *\n"
    code += "check_key(sys.argv[2]); sign(Path(sys.argv[1]), key=sys.argv[2])"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code, str(bundle), str(key)])
    said = b""
    while b"passphrase" not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, b"secret\n")
    try:
        while more := os.read(terminal, 1024):
            said += more
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"secret" not in said
    assert check_signature(bundle, signers=allowed(tmp_path, key)).state == "good"


@pytest.mark.parametrize("name", ["absent", "a folder"])
def test_a_key_that_is_not_there_is_refused(tmp_path, name):
    (tmp_path / "a folder").mkdir()
    with pytest.raises(EdgenasError, match="there is no such key") as caught:
        check_key(str(tmp_path / name))
    assert "~/.ssh/id_ed25519" in caught.value.hint


def test_what_is_no_key_is_refused(tmp_path):
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(EdgenasError, match=r"is no SSH key: .*is not a public key file"):
        check_key(str(tmp_path / "text"))


def test_a_machine_without_ssh_keygen_is_told(bundle, key, tmp_path, monkeypatch):
    sign(bundle, key=str(key))
    signers = allowed(tmp_path, key)
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (
        lambda: check_key(str(tmp_path / "key.pub")),
        lambda: check_signature(bundle, signers=signers),
    ):
        with pytest.raises(EdgenasError, match="signatures need ssh-keygen"):
            attempt()
    found = check_signature(bundle)
    assert found.state == "not checked"
    assert "no ssh-keygen here" in found.detail


# The verbs


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_bundle_is_signed_and_checked_by_the_verbs(edgenas, tiny, key, tmp_path, own_folder):
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--latency", "20ms")
    words += ("--out", "bundle")
    assert edgenas(*words).code == 0
    signers = allowed(tmp_path, key)
    unsigned = edgenas("verify", "bundle")
    assert unsigned.code == 0
    assert "who made it is not known: it is not signed" in unsigned.out
    assert edgenas("verify", "bundle", "--signers", signers).code == 2
    told = edgenas(*words, "--sign", key, "--json")  # it is there already, and signed now
    assert json.loads(told.out)["signed_by"] == check_key(str(key))
    assert "who made it was not checked" in edgenas("verify", "bundle").out
    done = edgenas("verify", "bundle", "--signers", signers)
    assert (done.code, "made by ada@example.org" in done.out) == (0, True)
    found = json.loads(edgenas("verify", "bundle", "--signers", signers, "--json").out)
    assert found["signature"] == {
        "state": "good",
        "principal": "ada@example.org",
        "key": check_key(str(key)),
    }
    refused = edgenas("verify", "bundle", "--revoked", signers)
    assert (refused.code, "--signers" in refused.log) == (2, True)


def test_a_key_that_cannot_sign_is_told_before_anything_else(edgenas, tiny, own_folder):
    done = edgenas("specialize", "--device", "jetson", "--supernet", tiny, "--sign", "absent")
    assert done.code == 2
    assert done.log.startswith("error: --sign absent: there is no such key\nhint: ")
    assert not list(own_folder.iterdir())


def test_the_bundles_of_a_fleet_are_signed(edgenas, tiny, key, tmp_path, own_folder):
    text = f'schema = "edgenas.fleet/1"\nsupernet = "{tiny}"\n'
    text += '[[devices]]\ndevice = "jetson"\nlatency = ["20ms", "30ms"]\n'
    Path("fleet.toml").write_text(text)
    done = edgenas("specialize", "--devices", "fleet.toml", "--out", "all", "--sign", key, "--json")
    assert done.code == 0, done.log
    entries = json.loads(done.out)["entries"]
    assert [entry["signed_by"] for entry in entries] == [check_key(str(key))] * 2
    for entry in entries:
        found = check_signature(Path("all", entry["folder"]), signers=allowed(tmp_path, key))
        assert found.state == "good"
    Path("fleet.toml").write_text(text + 'sign = "absent"\n')
    done = edgenas("specialize", "--devices", "fleet.toml", "--out", "more")
    assert done.code == 2
    assert "devices[1] (jetson): --sign absent: there is no such key" in done.log
