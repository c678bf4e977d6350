"""Metrics of a run as TensorBoard event files, where the package ``tensorboard`` is installed.

The metrics are the truth, the event files a copy of them: a run that goes on writes them anew, so
that no step is there twice.
"""

import importlib.util
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgenas.basics.files import disk_errors


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics by the name of their chart.

    Args:
        line: of ``metrics.jsonl``. Losses and accuracies are of the largest network, the smallest
            one and random ones, of which the mean is taken.
    """
    numbers: dict[str, float] = {
        name: line[name] for name in ("learning_rate", "images_per_second") if name in line
    }
    for kind, values in (
        ("loss", line.get("losses", ())),
        ("validation", (*line.get("validation", ()), *line.get("random", ()))),
    ):
        names = ("largest", "smallest")
        numbers |= {f"{kind}/{name}": v for name, v in zip(names, values, strict=False)}
        if others := values[2:]:
            numbers[f"{kind}/random"] = sum(others) / len(others)
    return numbers


class Scalars:
    """The event files of a run.

    Args:
        folder: theirs; what lies there is replaced.
        lines: of metrics there are already.
        began: when the run began, in seconds since the epoch.
    """

    def __init__(
        self, folder: Path, *, lines: Iterable[Mapping[str, Any]], began: float = 0.0
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.began, self.seconds = folder, began, 0.0
        with disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            self.writer = SummaryWriter(str(folder))
        for line in lines:
            self.add(line)
        self.writer.flush()

    @staticmethod
    def possible() -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec("tensorboard") is not None

    def add(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of a line of metrics."""
        self.seconds = line.get("seconds", self.seconds)
        with disk_errors(self.folder):
            for name, value in scalars(line).items():
                self.writer.add_scalar(
                    name, value, line["step"], walltime=self.began + self.seconds
                )

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.writer.close()
