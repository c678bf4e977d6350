"""Who made a bundle: ssh-keygen signs it with the user's SSH key, and checks the signature.

The signature is of ``manifest.json``, byte for byte, in the namespace ``edgenas-bundle``. The
manifest holds the SHA-256 of every other file, so the signature covers the whole bundle. It is the
file ``manifest.json.sig`` beside the manifest. The manifest cannot hold its hash, because the
signature is computed from the finished manifest. A file of allowed signers, in the format of
ssh-keygen(1), says whom to trust. OpenSSH does everything else: keys, agents, security keys,
passphrases and revocation.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgenas.basics.errors import EdgenasError, one_line
from edgenas.basics.files import new_file, read_bytes

NAMESPACE = "edgenas-bundle"
NAME = "manifest.json.sig"
_TIMEOUT = 60.0  # seconds for ssh-keygen, when it asks no person
_FINGERPRINT = re.compile(r"\b(?:SHA256|MD5):[\w+/=:-]+")
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"

State = Literal["absent", "not checked", "good", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The result of checking the signature of a bundle.

    Args:
        state: ``absent``: there is none. ``not checked``: it belongs to this manifest, but there
            is no file of allowed signers. ``good``: an allowed signer made it. ``wrong``:
            anything else.
        detail: the result in words.
        principal: name of the signer in the file of allowed signers.
        key: fingerprint of the key.
    """

    state: State
    detail: str
    principal: str = ""
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {"state": self.state, "principal": self.principal or None, "key": self.key or None}


@functools.cache
def check_key(key: str) -> str:
    """Check that a key can sign, before any slow work begins.

    A key with a passphrase passes if there is a terminal: ssh-keygen asks for it when it signs.

    Args:
        key: path of a private key, or of a public key whose private part is in the ssh agent or
            beside it.

    Returns:
        The fingerprint of the key.

    Raises:
        EdgenasError: there is no ssh-keygen or no such key, or the key cannot sign here.
    """
    path = _find_key(key)
    listing = _run_ssh_keygen(["-l", "-f", str(path)])
    if listing.returncode:
        raise EdgenasError(
            f"--sign {key} is no SSH key: {_reason(listing)}",
            hint="make one: ssh-keygen -t ed25519",
        )
    text = listing.stdout.decode(errors="replace")
    fingerprint = _FINGERPRINT.search(text)
    # A security key must be touched for every signature, so there is no trial with it.
    if "-SK)" not in text:
        trial = _sign(b"edgenas", path)
        if trial.returncode and not (_needs_passphrase(trial) and sys.stdin.isatty()):
            raise _cannot_sign(key, trial)
    return fingerprint.group() if fingerprint else ""


def sign(folder: Path, *, key: str) -> Path:
    """Sign the manifest of a bundle, and replace a signature that is there already.

    Args:
        folder: of the bundle; its manifest is complete.
        key: see ``check_key``.

    Returns:
        Path of the signature.

    Raises:
        EdgenasError: the key cannot sign, or nothing can be written.
    """
    path, manifest = _find_key(key), folder / "manifest.json"
    process = _sign(read_bytes(manifest), path)
    if process.returncode and sys.stdin.isatty():
        process = _sign_at_terminal(manifest, path)
    if process.returncode or not process.stdout.startswith(_BEGIN):
        raise _cannot_sign(key, process)
    with new_file(folder / NAME) as temporary:
        temporary.write_bytes(process.stdout)
    return folder / NAME


def check_signature(
    folder: Path, *, signers: Path | None = None, revoked: Path | None = None
) -> Signature:
    """Check whether the manifest of a bundle is signed, and by whom.

    Args:
        folder: of the bundle.
        signers: file of allowed signers, see ssh-keygen(1). None: the user does not say whom to
            trust.
        revoked: file of keys that nobody should trust any more: a key revocation list, or public
            keys.

    Raises:
        EdgenasError: one of these files does not exist, or there is no ssh-keygen to check with.
    """
    for name, path in (("--signers", signers), ("--revoked", revoked)):
        if path is not None and not path.is_file():
            raise EdgenasError(
                f"{name} {path} is no file", hint="its format: man ssh-keygen, ALLOWED SIGNERS"
            )
    place = folder / NAME
    if not os.path.lexists(place):
        if signers is not None:
            return Signature(state="wrong", detail=f"there is none: {NAME} is missing")
        return Signature(state="absent", detail="none: the bundle does not say who made it")
    if place.is_symlink() or not place.is_file():
        return Signature(state="wrong", detail=f"{NAME} is no plain file")
    if signers is None and shutil.which("ssh-keygen") is None:
        words = "there is one; not checked: no ssh-keygen here, and no --signers to check against"
        return Signature(state="not checked", detail=words)
    manifest = read_bytes(folder / "manifest.json")
    options = ["-n", NAMESPACE, "-s", str(place)]
    validity = _run_ssh_keygen(["-Y", "check-novalidate", *options], data=manifest)
    if validity.returncode:
        return Signature(
            state="wrong",
            detail=f"not of this manifest: changed after signing, or damaged ({_reason(validity)})",
        )
    key = _fingerprint(validity)
    if signers is None:
        words = f"there is one, of this manifest, by the key {key}; whether that key is to be "
        return Signature(
            state="not checked", detail=words + "trusted was not checked: --signers FILE", key=key
        )
    return _check_signer(manifest, place=place, key=key, signers=signers, revoked=revoked)


