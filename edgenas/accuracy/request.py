"""What ``fit-accuracy`` and ``import-ofa-accuracy`` can be asked for.

This module loads nothing heavy.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgenas.basics.options import Option
from edgenas.basics.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class FitAccuracyRequest:
    """Whose accuracy predictor is fitted, and on which images."""

    supernet: Annotated[str, Option("Name or folder of the supernet.", positional=True)]
    data: Annotated[
        str,
        Option(
            "Images: a folder of class folders, a .tar or .zip of one, a CSV of path,label, or "
            "cifar10."
        ),
    ]
    name: Annotated[
        str | None, Option("Name of the data set, for people. Default: its file or folder.")
    ] = None
    archs: Annotated[
        Annotated[int, Range(20, 1_000_000, "count")], Option("Networks that are evaluated.")
    ] = 320
    seed: Annotated[
        Annotated[int, Range(0, 2**63 - 1, "count")], Option("Seed of the sample of networks.")
    ] = 0
    skip_bad_images: Annotated[bool, Option("Leave out images that cannot be read.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOfaAccuracyRequest:
    """A released accuracy predictor, and the file to write."""

    file: Annotated[Path, Option("Released accuracy predictor, a PyTorch file.", positional=True)]
    space: Annotated[str, Option("Name of its space, e.g. ofa-mbv3-w1.2; see: list spaces.")]
    out: Annotated[Path, Option("Accuracy predictor to write.")]
