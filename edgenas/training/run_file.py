"""What the files of a training run may hold: ``run.json``, ``metrics.jsonl`` and the checkpoint.

`edgenas.basics.decode` checks them, so that whoever reads a run meets numbers within their ranges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import parse_json, read_json, read_text
from edgenas.basics.ranges import (
    Classes,
    Count,
    Deviation,
    Fraction,
    Length,
    Name,
    Pixels,
    Positive,
    Range,
    Seconds,
    Seed,
    Stored,
    Threads,
    Words,
)
from edgenas.training.recipe import Recipe

RUN_SCHEMA = "edgenas.run/1"

_Elapsed = Annotated[float, Range(0, 1e9, "seconds")]
_Number = Annotated[float, Range(-1e30, 1e30, "number")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImages:
    """The images of a training: where they are from, how many, and the digest of all of them."""

    source: Words
    digest: Words
    classes: Classes
    images: Count
    labels: Words | None = None  # who gave them, where that was not people


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTeacher:
    """The teacher of a training, and how images become its inputs."""

    file: Words
    sha256: Words
    size: Pixels | tuple[Pixels, Pixels]
    mean: tuple[Fraction, ...]
    std: tuple[Deviation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """``run.json``. Files of older versions lack the fields that have a default.

    Args:
        space: of the supernet, as `edgenas.space.presets` reads it.
        recipe: how it is trained.
        seed: of everything that is left to chance.
        data: the images.
        threads: CPU threads of each process.
        processes: how many trained together.
        time_budget: what the user allowed; None: the epochs of the recipe.
        init: digest of the supernet that the training started from; None: random weights.
        teacher: None: the networks learn from the largest one.
        normalisation: mean and standard deviation that the user named.
        split_seed: by which validation images were set aside; None: ``seed``.
    """

    space: Mapping[str, Any]
    recipe: Recipe
    seed: Seed
    data: RunImages
    threads: Threads
    processes: Annotated[int, Range(1, 100_000, "count")] = 1
    time_budget: Seconds | None = None
    init: Name | None = None
    teacher: RunTeacher | None = None
    normalisation: Any = None
    split_seed: Seed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsLine:
    """A line of ``metrics.jsonl``: what a few steps were like, or the accuracies of an epoch.

    Losses and accuracies are of the largest network, the smallest one, then of random ones.
    """

    step: Positive
    losses: Annotated[tuple[_Number, ...], Length(1, 10_000)] = ()
    learning_rate: Annotated[float, Range(0, 1000, "number")] = 0.0
    images_per_second: Annotated[float, Range(0, 1e12, "number")] = 0.0
    seconds: _Elapsed = 0.0
    epoch: Annotated[int, Range(1, 100_000, "count")] = 0
    validation: Annotated[tuple[Fraction, ...], Length(2, 2)] = ()
    random: Annotated[tuple[Fraction, ...], Length(0, 10_000)] = ()

    def __post_init__(self) -> None:
        if not self.losses and not self.validation:
            raise EdgenasError("it has neither losses nor validation")
        if self.validation and not self.epoch:
            raise EdgenasError("it has validation, but no epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerState:
    """The state of torch's gradient scaler."""

    scale: Annotated[float, Range(0, 1e38, "number", above=True)]
    growth_factor: Annotated[float, Range(1, 1e6, "number")]
    backoff_factor: Annotated[float, Range(0, 1, "number", above=True)]
    growth_interval: Annotated[int, Range(1, 2**31, "count")]
    growth_tracker: Annotated[int, Range(0, 2**31, "count"), Stored("_growth_tracker")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint holds beside tensors: the steps done and the seconds that they took."""

    step: Count
    seconds: _Elapsed
    digest: Name = ""
    scaler: ScalerState | None = None


def read_run_file(path: Path) -> dict[str, Any]:
    """The fields of a ``run.json``, checked.

    Raises:
        EdgenasError: absent, damaged, or a field is missing, unknown or outside its range.
    """
    fields = read_json(path, schema=RUN_SCHEMA)
    decode(RunFile, fields, where=str(path))
    return fields


def read_metrics_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, checked. No file: no lines.

    A training that was killed may leave its last line unfinished; that one is left out.

    Raises:
        EdgenasError: another line is damaged, or has a number outside its range; names the line.
    """
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    texts = read_text(path).split("\n")
    for number, text in enumerate(texts, 1):
        if number == len(texts):  # the end of the file, or a line without its end
            break
        where = f"{path}, line {number}"
        line = parse_json(text, where=where)
        decode(MetricsLine, line, where=where)
        lines.append(line)
    return lines


def decode_checkpoint(metadata: Mapping[str, str], *, path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint, checked.

    Args:
        metadata: each value is JSON.
        path: of the checkpoint.

    Raises:
        EdgenasError: a field is missing, unknown or outside its range.
    """
    facts = {name: parse_json(text, where=f"{path}: {name}") for name, text in metadata.items()}
    decode(CheckpointFacts, facts, where=str(path))
    return facts
