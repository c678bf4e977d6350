"""A user's photos: edgenas against fine-tuning EfficientNet-Lite0 at several resolutions by hand.

    python -m tools.benchmarks.bench_transfer --photos ../shared/data/photos --out DIR \
        [--sets waste scenes] [--seeds 0] [--pixels 160 128 112 96 80 64] [--fixed-minutes 20] \
        [--first-minutes 45] [--further-minutes 15] [--budgets 6] [--plain-step]

What a careful person would do: fine-tune Lite0 from its ImageNet weights at every resolution, each
on one core for --fixed-minutes (two at a time on two cores; SGD with Nesterov's momentum, rate 0.02
and 0.1 for the new classifier, a linear warm-up, a cosine over the time, label smoothing), keep a
tenth of the training images for validation, and take the best of those that fit the budget. Their
loop is plain PyTorch; their module is the original network as edgenas extracts it, so they have its
faster gradients of depthwise convs too.

The budgets lie evenly on the log scale, from the latency of the network at the most pixels down to
two thirds of that at the fewest. For each of them there is one command, `specialize --init lite0`,
with --first-minutes for the first budget and --further-minutes for each other.

Both see the same images, and the test images once, at the end. All models are timed together at the
end, one run of each in turn, with ONNX Runtime in fp32 on one thread. Every part writes a JSON file
into DIR/SET-SEED when it is over, and is not done again.

--plain-step compares the time of a step with plain PyTorch on the published module instead.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgenas.basics.files import read_json, write_json
from edgenas.images.data import Images, split
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing, choose_stored_size
from edgenas.model.calibration import calibrate, predict_logits
from edgenas.model.export import run_onnx, to_onnx
from edgenas.model.importing import find_start
from edgenas.model.network import Network
from edgenas.model.saved import load_supernet
from edgenas.model.supernet import Supernet
from edgenas.training.augment import augment_images
from edgenas.training.fine_tuning import time_steps
from edgenas.training.memory import keep_memory
from edgenas.training.start import copy_weights
from edgenas.training.transfer import TRANSFER

SCHEMA = "edgenas.bench-transfer/1"
BATCH, RATE, HEAD, WARMUP, SMOOTHING = 64, 0.02, 5.0, 30, 0.1
RUNS = 300  # of each model, in turn
CALIBRATION = 500  # training images for batch-norm statistics, on both sides


def read(source: Path) -> Images:
    """The images of an archive or a folder, as edgenas stores them for Lite0."""
    space = load_supernet(find_start("lite0")).supernet.space
    return load_images(str(source), stored=choose_stored_size(space), framing=space.framing)


def original(images: Images, *, pixels: int, seed: int) -> tuple[Network, Preprocessing]:
    """Lite0 at a resolution with ImageNet weights and a new classifier."""
    start = load_supernet(find_start("lite0"))
    space = start.supernet.space.with_classes(len(images.classes))
    supernet = Supernet(space, seed=seed)
    copy_weights(start, supernet, classes=images.classes)
    network = supernet.train().extract(replace(space.largest(), resolution=pixels))
    return network.to(memory_format=torch.channels_last), start.preprocessing


def fit_plainly(
    network: Network, images: Images, *, preprocessing: Preprocessing, seconds: float, seed: int
) -> int:
    """Plain fine-tuning for a time; the steps taken."""
    body = [p for n, p in network.named_parameters() if not n.startswith("head.classifier")]
    head = [p for n, p in network.named_parameters() if n.startswith("head.classifier")]
    groups = [{"params": body, "factor": 1.0}, {"params": head, "factor": HEAD}]
    sgd = torch.optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    rng, order, steps = np.random.default_rng(seed), np.empty(0, int), 0
    begun = time.monotonic()
    network.train()
    while (passed := (time.monotonic() - begun) / seconds) < 1:
        if len(order) < BATCH:
            order = rng.permutation(len(images))
        chosen, order = torch.from_numpy(order[:BATCH]), order[BATCH:]
        rate = RATE * min(1, (steps + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * passed))
        for group in sgd.param_groups:
            group["lr"] = rate * group["factor"]
        resolution = network.arch.resolution
        pixels = augment_images(
            images.pixels[chosen],
            recipe=TRANSFER.alone,
            rng=rng,
            size=preprocessing.size(resolution),
        )
        logits = network(preprocessing.prepare(pixels, resolution=resolution))
        F.cross_entropy(logits, images.labels[chosen], label_smoothing=SMOOTHING).backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)
        steps += 1
    return steps


def fixed(given: argparse.Namespace, folder: Path, *, pixels: int) -> None:
    """One fine-tuning by hand: its model, its accuracies, and which test images it has right."""
    torch.set_num_threads(1)
    keep_memory()
    images, test = read(given.train), read(given.test)
    parts = split(images, validation=TRANSFER.elastic.validation, seed=given.seed)
    network, preprocessing = original(images, pixels=pixels, seed=given.seed)
    steps = fit_plainly(
        network,
        parts.train,
        preprocessing=preprocessing,
        seconds=60 * given.fixed_minutes,
        seed=given.seed,
    )
    order = np.random.default_rng(given.seed).permutation(len(parts.train))[:CALIBRATION]
    calibrate(network, parts.train.pixels[torch.from_numpy(order)], preprocessing=preprocessing)
    (folder / f"fixed-{pixels}.onnx").write_bytes(
        to_onnx(network, preprocessing=preprocessing.to_json(), batch=1)
    )
    right = [
        (predict_logits(network, s.pixels, preprocessing=preprocessing).argmax(1) == s.labels)
        for s in (parts.validation, test)
    ]
    write_json(
        folder / f"fixed-{pixels}.json",
        {
            "schema": SCHEMA,
            "pixels": pixels,
            "minutes": given.fixed_minutes,
            "epochs": steps * BATCH / len(parts.train),
            "validation": right[0].double().mean().item(),
            "test": right[1].double().mean().item(),
            "right": right[1].int().tolist(),
        },
    )


def run_fixed(given: argparse.Namespace, folder: Path, seed: int, name: str) -> None:
    """All fine-tunings by hand, one for each core at a time."""
    waiting = [p for p in given.pixels if not (folder / f"fixed-{p}.json").exists()]
    cores, running = torch.get_num_threads(), list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < cores:
            words = ["--photos", given.photos, "--out", given.out, "--sets", name]
            words += ["--seeds", seed, "--fixed-minutes", given.fixed_minutes]
            words += ["--one-fixed", waiting.pop(0)]
            line = [sys.executable, "-m", "tools.benchmarks.bench_transfer", *map(str, words)]
            running.append(subprocess.Popen(line))
        if running.pop(0).wait():
            raise SystemExit("a fine-tuning by hand broke off")


def time_models(paths: list[Path]) -> dict[str, float]:
    """Median seconds of a run of each model, taken in turn, in fp32 on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions: dict[str, tuple[Any, dict[str, Any]]] = {}
    for path in paths:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        entry = session.get_inputs()[0]
        inputs = np.random.default_rng(0).normal(size=entry.shape).astype(np.float32)
        sessions[str(path)] = session, {entry.name: inputs}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(RUNS + 10):
        for name, (session, inputs) in sessions.items():
            begun = time.perf_counter()
            session.run(None, inputs)
            if turn >= 10:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def run_edgenas(given: argparse.Namespace, folder: Path, seed: int, budgets: list[float]) -> None:
    """One command for each budget, the largest first."""
    for number, budget in enumerate(budgets):
        path = folder / f"edgenas-{number}.json"
        if path.exists():
            continue
        minutes = given.further_minutes if number else given.first_minutes
        words = ["specialize", "--device", "host", "--runtime", "onnxruntime"]
        words += ["--precision", "fp32", "--threads", "1", "--latency", f"{1e3 * budget:.4f}ms"]
        words += ["--data", str(given.train), "--test", str(given.test), "--init", given.init]
        words += ["--time", f"{60 * minutes:g}s", "--seed", str(seed), "--json", "--force"]
        words += ["--out", str(folder / f"bundle-{number}")]
        begun = time.monotonic()
        # A cache of its own for each seed and set, so that the first budget pays for everything.
        environment = os.environ | {"EDGENAS_CACHE": str(folder / "cache")}
        line = [sys.executable, "-m", "edgenas", *words]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.returncode)
        answer = json.loads(done.stdout)
        write_json(
            path,
            {
                "schema": SCHEMA,
                "budget": budget,
                "seconds": time.monotonic() - begun,
                "arch": answer["arch"],
                "start": (answer["report"].get("retraining") or {}).get("start", "elastic"),
                "test": answer["report"]["accuracy"]["value"],
                "right": right_of(folder / f"bundle-{number}", given.test),
            },
        )


