"""Training of a supernet: the sandwich rule with in-place distillation.

Every step trains the largest network on the labels and the smallest and some random ones on the
soft output of the largest (universally slimmable networks, arXiv 1903.05134, sections 3.3-3.4).
All chance of a step comes from (seed, step), so a run that was cut off at any moment goes on to
bitwise the same weights, on the same machine with the same number of threads.
"""

import ctypes
import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from edgenas.data import Images, Preprocessing, resize, split
from edgenas.errors import EdgenasError
from edgenas.evaluate import evaluate
from edgenas.files import read_json, wait_for_machine, write_json, write_text
from edgenas.recipe import Recipe, learning_rate
from edgenas.space import Space
from edgenas.spaces import space_to_json
from edgenas.supernet import Supernet
from edgenas.trained import TrainedSupernet, load_tensors, save_tensors

RUN_SCHEMA = "edgenas.run/1"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands, told after every step."""

    step: int
    steps: int
    epoch: float
    images_per_second: float
    loss: float
    note: str = ""


def train(
    space: Space,
    images: Images,
    *,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    init: Supernet | None = None,
    resume: bool = False,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> TrainedSupernet:
    """Train a supernet, or go on with a training that was cut off.

    Args:
        space: its space; the number of classes is taken from the images.
        images: everything that may be learnt from; a part of it is set aside for validation.
        recipe: how to train.
        out: the run folder: configuration, checkpoint and metrics.
        seed: of everything that is left to chance.
        init: weights to start from; those of the classifier only for the same number of classes.
        resume: go on from the checkpoint in ``out``; start there if there is none yet.
        tell: called after every step.

    Returns:
        The trained supernet, not yet saved.

    Raises:
        EdgenasError: ``out`` holds another run or a damaged checkpoint, ``init`` is of another
            space, there are fewer training images than a batch, or the training diverges.
    """
    keep_memory()
    space = space.with_classes(len(images.classes))
    parts = split(images, validation=recipe.validation, seed=seed)
    count = len(parts.train)
    steps_per_epoch = count // recipe.batch
    if steps_per_epoch == 0:
        raise EdgenasError(
            f"the training images must fill a batch of {recipe.batch}, found {count}",
            hint="use more images or a recipe with a smaller batch",
        )
    steps = recipe.epochs * steps_per_epoch
    mean, std = parts.train.statistics()
    preprocessing = Preprocessing(stored=images.pixels.shape[-1], mean=mean, std=std)
    supernet = Supernet(space, seed=seed)
    if init is not None:
        _start_from(init, supernet)
    supernet.to(memory_format=torch.channels_last)
    optimiser = _optimiser(supernet, recipe)
    run = _Run(out, _configuration(space, images, recipe, seed, init))
    start, seconds = run.open(supernet, optimiser, resume=resume)

    corners = [space.largest(), space.smallest()]
    saved = clock = time.monotonic()
    for step in range(start, steps):
        waited = wait_for_machine()
        clock, saved = clock + waited, saved + waited
        rng = np.random.default_rng((seed, 1, step))
        rows = space.sample(recipe.random_archs, rng=rng, by="gene")
        indices = _batch(count, recipe, seed, step)
        pixels = augment(parts.train.pixels[indices], kind=recipe.augmentation, rng=rng)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, steps_per_epoch, recipe)
        losses = sandwich_step(
            supernet,
            [*corners, *space.decode(rows)],
            pixels,
            parts.train.labels[indices],
            preprocessing=preprocessing,
            label_smoothing=recipe.label_smoothing,
        )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if not all(map(math.isfinite, losses)):
            raise EdgenasError(
                f"the training diverged at step {step}: the losses are {losses}",
                hint="use a recipe with a smaller learning_rate, in another --out",
            )

        done, now = step + 1, time.monotonic()
        speed = recipe.batch / max(now - clock, 1e-9)
        seconds, clock = seconds + now - clock, now
        epoch_over = done % steps_per_epoch == 0
        tell(
            Progress(
                step=done,
                steps=steps,
                epoch=done / steps_per_epoch,
                images_per_second=speed,
                loss=losses[0],
            )
        )
        if done % 20 == 0 or epoch_over:
            run.log(step=done, losses=losses, seconds=round(seconds, 1))
        if epoch_over:
            found = evaluate(
                supernet,
                corners,
                images=parts.validation,
                calibration=calibration_pixels(parts.train, recipe, seed=seed),
                preprocessing=preprocessing,
                split="validation",
            )
            values = [round(a.value, 4) for a in found]
            run.log(step=done, epoch=done // steps_per_epoch, validation=values)
            note = f"validation: largest {values[0]:.2%}, smallest {values[1]:.2%}"
            tell(
                Progress(
                    step=done,
                    steps=steps,
                    epoch=done / steps_per_epoch,
                    images_per_second=speed,
                    loss=losses[0],
                    note=note,
                )
            )
            clock = time.monotonic()
        if epoch_over or time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(supernet, optimiser, step=done, seconds=seconds)
            saved = time.monotonic()
    record = run.configuration | {
        "validation_images": len(parts.validation),
        "train_images": count,
        "seconds": round(seconds),
        "curve": run.curve(),
    }
    return TrainedSupernet(
        supernet=supernet.eval(),
        classes=images.classes,
        preprocessing=preprocessing,
        training=record,
    )


def sandwich_step(
    supernet: Supernet,
    archs: list[Any],
    pixels: Tensor,
    labels: Tensor,
    *,
    preprocessing: Preprocessing,
    label_smoothing: float,
) -> list[float]:
    """Add up the gradients of one step; the losses, one per arch.

    Args:
        supernet: whose gradients grow.
        archs: the first, the teacher, learns the labels; the others learn its soft output.
        pixels: uint8, shape (n, 3, stored, stored).
        labels: int64, shape (n,).
        preprocessing: how pixels become inputs.
        label_smoothing: of the labels.
    """
    supernet.train()
    losses: list[float] = []
    target: Tensor | None = None
    for arch in archs:
        logits = supernet(preprocessing.prepare(pixels, resolution=arch.resolution), arch)
        if target is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            target = logits.detach().softmax(1)
        else:
            loss = F.cross_entropy(logits, target)
        loss.backward()
        losses.append(loss.item())
    return losses


def augment(pixels: Tensor, *, kind: str, rng: np.random.Generator) -> Tensor:
    """Random views of stored images, uint8 in and out, same shape; see ``Recipe``."""
    n, _, height, width = pixels.shape
    mirrored = torch.from_numpy(rng.random(n) < 0.5).view(n, 1, 1, 1)
    pixels = torch.where(mirrored, pixels.flip(3), pixels)
    if kind == "shift":
        margin = max(1, height // 8)
        padded = F.pad(pixels.float(), (margin,) * 4, mode="reflect").to(torch.uint8)
        offsets = rng.integers(0, 2 * margin + 1, size=(n, 2)).tolist()
        views = [
            p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)
        ]
        return torch.stack(views)
    area = rng.uniform(0.35, 1.0, n) * height * width
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), n))
    heights = np.clip(np.round(np.sqrt(area / ratio)), 1, height).astype(int)
    widths = np.clip(np.round(np.sqrt(area * ratio)), 1, width).astype(int)
    tops = (rng.random(n) * (height - heights + 1)).astype(int)
    lefts = (rng.random(n) * (width - widths + 1)).astype(int)
    views = [
        resize(p[None, :, t : t + h, x : x + w], resolution=height)[0]
        for p, t, h, x, w in zip(pixels, tops, heights, lefts, widths, strict=True)
    ]
    return torch.stack(views)


def calibration_pixels(images: Images, recipe: Recipe, *, seed: int) -> Tensor:
    """The training images that batch-norm statistics are computed on: a fixed random choice."""
    order = np.random.default_rng((seed, 3)).permutation(len(images))[: recipe.calibration]
    return images.pixels[torch.from_numpy(order)]


def keep_memory() -> None:
    """Let glibc keep freed memory: page faults are dear, and every step frees all activations."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 10**9)


