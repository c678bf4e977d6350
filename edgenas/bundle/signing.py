"""Who made a bundle: signatures with the user's SSH keys, made and checked by ssh-keygen.

What is signed is ``manifest.json``, byte for byte, in the namespace ``edgenas-bundle``. The
manifest holds the SHA-256 of every other file, so the signature covers the bundle. It lies beside
the manifest, in ``manifest.json.sig``, and is the only file that the manifest cannot name: it is
made from the finished manifest. Whom to trust stands in a file of allowed signers, in the format of
ssh-keygen(1). Keys, agents, security keys, passphrases and revocation are OpenSSH's matter.
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
_PATIENCE = 60.0  # seconds for ssh-keygen, where no person is asked anything
_FINGERPRINT = re.compile(r"\b(?:SHA256|MD5):[\w+/=:-]+")
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"

State = Literal["absent", "not checked", "good", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What is known of the signature of a bundle.

    Args:
        state: ``absent``; ``not checked``: it belongs to this manifest, but nobody said whom to
            trust; ``good``: of a signer that is allowed; ``wrong``.
        detail: in words.
        principal: the signer, as the file of allowed signers calls it.
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
    """The fingerprint of a key that can sign; what cannot is refused before anything slow is done.

    A key with a passphrase passes where a person sits at a terminal: ssh-keygen asks when it signs.

    Args:
        key: path of a private key, or of a public key whose private part is in the ssh agent or
            beside it.

    Raises:
        EdgenasError: there is no ssh-keygen or no such key, or it cannot sign here.
    """
    path = _key_path(key)
    shown = _ssh_keygen(["-l", "-f", str(path)])
    if shown.returncode:
        raise EdgenasError(
            f"--sign {key} is no SSH key: {_said(shown)}", hint="make one: ssh-keygen -t ed25519"
        )
    told = shown.stdout.decode(errors="replace")
    found = _FINGERPRINT.search(told)
    # A security key wants to be touched: that is left for the signature itself.
    if "-SK)" not in told:
        trial = _sign(b"edgenas", path)
        if trial.returncode and not (_needs_passphrase(trial) and sys.stdin.isatty()):
            raise _cannot_sign(key, trial)
    return found.group() if found else ""


def sign(folder: Path, *, key: str) -> Path:
    """Sign the manifest of a bundle; a signature that is there is replaced.

    Args:
        folder: of the bundle; its manifest is complete.
        key: see ``check_key``.

    Returns:
        The file of the signature.

    Raises:
        EdgenasError: the key cannot sign, or nothing can be written.
    """
    path, manifest = _key_path(key), folder / "manifest.json"
    done = _sign(read_bytes(manifest), path)
    if done.returncode and sys.stdin.isatty():
        done = _sign_at_terminal(manifest, path)
    if done.returncode or not done.stdout.startswith(_BEGIN):
        raise _cannot_sign(key, done)
    with new_file(folder / NAME) as temporary:
        temporary.write_bytes(done.stdout)
    return folder / NAME


def check_signature(
    folder: Path, *, signers: Path | None = None, revoked: Path | None = None
) -> Signature:
    """Whether the manifest of a bundle is signed, and by whom.

    Args:
        folder: of the bundle.
        signers: allowed signers, see ssh-keygen(1); None: nobody says whom to trust.
        revoked: keys that are no longer to be trusted: a key revocation list, or public keys.

    Raises:
        EdgenasError: a file that was named is not there, or there is no ssh-keygen to check with.
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
    given = ["-n", NAMESPACE, "-s", str(place)]
    whole = _ssh_keygen(["-Y", "check-novalidate", *given], data=manifest)
    if whole.returncode:
        return Signature(
            state="wrong",
            detail=f"not of this manifest: changed after signing, or damaged ({_said(whole)})",
        )
    key = _fingerprint(whole)
    if signers is None:
        words = f"there is one, of this manifest, by the key {key}; whether that key is to be "
        return Signature(
            state="not checked", detail=words + "trusted was not checked: --signers FILE", key=key
        )
    return _of_signer(manifest, place=place, key=key, signers=signers, revoked=revoked)


