"""The run folder: configuration, checkpoint, metrics."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_json, write_text
from edgenas.model import processes as parallel
from edgenas.model.saved import load_tensors, save_tensors
from edgenas.training.recipe import Recipe
from edgenas.training.run_file import (
    RUN_SCHEMA,
    decode_checkpoint,
    read_metrics_lines,
    read_run_file,
)
from edgenas.training.scalars import Scalars
from edgenas.training.state import State

RUN = "run.json"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"

# What runs of an edgenas that did not have a field yet were trained with.
_BEFORE = {"processes": 1, "time_budget": None, "normalisation": None, "split_seed": None}

# What a time budget decides of a recipe.
PLANNED = ("epochs", "judge_every", "accuracy_archs")


class Run:
    """The run folder. Of several processes, which share it, the first one writes."""

    def __init__(self, out: Path, configuration: Mapping[str, Any]) -> None:
        self.out = out
        # As JSON would give it back, so that it can be compared with what is on disk.
        self.configuration: dict[str, Any] = json.loads(json.dumps(dict(configuration)))
        self.scalars: Scalars | None = None

    def open(self, *, resume: bool) -> bool:
        """Start a run or make an old one ready to be gone on with; whether it has a checkpoint."""
        has_checkpoint = self._open(resume=resume)
        if Scalars.possible():
            self.scalars = Scalars(
                self.out / TENSORBOARD,
                lines=read_metrics(self.out),
                began=(self.out / RUN).stat().st_mtime,
            )
        return has_checkpoint

    def close(self) -> None:
        """Nothing more will be logged."""
        if self.scalars is not None:
            self.scalars.close()

    def _open(self, *, resume: bool) -> bool:
        path, checkpoint = self.out / RUN, self.out / CHECKPOINT
        check_out(self.out, resume=resume)
        if not path.exists():
            write_json(path, {"schema": RUN_SCHEMA, **self.configuration})
            return False
        record = _BEFORE | read_run_file(path)
        usual = json.loads(json.dumps(dataclasses.asdict(Recipe())))
        record["recipe"] = usual | record["recipe"]
        for name, value in self.configuration.items():
            if record.get(name) != value:
                name, old, new = _difference(name, record.get(name), value)
                raise EdgenasError(
                    f"--resume: {name} of the run in {self.out} is {_short(old)}, "
                    f"now it is {_short(new)}",
                    hint="resume with the same arguments, or choose another --out",
                )
        for name in (RUN, CHECKPOINT, METRICS):
            for temporary in self.out.glob(f".{name}.*"):
                temporary.unlink()  # half-written when the run was killed
        if not checkpoint.exists():
            self._forget_after(0)
            return False
        self._forget_after(int(self._metadata()["step"]))
        return True

    def load(self, state: State[Any]) -> tuple[int, float]:
        """Take up the checkpoint; the steps done and the seconds they took."""
        metadata = self._metadata()
        if not state.take(load_tensors(self.out / CHECKPOINT), metadata):
            raise self._no_checkpoint()
        return int(metadata["step"]), float(metadata["seconds"])

    def save(self, state: State[Any], *, step: int, seconds: float) -> None:
        """Write the checkpoint, atomically: weights, momenta and the step in one file."""
        if parallel.rank():
            return
        metadata = {"step": step, "seconds": seconds, **state.metadata()}
        save_tensors(self.out / CHECKPOINT, state.tensors(), metadata=metadata)

    def _metadata(self) -> dict[str, Any]:
        load_tensors(self.out / CHECKPOINT)  # says so if it is damaged
        with safe_open(self.out / CHECKPOINT, "pt") as file:
            metadata = file.metadata() or {}
        if not metadata.keys() >= {"step", "seconds"}:
            raise self._no_checkpoint()
        return decode_checkpoint(metadata, path=self.out / CHECKPOINT)

    def _no_checkpoint(self) -> EdgenasError:
        return EdgenasError(
            f"{self.out / CHECKPOINT} is no checkpoint of this run",
            hint="restore the file, or remove it to start the run over",
        )

    def log(self, **values: object) -> None:
        """Append a line to the metrics."""
        if parallel.rank():
            return
        path = self.out / METRICS
        try:
            with path.open("a") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise EdgenasError(
                f"cannot write {path}: {error.strerror}",
                hint="make room for it and go on with --resume",
            ) from error
        if self.scalars is not None:
            self.scalars.add(values)

    def curve(self) -> list[dict[str, Any]]:
        """Accuracy on validation images, per epoch: the largest, the smallest, random networks."""
        return [
            {k: line[k] for k in ("epoch", "validation", "random") if k in line}
            for line in read_metrics(self.out)
            if "validation" in line
        ]

    def _forget_after(self, step: int) -> None:
        kept = [json.dumps(line) for line in read_metrics(self.out) if line["step"] <= step]
        write_text(self.out / METRICS, "".join(f"{line}\n" for line in kept))


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse a run folder that cannot be used, before anything is read or written.

    Raises:
        EdgenasError: it is a file, it holds something else or a run that is not to be gone on
            with, or nothing can be written there.
    """
    another = "choose another --out"
    if out.exists() and not out.is_dir():
        raise EdgenasError(f"--out {out} is a file", hint=another)
    if (out / RUN).exists():
        if not resume:
            raise EdgenasError(
                f"--out {out} already holds a training run",
                hint=f"add --resume to go on with it, or {another}",
            )
        return
    # A temporary run.json is what a kill at the very start leaves.
    if out.exists() and not all(".run.json." in p.name for p in out.iterdir()):
        raise EdgenasError(f"--out {out} exists and is no training run", hint=another)
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "a file is in its way" if not place.is_dir() else f"{place} may not be written to"
        raise EdgenasError(f"--out {out} cannot be made: {what}", hint=another)


def read_planned(out: Path) -> dict[str, int] | None:
    """What the time budget of the run in a folder has decided; None: there is no such run.

    Whether it is the run of these arguments is found out when it is opened.
    """
    path = out / RUN
    if not path.exists():
        return None
    recipe = read_run_file(path)["recipe"]
    usual = Recipe()
    return {name: recipe.get(name, getattr(usual, name)) for name in PLANNED}


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The metrics of a run, as far as they are written. Raises as ``read_metrics_lines``."""
    return read_metrics_lines(out / METRICS)


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The first field that differs, as deep as it goes."""
    while isinstance(old, dict) and isinstance(new, dict):
        field = next(k for k in (*new, *old) if old.get(k) != new.get(k))
        name, old, new = f"{name}.{field}", old.get(field), new.get(field)
    return name, old, new


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