def right_of(bundle: Path, test: Path) -> list[int]:
    """Which test images the model of a bundle has right."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    steps = Preprocessing.from_json(manifest["preprocessing"], where="manifest")
    images = load_images(str(test), stored=steps.stored, framing=steps.framing)
    arch = json.loads((bundle / "arch.json").read_text())
    onnx, right = (bundle / "model.onnx").read_bytes(), list[int]()
    for pixels, labels in zip(images.pixels.split(250), images.labels.split(250), strict=True):
        inputs = steps.prepare(pixels, resolution=arch["resolution"]).contiguous().numpy()
        right += (run_onnx(onnx, inputs).argmax(1) == labels.numpy()).astype(int).tolist()
    return right


def compare(given: argparse.Namespace, folder: Path, budgets: list[float]) -> list[dict[str, Any]]:
    """For each budget: what fits by hand and is best on validation images, and edgenas' network."""
    by_hand = {p: read_json(folder / f"fixed-{p}.json", schema=SCHEMA) for p in given.pixels}
    models = [folder / f"fixed-{p}.onnx" for p in given.pixels]
    models += [folder / f"bundle-{i}" / "model.onnx" for i in range(len(budgets))]
    times, rows = time_models(models), list[dict[str, Any]]()
    for number, budget in enumerate(budgets):
        ours = read_json(folder / f"edgenas-{number}.json", schema=SCHEMA)
        fitting = [
            p for p in given.pixels if times[str(folder / f"fixed-{p}.onnx")] <= 1.02 * budget
        ]
        row: dict[str, Any] = {"budget": budget, "edgenas": ours["test"]}
        row["edgenas_ms"] = 1e3 * times[str(folder / f"bundle-{number}" / "model.onnx")]
        row["minutes"] = ours["seconds"] / 60
        row["start"] = ours["start"]
        if fitting:
            best = max(fitting, key=lambda p: by_hand[p]["validation"])
            pairs = np.array(ours["right"]) - np.array(by_hand[best]["right"])
            row |= {"pixels": best, "fixed": by_hand[best]["test"]}
            row["fixed_ms"] = 1e3 * times[str(folder / f"fixed-{best}.onnx")]
            row["difference"] = pairs.mean()
            row["error"] = pairs.std(ddof=1) / math.sqrt(len(pairs))
        rows.append(row)
    return rows


