"""The good inputs that all hostile ones are made from. Run in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from edgenas.clock.board.settings import WORK_SCHEMA, TimingSettings
from edgenas.clock.order import make_order
from edgenas.clock.pack import BOOT, pack_clock
from edgenas.model.ofa_weights import released_name
from edgenas.model.supernet import Supernet
from edgenas.runtime import registry as runtimes
from edgenas.runtime.tflite.convert import convert
from edgenas.runtime.tflite.file import why_not
from edgenas.space.presets import load_space, space_to_json
from tools.fuzz.graphs import models
from tools.fuzz.kinds import Base
from tools.fuzz.made_texts import search

_SAMPLES = 20  # of a timing that a board tells


def prepare(base: Base) -> None:
    """Fill the folder of a base."""
    space = load_space("tiny")
    _json(base.folder / "space.json", space_to_json(space))
    _json(base.folder / "arch.json", space.largest().to_json())
    for number, model in enumerate(models()):
        onnx.save(model, base.folder / f"model-{number}.onnx")
    if why_not() is None:
        (base.folder / "m.tflite").write_bytes(convert(models()[0].SerializeToString()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Supernet(space).state_dict()
        hidden = {"0.weight": torch.randn(8, 128), "0.bias": torch.randn(8)}
        hidden |= {"1.weight": torch.randn(1, 8), "1.bias": torch.randn(1)}
    tensors = {released_name(space, name): tensor for name, tensor in state.items()}
    torch.save({"state_dict": tensors}, base.folder / "released.pth")
    torch.save(hidden, base.folder / "acc_predictor.pth")
    _published(base.folder / "160_lookup_table.yaml")
    _samples(base.folder / "samples.jsonl")
    _images(base.folder / "photos")
    _answers(base)
    command = ["-m", "edgenas"]
    _called(*command, *search(base, history=str(base.folder / "history.csv")))
    bundle = base.folder / "bundle"
    words = ("--device=jetson", "--latency=3ms", "--supernet=mbv3-cifar10")
    _called(*command, "specialize", *words, f"--out={bundle}")


def _called(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=300)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))


def _published(path: Path) -> None:
    block = "-expand:{}-kernel:3-stride:2-idskip:0-se:0-hs:0"
    keys = [
        "Conv-input:160x160x3-output:80x80x24",
        "expanded_conv-input:80x80x24-output:40x40x32" + block.format(96),
        "expanded_conv-input:40x40x32-output:20x20x48" + block.format(128),
        "Conv_1-input:5x5x200-output:5x5x1152",
        "AvgPool2D-input:5x5x1152-output:1x1x1152",
        "Conv_2-input:1x1x1152-output:1x1x1536",
        "Logits-input:1x1x1536-output:1000",
    ]
    lines = [f"{key}:\n  count: 20\n  mean: 1.25\n  std: 0.01\n" for key in keys]
    path.write_text("".join(lines))


def _samples(path: Path) -> None:
    target = {"device": "board", "runtime": "onnxruntime", "precision": "fp32"}
    head = {"schema": "edgenas.samples/1", "target": {**target, "threads": 1, "batch": 1}}
    run = {"environment": {"cpu": "A", "runtime_version": "1"}, "at": "2026-01-01T00:00:00+00:00"}
    record = {"unit": "u", "graph": "0" * 64, "run": 0, "at": "2026-01-01T00:00:01+00:00"}
    record |= {"median": 1e-3, "p10": 1e-3, "p90": 1e-3, "n": 25, "half_width": 0.01}
    record |= {"wall_p50": 1e-3, "wall_p95": 1e-3, "wall_n": 30, "flag": "", "canary": 1e-4}
    record |= {"samples": [1000000] * 5, "wall_samples": [1000000] * 6}
    lines = [head, run, record, record | {"unit": "v"}, {"withdrawn": "drift", "run": 0}, run]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ("png", "jpg", "webp", "bmp", "gif")
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number, kind in enumerate(kinds):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{kind}")


def _answers(base: Base) -> None:
    """What the clock really says about one unit, as a board would."""
    unit, runtime = base.folder / "unit.onnx", runtimes.get(runtimes.DEFAULT)
    onnx.save(models()[0], unit)
    # Every sample passes such a gate, so that a busy machine has answers to give, too.
    settings = TimingSettings(seconds=1.0, min_seconds=0.1, baseline_seconds=0.3, gate=1e6)
    order = make_order([("unit", unit.read_bytes())], runtime=runtime, settings=settings, batch=1)
    command = [sys.executable, "-P", "-c", BOOT]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as clock:
        assert clock.stdin is not None
        assert clock.stdout is not None
        clock.stdin.write(f"{json.dumps(pack_clock(runtime.part))}\n{order}\n")
        clock.stdin.flush()  # the clock ends where its stdin ends
        lines = clock.stdout.read().splitlines()
    events: list[dict[str, Any]] = [{"event": "ready", "schema": WORK_SCHEMA}]
    events += [json.loads(line) for line in lines]
    for event in events:
        for name, count in (("samples", "n"), ("wall_samples", "wall_n")):
            if isinstance(event.get(name), list):
                event[name], event[count] = _thinned(event[name]), _SAMPLES
    events.append({"event": "done"})
    (base.folder / "answers.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def _thinned(samples: list[int]) -> list[int]:
    """A few samples with the quantiles of all; a short line leaves more to other mutations."""
    last = len(samples) - 1
    return [sorted(samples)[last * i // (_SAMPLES - 1)] for i in range(_SAMPLES)]


if __name__ == "__main__":
    prepare(Base(folder=Path(sys.argv[1]), root=Path(sys.argv[2])))