def _batch(count: int, recipe: Recipe, seed: int, step: int) -> Tensor:
    epoch, place = divmod(step, count // recipe.batch)
    order = np.random.default_rng((seed, 2, epoch)).permutation(count)
    return torch.from_numpy(order[place * recipe.batch : (place + 1) * recipe.batch])


def _optimiser(supernet: Supernet, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for n, p in supernet.named_parameters() if p.ndim > 1 and "kernel_" not in n]
    others = [p for n, p in supernet.named_parameters() if not (p.ndim > 1 and "kernel_" not in n)]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
    )


def _configuration(
    space: Space, images: Images, recipe: Recipe, seed: int, init: Supernet | None
) -> dict[str, Any]:
    return {
        "space": space_to_json(space),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "data": {
            "source": Path(images.source).name,
            "digest": images.digest,
            "classes": len(images.classes),
            "images": len(images),
        },
        "threads": torch.get_num_threads(),
        "init": None if init is None else _digest(init),
    }


def _start_from(init: Supernet, supernet: Supernet) -> None:
    """Copy weights; statistics stay behind, they belong to the networks of the old training."""
    if init.space.with_classes(supernet.space.classes) != supernet.space:
        raise EdgenasError(
            f"--init must be of the space {supernet.space.name}, found {init.space.name}",
            hint="train with the space of the supernet that you start from",
        )
    with torch.no_grad():
        for (name, old), new in zip(init.named_parameters(), supernet.parameters(), strict=True):
            if old.shape == new.shape:
                new.copy_(old)
            else:
                assert name.startswith("head.classifier"), name