def print_rows(name: str, rows: list[dict[str, Any]]) -> None:
    """A table of Markdown."""
    print(f"\n{name}\n\n| budget | by hand | ms | edgenas | ms | difference | minutes | start |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        hand, hand_ms, difference = "none fits", "", ""
        if "fixed" in row:
            hand, hand_ms = f"{row['fixed']:.1%} ({row['pixels']} px)", f"{row['fixed_ms']:.2f}"
            difference = f"{100 * row['difference']:+.1f} ± {100 * row['error']:.1f}"
        print(
            f"| {1e3 * row['budget']:.2f} ms | {hand} | {hand_ms} | {row['edgenas']:.1%} | "
            f"{row['edgenas_ms']:.2f} | {difference} | {row['minutes']:.0f} | {row['start']} |"
        )


def plain_step(given: argparse.Namespace) -> None:
    """The seconds of a step of edgenas and of plain PyTorch on the published module, in turn."""
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)
    keep_memory()
    images = read(given.photos / given.sets[0] / "train.tar")
    for pixels in given.pixels:
        network, preprocessing = original(images, pixels=pixels, seed=0)
        other: Any = EfficientNet.from_name(
            "efficientnet-lite0", num_classes=len(images.classes), image_size=pixels
        ).to(memory_format=torch.channels_last)
        sgd = torch.optim.SGD(other.parameters(), lr=0.0, momentum=0.9, nesterov=True)
        ours, theirs = list[float](), list[float]()
        for turn in range(5):
            ours.append(
                time_steps(network, images, recipe=TRANSFER.alone, preprocessing=preprocessing)
            )
            other.train()
            marks = list[float]()
            for _ in range(4):
                marks.append(time.monotonic())
                some = images.pixels[64 * turn : 64 * turn + 64]
                logits = other(preprocessing.prepare(some, resolution=pixels))
                labels = images.labels[64 * turn : 64 * turn + 64]
                F.cross_entropy(logits, labels, label_smoothing=SMOOTHING).backward()
                sgd.step()
                sgd.zero_grad(set_to_none=True)
            theirs.append((time.monotonic() - marks[1]) / 3)
        one, two = statistics.median(ours), statistics.median(theirs)
        print(f"{pixels} px: {one:.3f} s a step, plain PyTorch {two:.3f} s, ratio {one / two:.2f}")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["waste", "scenes", "grocery", "imagenette"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--pixels", nargs="+", type=int, default=[160, 128, 112, 96, 80, 64])
    parser.add_argument("--init", default="lite0")
    parser.add_argument("--fixed-minutes", type=float, default=20)
    parser.add_argument("--first-minutes", type=float, default=45)
    parser.add_argument("--further-minutes", type=float, default=15)
    parser.add_argument("--budgets", type=int, default=6)
    parser.add_argument("--plain-step", action="store_true")
    parser.add_argument("--one-fixed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain_step:
        plain_step(given)
        return
    for name in given.sets:
        given.train, given.test = (given.photos / name / f"{p}.tar" for p in ("train", "test"))
        for seed in given.seeds:
            given.seed = seed
            folder = given.out.resolve() / f"{name}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            if given.one_fixed:
                fixed(given, folder, pixels=given.one_fixed)
                continue
            run_fixed(given, folder, seed, name)
            budgets = find_budgets(given, folder)
            run_edgenas(given, folder, seed, budgets)
            rows = compare(given, folder, budgets)
            write_json(folder / "rows.json", {"schema": SCHEMA, "rows": rows})
            print_rows(f"{name}, seed {seed}", rows)


def find_budgets(given: argparse.Namespace, folder: Path) -> list[float]:
    """The budgets in seconds, the largest first; measured once."""
    path = folder / "budgets.json"
    if not path.exists():
        ends = [folder / f"fixed-{p}.onnx" for p in (max(given.pixels), min(given.pixels))]
        most, least = (time_models(ends)[str(end)] for end in ends)
        budgets = np.geomspace(most, 2 / 3 * least, given.budgets).tolist()
        write_json(path, {"schema": SCHEMA, "budgets": budgets})
    return read_json(path, schema=SCHEMA)["budgets"]


if __name__ == "__main__":
    main()
