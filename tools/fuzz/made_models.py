"""Inputs that are models and tensors: ONNX, LiteRT, safetensors, PyTorch."""

import random
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from edgenas.runtime.tflite.file import why_not
from tools.fuzz.graphs import models, mutated_model
from tools.fuzz.kinds import Base, Maker, Reader
from tools.fuzz.made_texts import search
from tools.fuzz.raw import mutated_bytes
from tools.fuzz.tensors import mutated_pickle, mutated_safetensors
from tools.fuzz.trees import Unchanged

_CLASSIFIERS = slice(2)  # of the models


def _model(folder: Path, rng: random.Random, *, of: slice = slice(None)) -> None:
    (folder / "m.onnx").write_bytes(mutated_model(rng.choice(models()[of]), rng))


def _predicted(base: Base, folder: Path, rng: random.Random) -> Reader:
    _model(folder, rng)
    more = [] if isinstance(rng, Unchanged) else rng.choice(([], ["--size=32"], ["--batch=2"]))
    return ["predict", "--device=rpi4", "--model=m.onnx", *more, "--json"]


def _benched(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas import cli
    from edgenas.clock import measure

    _model(folder, rng)
    shape = ["--shape=input=1x3x16x16"]
    more = rng.choice(([], shape) if isinstance(rng, Unchanged) else ([], shape, ["--batch=2"]))

    def read() -> None:
        # Seconds of timing say nothing of the reader: the clock is left out.
        with mock.patch.object(measure, "measure", _untimed):
            code = cli.app(["bench", "m.onnx", *more, "--json"], standalone_mode=False)
        if code:  # without standalone mode an exit is a value
            raise typer.Exit(code)

    return read


def _benched_tflite(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas import cli
    from edgenas.clock import measure

    (folder / "m.tflite").write_bytes(mutated_bytes((base.folder / "m.tflite").read_bytes(), rng))
    runtime = rng.choice(("litert", "tflite"))

    def read() -> None:
        with mock.patch.object(measure, "measure", _untimed):
            code = cli.app(
                ["bench", "m.tflite", f"--runtime={runtime}", "--json"], standalone_mode=False
            )
        if code:
            raise typer.Exit(code)

    return read


def _untimed(*units: Any, **settings: Any) -> Any:
    raise SystemExit(0)


def _taught(base: Base, folder: Path, rng: random.Random) -> Reader:
    import torch

    from edgenas.training.teacher import load_teacher

    _model(folder, rng, of=_CLASSIFIERS)
    place = torch.device("cpu")
    return lambda: load_teacher(
        folder / "m.onnx", classes=4, stored=16, place=place, mean=(0.5,) * 3, std=(0.5,) * 3
    )


def _accuracy(base: Base, folder: Path, rng: random.Random) -> Reader:
    name = rng.choice(("accuracy-predictor-1", "accuracy-predictor-1-mlp"))
    data = (base.data / f"{name}.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(mutated_safetensors(data, rng))
    return search(base, accuracy="a.safetensors")


def _latency(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.latency.predictor_file import load_latency

    data = (base.data / "latency-predictor-1.safetensors").read_bytes()
    (folder / "l.safetensors").write_bytes(mutated_safetensors(data, rng))
    return lambda: load_latency(folder / "l.safetensors")


def _weights(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.model.saved import load_supernet

    for path in (base.data / "supernet-1").iterdir():
        shutil.copy(path, folder)
    name = rng.choice(("weights.safetensors", "calibration.safetensors"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(mutated_safetensors(data, rng))
    return lambda: load_supernet(folder)


def _released(base: Base, folder: Path, rng: random.Random) -> Reader:
    import torch

    content = torch.load(base.folder / "released.pth", weights_only=True)
    (folder / "w.pth").write_bytes(mutated_pickle(content, rng))
    return ["import", "tiny", "w.pth", "--out=out"]


def _released_accuracy(base: Base, folder: Path, rng: random.Random) -> Reader:
    import torch

    content = torch.load(base.folder / "acc_predictor.pth", weights_only=True)
    (folder / "a.pth").write_bytes(mutated_pickle(content, rng))
    return ["import-ofa-accuracy", "a.pth", "--space=ofa-mbv3-w1.2", "--out=out.safetensors"]


KINDS: dict[str, Maker] = {
    "onnx-predict": _predicted,
    "onnx-bench": _benched,
    "onnx-teacher": _taught,
    "accuracy-predictor": _accuracy,
    "latency-predictor": _latency,
    "supernet-weights": _weights,
    "ofa-weights": _released,
    "ofa-accuracy": _released_accuracy,
}
if why_not() is None:  # the extra litert
    KINDS["tflite-bench"] = _benched_tflite