def _of_signer(
    manifest: bytes, *, place: Path, key: str, signers: Path, revoked: Path | None
) -> Signature:
    """Whether a signature that is whole is one of an allowed signer."""
    listed = _ssh_keygen(["-Y", "find-principals", "-s", str(place), "-f", str(signers)])
    names = listed.stdout.decode(errors="replace").splitlines() if not listed.returncode else []
    if not names:
        words = f"by the key {key}, which {signers} does not allow ({_said(listed)})"
        return Signature(state="wrong", detail=words, key=key)
    given = ["-n", NAMESPACE, "-s", str(place), "-f", str(signers)]
    denied = [] if revoked is None else ["-r", str(revoked)]
    why = ""
    for name in names:
        found = _ssh_keygen(["-Y", "verify", "-I", name, *given, *denied], data=manifest)
        if not found.returncode:
            return Signature(
                state="good",
                detail=f"good, by {one_line(name)} with the key {key}, as {signers} allows; it "
                "covers manifest.json, whose hashes cover the other files",
                principal=name,
                key=key,
            )
        why = why or _said(found)
        if (
            denied
            and not _ssh_keygen(["-Y", "verify", "-I", name, *given], data=manifest).returncode
        ):
            why = f"{revoked} revokes it, or cannot be read"
    words = f"by {one_line(names[0])} with the key {key}, which is not to be trusted ({why})"
    return Signature(state="wrong", detail=words, key=key)


def _key_path(key: str) -> Path:
    path = Path(key).expanduser()
    if not path.is_file():
        raise EdgenasError(
            f"--sign {key}: there is no such key",
            hint="name your SSH key, e.g. ~/.ssh/id_ed25519, or the .pub of one in the agent",
        )
    return path


def _sign(data: bytes, key: Path) -> subprocess.CompletedProcess[bytes]:
    """A signature on stdout, made without asking anybody."""
    return _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], data=data)


def _sign_at_terminal(manifest: Path, key: Path) -> subprocess.CompletedProcess[bytes]:
    """The same where a person can be asked: ssh-keygen asks at the terminal if its stdin is one."""
    made = manifest.with_name(NAME)
    made.unlink(missing_ok=True)  # or it would ask whether to replace it
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(manifest)]
    done = subprocess.run(command, stderr=None, stdout=subprocess.DEVNULL)
    signature = made.read_bytes() if made.is_file() else b""
    return subprocess.CompletedProcess(command, done.returncode, signature, b"")


def _ssh_keygen(words: Sequence[str], *, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """ssh-keygen, without a terminal: it asks nobody, unless the user named a program that does.

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
            timeout=_PATIENCE,
            env=environment,
            start_new_session=True,  # no terminal: it would be asked in spite of stdin
        )
    except FileNotFoundError:
        raise EdgenasError(
            "signatures need ssh-keygen, which is not on the PATH",
            hint="install OpenSSH 8.2 or newer, for example: apt install openssh-client",
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, b"", b"ssh-keygen does not come to an end")


def _cannot_sign(key: str, done: subprocess.CompletedProcess[bytes]) -> EdgenasError:
    if _needs_passphrase(done):
        return EdgenasError(
            f"--sign {key} has a passphrase, and there is no terminal to ask for it",
            hint=f"put it into the agent first: ssh-add {key}",
        )
    return EdgenasError(
        f"--sign {key} cannot sign: {_said(done)}",
        hint=f"does this work? ssh-keygen -Y sign -f {key} -n {NAMESPACE} FILE",
    )


def _needs_passphrase(done: subprocess.CompletedProcess[bytes]) -> bool:
    return b"passphrase" in done.stderr


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why ssh-keygen refused, in its words: made plain, and short. It names the cause first."""
    lines = (done.stderr + b"\n" + done.stdout).decode(errors="replace").splitlines()
    lines = [line.removeprefix("Enter passphrase: ").strip() for line in lines]
    said = [line for line in lines if line and not line.startswith("Signing ")]
    return one_line((said or ["it does not say why"])[0])[:160]


def _fingerprint(done: subprocess.CompletedProcess[bytes]) -> str:
    found = _FINGERPRINT.search(done.stdout.decode(errors="replace"))
    return found.group() if found else "that ssh-keygen does not name"
