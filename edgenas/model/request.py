"""What ``import`` can be asked for. This module loads nothing heavy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """A published network or once-for-all supernet, and the folder to write."""

    backbone: Annotated[
        str,
        Option(
            "Published network, e.g. lite0, or once-for-all supernet; see: list backbones.",
            positional=True,
        ),
    ]
    file: Annotated[
        Path | None,
        Option(
            "File of its weights, PyTorch's or safetensors. Default: the package that brings them.",
            positional=True,
        ),
    ] = None
    out: Annotated[Path, Option("Folder of the supernet.")]
    download: Annotated[
        bool, Option("Fetch the weights from where their authors publish them.")
    ] = False
    sha256: Annotated[
        str | None,
        Option(
            "SHA-256 of the weights, in hex. Without it, what is known of the hash is checked; the "
            "first download of a once-for-all supernet is trusted and recorded."
        ),
    ] = None
    labels: Annotated[
        Path | None,
        Option(
            "File of class names, one a line, as your image folders are named. Default: those of "
            "ImageNet, or numbers."
        ),
    ] = None

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            EdgenasError: names the option, the rule and the value found.
        """
        check_request(self)
        if self.file is not None and self.download:
            raise EdgenasError(
                "give the file of the weights or --download, not both",
                hint=f"edgenas import {self.backbone} --download --out {self.out}",
            )
        if self.sha256 is not None and re.fullmatch("[0-9a-fA-F]{64}", self.sha256) is None:
            raise EdgenasError(
                f"--sha256 must be 64 hexadecimal digits, found {self.sha256!r}",
                hint="as sha256sum prints it",
            )
