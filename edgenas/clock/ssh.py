"""The OpenSSH client of the user: how it is started, and what its failures mean.

Host, port, keys, jump hosts and the check of host keys are what ``~/.ssh/config`` says; ssh never
asks for anything (``BatchMode``).
"""

import re
import shutil
from dataclasses import dataclass

from edgenas.basics.errors import EdgenasError
from edgenas.clock.events import plain
from edgenas.clock.guard import Guarded

PYTHON = "python3"

# The port and all else is a matter of the user's config; these keep it from getting in the way.
_OPTIONS = ("-T", "-a", "-x", "-C", "-oBatchMode=yes", "-oLogLevel=ERROR", "-oConnectTimeout=20")
_OPTIONS += ("-oServerAliveInterval=15", "-oServerAliveCountMax=3", "-oClearAllForwardings=yes")
_OPTIONS += ("-oRemoteCommand=none", "-oPermitLocalCommand=no")

_USER = r"[A-Za-z0-9_.][A-Za-z0-9_.+\-]*"
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9_.\-]*|\[?[0-9A-Fa-f:]+(?:%[A-Za-z0-9_.\-]+)?\]?)"
_ADDRESS = re.compile(rf"(?:ssh://)?(?:{_USER}@)?{_HOST}(?::[0-9]+)?")


class LinkError(EdgenasError):
    """The board could not be reached, or the link to it dropped; it may work later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a clock is to run.

    Args:
        address: ``user@host``, a name of the user's ssh config, or ``ssh://user@host:port``.
        python: on the board, a name or a path; ``~`` is the home folder there.

    Raises:
        EdgenasError: the address has characters that no address has.
    """

    address: str
    python: str = PYTHON

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise EdgenasError(
                f"an ssh address must be user@host or a name of ~/.ssh/config, "
                f"found {self.address!r}",
                hint="ports, keys and jump hosts go into ~/.ssh/config: man ssh_config",
            )
        if not self.python or "\0" in self.python:
            raise EdgenasError(f"python must be a name or a path, found {self.python!r}")


def start_ssh(place: Place, command: str) -> Guarded:
    """Start a command on a board, with pipes to it. The command must be a constant.

    Args:
        place: the board.
        command: for the login shell there.

    Raises:
        EdgenasError: there is no ssh client here.
    """
    if shutil.which("ssh") is None:
        raise EdgenasError(
            "there is no ssh client here: ssh is not on the PATH",
            hint="install OpenSSH's client, for example: apt install openssh-client",
        )
    return Guarded(["ssh", *_OPTIONS, "--", place.address, command])


def explain_ssh(said: str, *, where: str, dropped: bool) -> EdgenasError:
    """What a failure of ssh itself means, in plain words.

    Args:
        said: by ssh, on stderr.
        where: the address.
        dropped: whether the link had been there.
    """
    for words, error, message, hint in _SAID_BY_SSH:
        if any(word in said for word in words):
            host = re.sub(r"^ssh://|^[^@]*@", "", where)
            return error(f"{where} {message}", hint=hint.format(where=where, host=host))
    last = plain(said.splitlines()[-1]) if said else "nothing was said"
    what = "the link dropped" if dropped else f"ssh failed: {last}"
    return LinkError(f"{where}: {what}", hint=f"does this work? ssh {where} true")


_SAID_BY_SSH: tuple[tuple[tuple[str, ...], type[EdgenasError], str, str], ...] = (
    (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED",),
        EdgenasError,
        "shows another host key than the one that is known: it is not trusted",
        "if the board was set up anew: ssh-keygen -R {host}, then ssh {where} and compare; if "
        "not, something else answers at that address",
    ),
    (
        ("Host key verification failed", "host key is known"),
        EdgenasError,
        "shows a host key that is not known: it is not trusted",
        "connect once by hand and compare the fingerprint: ssh {where}",
    ),
    (
        ("Permission denied", "Too many authentication failures"),
        EdgenasError,
        "lets nobody in with your keys",
        "ssh-copy-id {where}; a key with a passphrase goes into the agent: ssh-add",
    ),
    (
        ("Could not resolve hostname",),
        LinkError,
        "is a name that nobody knows",
        "use its number, or give it a name in ~/.ssh/config",
    ),
    (
        ("Connection refused",),
        LinkError,
        "refuses the connection",
        "does sshd run there? a port other than 22 goes into ~/.ssh/config",
    ),
    (
        ("timed out", "No route to host", "unreachable"),
        LinkError,
        "does not answer",
        "is it switched on, and in this network?",
    ),
)