def _digest(supernet: Supernet) -> str:
    total = sum(p.double().sum().item() for p in supernet.parameters())
    return f"{total:.9e}"


class _Run:
    """The run folder: configuration, checkpoint, metrics."""

    def __init__(self, out: Path, configuration: Mapping[str, Any]) -> None:
        self.out = out
        # As JSON would give it back, so that it can be compared with what is on disk.
        self.configuration: dict[str, Any] = json.loads(json.dumps(dict(configuration)))

    def open(
        self, supernet: Supernet, optimiser: torch.optim.SGD, *, resume: bool
    ) -> tuple[int, float]:
        """Start or go on; the steps done and the seconds they took."""
        path, checkpoint = self.out / "run.json", self.out / CHECKPOINT
        if not path.exists():
            # A temporary run.json is what a kill at the very start leaves.
            if self.out.exists() and not all(".run.json." in p.name for p in self.out.iterdir()):
                raise EdgenasError(
                    f"--out {self.out} exists and is no training run", hint="choose another --out"
                )
            write_json(path, {"schema": RUN_SCHEMA, **self.configuration})
            return 0, 0.0
        if not resume:
            raise EdgenasError(
                f"--out {self.out} already holds a training run",
                hint="add --resume to go on with it, or choose another --out",
            )
        found = read_json(path, schema=RUN_SCHEMA)
        for name, value in self.configuration.items():
            if found.get(name) != value:
                name, old, new = _difference(name, found.get(name), value)
                raise EdgenasError(
                    f"--resume: {name} of the run in {self.out} is {_short(old)}, "
                    f"now it is {_short(new)}",
                    hint="resume with the same arguments, or choose another --out",
                )
        for name in ("run.json", CHECKPOINT, METRICS):
            for temporary in self.out.glob(f".{name}.*"):
                temporary.unlink()  # half-written when the run was killed
        if not checkpoint.exists():
            self._forget_after(0)
            return 0, 0.0
        tensors = load_tensors(checkpoint)
        with safe_open(checkpoint, "pt") as file:
            metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
        state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        shapes = {n: t.shape for n, t in state.items()}
        wanted = {n: t.shape for n, t in supernet.state_dict().items()}
        if shapes != wanted or not metadata.keys() >= {"step", "seconds"}:
            raise EdgenasError(
                f"{checkpoint} is no checkpoint of this run",
                hint="restore the file, or remove it to start the run over",
            )
        supernet.load_state_dict(state)
        for name, parameter in supernet.named_parameters():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(parameter)
                buffer.copy_(tensors[f"momentum.{name}"])
                optimiser.state[parameter]["momentum_buffer"] = buffer
        step = int(metadata["step"])
        self._forget_after(step)
        return step, float(metadata["seconds"])

    def save(
        self, supernet: Supernet, optimiser: torch.optim.SGD, *, step: int, seconds: float
    ) -> None:
        """Write the checkpoint, atomically: weights, momenta and the step in one file."""
        tensors = {f"model.{n}": t for n, t in supernet.state_dict().items()}
        for name, parameter in supernet.named_parameters():
            momentum = optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        save_tensors(self.out / CHECKPOINT, tensors, metadata={"step": step, "seconds": seconds})

    def log(self, **values: object) -> None:
        """Append a line to the metrics."""
        path = self.out / METRICS
        try:
            with path.open("a") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise EdgenasError(
                f"cannot write {path}: {error.strerror}",
                hint="make room for it and go on with --resume",
            ) from error

    def curve(self) -> list[dict[str, Any]]:
        """Accuracy of the largest and the smallest network on validation images, per epoch."""
        return [
            {"epoch": line["epoch"], "validation": line["validation"]}
            for line in self._lines()
            if "validation" in line
        ]

    def _lines(self) -> list[dict[str, Any]]:
        path = self.out / METRICS
        if not path.exists():
            return []
        lines: list[dict[str, Any]] = []
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break  # the last line of a run that was cut off
        return lines

    def _forget_after(self, step: int) -> None:
        kept = [json.dumps(line) for line in self._lines() if line["step"] <= step]
        write_text(self.out / METRICS, "".join(f"{line}\n" for line in kept))


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The first field that differs, as deep as it goes."""
    while isinstance(old, dict) and isinstance(new, dict):
        field = next(k for k in (*new, *old) if old.get(k) != new.get(k))
        name, old, new = f"{name}.{field}", old.get(field), new.get(field)
    return name, old, new


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
