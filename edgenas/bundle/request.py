"""What ``verify`` can be asked for. This module loads nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgenas.basics.options import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """Which bundle is checked, and whose signature is required."""

    bundle: Annotated[Path, Option("Folder of the bundle.", positional=True)]
    signers: Annotated[
        Path | None,
        Option("Require a signature by one of these: a file of allowed signers, as for git."),
    ] = None
    revoked: Annotated[Path | None, Option("Keys that are not to be trusted.", needs="signers")] = (
        None
    )