def _check_signer(
    manifest: bytes, *, place: Path, key: str, signers: Path, revoked: Path | None
) -> Signature:
    """Check whether the signature, which belongs to the manifest, is of an allowed signer."""
    listed = _run_ssh_keygen(["-Y", "find-principals", "-s", str(place), "-f", str(signers)])
    names = listed.stdout.decode(errors="replace").splitlines() if not listed.returncode else []
    if not names:
        words = f"by the key {key}, which {signers} does not allow ({_reason(listed)})"
        return Signature(state="wrong", detail=words, key=key)
    options = ["-n", NAMESPACE, "-s", str(place), "-f", str(signers)]
    revocation = [] if revoked is None else ["-r", str(revoked)]
    why = ""
    for name in names:
        verify = ["-Y", "verify", "-I", name, *options]
        process = _run_ssh_keygen([*verify, *revocation], data=manifest)
        if not process.returncode:
            return Signature(
                state="good",
                detail=f"good, by {one_line(name)} with the key {key}, as {signers} allows; it "
                "covers manifest.json, whose hashes cover the other files",
                principal=name,
                key=key,
            )
        why = why or _reason(process)
        if revocation and not _run_ssh_keygen(verify, data=manifest).returncode:
            why = f"{revoked} revokes it, or cannot be read"
    words = f"by {one_line(names[0])} with the key {key}, which is not to be trusted ({why})"
    return Signature(state="wrong", detail=words, key=key)


def _find_key(key: str) -> Path:
    path = Path(key).expanduser()
    if not path.is_file():
        raise EdgenasError(
            f"--sign {key}: there is no such key",
            hint="name your SSH key, e.g. ~/.ssh/id_ed25519, or the .pub of one in the agent",
        )
    return path


def _sign(data: bytes, key: Path) -> subprocess.CompletedProcess[bytes]:
    """Sign without asking anybody; the signature is on stdout."""
    return _run_ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], data=data)


def _sign_at_terminal(manifest: Path, key: Path) -> subprocess.CompletedProcess[bytes]:
    """Sign, and let ssh-keygen ask for a passphrase: it does so if its stdin is a terminal."""
    path = manifest.with_name(NAME)
    path.unlink(missing_ok=True)  # or it would ask whether to replace it
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(manifest)]
    process = subprocess.run(command, stderr=None, stdout=subprocess.DEVNULL)
    signature = path.read_bytes() if path.is_file() else b""
    return subprocess.CompletedProcess(command, process.returncode, signature, b"")


def _run_ssh_keygen(
    words: Sequence[str], *, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen without a terminal. It asks nobody, unless SSH_ASKPASS names a program.

    Raises:
        EdgenasError: it is not installed.
    """
    environment = dict(os.environ, LC_ALL="C")
    if "SSH_ASKPASS" not in environment:
        environment["SSH_ASKPASS_REQUIRE"] = "never"
    command = ["ssh-keygen", *words]
    try:
        return subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=_TIMEOUT,
            env=environment,
            start_new_session=True,  # else it would ask at the terminal in spite of stdin
        )
    except FileNotFoundError:
        raise EdgenasError(
            "signatures need ssh-keygen, which is not on the PATH",
            hint="install OpenSSH 8.2 or newer, for example: apt install openssh-client",
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, b"", b"ssh-keygen does not come to an end")


def _cannot_sign(key: str, process: subprocess.CompletedProcess[bytes]) -> EdgenasError:
    if _needs_passphrase(process):
        return EdgenasError(
            f"--sign {key} has a passphrase, and there is no terminal to ask for it",
            hint=f"put it into the agent first: ssh-add {key}",
        )
    return EdgenasError(
        f"--sign {key} cannot sign: {_reason(process)}",
        hint=f"does this work? ssh-keygen -Y sign -f {key} -n {NAMESPACE} FILE",
    )


def _needs_passphrase(process: subprocess.CompletedProcess[bytes]) -> bool:
    return b"passphrase" in process.stderr


def _reason(process: subprocess.CompletedProcess[bytes]) -> str:
    """Why ssh-keygen refused, in its own words, shortened to the first line: it names the cause."""
    lines = (process.stderr + b"\n" + process.stdout).decode(errors="replace").splitlines()
    lines = [line.removeprefix("Enter passphrase: ").strip() for line in lines]
    reasons = [line for line in lines if line and not line.startswith("Signing ")]
    return one_line((reasons or ["it does not say why"])[0])[:160]


def _fingerprint(process: subprocess.CompletedProcess[bytes]) -> str:
    fingerprint = _FINGERPRINT.search(process.stdout.decode(errors="replace"))
    return fingerprint.group() if fingerprint else "that ssh-keygen does not name"
