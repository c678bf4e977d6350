"""How to train, as a small value; a TOML file can override its fields."""

import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields, read_toml
from edgenas.space.space import Space

RECIPE_SCHEMA = "edgenas.recipe/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        method: ``sandwich``: all networks from the start (arXiv 1903.05134); ``progressive``: the
            largest first, smaller ones join phase by phase (once-for-all, arXiv 1908.09791).
        epochs: passes over the training images.
        batch: images of a step.
        learning_rate: at its peak; a linear warm-up, then a cosine to zero.
        warmup: epochs of the warm-up.
        momentum: Nesterov's.
        weight_decay: of conv and linear weights; none on biases, norms and kernel transforms.
        label_smoothing: of the labels that the largest network learns.
        distillation: the part of the loss that is for the answers of a given teacher; the rest is
            for the labels. Without such a teacher the largest network learns the labels, and the
            others its answers.
        temperature: of all distillation (arXiv 1503.02531, section 2).
        random_archs: networks of a step beside the largest and the smallest.
        sampling: of those: ``uniform``: every choice of a gene is drawn with equal probability;
            ``fair``: equally often (FairNAS, arXiv 1907.01845); ``best-up`` and ``worst-up``: the
            best or the worst of some candidates of the same MACs (AttentiveNAS, arXiv 2011.09011).
        candidates: of which each such network is chosen.
        guide: what they are chosen by: ``predictor``: the losses of past steps, see
            ``edgenas.training.guide``; ``batch``: their losses on the batch of the step, a forward
            pass each.
        accumulate: batches of a step. With several processes each has as many, so a step learns
            from batch * accumulate * processes images.
        ema: decay of a moving average of the weights, which then is what is evaluated and saved;
            0: none.
        augmentation: ``shift``: random shifts by an eighth of the shorter side and mirroring, for
            images of objects that fill the frame; ``crop``: random resized crops (scale 0.35 to 1)
            and mirroring.
        randaugment: random operations on every image (RandAugment, arXiv 1909.13719).
        magnitude: of those operations, 0 to 30.
        mixup: parameter of the Beta distribution that mixes pairs of images (arXiv 1710.09412);
            0: none.
        cutmix: the same for patches (arXiv 1905.04899). With both, each step does one of them.
        precision: ``bf16``: autocast (arXiv 1905.12322), ``fp16``: autocast with scaled gradients
            (arXiv 1710.03740), both for GPUs, fp16 for those alone; ``fp32`` is faster on CPUs.
        balance: 0: every image is learnt from once an epoch; 1: images are drawn, every class
            equally often; between them, images are drawn with probability count ** -balance.
        validation: the fraction of every class that is set aside and never learnt from.
        watched: random networks that are judged after every epoch, always the same ones, beside
            the largest and the smallest.
        judge_every: epochs from one such judgement to the next; the last epoch always has one.
        calibration: training images for batch-norm statistics.
        accuracy_archs: networks evaluated at the end for the accuracy predictor.
        checkpoint_seconds: between checkpoints.
    """

    method: Literal["sandwich", "progressive"] = "sandwich"
    epochs: int = 30
    batch: int = 128
    learning_rate: float = 0.12
    warmup: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    distillation: float = 0.5
    temperature: float = 1.0
    random_archs: int = 2
    sampling: Literal["uniform", "fair", "best-up", "worst-up"] = "uniform"
    candidates: int = 3
    guide: Literal["predictor", "batch"] = "predictor"
    accumulate: int = 1
    ema: float = 0.0
    augmentation: Literal["shift", "crop"] = "shift"
    randaugment: int = 0
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    balance: float = 0.0
    validation: float = 0.1
    watched: int = 4
    judge_every: int = 1
    calibration: int = 2000
    accuracy_archs: int = 320
    checkpoint_seconds: float = 60.0


_FEW = 20_000  # images, training and validation together

_WORDS = {
    "method": ("sandwich", "progressive"),
    "augmentation": ("shift", "crop"),
    "sampling": ("uniform", "fair", "best-up", "worst-up"),
    "guide": ("predictor", "batch"),
    "precision": ("fp32", "bf16", "fp16"),
}
_RANGES = {
    "epochs": (1, math.inf),
    "batch": (2, math.inf),
    "accumulate": (1, math.inf),
    "label_smoothing": (0, 0.99),
    "candidates": (2, 100),
    "distillation": (0, 1),
    "temperature": (0.1, 100),
    "ema": (0, 0.99999),
    "magnitude": (0, 30),
    "balance": (0, 1),
    "validation": (0.001, 0.9),
    "watched": (0, math.inf),
    "judge_every": (1, math.inf),
    "calibration": (2, math.inf),
    "accuracy_archs": (20, math.inf),
}


def default_recipe(space: Space, *, images: int | None = None) -> Recipe:
    """The recipe that suits the image size of a space and a number of images; None: many."""
    if max(space.input_size(max(space.resolutions))) <= 64:
        return Recipe()
    recipe = Recipe(batch=64, learning_rate=0.06, augmentation="crop")
    if images is None or images > _FEW:
        return recipe
    # Few large images are learnt from again and again: the weights are held back more, and the
    # evaluations, which do not grow shorter with the epochs, are made shorter.
    return replace(recipe, random_archs=1, weight_decay=5e-4, calibration=500)


def load_recipe(path: Path, base: Recipe) -> Recipe:
    """A recipe with the fields of a TOML file (schema ``edgenas.recipe/1``) put in its place.

    Raises:
        EdgenasError: a field is unknown or illegal.
    """
    fields = read_toml(path, schema=RECIPE_SCHEMA)
    known = dataclasses.asdict(base)
    check_fields(fields, required=(), optional=known, where=str(path))
    for name, value in fields.items():
        wanted = type(known[name])
        found = float(value) if wanted is float and type(value) is int else value
        if type(found) is not wanted or (wanted is not str and found < 0):
            raise EdgenasError(
                f"{path}: {name} must be {'a text' if wanted is str else 'a number >= 0'} "
                f"like {known[name]!r}, found {value!r}"
            )
        known[name] = found
    for name, words in _WORDS.items():
        if known[name] not in words:
            raise EdgenasError(f"{path}: {name} must be {', '.join(words)}, found {known[name]!r}")
    for name, (least, most) in _RANGES.items():
        if not least <= known[name] <= most:
            span = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise EdgenasError(f"{path}: {name} must be {span}, found {known[name]}")
    return Recipe(**known)


def learning_rate(step: int, steps: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """A linear warm-up, of half of the steps at most, then a cosine to zero (arXiv 1608.03983)."""
    warmup = min(round(recipe.warmup * steps_per_epoch), steps // 2)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    passed = (step - warmup) / max(1, steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * passed))
