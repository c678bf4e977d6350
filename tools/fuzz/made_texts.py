"""Inputs that are texts: TOML, JSON, CSV, YAML, journals, words of the command line."""

import json
import random
import shutil
import tomllib
from pathlib import Path
from typing import Any

from tools.fuzz.kinds import Base, Maker, Reader
from tools.fuzz.raw import mutated_bytes, mutated_lines, option
from tools.fuzz.trees import Unchanged, json_text, mutated, toml_text

_DEVICES = ("rpi4.toml", "jetson-orin-nano.toml", "host.toml", "rk3588s.toml", "jetson-tx2.toml")


def write(path: Path, text: str, rng: random.Random) -> None:
    """A text as a file; one in eight is changed as bytes too."""
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(mutated_bytes(data, rng) if rng.random() < 0.125 else data)


def search(base: Base, **options: str) -> list[str]:
    """A short search in the space tiny, with some options replaced."""
    given = {
        "space": "tiny",
        "accuracy": f"{base.data / 'accuracy-predictor-1.safetensors'}",
        "table": f"{base.data / 'latency-table-1.json'}",
        "constraint": "latency<=200ms",
        "evaluations": "40",
        **options,
    }
    return ["search", *(f"--{name}={value}" for name, value in given.items()), "--json"]


def _device(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.latency.device import load as load_device

    path = base.root / "device_profiles" / rng.choice(_DEVICES)
    tree = tomllib.loads(path.read_text())
    write(folder / path.name, toml_text(mutated(tree, rng)), rng)
    if path.stem == "host":  # nothing is predicted where one can measure
        return lambda: load_device(path.name)
    arch = base.folder / "arch.json"
    return ["predict", "--device", path.name, "--arch", str(arch), "--space", "tiny", "--json"]


def _relatives(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.latency.relatives import relatives_of

    name = rng.choice(("cpu", "ncnn", "tflite-fp32", "tflite-int8"))
    tree = json.loads((base.root / f"device_profiles/relatives/{name}.json").read_text())
    made = folder / "device_profiles" / "relatives"
    made.mkdir(parents=True)
    write(made / f"{name}.json", json_text(mutated(tree, rng)), rng)

    def read() -> Any:
        import os

        os.environ["EDGENAS_PATH"] = str(folder)
        try:
            runtime, _, precision = name.partition("-")
            return relatives_of({"cpu": "onnxruntime"}.get(runtime, runtime), precision or "fp32")
        finally:
            del os.environ["EDGENAS_PATH"]

    return read


def _space(base: Base, folder: Path, rng: random.Random) -> Reader:
    tree = json.loads((base.folder / "space.json").read_text())
    kind = rng.choice(("toml", "json"))
    text = toml_text(mutated(tree, rng)) if kind == "toml" else json_text(mutated(tree, rng))
    write(folder / f"s.{kind}", text, rng)
    arch = base.folder / "arch.json"
    return ["predict", "--device=rpi4", f"--arch={arch}", f"--space=s.{kind}", "--json"]


def _arch(base: Base, folder: Path, rng: random.Random) -> Reader:
    tree = json.loads((base.folder / "arch.json").read_text())
    write(folder / "a.json", json_text(mutated(tree, rng)), rng)
    return ["predict", "--device=rpi4", "--arch=a.json", "--space=tiny", "--json"]


def _fleet(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.delivery.fleet import read_fleet

    tree = {
        "schema": "edgenas.fleet/1",
        "supernet": "mbv3-cifar10",
        "devices": [
            {"device": "jetson", "latency": ["3ms", "5ms"], "params": "400K", "seed": 3},
            {"device": "rpi4", "latency": "3ms", "constraint": ["latency@jetson<=4ms"]},
        ],
    }
    write(folder / "f.toml", toml_text(mutated(tree, rng)), rng)
    return lambda: read_fleet(folder / "f.toml")


def _recipe(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.space.presets import load_space
    from edgenas.training.recipe import default_recipe, load_recipe

    names = ("epochs", "batch", "learning_rate", "warmup", "mixup", "balance", "validation")
    tree = {"schema": "edgenas.recipe/1", "method": "progressive", "precision": "fp32"}
    usual = default_recipe(load_space("tiny"))
    changed = mutated({**tree, **{name: getattr(usual, name) for name in names}}, rng)
    write(folder / "r.toml", toml_text(changed), rng)
    return lambda: load_recipe(folder / "r.toml", usual)


def _table(base: Base, folder: Path, rng: random.Random) -> Reader:
    tree = json.loads((base.data / "latency-table-1.json").read_text())
    write(folder / "t.json", json_text(mutated(tree, rng)), rng)
    return search(base, table="t.json")


def _supernet_json(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.model.saved import load_supernet

    for path in (base.data / "supernet-1").iterdir():
        shutil.copy(path, folder)
    tree = json.loads((folder / "supernet.json").read_text())
    write(folder / "supernet.json", json_text(mutated(tree, rng)), rng)
    return lambda: load_supernet(folder)


def _history(base: Base, folder: Path, rng: random.Random) -> Reader:
    text = (base.folder / "history.csv").read_text()
    (folder / "h.csv").write_bytes(mutated_lines(text, rng))
    return search(base, history="h.csv")


def _published(base: Base, folder: Path, rng: random.Random) -> Reader:
    text = (base.folder / "160_lookup_table.yaml").read_text()
    kind = rng.randrange(3 if isinstance(rng, Unchanged) else 4)
    if kind == 0:
        data = mutated_lines(text, rng, between=": ")
    elif kind == 1:
        data = mutated_bytes(text.encode(), rng)
    elif kind == 2:  # YAML holds JSON
        import yaml

        data = json_text(mutated(yaml.safe_load(text), rng)).encode("utf-8", "surrogatepass")
    else:
        bomb = "a0: &a0 [x, x]\n" + "".join(
            f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
        )
        data = (bomb + text if rng.randrange(2) else text + "? " * 2000).encode()
    (folder / "160_lookup_table.yaml").write_bytes(data)
    return ["import-ofa-table", ".", "--out", "out.json"]


def _estimate(base: Base, folder: Path, rng: random.Random) -> Reader:
    shutil.copy(base.folder / "model-0.onnx", folder / "m.onnx")
    rows = "".join(f"m.onnx,{ms},{size}\n" for ms, size in ((1.5, 32), (4.0, 64), (13.0, 128)))
    (folder / "nets.csv").write_bytes(mutated_lines(f"model,latency_ms,size\n{rows}", rng))
    words = ["estimate", "nets.csv", "--runtime=ncnn", "--precision=fp32", "--threads=4"]
    return [*words, "--out=out.toml", "--json"]


def _benchmark_log(base: Base, folder: Path, rng: random.Random) -> Reader:
    text = (
        "INFO: STARTING!\nINFO: Num threads: [4]\nINFO: Graph: [/data/local/tmp/net.tflite]\n"
        "INFO: Use xnnpack: [1]\nINFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
        "INFO: count=9 first=99 curr=51 min=50 max=99 avg=57.2 std=12 p5=50 median=51 p95=99\n"
        "INFO: count=50 first=51 curr=50 min=49 max=60 avg=50.9 std=2 p5=49 median=50 p95=55\n"
        "INFO: Inference timings in us: Init: 900, First inference: 99, Warmup (avg): 57.2, "
        "Inference (avg): 50.9\n"
    )
    data = mutated_lines(text, rng) if rng.randrange(2) else mutated_bytes(text.encode(), rng)
    (folder / "log.txt").write_bytes(data)
    return ["bench", "log.txt", "--json"]


def _journal(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.latency.device import Target
    from edgenas.profiling.journal import journal_path, open_journal

    target = Target("board", "onnxruntime", "fp32", threads=1, batch=1)
    lines = (base.folder / "samples.jsonl").read_text().splitlines()
    if rng.randrange(4):
        at = rng.randrange(len(lines))
        lines[at] = json_text(mutated(json.loads(lines[at]), rng))
        data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    else:
        data = mutated_bytes(("\n".join(lines) + "\n").encode(), rng)
    path = journal_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

    def read() -> Any:
        with open_journal(target) as journal:
            return journal.usable({"cpu": "A", "runtime_version": "1"}), journal.outdated({})

    return read


def _words(base: Base, folder: Path, rng: random.Random) -> Reader:
    arch, model = base.folder / "arch.json", base.folder / "model-1.onnx"
    predict = ["predict", "--device=rpi4", "--space=tiny", f"--arch={arch}", "--json"]
    bundle = str(base.folder / "bundle")
    small = ["specialize", "--device=jetson", "--supernet=mbv3-cifar10"]
    of_model = ["predict", "--device=rpi4", f"--model={model}", "--json"]
    return rng.choice(
        (
            lambda: search(base, constraint=option("latency<=20ms", rng)),
            lambda: search(base, constraint=option("params<=4M", rng)),
            lambda: search(base, space=option("tiny", rng)),
            lambda: search(base, strategy=option("aging", rng)),
            lambda: search(base, evaluations=option("40", rng)),
            lambda: search(base, seed=option("3", rng)),
            lambda: search(base, classes=option("10", rng)),
            lambda: [*predict, f"--threads={option('4', rng)}"],
            lambda: [*predict, f"--batch={option('1', rng)}"],
            lambda: [*predict, f"--runtime={option('tflite', rng)}"],
            lambda: [*predict, f"--precision={option('fp32', rng)}"],
            lambda: [*predict, f"--confidence={option('0.9', rng)}"],
            lambda: [*predict, f"--device={option('rpi4', rng)}"],
            lambda: [*of_model, f"--size={option('224x192', rng)}"],
            lambda: ["list", option("devices", rng)],
            lambda: [option("list", rng), "runtimes"],
            lambda: ["verify", option(bundle, rng)],
            lambda: ["report", bundle, f"--out={option('p.html', rng)}"],
            lambda: [*small, f"--latency={option('3ms', rng)}"],
        )
    )()


KINDS: dict[str, Maker] = {
    "device": _device,
    "relatives": _relatives,
    "space": _space,
    "arch": _arch,
    "fleet": _fleet,
    "recipe": _recipe,
    "latency-table": _table,
    "supernet-json": _supernet_json,
    "history": _history,
    "ofa-yaml": _published,
    "estimate-csv": _estimate,
    "benchmark-log": _benchmark_log,
    "journal": _journal,
    "words": _words,
}
